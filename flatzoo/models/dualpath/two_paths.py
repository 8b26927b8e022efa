"""The input of DualPath's two paths: grids of many frames and single frames, and their positions in time."""
import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from flatzoo.layers import Layout, SuperImage
from flatzoo.layers.layout import LayoutSpec

from ..adapter_builder import check_numbers
from ..adapter_model import AdapterModel
from ..base import Size, channel_stats
from ..block_runner import EvaRunner

__all__ = ['TwoPaths', 'frame_table']


class TwoPaths(AdapterModel):
    """An `AdapterModel` whose images are K grids of 16 frames of a clip, then its spatial frames.

    Args:
        backbone: Name of a timm model of the class `VisionTransformer`; see `flatzoo.models.block_runner`.
        num_frames: Frames T per clip, a multiple of 16.
        layout: `dualpath`, with or without `antialias`.
        num_spatial_frames: Frames of the spatial path, a divisor of T.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
        **kwargs: As for `AdapterModel`.

    Attributes:
        num_grids: Grids K of a clip.
        grid_embed: The learned positions of grids, `[1, N, D]`.
        frame_table: The fixed positions of grids, `[K, N, D]`.

    Raises:
        ValueError: If an argument is not accepted or does not fit the backbone.
    """

    def __init__(
            self,
            backbone: str,
            num_frames: int = 16,
            layout: LayoutSpec = 'dualpath',
            num_spatial_frames: int = 8,
            device=None,
            dtype=None,
            **kwargs: Any,
    ):
        self._check_frames(num_frames, num_spatial_frames)
        super().__init__(backbone, num_frames=num_frames, layout=layout, device=device, dtype=dtype, **kwargs)
        if isinstance(self.runner, EvaRunner):
            raise ValueError(
                f'backbone={backbone!r}: {self.method} gives grids other positions than frames, but an Eva has its '
                'positions in the attention. Take a VisionTransformer, such as CLIP, DINOv2, DeiT-III or SigLIP.')
        self.num_spatial_frames = num_spatial_frames
        tokens, dim = self.backbone.patch_embed.num_patches + self.num_prefix_tokens, self.backbone.embed_dim
        self.grid_embed = nn.Parameter(torch.empty(1, tokens, dim, device=device, dtype=dtype))
        nn.init.normal_(self.grid_embed, std=dim ** -0.5)
        self._follow_input()

    def _check_layout(self, layout: LayoutSpec) -> None:
        if Layout(layout).kind != 'dualpath':
            raise ValueError(f"layout={str(layout)!r}: DualPath takes 'dualpath' or 'dualpath,antialias=false'.")

    @staticmethod
    def _check_frames(num_frames: int, num_spatial_frames: int) -> None:
        check_numbers(num_frames=(num_frames, int), num_spatial_frames=(num_spatial_frames, int))
        if num_frames % 16 or num_frames % num_spatial_frames:
            raise ValueError(
                f'num_frames={num_frames}: DualPath takes a multiple of 16 frames and of num_spatial_frames='
                f'{num_spatial_frames}, such as {math.lcm(16, num_spatial_frames)}.')

    def _follow_input(self) -> None:
        """Updates what depends on number and size of frames: the images of a clip and the fixed positions of grids."""
        grids = self.super_image
        self.num_grids = grids.num_images
        self.num_images = self.num_grids + self.num_spatial_frames
        stats = channel_stats(self.pretrained_cfg or self.backbone.pretrained_cfg, self.in_chans)
        self.frames = SuperImage(  # in layout time:1
            self.num_spatial_frames, 'time:1', self.img_size, *stats, grids.norm_scale.device, grids.norm_scale.dtype)
        table = self.grid_embed.detach().new_empty(self.num_grids, *self.grid_embed.shape[1:])
        self.register_buffer('frame_table', table, persistent=False)
        self.init_non_persistent_buffers()

    def _complete_cfg(self, cfg: dict[str, Any]) -> dict[str, Any]:
        self.frames.set_normalization(*channel_stats(cfg, self.in_chans))
        return super()._complete_cfg(cfg)

    @torch.jit.ignore
    def init_non_persistent_buffers(self) -> None:
        """Computes the fixed positions. timm calls it after it has materialised a model from the meta device."""
        prefix, dim = self.num_prefix_tokens, self.backbone.embed_dim
        self.frame_table.copy_(frame_table(self.num_grids, self._grid, prefix, dim, self.super_image.antialias))

    @property
    def _grid(self) -> tuple[int, int]:
        return self.runner.grid_size(self.backbone, self.image_size, 0)

    def _images(self, x: Tensor) -> Tensor:
        grids = self.super_image(x)
        return self._joined(grids, self.frames(x[:, :, ::self.num_frames // self.num_spatial_frames]))

    def _joined(self, grids: Tensor, frames: Tensor) -> Tensor:
        """Joins images or tokens of both paths, `[B * K, ...]` and `[B * 8, ...]`, clip by clip."""
        parts = grids.unflatten(0, (-1, self.num_grids)), frames.unflatten(0, (-1, self.num_spatial_frames))
        return torch.cat(parts, dim=1).flatten(0, 1)

    def _paths(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Splits joined images or tokens into those of both paths."""
        grids, frames = x.unflatten(0, (-1, self.num_images)).split([self.num_grids, self.num_spatial_frames], dim=1)
        return grids.flatten(0, 1), frames.flatten(0, 1)

    def frame_maps(self, maps: Tensor, order: Tensor | None = None) -> Tensor:
        """Maps of the images, `[B, K + 8, D, h, w]` or folded -> maps of all frames, taken from the grids."""
        maps = maps if maps.ndim == 5 else maps.unflatten(0, (-1, self.num_images))
        return super().frame_maps(maps[:, :self.num_grids], order)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay: those of the backbone, and the positions of grids."""
        return super().no_weight_decay() | {'grid_embed'}

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            **backbone_args: Any,
    ) -> None:
        """Changes the frame size or the number of frames, see `VideoModel.set_input_size`."""
        self._check_frames(num_frames or self.num_frames, self.num_spatial_frames)
        old, grid = self.grid_embed, self._grid
        super().set_input_size(img_size, num_frames, layout, **backbone_args)
        if self._grid != grid:
            embed = resample_abs_pos_embed(old.detach(), self._grid, grid, self.num_prefix_tokens)
            self.grid_embed = nn.Parameter(embed, old.requires_grad)
        self._follow_input()

    def _resized(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        embed = state_dict.get('grid_embed')
        if embed is not None and embed.shape[1] != self.grid_embed.shape[1]:
            embed = resample_abs_pos_embed(embed, self._grid, num_prefix_tokens=self.num_prefix_tokens)
            state_dict = {**state_dict, 'grid_embed': embed}
        return state_dict


def frame_table(num_grids: int, grid: tuple[int, int], num_prefix_tokens: int, dim: int, antialias: bool) -> Tensor:
    """Sines and cosines of the number of the frame at each patch of each grid, `[K, N, D]`."""
    numbers = torch.arange(1., 16 * num_grids + 1).view(num_grids, 1, 4, 4)
    numbers = numbers.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    numbers = F.interpolate(numbers, size=grid, mode='bilinear', antialias=antialias)
    numbers = F.pad(numbers.flatten(1), (num_prefix_tokens, 0)).double()
    angles = numbers.unsqueeze(-1) * 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)
