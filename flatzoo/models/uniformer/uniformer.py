"""UniFormer (2D): convolution in the high-resolution stages, self-attention in the low-resolution ones.

Papers:
    * `UniFormer: Unified Transformer for Efficient Spatiotemporal Representation Learning`, ICLR 2022,
      https://arxiv.org/abs/2201.04676
    * `UniFormer: Unifying Convolution and Self-attention for Visual Recognition`, TPAMI 2023,
      https://arxiv.org/abs/2201.09450

An image backbone in the style of timm. It is registered with timm and can be used without any video. Every block has a
dynamic position encoding (DPE), a multi-head relation aggregator (MHRA) and a feed-forward network (FFN). In stages 1
and 2 the aggregator is local, a depthwise 5x5 convolution. In stages 3 and 4 it is global self-attention. There is no
class token and no position table, so any input size works.

The weights of the authors (https://github.com/Sense-X/UniFormer, MIT licence on the Hub) load unchanged. One thing
differs from their code. If the sides of an input are not multiples of 32, it is padded on the right and bottom at each
downsampling; their code drops the remaining pixels (336 pixels: 11 positions in stage 4 here, 10 there).

Global attention is quadratic in the tokens. It takes half of the multiply-adds of UniFormer-S on a 4x4 super image of
224-pixel frames (896x896). As in the authors' dense prediction code, stage 3 can attend inside of windows
(`attn='window'`), or inside of windows except in every fourth block (`attn='hybrid'`), with the same weights. If a
window is one frame of the super image (frame pixels / 16), window blocks are spatial and global blocks temporal.

| UniFormer-S, multiply-adds | 224x224 | 448x448 | 896x896 |
|----------------------------|---------|---------|---------|
| `attn='global'`            | 3.6 G   | 17.0 G  | 107.1 G |
| `attn='hybrid'`, 14x14     | 3.6 G   | 15.2 G  | 71.7 G  |
| `attn='window'`, 14x14     | 3.6 G   | 14.6 G  | 59.9 G  |

Sizes can vary freely in eager mode and TorchScript. With `torch.compile`, pass `dynamic=False` (one graph per size).
Symbolic heights and widths would make the shape expressions of paddings and windows so large that compilation of models
with windows does not finish in reasonable time. A symbolic batch size is fine, also in export.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import (
    ClassifierHead,
    calculate_drop_path_rates,
    get_device_dtype,
    to_2tuple,
    trunc_normal_,
)
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)

from ..builder import prefetch
from ..record import IMAGENET_1K, Figure, Paper, TagRecord, register_records
from ..timm_private import feature_take_indices, update_model_input_size
from .blocks import AttentionBlock, ConvBlock, UniFormerStage, create_downsample

__all__ = ['UniFormer']

ATTENTION_MODES = ('global', 'window', 'hybrid')
GLOBAL_EVERY = 4  # in hybrid mode the last of every four stage-3 blocks is global


class UniFormer(nn.Module):
    """UniFormer image classifier and feature backbone.

    The windows of the blocks are fixed at construction; each call may have another input size.

    Args:
        depths: Blocks of the four stages.
        embed_dims: Channels of the four stages.
        head_dim: Channels of one attention head, a divisor of the last two `embed_dims`.
        mlp_ratio: Width of the hidden FFN layers divided by the channels.
        conv_stem: Whether convolutional downsampling overlaps (UniFormer-S+).
        init_values: Initial layer scale of the attention blocks. None for no layer scale.
        attn: Attention of stage 3: 'global', 'window', or 'hybrid' (window, but global in every fourth block).
            The weights are the same for all three. Stage 4 is always global.
        window_size: Side, or (height, width), of the stage-3 windows in tokens of 16x16 pixels. Ignored if `attn` is
            'global'.
        img_size: Nominal input size in pixels, kept in the model's configuration. Other sizes work, too.
        num_classes: Number of classes. 0 gives pooled features.
        in_chans: Number of input channels.
        global_pool: Pooling in timm's terms ('avg', 'max', 'avgmax', 'catavgmax'). '' for none.
        drop_rate: Dropout rate before the classifier.
        proj_drop_rate: Dropout rate after the attention projections and in the FFNs.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Stochastic depth rate of the last block, rising linearly from 0 at the first.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Raises:
        ValueError: If `attn` or `window_size` is not one of the above, or `head_dim` does not divide.
    """

    def __init__(
            self,
            depths: Sequence[int] = (3, 4, 8, 3),
            embed_dims: Sequence[int] = (64, 128, 320, 512),
            head_dim: int = 64,
            mlp_ratio: float = 4.,
            conv_stem: bool = False,
            init_values: float | None = None,
            attn: str = 'global',
            window_size: int | tuple[int, int] = 14,
            img_size: int | tuple[int, int] | None = None,
            num_classes: int = 1000,
            in_chans: int = 3,
            global_pool: str = 'avg',
            drop_rate: float = 0.,
            proj_drop_rate: float = 0.,
            attn_drop_rate: float = 0.,
            drop_path_rate: float = 0.,
            device: torch.device | str | None = None,
            dtype: torch.dtype | None = None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if attn not in ATTENTION_MODES:
            raise ValueError(f'Unknown attention mode {attn!r}, choose one of {", ".join(ATTENTION_MODES)}.')
        if any(dim % head_dim for dim in embed_dims[2:]):
            raise ValueError(
                f'head_dim={head_dim} must divide the channels of the attention stages, {tuple(embed_dims[2:])}.')
        self.attn_mode = attn
        self.img_size = None if img_size is None else to_2tuple(img_size)
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.feature_info = []

        stages = []
        drop_path_rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        prev_dim = in_chans
        for i, dim in enumerate(embed_dims):
            downsample = create_downsample(prev_dim, dim, 4 if i == 0 else 2, conv_stem, **dd)
            if i < 2:
                create_block = partial(ConvBlock, dim, mlp_ratio, proj_drop_rate, **dd)
            else:
                create_block = partial(
                    AttentionBlock,
                    dim,
                    head_dim,
                    mlp_ratio,
                    proj_drop_rate,
                    attn_drop_rate,
                    init_values=init_values,
                    **dd,
                )
            stages.append(UniFormerStage(downsample, [create_block(drop_path=rate) for rate in drop_path_rates[i]]))
            self.feature_info.append(dict(num_chs=dim, reduction=2 ** (i + 2), module=f'stages.{i}'))
            prev_dim = dim
        self.stages = nn.Sequential(*stages)
        self._set_window_size(window_size)

        self.num_features = prev_dim
        self.norm = nn.BatchNorm2d(self.num_features, **dd)
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(self._init_weights)

    def _init_weights(self, m: nn.Module) -> None:
        # convolutions keep PyTorch's initialisation
        if isinstance(m, nn.Linear):
            trunc_normal_(m.weight, std=.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)

    def _set_window_size(self, window_size: int | Sequence[int]) -> None:
        """Gives every stage-3 block its window, or None if the block is global."""
        window = to_2tuple(window_size)
        if len(window) != 2 or any(not isinstance(side, int) or side < 1 for side in window):
            raise ValueError(f'window_size={window_size!r} must be a positive side or (height, width) in tokens.')
        self.window_size = tuple(window)
        if len(self.stages) <= 2:
            return  # stage 3 was pruned
        for i, block in enumerate(self.stages[2].blocks):
            is_global = self.attn_mode == 'global' or (self.attn_mode == 'hybrid' and (i + 1) % GLOBAL_EVERY == 0)
            block.window_size = None if is_global else self.window_size

    def set_input_size(
            self,
            img_size: int | tuple[int, int] | None = None,
            window_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Records a new nominal input size, and sets the stage-3 windows if `window_size` is given. No weight changes.

        Args:
            img_size: New nominal input size in pixels. None keeps the current one.
            window_size: New side, or (height, width), of the stage-3 windows in tokens. None keeps the current one.

        Raises:
            ValueError: If `window_size` is not positive.
        """
        if window_size is not None:
            self._set_window_size(window_size)
            window_size = self.window_size
        if img_size is not None:
            self.img_size = to_2tuple(img_size)
        update_model_input_size(self, self.img_size, window_size=window_size)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay. None, because timm already excludes 1-D parameters."""
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: stem, one group per block (or stage, if coarse), head."""
        return dict(
            stem=r'^stages\.0\.downsample',
            blocks=[
                (r'^stages\.(\d+)', None),
                (r'^norm', (99999,)),  # with the last stage
            ] if coarse else [
                (r'^stages\.(\d+)\.downsample', (0,)),  # with the first block of its stage
                (r'^stages\.(\d+)\.blocks\.(\d+)', None),
                (r'^norm', (99999,)),  # with the last block
            ],
        )

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the blocks in the backward pass instead of keeping their activations.

        As in every timm model with BatchNorm, each batch then updates the running statistics of the blocks twice.
        """
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Returns the classifier. It is an identity if there is none."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier.

        Args:
            num_classes: Number of classes. 0 gives features.
            global_pool: New pooling. '' for none; None keeps the current one.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, in_features=self.num_features, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features

    def forward_intermediates(
            self,
            x: torch.Tensor,
            indices: int | list[int] | None = None,
            norm: bool = False,
            stop_early: bool = False,
            output_fmt: str = 'NCHW',
            intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the stages and returns their outputs.

        Args:
            x: Images [B, C, H, W].
            indices: Stages to return: all if None, the last n if an int, else those listed.
            norm: Whether to apply the final norm to the output of the last stage.
            stop_early: Whether to stop after the last requested stage.
            output_fmt: Only 'NCHW'.
            intermediates_only: Whether to return only the list.

        Returns:
            The final features and the list of stage outputs, or only the list.
        """
        assert output_fmt == 'NCHW', 'Output format must be NCHW.'
        intermediates = []
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        last_idx = len(self.stages) - 1

        if torch.jit.is_scripting() or not stop_early:  # TorchScript cannot slice modules
            stages = self.stages
        else:
            stages = self.stages[:max_index + 1]

        feat_idx = 0
        for feat_idx, stage in enumerate(stages):
            x = stage(x)
            if feat_idx in take_indices:
                intermediates.append(self.norm(x) if norm and feat_idx == last_idx else x)

        if intermediates_only:
            return intermediates

        if feat_idx == last_idx:
            x = self.norm(x)
        return x, intermediates

    def prune_intermediate_layers(
            self,
            indices: int | list[int] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> list[int]:
        """Removes what the given stages do not need.

        Args:
            indices: Stages to keep for output: the last n if an int, else those listed.
            prune_norm: Whether to remove the final norm.
            prune_head: Whether to remove the head.

        Returns:
            The absolute indices of the output stages.
        """
        take_indices, max_index = feature_take_indices(len(self.stages), indices)
        prune_end = max_index < len(self.stages) - 1
        if prune_norm or prune_end:
            self.norm = nn.Identity()  # the final norm fits the last stage only
        self.stages = self.stages[:max_index + 1]
        if prune_end:
            self.num_features = self.feature_info[max_index]['num_chs']
        if prune_head or prune_end:
            self.reset_classifier(0, '')
        return take_indices

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images [B, C, H, W] to normalised features [B, num_features, ceil(H / 32), ceil(W / 32)]."""
        x = self.stages(x)
        return self.norm(x)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Maps features to logits [B, num_classes], or to pooled features [B, head_hidden_size] if `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images [B, C, H, W] to logits [B, num_classes]."""
        x = self.forward_features(x)
        return self.forward_head(x)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Renames the authors' parameters to ours. A state dict with our names is not changed.

    The output norms of their dense prediction backbones (norm1 to norm4) belong to the detectors and are left out.

    Args:
        state_dict: A state dict, raw or under 'model', 'model_state' or 'state_dict'.
        model: The model to load it into.

    Returns:
        A state dict for `UniFormer`.

    Raises:
        ValueError: A weight is not a tensor, or the checkpoint is one of the authors' that this model cannot represent.
    """
    for wrapper in ('model', 'model_state', 'state_dict'):
        if isinstance(state_dict.get(wrapper), dict):
            state_dict = state_dict[wrapper]

    out = {}
    for name, value in state_dict.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f'This is not a state dict: {name!r} is a {type(value).__name__}, not a tensor. Pass the parameters by '
                "themselves, or under 'model', 'model_state' or 'state_dict'.")
        if re.match(r'aux_head\.|blocks[12]\.\d+\.gamma_', name):
            raise ValueError(
                f'This checkpoint was trained with token labelling ({name}): its logits need an auxiliary head that '
                'UniFormer does not have here. Use one trained without, such as uniformer_small_in1k.pth.')
        if value.ndim == 5:
            raise ValueError(
                f'This checkpoint is a video (3D) UniFormer ({name} has shape {tuple(value.shape)}). '
                'Use an image checkpoint, such as uniformer_small_in1k.pth.')
        if re.match(r'norm[1-4]\.', name):
            continue
        name = re.sub(r'^patch_embed(\d)\.', lambda m: f'stages.{int(m[1]) - 1}.downsample.', name)
        name = re.sub(r'^blocks(\d)\.', lambda m: f'stages.{int(m[1]) - 1}.blocks.', name)
        name = re.sub(r'(downsample\.)proj\.(\d)', r'\1\2', name)  # the conv stem is a plain nn.Sequential here
        name = re.sub(r'gamma_([12])$', r'ls\1.gamma', name)
        name = re.sub(r'^head\.(weight|bias)$', r'head.fc.\1', name)
        out[name] = value
    return out


PAPER = Paper(
    'UniFormer', 'arXiv:2201.09450', 'UniFormer: Unifying Convolution and Self-attention for Visual Recognition',
    'Li, Kunchang and others', 2023, 'li2023uniformer')


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        'num_classes': 1000, 'input_size': (3, 224, 224), 'pool_size': (7, 7),
        'crop_pct': 0.875, 'interpolation': 'bicubic',
        'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'stages.0.downsample.proj', 'classifier': 'head.fc',
        'license': 'mit', 'origin_url': 'https://github.com/Sense-X/UniFormer',
        'paper_name': PAPER.title, 'paper_ids': (PAPER.id, 'arXiv:2201.04676'),
        **kwargs,
    }


default_cfgs = generate_default_cfgs({
    'uniformer_small.in1k': _cfg(
        hf_hub_id='Sense-X/uniformer_image', hf_hub_filename='uniformer_small_in1k.pth'),
    'uniformer_small_plus.in1k': _cfg(
        hf_hub_id='Sense-X/uniformer_image', hf_hub_filename='uniformer_small_plus_in1k.pth',
        first_conv='stages.0.downsample.0'),
    'uniformer_small_plus_dim64.untrained': _cfg(first_conv='stages.0.downsample.0'),
    'uniformer_base.in1k': _cfg(
        hf_hub_id='Sense-X/uniformer_image', hf_hub_filename='uniformer_base_in1k.pth'),
    'uniformer_base_ls.untrained': _cfg(),
})


def _record(top1: float, size: int, sha256: str) -> TagRecord:
    return TagRecord(
        PAPER, IMAGENET_1K, size=size, sha256=sha256,
        figures=(Figure(IMAGENET_1K.title, top1, None, 'README of the official repository'),),
        intended_use='An image backbone for `flatten_uniformer_*`, and classification of ImageNet-1k.',
        limits='An image model; `flatten_uniformer_*` make video models of it.')


register_records({
    'uniformer_small.in1k': _record(  # the digest is that of the equally long copy in Andy1621/uniformer
        82.9, 86_314_461, 'fd192c31f8bd77670de8f171111bd51f56fd87e6aea45043ab2edc181e1fa775'),
    'uniformer_small_plus.in1k': _record(
        83.4, 96_300_000, '53bc55180eb750f00b12933c75fefb5f9ee652bea606cd26104b738f0c4c472e'),
    'uniformer_base.in1k': _record(
        83.8, 199_378_501, '82c01015818cb897b00a29352043053df53ce4c02c2d012226b3a8a12ccb60eb'),
})


def _create_uniformer(variant: str, pretrained: bool = False, **kwargs: Any) -> UniFormer:
    if pretrained:
        cfg = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay'))
        prefetch(cfg, kwargs.get('cache_dir'))
    return build_model_with_cfg(
        UniFormer,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), flatten_sequential=True),
        **kwargs,
    )


@register_model
def uniformer_small(pretrained: bool = False, **kwargs: Any) -> UniFormer:
    """UniFormer-S: 21.55 M parameters, 3.63 G multiply-adds at 224x224."""
    model_args = dict(depths=(3, 4, 8, 3), embed_dims=(64, 128, 320, 512))
    return _create_uniformer('uniformer_small', pretrained=pretrained, **dict(model_args, **kwargs))


@register_model
def uniformer_small_plus(pretrained: bool = False, **kwargs: Any) -> UniFormer:
    """UniFormer-S+ (conv stem, heads of 32 channels): 24.03 M parameters, 4.20 G multiply-adds at 224x224."""
    model_args = dict(depths=(3, 5, 9, 3), embed_dims=(64, 128, 320, 512), head_dim=32, conv_stem=True)
    return _create_uniformer('uniformer_small_plus', pretrained=pretrained, **dict(model_args, **kwargs))


@register_model
def uniformer_small_plus_dim64(pretrained: bool = False, **kwargs: Any) -> UniFormer:
    """UniFormer-S+ with heads of 64 channels: 24.03 M parameters, 4.20 G multiply-adds at 224x224."""
    model_args = dict(depths=(3, 5, 9, 3), embed_dims=(64, 128, 320, 512), conv_stem=True)
    return _create_uniformer('uniformer_small_plus_dim64', pretrained=pretrained, **dict(model_args, **kwargs))


@register_model
def uniformer_base(pretrained: bool = False, **kwargs: Any) -> UniFormer:
    """UniFormer-B: 49.78 M parameters, 8.25 G multiply-adds at 224x224."""
    model_args = dict(depths=(5, 8, 20, 7), embed_dims=(64, 128, 320, 512))
    return _create_uniformer('uniformer_base', pretrained=pretrained, **dict(model_args, **kwargs))


@register_model
def uniformer_base_ls(pretrained: bool = False, **kwargs: Any) -> UniFormer:
    """UniFormer-B with layer scale in the attention blocks: 49.80 M parameters, 8.25 G multiply-adds at 224x224."""
    model_args = dict(depths=(5, 8, 20, 7), embed_dims=(64, 128, 320, 512), init_values=1e-6)
    return _create_uniformer('uniformer_base_ls', pretrained=pretrained, **dict(model_args, **kwargs))
