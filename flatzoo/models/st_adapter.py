"""ST-Adapter: a small convolution over time and space on the residual stream of a frozen image transformer.

Paper: "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning", Pan, Lin, Zhu, Shao and Li, NeurIPS 2022,
https://arxiv.org/abs/2206.13559. Official code (MIT): https://github.com/linziyi96/st-adapter.

The image transformer runs over every frame. In front of a sublayer the patches p of a clip pass an adapter

    ST-Adapter(p) = p + W_up DWConv3D(W_down p)

The depth-wise convolution runs over frames, rows and columns, with zeros around the clip. The adapter has no activation
and no norm. Its input is the residual stream, before the block's norm. Class token and registers skip it. The
convolution starts at zero, so an untrained model is the image model on each frame. At the end the class tokens are
averaged over the frames, and only then normed and classified.

The paper puts one adapter in front of attention. The released code for Kinetics-400 puts it in front of the MLP
(`places=('mlp',)`, the default here), and that for Something-Something v2 in front of both (`places=('attn', 'mlp')`).
"A x B" in the paper means A adapters of width B.

| M parameters, 8 frames | adapters | trained | total | GMAC per view |
|---|---|---|---|---|
| `st_adapter_clip_b`, 12 x 384, 400 classes | 7.110 | 7.418 | 93.217 | 151.6 (paper: 455 = 3 views) |
| `st_adapter_clip_b_ssv2`, 24 x 384, 174 classes | 14.220 | 14.354 | 100.154 | 162.7 (paper: 489 = 3 views) |
| `st_adapter_clip_l`, 24 x 384, 400 classes | 18.945 | 19.355 | 322.535 | 686.8 |
| `st_adapter_dinov2_b`, 12 x 384, 400 classes | 7.110 | 7.418 | 93.143 | 199.8 |

AM Flow's tables print 7 M and 11 M trained parameters for it. No width of the released code gives 11 M.

The released files can only be downloaded by hand. They have only the trained part, without the frozen CLIP. The
command `flatzoo convert` joins them with CLIP's image weights. `pretrained=True` loads these image weights; adapters
and head are untrained.

    model = timm.create_model('st_adapter_clip_b', pretrained=True, num_classes=51)
    model.freeze_backbone()

The official code averages the probabilities of views; flatzoo averages their logits. Two mistakes of the official code
are not copied: here patches may form any grid, and nothing is changed in place.
"""
from collections.abc import Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from flatzoo.data.protocol import EvalProtocol
from flatzoo.layers.bottleneck import ConvBottleneck

from .adapter_builder import (
    CLIP_B,
    CLIP_L,
    DINOV2_B,
    adapter_cfg,
    build_adapter_model,
    check_numbers,
    check_places,
    register_adapter_records,
)
from .adapter_model import AdapterModel
from .record import Paper

__all__ = ['STAdapter']  # timm's registry appends the entry points

_PLACES = ('attn', 'mlp')


class STAdapter(AdapterModel):
    """A frozen image transformer with ST-Adapters in front of its sublayers.

    Args:
        backbone: Name of a timm model; see `flatzoo.models.block_runner`. Hiera is refused.
        bottleneck: Channels of the adapters.
        kernel_size: Frames, rows and columns of their convolution, all odd.
        places: The sublayers that have an adapter in front: `attn`, `mlp` or both.
        adapter_layers: Number of blocks with adapters, counted from the last block. None is all blocks.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
        **kwargs: As for `AdapterModel`.

    Attributes:
        adapters: Per block, the adapters `attn` and `mlp`.

    Raises:
        ValueError: If an argument is unknown or does not fit the backbone.
    """
    method = 'ST-Adapter'
    refuses_hiera = 'its tokens are stored window by window, while the convolution needs rows of patches'
    official_keys = tuple(
        (rf'^transformer\.resblocks\.(\d+)\.adapter_pre_{place}\.{theirs}\.', rf'adapters.\1.{place}.{ours}.')
        for place in _PLACES for theirs, ours in (('fc1', 'down'), ('conv', 'conv'), ('fc2', 'up'))
    ) + ((r'^fc\.', 'head.'),)

    def __init__(
            self,
            backbone: str,
            bottleneck: int = 384,
            kernel_size: Sequence[int] = (3, 1, 1),
            places: Sequence[str] = ('mlp',),
            adapter_layers: int | None = None,
            device=None,
            dtype=None,
            **kwargs: Any,
    ):
        super().__init__(backbone, device=device, dtype=dtype, **kwargs)
        depth = len(self.backbone.blocks)
        kernel_size, places = list(kernel_size), check_places(places, _PLACES)
        adapter_layers = depth if adapter_layers is None else adapter_layers
        check_numbers(bottleneck=(bottleneck, int), adapter_layers=(adapter_layers, int))
        if len(kernel_size) != 3 or any(not isinstance(n, int) or n < 1 or n % 2 == 0 for n in kernel_size):
            raise ValueError(f'kernel_size={kernel_size} must be odd numbers of frames, rows, columns, as (3, 1, 1).')
        if adapter_layers > depth or not places:
            raise ValueError(
                f'adapter_layers={adapter_layers}, places={places}: {self._backbone_name} has {depth} blocks, each '
                'with places for an adapter in front of attn and mlp; take at least one.')
        self.adapter_args = dict(
            bottleneck=bottleneck, kernel_size=kernel_size, places=places, adapter_layers=adapter_layers)
        self.adapters = nn.ModuleList(
            nn.ModuleDict({
                place: ConvBottleneck(self.runner.width(block), bottleneck, kernel_size, device, dtype)
                for place in places if index >= depth - adapter_layers})
            for index, block in enumerate(self.backbone.blocks))
        self._build_heads()

    def _run_block(self, index: int, x: Tensor, position: Tensor | None) -> Tensor:
        block, runner = self.backbone.blocks[index], self.runner
        x = self._adapt('attn', index, x)
        x = x + runner.attention_branch(block, runner.attention(block, block.norm1(x), position))
        x = self._adapt('mlp', index, x)
        return x + runner.mlp_branch(block, block.mlp(block.norm2(x)))

    def _adapt(self, place: str, index: int, x: Tensor) -> Tensor:
        """Tokens `[B * T, N, D]` -> the same with adapted patches, if the block has an adapter in this place."""
        if place not in self.adapters[index]:
            return x
        grid = self.runner.grid_size(self.backbone, self.image_size, index)
        prefix, patches = x[:, :self.num_prefix_tokens], x[:, self.num_prefix_tokens:]
        change = self.adapters[index][place](patches.unflatten(0, (-1, self.num_frames)), grid)
        return torch.cat([prefix, patches + change.flatten(0, 1)], dim=1)

    def _final(self, x: Tensor) -> Tensor:
        """Tokens of the residual stream, not normed, because the norm follows the mean over frames."""
        return x.unflatten(0, (-1, self.num_frames))

    def _pool(self, x: Tensor) -> Tensor:
        """Features `[B, T, N, D]` -> `[B, D]`: tokens are pooled, averaged over the frames, then normed."""
        frames = x.flatten(0, 1)
        if self.backbone.attn_pool is not None:  # was trained on normed tokens
            return super()._pool(self.runner.norm(self.backbone, frames).unflatten(0, x.shape[:2]))
        pooled = self.backbone.pool(frames).unflatten(0, x.shape[:2]).mean(1)
        return self.backbone.fc_norm(self.runner.norm(self.backbone, pooled))


PAPER = Paper(
    'ST-Adapter', 'arXiv:2206.13559', 'ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning',
    'Pan, Junting and Lin, Ziyi and Zhu, Xiatian and Shao, Jing and Li, Hongsheng', 2022, 'pan2022stadapter')


default_cfgs = generate_default_cfgs({
    'st_adapter_clip_b.openai': adapter_cfg(PAPER, CLIP_B),
    'st_adapter_clip_b_ssv2.openai': adapter_cfg(PAPER, CLIP_B, num_classes=174),
    'st_adapter_clip_l.openai': adapter_cfg(PAPER, CLIP_L),
    'st_adapter_dinov2_b.lvd142m': adapter_cfg(PAPER, DINOV2_B),
})
register_adapter_records(PAPER, {
    **dict.fromkeys(
        ('st_adapter_clip_b.openai', 'st_adapter_clip_l.openai', 'st_adapter_dinov2_b.lvd142m'),
        EvalProtocol(sampling='dense', stride=16, num_clips=3, rule='st_adapter')),
    'st_adapter_clip_b_ssv2.openai': EvalProtocol(num_crops=3, rule='st_adapter')})


@register_model
def st_adapter_clip_b(pretrained: bool = False, **kwargs: Any) -> STAdapter:
    """ST-Adapter in front of the MLPs of a frozen CLIP ViT-B/16: 8 frames of 224 pixels, as for Kinetics-400."""
    return build_adapter_model(STAdapter, 'st_adapter_clip_b', CLIP_B, pretrained, **kwargs)


@register_model
def st_adapter_clip_b_ssv2(pretrained: bool = False, **kwargs: Any) -> STAdapter:
    """ST-Adapter in front of both sublayers of a frozen CLIP ViT-B/16, as for Something-Something v2."""
    kwargs = dict(dict(places=_PLACES), **kwargs)
    return build_adapter_model(STAdapter, 'st_adapter_clip_b_ssv2', CLIP_B, pretrained, **kwargs)


@register_model
def st_adapter_clip_l(pretrained: bool = False, **kwargs: Any) -> STAdapter:
    """ST-Adapter in front of the MLPs of a frozen CLIP ViT-L/14: 8 frames of 224 pixels."""
    return build_adapter_model(STAdapter, 'st_adapter_clip_l', CLIP_L, pretrained, **kwargs)


@register_model
def st_adapter_dinov2_b(pretrained: bool = False, **kwargs: Any) -> STAdapter:
    """ST-Adapter in front of the MLPs of a frozen DINOv2 ViT-B/14: 8 frames of 224 pixels."""
    return build_adapter_model(STAdapter, 'st_adapter_dinov2_b', DINOV2_B, pretrained, **kwargs)
