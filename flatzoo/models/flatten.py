"""Flatten: video action recognition as an image classification task.

Paper: "Flatten: Video Action Recognition is an Image Classification task", Chen et al., 2024,
https://arxiv.org/abs/2408.09220. No official code is known.

A parameter-free transform lays the frames of a clip out as one image, and any image network classifies it. The three
transforms are layouts here:

- row-major (`2x4`, `4x4`): frame k lies at row k // columns, column k % columns;
- nested (`nested:2x2/2x2`): short sub-sequences are row-major in blocks, and blocks are row-major in the image;
- random (`random:4x4`).

Literally, the paper's formula puts the line index on the horizontal axis. `4x4:column` is that reading.

The random layout shuffles only in training, each clip in a new order. torch's global generator draws the order, so
`torch.manual_seed` repeats it. With your own generator, or in eval mode, draw the order and call the backbone yourself:

    order = model.super_image.draw(len(clip), generator)  # [B, T]
    logits = model.backbone(model.super_image(clip, order=order))

We do not know the paper's frame size. The default of 128 pixels is a multiple of every stride of the backbones (4, 8,
16, 32), so no token or feature covers parts of two frames. The same holds for 160, 192 and 224 pixels. At 112 pixels
tokens of stage 4 cover two frames (3.5 tokens per frame), at 56 pixels those of stages 3 and 4. G multiply-adds of
`flatten_uniformer_s` for one view with attention over the whole image:

| frames | 112 | 128 (default) | 160 | 192 | 224 |
|---|---|---|---|---|---|
| 8 (2x4) | 7.7 | **10.3** | 17.4 | 27.2 | 40.5 |
| 16 (4x4) | 17.0 | **23.5** | 41.6 | 68.5 | 107.1 (`attn='hybrid'`: 71.7, `attn='window'`: 59.9) |

With `attn='hybrid'` or `'window'` the windows of stage 3 are the cells of the image, one frame each. Window blocks are
then spatial and global blocks temporal. This makes 16 frames at 224 pixels affordable, with the same weights.

The paper reports 81.1 % top-1 on Kinetics-400 for UniFormer(2D)-S. No weights here reach that; all are from ImageNet.
The 3D UniFormer, with which the paper compares it, is not in the zoo.
"""
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model

from flatzoo.layers import SuperImage
from flatzoo.layers.layout import LayoutSpec

from . import uniformer as uniformer  # registers the backbones whose weights are named here
from .backbone import image_weights
from .base import Size, VideoModel
from .builder import build_video_model
from .record import IMAGENET_1K, KINETICS_400, Figure, Paper, TagRecord, register_records, tag_record

__all__ = ['Flatten', 'FlattenUniFormer']  # timm's registry appends the entry points

PAPER = Paper(
    'Flatten', 'arXiv:2408.09220', 'Flatten: Video Action Recognition is an Image Classification task',
    'Chen, Junlin and Xu, Chengcheng and Xu, Yangfan and Yang, Jian and Li, Jun and Shi, Zhiping', 2024,
    'chen2024flatten')

_TOKEN = 16  # pixels per token in UniFormer's stage 3, where windows are


class Flatten(VideoModel):
    """A clip flattened into one image in front of an image network, see `VideoModel`."""


class FlattenUniFormer(Flatten):
    """Flatten on a 2D UniFormer whose windows can be the cells of the image, one frame each.

    Args:
        backbone: A UniFormer.
        num_frames: Frames T per clip.
        layout: How frames lie in the image. A cell has the size of a frame. With `scale=cell` and `scale=composite`
            that size is divided by the rows and columns of the grid.
        img_size: Frame size in pixels.
        attn: Attention of stage 3: `global` over the whole image, `window` within windows, or `hybrid`, where every
            fourth block is global and the others have windows.
        window_size: Windows in tokens of 16 x 16 pixels. By default one cell is one window.
        **kwargs: As for `VideoModel`.

    Raises:
        ValueError: Windows must be cells, and a cell is not a whole number of tokens.
    """

    def __init__(
            self,
            backbone: str,
            num_frames: int = 8,
            layout: LayoutSpec = 'grid',
            img_size: Size = 128,
            attn: str = 'global',
            window_size: Size | None = None,
            **kwargs: Any,
    ):
        windows_are_cells = attn != 'global' and window_size is None
        if windows_are_cells:
            window_size = _cell_window(SuperImage(num_frames, layout, img_size))
        windows = {} if window_size is None else dict(window_size=window_size)
        super().__init__(
            backbone, num_frames=num_frames, layout=layout, img_size=img_size, attn=attn, **windows, **kwargs)
        self._windows_are_cells = windows_are_cells

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            window_size: Size | None = None,
            **backbone_args: Any,
    ) -> None:
        """As in `VideoModel`. Windows that are cells stay cells, unless a `window_size` is given.

        Raises:
            ValueError: As in `VideoModel`, or windows must be cells and a cell is not a whole number of tokens.
        """
        follow = self._windows_are_cells and window_size is None
        if follow:
            window_size = _cell_window(SuperImage(
                num_frames or self.num_frames, self.layout if layout is None else layout, img_size or self.img_size))
        super().set_input_size(img_size, num_frames, layout, window_size=window_size, **backbone_args)
        self._windows_are_cells = follow
        if follow:
            self._model_args.pop('window_size', None)  # so that the windows of a saved model follow its cells, too


def _cell_window(super_image: SuperImage) -> tuple[int, int]:
    """Height and width of a cell in tokens."""
    grid_size, sides = super_image.grid_size, super_image.image_size
    cell = [side / count for side, count in zip(sides, grid_size, strict=True)]
    if any(side % _TOKEN for side in cell):
        growth = super_image.layout.growth(super_image.num_frames)
        steps = [_TOKEN * count // grown for count, grown in zip(grid_size, growth, strict=True)]
        fits = [max(round(side / step), 1) * step for side, step in zip(super_image.img_size, steps, strict=True)]
        raise ValueError(
            f'Windows that are frames need cells of whole tokens of {_TOKEN}x{_TOKEN} pixels, got cells of '
            f'{cell[0]:g}x{cell[1]:g} pixels from img_size={super_image.img_size[0]}x{super_image.img_size[1]} with '
            f'layout={str(super_image.layout)!r}: use img_size={fits[0]}x{fits[1]}, give window_size=, or '
            'attn="global".'
        )
    return int(cell[0]) // _TOKEN, int(cell[1]) // _TOKEN


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        'num_classes': 400, 'input_size': (3, 128, 128), 'fixed_input_size': True, 'crop_pct': 1.0,
        'interpolation': 'bilinear', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'paper_name': PAPER.title, 'paper_ids': PAPER.id,
        **kwargs,
    }


def _uniformer_cfg(name: str) -> dict[str, Any]:
    return _cfg(
        **image_weights(name), first_conv='backbone.stages.0.downsample.proj', classifier='backbone.head.fc')


def _swin_cfg(name: str) -> dict[str, Any]:
    return _cfg(**image_weights(name), first_conv='backbone.patch_embed.proj', classifier='backbone.head.fc')


def _resnet_cfg(name: str) -> dict[str, Any]:
    return _cfg(**image_weights(name), first_conv='backbone.conv1', classifier='backbone.fc')


default_cfgs = generate_default_cfgs({
    'flatten_uniformer_s.in1k': _uniformer_cfg('uniformer_small.in1k'),
    'flatten_uniformer_s_16f.in1k': _uniformer_cfg('uniformer_small.in1k'),
    'flatten_uniformer_b.in1k': _uniformer_cfg('uniformer_base.in1k'),
    'flatten_swinv2_t.ms_in1k': _swin_cfg('swinv2_tiny_window8_256.ms_in1k'),
    'flatten_swinv2_s.ms_in1k': _swin_cfg('swinv2_small_window8_256.ms_in1k'),
    'flatten_swinv2_b.ms_in1k': _swin_cfg('swinv2_base_window8_256.ms_in1k'),
    'flatten_resnet50.a1_in1k': _resnet_cfg('resnet50.a1_in1k'),
    'flatten_resnet101.a1_in1k': _resnet_cfg('resnet101.a1_in1k'),
})


def _record(**kwargs: Any) -> TagRecord:
    return TagRecord(PAPER, IMAGENET_1K, limits='The backbone has seen single images only, no clips.', **kwargs)


def _uniformer_record(name: str, **kwargs: Any) -> TagRecord:
    file = tag_record(name)
    return _record(size=file.size, sha256=file.sha256, **kwargs)


register_records({
    'flatten_uniformer_s.in1k': _uniformer_record('uniformer_small.in1k'),
    'flatten_uniformer_s_16f.in1k': _uniformer_record('uniformer_small.in1k', figures=(
        Figure(
            KINETICS_400.title, 81.1, None, 'table not known to us', backbone='UniFormer(2D)-S',
            note="Frames, frame size and views are not known to us, nor is any other figure of the paper's tables."),),
        about_figures='The paper compares this with the 3D UniFormer, which is not in the zoo.'),
    'flatten_uniformer_b.in1k': _uniformer_record('uniformer_base.in1k'),
    'flatten_swinv2_t.ms_in1k': _record(size=115_000_000),
    'flatten_swinv2_s.ms_in1k': _record(size=201_000_000),
    'flatten_swinv2_b.ms_in1k': _record(),
    'flatten_resnet50.a1_in1k': _record(size=102_000_000),
    'flatten_resnet101.a1_in1k': _record(),
})


def _create_flatten(variant: str, pretrained: bool = False, **kwargs: Any) -> Flatten:
    model_cls = FlattenUniFormer if 'uniformer' in variant else Flatten
    return build_video_model(model_cls, variant, pretrained, **kwargs)


@register_model
def flatten_uniformer_s(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on UniFormer-S: 8 frames of 128 pixels in 2x4, 10.3 G multiply-adds per view."""
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
    """Flatten on SwinV2-T: 8 frames of 128 pixels in 2x4, windows of 8, 11.9 G multiply-adds per view."""
    model_args = dict(backbone='swinv2_tiny_window8_256', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_swinv2_t', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_swinv2_s(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on SwinV2-S: 8 frames of 128 pixels in 2x4, windows of 8, 23.1 G multiply-adds per view."""
    model_args = dict(backbone='swinv2_small_window8_256', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_swinv2_s', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_swinv2_b(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on SwinV2-B: 8 frames of 128 pixels in 2x4, windows of 8, 40.6 G multiply-adds per view."""
    model_args = dict(backbone='swinv2_base_window8_256', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_swinv2_b', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_resnet50(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on ResNet-50: 8 frames of 128 pixels in 2x4, 10.7 G multiply-adds per view."""
    model_args = dict(backbone='resnet50', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_resnet50', pretrained, **dict(model_args, **kwargs))


@register_model
def flatten_resnet101(pretrained: bool = False, **kwargs: Any) -> Flatten:
    """Flatten on ResNet-101: 8 frames of 128 pixels in 2x4, 20.4 G multiply-adds per view."""
    model_args = dict(backbone='resnet101', num_frames=8, layout='2x4', img_size=128)
    return _create_flatten('flatten_resnet101', pretrained, **dict(model_args, **kwargs))
