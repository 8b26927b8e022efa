"""The common part of AIM and ZeroI2V: an embedding of time tells frames apart, and the last norm is trained."""
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatzoo.layers.layout import LayoutSpec

from .adapter_model import AdapterModel
from .base import Size

__all__ = ['TemporalEmbedModel', 'official_names']


def official_names(**places: str) -> tuple[tuple[str, str], ...]:
    """Patterns of the names in both official codes -> ours, as `AdapterModel.official_keys`.

    Args:
        **places: Name of an adapter in the official code -> its place here.
    """
    return tuple(
        (rf'^(?:transformer\.res)?blocks\.(\d+)\.{theirs}\.{matrix}\.', rf'adapters.\1.{ours}.{name}.')
        for theirs, ours in places.items() for matrix, name in (('D_fc1', 'down'), ('D_fc2', 'up'))
    ) + ((r'^temporal_embedding$', 'temporal_embed'), (r'^cls_head\.fc_cls\.', 'head.'))


class TemporalEmbedModel(AdapterModel):
    """An `AdapterModel` with a learned embedding per frame, which starts at zero.

    It is added to all tokens of a frame, also to the class token, after the positions and before CLIP's first norm. The
    norm behind the last block is trained with the adapters. For another number of frames the embedding is interpolated
    linearly.

    Args:
        backbone: Name of a timm model; see `flatzoo.models.block_runner`.
        num_frames: Frames T per clip.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
        **kwargs: As for `AdapterModel`.

    Attributes:
        temporal_embed: The embedding, `[1, T, D]`.
    """
    trained_in_backbone = ('norm', 'fc_norm')

    def __init__(self, backbone: str, num_frames: int = 8, device=None, dtype=None, **kwargs: Any):
        super().__init__(backbone, num_frames=num_frames, device=device, dtype=dtype, **kwargs)
        width = self.runner.width(self.backbone.blocks[0])
        self.temporal_embed = nn.Parameter(torch.zeros(1, num_frames, width, device=device, dtype=dtype))

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        x, positions = self.runner.tokens(self.backbone, images)
        x = x.unflatten(0, (-1, self.num_frames)) + self.temporal_embed.unsqueeze(2)
        return self.runner.norm_pre(self.backbone, x.flatten(0, 1)), positions

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay: those of the backbone, and the embedding of time."""
        return super().no_weight_decay() | {'temporal_embed'}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups by depth: the embedding of time lies in front of all blocks."""
        matcher = super().group_matcher(coarse)
        return {**matcher, 'stem': [(matcher['stem'], None), (r'^temporal_embed', None)]}

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            **backbone_args: Any,
    ) -> None:
        """Changes the frame size or the number of frames, see `VideoModel.set_input_size`."""
        super().set_input_size(img_size, num_frames, layout, **backbone_args)
        if self.num_frames != self.temporal_embed.shape[1]:
            old = self.temporal_embed
            self.temporal_embed = nn.Parameter(_over_frames(old.detach(), self.num_frames), old.requires_grad)

    def _resized(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        embed = state_dict.get('temporal_embed')
        if embed is not None and embed.shape[1] != self.num_frames:
            state_dict = {**state_dict, 'temporal_embed': _over_frames(embed, self.num_frames)}
        return state_dict


def _over_frames(embed: Tensor, num_frames: int) -> Tensor:
    """An embedding of time `[1, T, D]` for another number of frames."""
    resized = F.interpolate(embed.float().mT, size=num_frames, mode='linear', align_corners=False)
    return resized.mT.to(embed.dtype).contiguous()
