"""DualPath: single frames and grids of many small frames take two paths through one frozen image transformer.

Paper: "Dual-path Adaptation from Image to Video Transformers", Park, Lee and Sohn, CVPR 2023,
https://arxiv.org/abs/2303.09857. Official code: https://github.com/park-jungin/DualPath. That code has no licence, so
this was written from a description of what it computes. No weights were published.

A clip has T = 16 K frames. The *spatial* path sees 8 of them, evenly spread. The *temporal* path sees K grids of 16
consecutive frames, 4 by 4, resized to one frame (layout `dualpath`). Both paths run through the same frozen blocks,
each with its own adapters A(z) = W_up GELU(W_down z), with biases and dropout. W_up starts at zero. The paths never mix
inside of the blocks:

    temporal, in series     x = x + A(MHA(A(LN1 x)));  x = x + A(MLP(LN2 x))
    spatial, in parallel    n = LN1 x;  x = x + MHA(n) + A(n);  n = LN2 x;  x = x + MLP(n) + A(n)

An untrained temporal path is the identity, and an untrained spatial path is the image model. Grids do not get CLIP's
positions. They get a learned table and a fixed one. The fixed table has sines and cosines of the number of the frame
that lies at each patch (from 1; 0 for the class token). It is drawn with 16 x 16 points per grid and resized.

The end has these steps: norm, class token, CLIP's projection (frozen), mean over grids and mean over frames. Both means
side by side go through a linear layer, GELU and the classifier. Adapters, these last layers, both learned tables of
positions and the class token are trained.

| M parameters, 400 classes | adapters | trained | total | GMAC per view, 16 / 32 frames |
|---|---|---|---|---|
| `dualpath_clip_b` | 17.75 | 18.8 | 104.8 | 171.3 / 191 |
| `dualpath_clip_l` | 63.07 | 65.1 | 368.8 | 790.6 (16 frames) |

The paper states 10 M trained parameters for ViT-B (13 M with 16 frames for Something-Something v2). The official code
has five adapters per block with a quarter of the width, which are more. `ratio=0.125` would come close to 10 M, but the
official code does not use it.

    model = timm.create_model('dualpath_clip_b', pretrained=True, num_classes=51)
    model.freeze_backbone()

The official code resized grids with torchvision of 2022, which did not filter. `layout='dualpath,antialias=false'` does
the same.
"""
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from flatzoo.data.protocol import EvalProtocol
from flatzoo.layers.bottleneck import Bottleneck

from ..adapter_builder import CLIP_B, CLIP_L, adapter_cfg, build_adapter_model, check_numbers, register_adapter_records
from ..backbone import image_cfg
from ..record import Paper
from .two_paths import TwoPaths

__all__ = ['DualPath']  # timm's registry appends the entry points

_SPATIAL, _TEMPORAL = ('s_attn', 's_mlp'), ('t_attn_in', 't_attn', 't_mlp')


class DualPath(TwoPaths):
    """A frozen image transformer with a path for frames and a path for grids of frames.

    Features are those of the K grids of a clip, then those of its spatial frames.

    Args:
        backbone: Name of a timm model of the class `VisionTransformer`; see `flatzoo.models.block_runner`.
        num_spatial_frames: Frames of the spatial path, a divisor of T.
        ratio: Width of the bottlenecks divided by that of a token.
        adapter_drop: Dropout within the adapters.
        proj_dim: Width E of CLIP's projection to images and text. None takes CLIP's own; 0 leaves it out.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
        **kwargs: As for `TwoPaths`.

    Attributes:
        adapters: Per block, `t_attn_in`, `t_attn`, `t_mlp` and `s_attn`, `s_mlp`.
        neck: The linear layer in front of the classifier.

    Raises:
        ValueError: If an argument is not accepted or does not fit the backbone.
    """
    method = 'DualPath'
    attends_as_backbone = False
    refuses_hiera = 'it has no class token and pools its tokens'
    trained_in_backbone = ('pos_embed', 'cls_token')
    official_keys = tuple(
        (rf'^transformer\.resblocks\.(\d+)\.{theirs}\.{matrix}_proj\.', rf'adapters.\1.{ours}.{matrix}.')
        for theirs, ours in (('t_adapter_attn_b', 't_attn_in'), ('t_adapter_attn', 't_attn'),
                             ('t_adapter_mlp', 't_mlp'), ('s_adapter_attn', 's_attn'), ('s_adapter_mlp', 's_mlp'))
        for matrix in ('down', 'up')
    ) + ((r'^spatial_positional_embedding$', 'grid_embed'), (r'^proj$', 'backbone.proj.weight'),
         (r'^head\.linear1\.', 'neck.'), (r'^head\.linear2\.', 'head.'))

    def __init__(
            self,
            backbone: str,
            num_spatial_frames: int = 8,
            ratio: float = 0.25,
            adapter_drop: float = 0.1,
            proj_dim: int | None = None,
            device=None,
            dtype=None,
            **kwargs: Any,
    ):
        super().__init__(
            backbone, num_spatial_frames=num_spatial_frames, device=device, dtype=dtype, **kwargs)
        check_numbers(ratio=(ratio, float))
        dd = dict(device=device, dtype=dtype)
        dim = self.backbone.embed_dim
        if proj_dim is None:
            image = image_cfg(backbone)  # its classifier is the projection, unless it was fine-tuned
            is_clip = '_clip_' in str(image.get('architecture')) and '_ft_' not in f'_{image.get("tag")}_'
            proj_dim = image['num_classes'] if is_clip else 0
        self.backbone.proj = nn.Linear(dim, proj_dim, bias=False, **dd) if proj_dim else nn.Identity()
        self.adapter_args = dict(num_spatial_frames=num_spatial_frames, ratio=ratio, proj_dim=proj_dim)
        self.adapters = nn.ModuleList(
            nn.ModuleDict({
                place: Bottleneck(dim, int(ratio * dim), drop=adapter_drop, kaiming=True, **dd)
                for place in (*_TEMPORAL, *_SPATIAL)})
            for _ in self.backbone.blocks)
        self.neck = nn.Linear(2 * (proj_dim or dim), proj_dim or dim, **dd)
        self._build_heads()

    @property
    def head_hidden_size(self) -> int:
        """Channels of the classifier's input."""
        return self.neck.out_features if isinstance(self.neck, nn.Linear) else self.backbone.head_hidden_size

    # How a clip runs through the model

    def _embed(self, images: Tensor) -> tuple[Tensor, None]:
        backbone = self.backbone
        patches = backbone.patch_embed(images)
        patches = patches.flatten(1, -2) if patches.ndim == 4 else patches
        prefix = [token.expand(patches.shape[0], -1, -1) for token in (backbone.cls_token, backbone.reg_token)
                  if token is not None]
        grids, frames = self._paths(torch.cat([*prefix, patches], dim=1))
        grids = (grids.unflatten(0, (-1, self.num_grids)) + self.frame_table + self.grid_embed).flatten(0, 1)
        if backbone.pos_embed is not None:
            missing = frames.shape[1] - backbone.pos_embed.shape[1]  # class tokens without a position
            frames = frames + F.pad(backbone.pos_embed, (0, 0, missing, 0))
        return self.runner.norm_pre(backbone, backbone.pos_drop(self._joined(grids, frames))), None

    def _run_block(self, index: int, x: Tensor, position: Tensor | None) -> Tensor:
        block, runner, adapters = self.backbone.blocks[index], self.runner, self.adapters[index]
        t, s = self._paths(x)
        t = t + adapters['t_attn'](
            runner.attention_branch(block, runner.attention(block, adapters['t_attn_in'](block.norm1(t)))))
        t = t + adapters['t_mlp'](runner.mlp_branch(block, block.mlp(block.norm2(t))))
        n = block.norm1(s)
        s = s + runner.attention_branch(block, runner.attention(block, n)) + adapters['s_attn'](n)
        n = block.norm2(s)
        s = s + runner.mlp_branch(block, block.mlp(n)) + adapters['s_mlp'](n)
        return self._joined(t, s)

    def _pool(self, x: Tensor) -> Tensor:
        """Features `[B, K + 8, N, D]` -> input of the classifier `[B, E]`. Without pooling they stay as they are."""
        pooled = self.backbone.forward_head(x.flatten(0, 1), pre_logits=True)
        if pooled.ndim == 3:
            return pooled.unflatten(0, x.shape[:2])
        pooled = self.backbone.proj(pooled).unflatten(0, x.shape[:2])
        paths = pooled[:, :self.num_grids].mean(1), pooled[:, self.num_grids:].mean(1)
        return F.gelu(self.neck(torch.cat(paths, dim=1)))

    def _prune_heads(self, remove: bool) -> None:
        if remove:
            self.neck = self.backbone.proj = nn.Identity()
        super()._prune_heads(remove)

    # Weights

    def _image_names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        projection = weights.get('backbone.head.weight')  # as timm keeps CLIP's
        if projection is not None and projection.shape == getattr(self.backbone.proj, 'weight', projection[:0]).shape:
            weights = {**weights, 'backbone.proj.weight': projection}
        return weights

    def _complete(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        changes = {'backbone.proj.weight': lambda t: t.mT, 'grid_embed': lambda t: t.unsqueeze(0)}  # [D, E], [N, D]
        return super()._complete({key: changes.get(key, lambda t: t)(tensor) for key, tensor in weights.items()})

PAPER = Paper(
    'DualPath', 'arXiv:2303.09857', 'Dual-path Adaptation from Image to Video Transformers',
    'Park, Jungin and Lee, Jiyoung and Sohn, Kwanghoon', 2023, 'park2023dualpath')


default_cfgs = generate_default_cfgs({
    'dualpath_clip_b.openai': adapter_cfg(PAPER, CLIP_B), 'dualpath_clip_l.openai': adapter_cfg(PAPER, CLIP_L)})
register_adapter_records(PAPER, {f'dualpath_clip_{size}.openai': EvalProtocol() for size in 'bl'})


@register_model
def dualpath_clip_b(pretrained: bool = False, **kwargs: Any) -> DualPath:
    """DualPath on a frozen CLIP ViT-B/16: 16 frames of 224 pixels, as one grid and 8 frames."""
    return build_adapter_model(DualPath, 'dualpath_clip_b', CLIP_B, pretrained, **kwargs)


@register_model
def dualpath_clip_l(pretrained: bool = False, **kwargs: Any) -> DualPath:
    """DualPath on a frozen CLIP ViT-L/14: 16 frames of 224 pixels, as one grid and 8 frames."""
    return build_adapter_model(DualPath, 'dualpath_clip_l', CLIP_L, pretrained, **kwargs)
