"""Flatten: video action recognition as an image classification task.

Paper: "Flatten: Video Action Recognition is an Image Classification task", Chen et al., 2024,
https://arxiv.org/abs/2408.09220. No official code is known.

A parameter-free transform lays the frames of a clip out as one image, and any image network classifies it. Three
transforms are given as layouts here: row-major (`2x4`, `4x4`: frame k at row k // columns, column k % columns), nested
(`nested:2x2/2x2`: short sub-sequences row-major in blocks, blocks row-major in the image) and random (`random:4x4`).
Literally read, the paper's formula puts the line index on the horizontal axis; `4x4:column` is that reading.

What the paper's frame size is, is not known to us. The default of 128 pixels is a multiple of every stride of the
backbones (4, 8, 16, 32), so that no token or feature straddles two frames; 160, 192 and 224 are, too. At 112 pixels
stage 4 straddles (3.5 tokens), at 56 stages 3 and 4. G multiply-adds of `flatten_uniformer_s`, one view, attention over
the whole image:

| frames | 112 | 128 (default) | 160 | 192 | 224 |
|---|---|---|---|---|---|
| 8 (2x4) | 7.7 | **10.4** | - | - | 40.5 |
| 16 (4x4) | 17.0 | **23.5** | 41.6 | 68.5 | 107.1 (`attn='hybrid'`: 71.7, `attn='window'`: 59.9) |

With `attn='hybrid'` or `'window'` the windows of stage 3 are the frames, so that window blocks are spatial and the
global ones temporal: 16 frames at 224 pixels become affordable, on the same weights.

The paper reports 81.1 % top-1 on Kinetics-400 for UniFormer(2D)-S; no weights here claim that, all start from ImageNet.
"""
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import to_2tuple
from timm.models import generate_default_cfgs, register_model

from ._base import VideoModel
from ._registry import build_video_model

__all__ = ['Flatten', 'FlattenUniFormer']  # timm's registry appends the entry points


class Flatten(VideoModel):
    """A clip flattened into one image in front of an image network, see `VideoModel`."""


class FlattenUniFormer(Flatten):
    """Flatten on a 2D UniFormer whose windows can be the frames.

    Args:
        backbone: A UniFormer.
        img_size: Frame size in pixels.
        attn: Attention of stage 3: `global` over the whole image, `window` within windows, or `hybrid`, where every
            fourth block is global and the others have windows.
        window_size: Windows in tokens of 16 x 16 pixels; by default one frame is one window.
        **kwargs: As for `VideoModel`.

    Raises:
        ValueError: If windows are to be frames and a frame is no multiple of 16 pixels.
    """

    def __init__(
            self,
            backbone: str,
            img_size: Any = 128,
            attn: str = 'global',
            window_size: Any = None,
            **kwargs: Any,
    ):
        windows_are_frames = attn != 'global' and window_size is None
        if windows_are_frames:
            window_size = _frame_window(img_size)
        windows = {} if window_size is None else dict(window_size=window_size)
        super().__init__(backbone, img_size=img_size, attn=attn, **windows, **kwargs)
        self._windows_are_frames = windows_are_frames

    def set_input_size(self, img_size: Any = None, *args: Any, window_size: Any = None, **kwargs: Any) -> None:
        """As in `VideoModel`; windows that are frames follow their size."""
        self._windows_are_frames = self._windows_are_frames and window_size is None
        if self._windows_are_frames:
            window_size = _frame_window(img_size or self.img_size)
        super().set_input_size(img_size, *args, window_size=window_size, **kwargs)


def _frame_window(img_size: Any) -> tuple[int, int]:
    height, width = to_2tuple(img_size)
    if height % 16 or width % 16:
        raise ValueError(
            f'Windows that are frames need frames of whole tokens of 16x16 pixels, got img_size={height}x{width}: use '
            f'{round(height / 16) * 16}x{round(width / 16) * 16}, give window_size=, or attn="global".'
        )
    return height // 16, width // 16


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        'num_classes': 400, 'input_size': (3, 128, 128), 'fixed_input_size': True, 'crop_pct': 1.0,
        'interpolation': 'bilinear', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'paper_name': 'Flatten: Video Action Recognition is an Image Classification task',
        'paper_ids': 'arXiv:2408.09220',
        **kwargs,
    }


def _uniformer_cfg(file: str) -> dict[str, Any]:
    return _cfg(
        hf_hub_id='Sense-X/uniformer_image', hf_hub_filename=file, license='mit',
        first_conv='backbone.stages.0.downsample.proj', classifier='backbone.head.fc')


def _swin_cfg(tag: str) -> dict[str, Any]:
    return _cfg(
        hf_hub_id=f'timm/{tag}', license='mit', first_conv='backbone.patch_embed.proj', classifier='backbone.head.fc')


def _resnet_cfg(tag: str) -> dict[str, Any]:
    return _cfg(hf_hub_id=f'timm/{tag}', license='apache-2.0', first_conv='backbone.conv1', classifier='backbone.fc')


default_cfgs = generate_default_cfgs({
    'flatten_uniformer_s.in1k': _uniformer_cfg('uniformer_small_in1k.pth'),
    'flatten_uniformer_s_16f.in1k': _uniformer_cfg('uniformer_small_in1k.pth'),
    'flatten_uniformer_b.in1k': _uniformer_cfg('uniformer_base_in1k.pth'),
    'flatten_swinv2_t.ms_in1k': _swin_cfg('swinv2_tiny_window8_256.ms_in1k'),
    'flatten_swinv2_s.ms_in1k': _swin_cfg('swinv2_small_window8_256.ms_in1k'),
    'flatten_swinv2_b.ms_in1k': _swin_cfg('swinv2_base_window8_256.ms_in1k'),
    'flatten_resnet50.a1_in1k': _resnet_cfg('resnet50.a1_in1k'),
    'flatten_resnet101.a1_in1k': _resnet_cfg('resnet101.a1_in1k'),
})


def _create_flatten(variant: str, pretrained: bool = False, **kwargs: Any) -> Flatten:
    model_cls = FlattenUniFormer if 'uniformer' in variant else Flatten
    return build_video_model(model_cls, variant, pretrained, **kwargs)


@register_model
def flatten_uniformer_s(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on UniFormer-S: 8 frames of 128 pixels in 2x4, 10.4 G multiply-adds per view."""
    model_args = dict(backbone='uniformer_small', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_uniformer_s', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_uniformer_s_16f(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on UniFormer-S: 16 frames of 128 pixels in 4x4, 23.5 G multiply-adds per view."""
    model_args = dict(backbone='uniformer_small', num_frames=16, layout='4x4', img_size=128)
    return _create_flatten('flatten_uniformer_s_16f', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_uniformer_b(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on UniFormer-B: 8 frames of 128 pixels in 2x4, 23.7 G multiply-adds per view."""
    model_args = dict(backbone='uniformer_base', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_uniformer_b', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_swinv2_t(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on SwinV2-T: 8 frames of 128 pixels in 2x4, windows of 8."""
    model_args = dict(backbone='swinv2_tiny_window8_256', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_swinv2_t', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_swinv2_s(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on SwinV2-S: 8 frames of 128 pixels in 2x4, windows of 8."""
    model_args = dict(backbone='swinv2_small_window8_256', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_swinv2_s', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_swinv2_b(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on SwinV2-B: 8 frames of 128 pixels in 2x4, windows of 8."""
    model_args = dict(backbone='swinv2_base_window8_256', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_swinv2_b', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_resnet50(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on ResNet-50: 8 frames of 128 pixels in 2x4."""
    model_args = dict(backbone='resnet50', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_resnet50', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_resnet101(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on ResNet-101: 8 frames of 128 pixels in 2x4."""
    model_args = dict(backbone='resnet101', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_resnet101', pretrained, **dict(model_args, **kwargs))
