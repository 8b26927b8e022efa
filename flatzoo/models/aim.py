"""AIM: a frozen image transformer attends over time, too, with the same attention that it uses over space.

Paper: "AIM: Adapting Image Models for Efficient Video Action Recognition", Yang, Zhu, Xie, Zhang, Chen and Li, ICLR
2023, https://arxiv.org/abs/2302.03024. Official code (Apache-2.0): https://github.com/taoyang1122/adapt-image-models.

Every block runs its frozen attention twice, first over the frames of each token, then over the tokens of each frame.
With A(z) = W_up GELU(W_down z), biases included, and MHA the frozen attention with its norm:

    time    x = x + T(MHA_time(T_in(LN1 x)))        T without skip; T_in, with skip, for Something-Something v2 alone
    space   x = x + S(MHA_space(LN1 x))             S with skip: S(a) = a + A(a)
    joint   x = x + MLP(LN2 x) + s M(LN2 x)         M without skip, beside the frozen MLP; s is a constant

W_up starts at zero, so an untrained model is the image model on each frame. An embedding of time is added in front of
CLIP's first norm. The end is the norm of every frame, its class token, the mean over the frames, and the classifier.
Adapters, embedding of time, last norm and classifier are trained.

| M parameters | adapters and the like | trained | total | GMAC per view |
|---|---|---|---|---|
| `aim_clip_b`, 8 frames, 400 classes | 10.659 | 10.967 (paper: 11) | 96.765 (97) | 202.1 (606 = 3 views) |
| `aim_clip_b_ssv2`, 8 frames, 174 classes | 14.210 | 14.343 | 100.141 | 207.7 |
| `aim_clip_l`, 8 frames, 400 classes | 37.851 | 38.261 (38) | 341.439 (341) | 933.5 (2902, a slip for 2802) |
| `aim_dinov2_b`, 8 frames, 400 classes | 10.659 | 10.967 | 96.690 | 265.6 |

The official files can only be downloaded by hand. `flatzoo convert` takes them, and those of `ViT_ImageNet`
(`backbone='vit_base_patch16_224'`). `pretrained=True` loads image weights; everything else is untrained.

    model = timm.create_model('aim_clip_b', pretrained=True, num_classes=51, drop_path_rate=0.2)
    model.freeze_backbone()

`drop_path_rate` belongs to the time branch and to M, and grows over the blocks. It drops whole clips; the official code
drops, by mistake, the same token position of all clips. The paper does not mention layer scale, which DINOv2 has. There
S comes before the layer scale, and T has none. The official code averages the probabilities of views; flatzoo averages
their logits.
"""
from typing import Any

from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from flatzoo.data.protocol import EvalProtocol
from flatzoo.layers.bottleneck import Bottleneck

from .adapter_builder import (
    CLIP_B,
    CLIP_L,
    DINOV2_B,
    adapter_cfg,
    build_adapter_model,
    check_numbers,
    register_adapter_records,
)
from .record import Paper
from .temporal_embed import TemporalEmbedModel, official_names

__all__ = ['AIM']  # timm's registry appends the entry points


class AIM(TemporalEmbedModel):
    """A frozen image transformer that attends over time and space, with adapters.

    Args:
        backbone: Name of a timm model; see `flatzoo.models.block_runner`. Hiera is refused.
        time_adapters: 1, or 2 for a second adapter in front of the attention over time.
        bottleneck_ratio: Width of the bottlenecks divided by that of a token.
        mlp_scale: The constant s of the adapter beside the MLP.
        drop_path_rate: Stochastic depth of the last block's time branch and adapter beside the MLP.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
        **kwargs: As for `AdapterModel`.

    Attributes:
        adapters: Per block, the adapters `time_in` (if `time_adapters` is 2), `time`, `attn` and `mlp`.

    Raises:
        ValueError: If an argument is not accepted or does not fit the backbone.
    """
    method = 'AIM'
    attends_as_backbone = False
    refuses_hiera = 'its attention within windows has no meaning over time'
    official_keys = official_names(T_Adapter_in='time_in', T_Adapter='time', S_Adapter='attn', MLP_Adapter='mlp')

    def __init__(
            self,
            backbone: str,
            time_adapters: int = 1,
            bottleneck_ratio: float = 0.25,
            mlp_scale: float = 0.5,
            drop_path_rate: float | None = 0.,
            device=None,
            dtype=None,
            **kwargs: Any,
    ):
        super().__init__(backbone, device=device, dtype=dtype, **kwargs)
        check_numbers(bottleneck_ratio=(bottleneck_ratio, float), mlp_scale=(mlp_scale, float))
        if time_adapters not in (1, 2):
            raise ValueError(f'time_adapters={time_adapters!r}: 1 or 2 is accepted.')
        self.adapter_args = dict(
            time_adapters=time_adapters, bottleneck_ratio=bottleneck_ratio, mlp_scale=mlp_scale)
        self.adapters = nn.ModuleList()
        self.drop_paths = nn.ModuleList()
        blocks = self.backbone.blocks
        for block, rate in zip(blocks, calculate_drop_path_rates(drop_path_rate or 0., len(blocks)), strict=True):
            dim = self.runner.width(block)
            args = dict(dim=dim, hidden=int(bottleneck_ratio * dim), device=device, dtype=dtype)
            places = dict(time_in=Bottleneck(skip=True, **args)) if time_adapters == 2 else {}
            places |= dict(
                time=Bottleneck(**args), attn=Bottleneck(skip=True, **args), mlp=Bottleneck(scale=mlp_scale, **args))
            self.adapters.append(nn.ModuleDict(places))
            self.drop_paths.append(DropPath(rate))
        self._build_heads()

    def _run_block(self, index: int, x: Tensor, position: Tensor | None) -> Tensor:
        block, runner, adapters = self.backbone.blocks[index], self.runner, self.adapters[index]
        tokens = x.shape[1]
        z = block.norm1(x).unflatten(0, (-1, self.num_frames)).transpose(1, 2).flatten(0, 1)  # [B * N, T, D]
        if 'time_in' in adapters:
            z = adapters['time_in'](z)
        change = adapters['time'](runner.attention(block, z))
        x = x + self._drop(index, change.unflatten(0, (-1, tokens)).transpose(1, 2).flatten(0, 1))

        attended = runner.attention(block, block.norm1(x), position)
        x = x + runner.attention_branch(block, adapters['attn'](attended))

        z = block.norm2(x)
        return x + runner.mlp_branch(block, block.mlp(z)) + self._drop(index, adapters['mlp'](z))

    def _drop(self, index: int, x: Tensor) -> Tensor:
        """Stochastic depth of whole clips: `[B * T, N, D]` -> the same."""
        return self.drop_paths[index](x.unflatten(0, (-1, self.num_frames))).flatten(0, 1)


PAPER = Paper(
    'AIM', 'arXiv:2302.03024', 'AIM: Adapting Image Models for Efficient Video Action Recognition',
    'Yang, Taojiannan and Zhu, Yi and Xie, Yusheng and Zhang, Aston and Chen, Chen and Li, Mu', 2023, 'yang2023aim')


default_cfgs = generate_default_cfgs({
    'aim_clip_b.openai': adapter_cfg(PAPER, CLIP_B),
    'aim_clip_b_ssv2.openai': adapter_cfg(PAPER, CLIP_B, num_classes=174),
    'aim_clip_l.openai': adapter_cfg(PAPER, CLIP_L),
    'aim_dinov2_b.lvd142m': adapter_cfg(PAPER, DINOV2_B),
})
register_adapter_records(PAPER, {
    **dict.fromkeys(
        ('aim_clip_b.openai', 'aim_clip_l.openai', 'aim_dinov2_b.lvd142m'),
        EvalProtocol(sampling='dense', stride=16, num_clips=3, rule='aim')),
    'aim_clip_b_ssv2.openai': EvalProtocol(num_crops=3, rule='aim')})


@register_model
def aim_clip_b(pretrained: bool = False, **kwargs: Any) -> AIM:
    """AIM on a frozen CLIP ViT-B/16: 8 frames of 224 pixels, as for Kinetics-400."""
    return build_adapter_model(AIM, 'aim_clip_b', CLIP_B, pretrained, **kwargs)


@register_model
def aim_clip_b_ssv2(pretrained: bool = False, **kwargs: Any) -> AIM:
    """AIM on a frozen CLIP ViT-B/16 with two adapters of time, as for Something-Something v2."""
    kwargs = dict(dict(time_adapters=2, mlp_scale=1.), **kwargs)
    return build_adapter_model(AIM, 'aim_clip_b_ssv2', CLIP_B, pretrained, **kwargs)


@register_model
def aim_clip_l(pretrained: bool = False, **kwargs: Any) -> AIM:
    """AIM on a frozen CLIP ViT-L/14: 8 frames of 224 pixels."""
    return build_adapter_model(AIM, 'aim_clip_l', CLIP_L, pretrained, **kwargs)


@register_model
def aim_dinov2_b(pretrained: bool = False, **kwargs: Any) -> AIM:
    """AIM on a frozen DINOv2 ViT-B/14: 8 frames of 224 pixels."""
    return build_adapter_model(AIM, 'aim_dinov2_b', DINOV2_B, pretrained, **kwargs)
