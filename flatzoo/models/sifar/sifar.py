"""SIFAR: super images for action recognition.

Paper: "Can an Image Classifier Suffice for Action Recognition?", Fan, Chen and Panda, ICLR 2022,
https://arxiv.org/abs/2106.14104. Official code: https://github.com/IBM/sifar-pytorch.

The frames of a clip are laid out as one super image, row by row in a grid that is as square as possible (Section 3.1).
An image classifier does the rest. On Swin Transformers the window of the last stage spans the whole map, so attention
there joins all frames (Table 1). On ResNets, large kernels reach over several frames (Table 7).

| name | paper | frames | frame size | windows | params | G multiply-adds |
|---|---|---|---|---|---|---|
| `sifar_swin_b7` | SIFAR-B-7 | 8 | 224 | 7, 7, 7, 7 | 87 M | 138 |
| `sifar_swin_b12` | SIFAR-B-12 | 8 | 192 | 12, 12, 12, whole map | 87 M | 106 |
| `sifar_swin_b14` | SIFAR-B-14 | 8 | 224 | 14, 14, 14, whole map | 87 M | 147 |
| `sifar_swin_b12_16f` | SIFAR-B-12† | 16 | 192 | 12, 12, 12, whole map | 87 M | 189 |
| `sifar_swin_b14_16f` | SIFAR-B-14† | 16 | 224 | 14, 14, 14, whole map | 87 M | 263 |
| `sifar_swin_b12_384` | SIFAR-B-12‡ | 8 | 384 | 12, 12, 12, whole map | 87 M | 423 |
| `sifar_swin_l14_16f` | SIFAR-L-14† | 16 | 224 | 14, 14, 14, whole map | 196 M | 576 |
| `sifar_swin_l12_384` | SIFAR-L-12‡ | 8 | 384 | 12, 12, 12, whole map | 196 M | 944 |

Windows (Table 1), parameters and multiply-adds of one crop (Tables 2 and 3) are the paper's. The paper tests with three
crops. `benchmarks/cost/sifar_cost.py` prints our counts beside them.

8 frames leave one of the 3x3 cells empty. This cell is a ninth of the image. Leaving it out would save less than 1 % of
the multiply-adds, because attention soon spreads into it. `num_frames=9` puts a ninth frame there at no cost, with the
same parameters. Such a model must be trained; the published weights have 8 frames.
"""
import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import StdConv2d, to_2tuple
from timm.models import generate_default_cfgs, register_model, resolve_pretrained_cfg
from timm.models.resnetv2 import ResNetV2
from timm.models.swin_transformer import checkpoint_filter_fn as swin_checkpoint_filter_fn
from torch import Tensor, nn

from flatzoo.data.actions import ACTIONS, VERBS
from flatzoo.layers import Layout
from flatzoo.weights.checkpoint import account_for_keys, choose_weights, prefixed_weights, unwrap_checkpoint

from ..backbone import WindowSize, check_windows, image_weights, resolve_stage_windows
from ..base import VideoModel
from ..builder import build_video_model, label_names
from ..record import register_records
from .facts import PAPER, records
from .frame_embed import FramePatchEmbed
from .large_kernel import LargeKernelBottleneck

__all__ = ['SifarSwin', 'SifarResNet']  # timm's registry appends the entry points

_logger = logging.getLogger(__name__)

_FRAME_EMBED = 'backbone.patch_embed.frame_pos_embed'


class SifarSwin(VideoModel):
    """Super image on a Swin Transformer, with windows that grow to the whole map.

    Args:
        backbone: A timm Swin Transformer.
        window_size: As in timm one int, one `(height, width)`, or one entry per stage. An entry None is the whole map.
        ape: Absolute position embedding, one vector per frame cell (Table 8b). The paper's main results use it for
            Something-Something v2. All official checkpoints have it.
        shift_rule: When windows are not shifted. `'per_axis'` decides for each axis, as timm does. `'short_side'` is
            the official rule: windows are square, and if the map's short side fits into one window, neither axis is
            shifted. The rules differ only in grids that are not square.
        num_frames: Frames per clip.
        layout: Layout of the super image.
        img_size: Frame size in pixels.
        **kwargs: As for `VideoModel`. Arguments that it does not know go to the Swin Transformer.

    Raises:
        ValueError: A window does not divide its map. The message names frame sizes that fit.
    """

    _own_backbone_args = ('strict_img_size',)

    def __init__(
            self,
            backbone: str,
            window_size: WindowSize = None,
            ape: bool = False,
            shift_rule: str = 'per_axis',
            num_frames: int = 8,
            layout: Any = 'grid',
            img_size: int | tuple[int, int] = 224,
            **kwargs: Any,
    ):
        if shift_rule not in ('per_axis', 'short_side'):
            raise ValueError(f"shift_rule={shift_rule!r} is neither 'per_axis' nor 'short_side'.")
        layout = Layout(layout)
        grid = layout.growth(num_frames)
        if ape:
            kwargs['embed_layer'] = partial(FramePatchEmbed, frame_grid=layout.shape(num_frames)[1:])
        patch_size = to_2tuple(kwargs.get('patch_size', 4))[0]
        num_stages = len(kwargs.get('depths', (2, 2, 18, 2)))
        img_size = to_2tuple(img_size)
        windows_of = partial(_stage_windows, window_size, patch_size, num_stages, shift_rule)
        check_windows(windows_of, grid, img_size, patch_size, layout.size_step(num_frames))
        windows = windows_of((img_size[0] * grid[0], img_size[1] * grid[1]))
        shares_masks = not {'strict_img_size', 'dynamic_img_size'} & kwargs.keys()
        if shares_masks:
            kwargs['strict_img_size'] = False  # no masks yet: timm would make one per block, which is slow
        super().__init__(
            backbone, num_frames=num_frames, layout=layout, img_size=img_size, window_size=tuple(windows), **kwargs)
        if shares_masks:
            self._share_masks()
        self._spec = dict(window_size=window_size, shift_rule=shift_rule, patch_size=patch_size, grid=grid)
        self._args.update(ape=ape)
        self._apply_shift_rule()

    def _share_masks(self) -> None:
        """Makes the backbone strict. Blocks with the same map, window and shift share one attention mask."""
        self.backbone.dynamic_img_size, self.backbone.patch_embed.strict_img_size = False, True
        self.backbone._model_args.pop('strict_img_size', None)
        masks: dict[tuple, Tensor | None] = {}
        for block in (module for module in self.backbone.modules() if hasattr(module, 'dynamic_mask')):
            block.dynamic_mask = False
            size = block.feat_size if hasattr(block, 'feat_size') else block.input_resolution
            kind = size, block.window_size, block.shift_size
            if kind not in masks:
                masks[kind] = _attention_mask(block, size)
            block.attn_mask = masks[kind]

    def _apply_shift_rule(self) -> None:
        if self._spec['shift_rule'] == 'per_axis':
            return
        for stage in self.backbone.layers:
            for block in stage.blocks:
                if min(block.input_resolution) <= min(block.window_size) and any(block.shift_size):
                    block.shift_size = (0, 0)
                    block.init_non_persistent_buffers()

    @torch.jit.ignore
    def no_weight_decay(self):
        """Parameters without weight decay: those of the backbone, and the position embedding of frames."""
        names = super().no_weight_decay()
        return names | ({_FRAME_EMBED} if hasattr(self.backbone.patch_embed, 'frame_pos_embed') else set())

    def set_input_size(
            self,
            img_size: Any = None,
            num_frames: int | None = None,
            layout: Any = None,
            window_size: WindowSize = None,
            **backbone_args: Any,
    ) -> None:
        """As in `VideoModel`. Windows of whole maps stay windows of whole maps; the others keep their size.

        Raises:
            ValueError: If a window does not divide its map, or frame cells would not match the position embedding.
        """
        layout = Layout(self.layout if layout is None else layout)
        num_frames = num_frames or self.num_frames
        grid = layout.shape(num_frames)[1:]
        embed_grid = getattr(self.backbone.patch_embed, 'frame_grid', grid)
        if tuple(embed_grid) != tuple(grid):
            raise ValueError(
                f'The position embedding has a vector for each of {embed_grid[0]}x{embed_grid[1]} cells, but the new '
                f'layout has {grid[0]}x{grid[1]} cells: build a new model for it, or one with ape=False.'
            )
        grid = layout.growth(num_frames)
        new_size = to_2tuple(img_size or self.img_size)
        spec = dict(
            self._spec,
            window_size=self._spec['window_size'] if window_size is None else window_size,
            patch_size=to_2tuple(backbone_args.get('patch_size') or self._spec['patch_size'])[0],
            grid=grid,
        )
        windows_of = partial(
            _stage_windows, spec['window_size'], spec['patch_size'], len(self.backbone.layers), spec['shift_rule'])
        check_windows(windows_of, grid, new_size, spec['patch_size'], layout.size_step(num_frames))
        windows = windows_of((new_size[0] * grid[0], new_size[1] * grid[1]))
        super().set_input_size(new_size, num_frames, layout, window_size=tuple(windows), **backbone_args)
        self._spec = spec
        self._args['window_size'] = spec['window_size']
        self._apply_shift_rule()

    @torch.jit.ignore
    def choose_weights(self, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
        """As in `VideoModel`. From a file of the official code the raw weights are taken, which that code evaluates."""
        raw = checkpoint.get('model')
        is_official = isinstance(raw, dict) and any(key.startswith('layers.0.downsample.') for key in raw)
        if self.use_ema is None and is_official:
            return choose_weights(checkpoint, use_ema=False)
        return super().choose_weights(checkpoint)

    @torch.jit.ignore
    def filter_checkpoint(self, state_dict: dict[str, Any]) -> dict[str, Tensor]:
        """Converts weights to those of `SifarSwin`.

        Accepted are its own weights, official SIFAR checkpoints (`['model']`, old Swin layout with stored index
        buffers, `head.*`, `frame_pos_embed`), and weights of an image Swin Transformer. timm's filter moves the patch
        merging, drops the buffers and resizes bias tables of other window sizes. A classifier of another number of
        classes is left out. If a video checkpoint has no `frame_pos_embed`, it becomes zeros, with a warning.

        Raises:
            RuntimeError: A key is missing or unknown, such as `frame_pos_embed` in a model without `ape=True`.
        """
        state_dict = unwrap_checkpoint(state_dict)
        of_image_model = not any(key.startswith(('backbone.', 'layers.0.downsample.')) for key in state_dict)
        if not any(key.startswith('backbone.') for key in state_dict):
            frame_embed = state_dict.pop('frame_pos_embed', None)
            state_dict = prefixed_weights(swin_checkpoint_filter_fn(state_dict, self.backbone))
            if frame_embed is not None:
                state_dict[_FRAME_EMBED] = frame_embed

        wants_embed = hasattr(self.backbone.patch_embed, 'frame_pos_embed')
        if wants_embed and _FRAME_EMBED not in state_dict and not of_image_model:
            _logger.warning('The model has a position embedding of frames (APE), these weights have none: it is zero.')
            state_dict[_FRAME_EMBED] = torch.zeros(self.backbone.patch_embed.frame_pos_embed.shape)
        return account_for_keys(self, state_dict, optional=(_FRAME_EMBED,) if of_image_model else ())


class SifarResNet(VideoModel):
    """Super image on a BiT ResNet, with residual blocks of large kernels at its end (Table 7).

    Args:
        backbone: A timm ResNetV2.
        large_kernels: Kernel size or sizes of the blocks appended to the last stage, `(21, 11)` for C21-11.
        groups: Groups of these convolutions. The paper does not state them; 1 (dense) is the literal reading.
        **kwargs: As for `VideoModel`.
    """

    def __init__(self, backbone: str, large_kernels: int | Sequence[int] = (), groups: int = 1, **kwargs: Any):
        super().__init__(backbone, **kwargs)
        if not isinstance(self.backbone, ResNetV2):
            raise ValueError(f'backbone={backbone!r} is no ResNetV2 of timm; superimage takes any backbone.')
        blocks = self.backbone.stages[-1].blocks
        dd = {'device': kwargs.get('device'), 'dtype': kwargs.get('dtype')}
        for kernel_size in (large_kernels,) if isinstance(large_kernels, int) else large_kernels:
            block = LargeKernelBottleneck(
                self.backbone.num_features, kernel_size, groups, conv_layer=partial(StdConv2d, eps=1e-8), **dd)
            blocks.add_module(str(len(blocks)), block)

    @torch.jit.ignore
    def filter_checkpoint(self, state_dict: dict[str, Any]) -> dict[str, Tensor]:
        """Accepts weights of this class or of an image ResNetV2. With the latter the large kernels stay untrained."""
        state_dict = unwrap_checkpoint(state_dict)
        if any(key.startswith('backbone.') for key in state_dict):
            return account_for_keys(self, state_dict)
        new = tuple(f'{name}.' for name, module in self.named_modules() if isinstance(module, LargeKernelBottleneck))
        return account_for_keys(self, prefixed_weights(state_dict), optional=new)


def _attention_mask(block: nn.Module, size: tuple[int, int]) -> Tensor | None:
    """timm's mask of a map, put together from its kinds of windows: inside, right edge, bottom edge and corner."""
    height, width = block.window_size
    weight = block.norm1.weight
    kinds = block.get_attn_mask(torch.empty(1, 2 * height, 2 * width, 1, device=weight.device, dtype=weight.dtype))
    if kinds is None:
        return None
    counts = math.ceil(size[0] / height), math.ceil(size[1] / width)
    bottom, right = (torch.arange(1, count + 1, device=weight.device) == count for count in counts)
    return kinds[(2 * bottom[:, None] + right).flatten()]


def _stage_windows(
        window_size: WindowSize,
        patch_size: int,
        num_stages: int,
        shift_rule: str,
        image_size: tuple[int, int],
) -> list[tuple[int, int]]:
    windows = resolve_stage_windows(window_size, image_size, patch_size, num_stages)
    if shift_rule == 'short_side':
        maps = resolve_stage_windows(None, image_size, patch_size, num_stages)
        windows = [(min(size),) * 2 if min(size) <= min(window) else window for size, window in zip(maps, windows)]
    return windows


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        'num_classes': 400, 'input_size': (3, 224, 224), 'fixed_input_size': True, 'pool_size': None,
        'crop_pct': 1.0, 'interpolation': 'bilinear', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'backbone.patch_embed.proj', 'classifier': 'backbone.head.fc',
        'paper_name': PAPER.title, 'paper_ids': PAPER.id,
        'origin_url': 'https://github.com/IBM/sifar-pytorch',
        **kwargs,
    }


def _image_cfg(timm_name: str, img_size: int = 224, **kwargs: Any) -> dict[str, Any]:
    """Image weights of a backbone of timm. The head is untrained."""
    return _cfg(input_size=(3, img_size, img_size), **image_weights(timm_name), **kwargs)


def _official_cfg(file: str, labels: str, **kwargs: Any) -> dict[str, Any]:
    """A checkpoint of the official repository's release. `_pe_` in its name means that it has APE."""
    return _cfg(
        url=f'https://github.com/IBM/sifar-pytorch/releases/download/action-models/{file}', custom_load=True,
        label_names=label_names(labels), num_classes=len(label_names(labels)), license='apache-2.0', **kwargs)


def _bit_cfg(timm_name: str) -> dict[str, Any]:
    return _image_cfg(timm_name, first_conv='backbone.stem.conv', classifier='backbone.head.fc')


def _shipped_cfg(name: str, classes: tuple[str, ...]) -> dict[str, Any]:
    """Weights in the package, trained on clips that flatzoo renders."""
    return _cfg(
        file=str(Path(__file__).parent / 'weights' / f'{name}.safetensors'), custom_load=True,
        num_classes=len(classes), label_names=classes, input_size=(3, 32, 32), license='apache-2.0',
        origin_url='https://github.com/flatzoo/flatzoo', first_conv='backbone.conv1.0', classifier='backbone.fc')


_SWIN_B7 = 'swin_base_patch4_window7_224.ms_in22k'
_SWIN_B12 = 'swin_base_patch4_window12_384.ms_in22k'
_SWIN_L7 = 'swin_large_patch4_window7_224.ms_in22k'
_SWIN_L12 = 'swin_large_patch4_window12_384.ms_in22k'
_BIT = {depth: f'resnetv2_{depth}_bit.goog_in21k' for depth in ('50x1', '101x1', '152x2')}
_K400_8F = 'sifar_base_patch4_window14_224_3x3-kinetics400_f8_pe_aug.pth'
_K400_16F = 'sifar_base_patch4_window14_224_4x4-kinetics400_f16_pe_aug_v1.pth'
_SSV2_8F = 'sifar_base_patch4_window14_224_3x3-st2stv2_kineticsft_f8_pe_aug.pth'
_SSV2_16F = 'sifar_base_patch4_window14_224_4x4-st2stv2_f16_kineticsft_pe_aug_v1.pth'

default_cfgs = generate_default_cfgs({
    # Section 4.1: training starts from ImageNet-21K. The official code names these Swin release files for B and L-14;
    # that of L-12 at 384 is inferred from B-12 at 384
    'sifar_swin_b7.ms_in22k': _image_cfg(_SWIN_B7),
    'sifar_swin_b12.ms_in22k': _image_cfg(_SWIN_B7, 192),
    'sifar_swin_b12_16f.ms_in22k': _image_cfg(_SWIN_B7, 192),
    'sifar_swin_b12_384.ms_in22k': _image_cfg(_SWIN_B12, 384),
    'sifar_swin_b14.ibm_k400': _official_cfg(_K400_8F, 'kinetics400'),
    'sifar_swin_b14.ibm_ssv2': _official_cfg(_SSV2_8F, 'ssv2'),
    'sifar_swin_b14.ms_in22k': _image_cfg(_SWIN_B7),
    'sifar_swin_b14_16f.ibm_k400': _official_cfg(_K400_16F, 'kinetics400'),
    'sifar_swin_b14_16f.ibm_ssv2': _official_cfg(_SSV2_16F, 'ssv2'),
    'sifar_swin_b14_16f.ms_in22k': _image_cfg(_SWIN_B7),
    'sifar_swin_l14_16f.ms_in22k': _image_cfg(_SWIN_L7),
    'sifar_swin_l12_384.ms_in22k': _image_cfg(_SWIN_L12, 384),
    'sifar_swin_tiny.untrained': _cfg(input_size=(3, 32, 32)),
    # trained on the procedural actions of flatzoo.data.actions by
    # benchmarks/learning/train_actions.py; ships in the package
    'sifar_resnet10t.actions16': _shipped_cfg('sifar_resnet10t.actions16', ACTIONS),
    # the same on 24 pairs of verbs and 'nothing', by benchmarks/learning/train_verbs.py
    'sifar_resnet10t.actions49': _shipped_cfg('sifar_resnet10t.actions49', VERBS),
    # Table 7 has a ResNet-152x2 with ImageNet-21K: the public BiT-M weights are the only ones that fit
    'sifar_resnet50.goog_in21k': _bit_cfg(_BIT['50x1']),
    'sifar_resnet101.goog_in21k': _bit_cfg(_BIT['101x1']),
    'sifar_resnet152x2.goog_in21k': _bit_cfg(_BIT['152x2']),
    'sifar_resnet50_c7.goog_in21k': _bit_cfg(_BIT['50x1']),
    'sifar_resnet50_c11.goog_in21k': _bit_cfg(_BIT['50x1']),
    'sifar_resnet50_c21.goog_in21k': _bit_cfg(_BIT['50x1']),
    'sifar_resnet50_c21_11.goog_in21k': _bit_cfg(_BIT['50x1']),
    'sifar_resnet101_c21.goog_in21k': _bit_cfg(_BIT['101x1']),
    'sifar_resnet101_c21_11.goog_in21k': _bit_cfg(_BIT['101x1']),
})

register_records(records())


def _create_sifar_swin(variant: str, pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    cfg = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay'))
    of_official_weights = pretrained or kwargs.get('pretrained_cfg') is not None
    kwargs.setdefault('ape', of_official_weights and (cfg.tag or '').startswith('ibm_'))  # these checkpoints carry it
    return build_video_model(SifarSwin, variant, pretrained, **kwargs)


def _create_sifar_resnet(variant: str, pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    return build_video_model(SifarResNet, variant, pretrained, **kwargs)


@register_model
def sifar_swin_b7(pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    """SIFAR-B-7 (Table 1): 8 frames of 224 pixels in 3x3, windows of 7 in every stage."""
    model_args = dict(backbone='swin_base_patch4_window7_224', num_frames=8, img_size=224, window_size=7)
    return _create_sifar_swin('sifar_swin_b7', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_swin_b12(pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    """SIFAR-B-12 (Table 1): 8 frames of 192 pixels in 3x3, windows of 12, the last stage global."""
    model_args = dict(
        backbone='swin_base_patch4_window7_224', num_frames=8, img_size=192, window_size=(12, 12, 12, None))
    return _create_sifar_swin('sifar_swin_b12', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_swin_b14(pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    """SIFAR-B-14 (Table 1): 8 frames of 224 pixels in 3x3, windows of 14, the last stage global."""
    model_args = dict(
        backbone='swin_base_patch4_window7_224', num_frames=8, img_size=224, window_size=(14, 14, 14, None))
    return _create_sifar_swin('sifar_swin_b14', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_swin_b12_16f(pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    """SIFAR-B-12 with 16 frames (Table 3): 192 pixels in 4x4, windows of 12, the last stage global."""
    model_args = dict(
        backbone='swin_base_patch4_window7_224', num_frames=16, img_size=192, window_size=(12, 12, 12, None))
    return _create_sifar_swin('sifar_swin_b12_16f', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_swin_b14_16f(pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    """SIFAR-B-14 with 16 frames (Table 3): 224 pixels in 4x4, windows of 14, the last stage global."""
    model_args = dict(
        backbone='swin_base_patch4_window7_224', num_frames=16, img_size=224, window_size=(14, 14, 14, None))
    return _create_sifar_swin('sifar_swin_b14_16f', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_swin_b12_384(pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    """SIFAR-B-12 with large frames (Table 3): 8 frames of 384 pixels in 3x3, windows of 12, the last stage global."""
    model_args = dict(
        backbone='swin_base_patch4_window12_384', num_frames=8, img_size=384, window_size=(12, 12, 12, None))
    return _create_sifar_swin('sifar_swin_b12_384', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_swin_l14_16f(pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    """SIFAR-L-14 with 16 frames (Table 3): 224 pixels in 4x4, windows of 14, the last stage global."""
    model_args = dict(
        backbone='swin_large_patch4_window7_224', num_frames=16, img_size=224, window_size=(14, 14, 14, None))
    return _create_sifar_swin('sifar_swin_l14_16f', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_swin_l12_384(pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    """SIFAR-L-12 with large frames (Tables 3 and 5): 8 frames of 384 pixels, windows of 12, last stage global."""
    model_args = dict(
        backbone='swin_large_patch4_window12_384', num_frames=8, img_size=384, window_size=(12, 12, 12, None))
    return _create_sifar_swin('sifar_swin_l12_384', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_swin_tiny(pretrained: bool = False, **kwargs: Any) -> SifarSwin:
    """A small SIFAR for tests and tutorials, not in the paper: 8 frames of 32 pixels, 2.4 M parameters."""
    model_args = dict(
        backbone='swin_tiny_patch4_window7_224', num_frames=8, img_size=32, window_size=(4, 4, None, None),
        embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
    return _create_sifar_swin('sifar_swin_tiny', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet10t(pretrained: bool = False, **kwargs: Any) -> VideoModel:
    """The smallest SIFAR, not in the paper: 8 frames of 32 pixels in 3x3 on a slim ResNet-10-T, 1.2 M parameters.

    Its weights ship with flatzoo: they name rendered actions of `flatzoo.data.actions`.
    """
    model_args = dict(
        backbone='resnet10t', num_frames=8, img_size=32, channels=(32, 64, 128, 256), stem_width=16)
    return build_video_model(VideoModel, 'sifar_resnet10t', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet50(pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    """SIFAR-R50 (Table 7): 8 frames of 224 pixels in 3x3 on BiT ResNet-50x1."""
    model_args = dict(backbone='resnetv2_50x1_bit', num_frames=8, img_size=224)
    return _create_sifar_resnet('sifar_resnet50', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet101(pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    """SIFAR-R101 (Table 7): 8 frames of 224 pixels in 3x3 on BiT ResNet-101x1."""
    model_args = dict(backbone='resnetv2_101x1_bit', num_frames=8, img_size=224)
    return _create_sifar_resnet('sifar_resnet101', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet152x2(pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    """SIFAR-R152x2 (Table 7): 8 frames of 224 pixels in 3x3 on BiT ResNet-152x2."""
    model_args = dict(backbone='resnetv2_152x2_bit', num_frames=8, img_size=224)
    return _create_sifar_resnet('sifar_resnet152x2', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet50_c7(pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    """SIFAR-R50-C7 (Table 7): ResNet-50 with one more residual block, of a 7x7 kernel."""
    model_args = dict(backbone='resnetv2_50x1_bit', num_frames=8, img_size=224, large_kernels=(7,))
    return _create_sifar_resnet('sifar_resnet50_c7', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet50_c11(pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    """SIFAR-R50-C11 (Table 7): ResNet-50 with one more residual block, of an 11x11 kernel."""
    model_args = dict(backbone='resnetv2_50x1_bit', num_frames=8, img_size=224, large_kernels=(11,))
    return _create_sifar_resnet('sifar_resnet50_c11', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet50_c21(pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    """SIFAR-R50-C21 (Table 7): ResNet-50 with one more residual block, of a 21x21 kernel."""
    model_args = dict(backbone='resnetv2_50x1_bit', num_frames=8, img_size=224, large_kernels=(21,))
    return _create_sifar_resnet('sifar_resnet50_c21', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet50_c21_11(pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    """SIFAR-R50-C21-11 (Table 7): ResNet-50 with two more residual blocks, of 21x21 and 11x11 kernels."""
    model_args = dict(backbone='resnetv2_50x1_bit', num_frames=8, img_size=224, large_kernels=(21, 11))
    return _create_sifar_resnet('sifar_resnet50_c21_11', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet101_c21(pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    """SIFAR-R101-C21 (Table 7): ResNet-101 with one more residual block, of a 21x21 kernel."""
    model_args = dict(backbone='resnetv2_101x1_bit', num_frames=8, img_size=224, large_kernels=(21,))
    return _create_sifar_resnet('sifar_resnet101_c21', pretrained, **dict(model_args, **kwargs))


@register_model
def sifar_resnet101_c21_11(pretrained: bool = False, **kwargs: Any) -> SifarResNet:
    """SIFAR-R101-C21-11 (Table 7): ResNet-101 with two more residual blocks, of 21x21 and 11x11 kernels."""
    model_args = dict(backbone='resnetv2_101x1_bit', num_frames=8, img_size=224, large_kernels=(21, 11))
    return _create_sifar_resnet('sifar_resnet101_c21_11', pretrained, **dict(model_args, **kwargs))
