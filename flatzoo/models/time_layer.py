"""The TIME layer in front of image models and of a video transformer.

Paper: "When Spatial meets Temporal in Action Recognition", Chen et al., 2024, https://arxiv.org/abs/2411.15284. We know
no official code, and only a part of its definitions besides the abstract. `flatzoo.layers.TimeLayer` says what is
inferred.

T frames become T* = T / N^2 new frames. Each is an N x N grid of N^2 evolving frames, at the original frame size. The
model behind the layer sees T* frames. T* stays fixed when N changes, and T* N^2 frames are drawn from the same clip. N
= 1 gives ordinary frames. Image models see the new frames one by one, and their logits are averaged. VideoMAE sees them
as a clip.

    model = timm.create_model('time_resnet50', n=2, arrangement='spatial', num_new_frames=8)  # takes 32 frames

RGB (`in_chans=3`) and depth (`in_chans=1`) are both accepted. The entry points take `n` (default 2), `arrangement`
(default `spatial`) and `num_new_frames`. Alternatively they take `layout` and `num_frames`. To change N of a model:

    model.set_input_size(num_frames=8 * 9, layout=time_layout(3, 'spatial', model.img_size))
"""
from collections.abc import Iterable
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import to_2tuple
from timm.models import generate_default_cfgs, register_model

from flatzoo.layers import Layout
from flatzoo.layers.layout import LayoutSpec
from flatzoo.layers.time_layer import check_time_grid

from .backbone import image_weights
from .base import Size, VideoModel
from .builder import build_video_model
from .record import IMAGENET_1K, IMAGENET_21K, Paper, TagRecord, register_records, tag_record
from .videomae import VideoMAE

__all__ = ['TimeModel', 'TimeVideoMAE', 'time_layout']  # timm's registry appends the entry points

PAPER = Paper(
    'TIME layer', 'arXiv:2411.15284', 'When Spatial meets Temporal in Action Recognition',
    'Chen, Huilin and Wang, Lei and Chen, Yifan and Gedeon, Tom and Koniusz, Piotr', 2024, 'chen2024time')


def time_layout(n: int = 2, arrangement: str = 'spatial', img_size: Size = 224, among: Iterable[int] = ()) -> Layout:
    """The layout of the TIME layer for frames of a given size.

    If N divides the sides of a frame, each frame is shrunk (`scale=cell`). Otherwise the grid is shrunk as a whole
    (`scale=composite`). The two differ at the borders of cells, so values of N that are compared must use the same one.

    Args:
        n: Rows and columns N of the grid.
        arrangement: `spatial` or `temporal`, see `flatzoo.layers.TimeLayer`.
        img_size: Frame size in pixels.
        among: Other values of N that are compared with this one. If any of them needs `composite`, it is used.

    Raises:
        ValueError: If a value of N is not a whole number of at least 1, or the arrangement is unknown.
    """
    values = (n, *among)
    for value in values:
        check_time_grid(value, arrangement)
    whole_cells = all(size % value == 0 for size in to_2tuple(img_size) for value in values)
    return Layout(f'time:{n}:{arrangement}' + ('' if whole_cells else ',scale=composite'))


def _without_time_args(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments without N, arrangement and T*. Layout and number of frames determine them, also after changes."""
    return {name: value for name, value in args.items() if name not in ('n', 'arrangement', 'num_new_frames')}


class TimeModel(VideoModel):
    """An image model behind the TIME layer, see `VideoModel`."""

    def _recorded_args(self, args: dict[str, Any]) -> dict[str, Any]:
        return super()._recorded_args(_without_time_args(args))


class TimeVideoMAE(VideoMAE):
    """VideoMAE behind the TIME layer, see `VideoMAE`."""

    def _recorded_args(self, args: dict[str, Any]) -> dict[str, Any]:
        return super()._recorded_args(_without_time_args(args))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        'num_classes': 400, 'input_size': (3, 224, 224), 'fixed_input_size': True, 'crop_pct': 1.0,
        'interpolation': 'bilinear', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'paper_name': PAPER.title, 'paper_ids': PAPER.id,
        **kwargs,
    }


default_cfgs = generate_default_cfgs({
    'time_resnet50.a1_in1k': _cfg(
        **image_weights('resnet50.a1_in1k'), first_conv='backbone.conv1', classifier='backbone.fc'),
    'time_vit_b.augreg_in21k': _cfg(
        **image_weights('vit_base_patch16_224.augreg_in21k'),
        first_conv='backbone.patch_embed.proj', classifier='backbone.head'),
    'time_videomae_b.mcg_k400': _cfg(
        **image_weights('videomae_vit_b.mcg_k400'),
        first_conv='backbone.patch_embed.proj', classifier='backbone.head'),
    'time_videomae_b.mcg_mae_k400': _cfg(
        **image_weights('videomae_vit_b.mcg_mae_k400'),
        first_conv='backbone.patch_embed.proj', classifier='backbone.head'),
})


def _videomae_record(name: str, limits: str) -> TagRecord:
    file = tag_record(name)
    return TagRecord(
        PAPER, file.data, task=file.task, size=file.size, sha256=file.sha256, limits=limits,
        starts_fresh='They saw ordinary frames, not a TIME layer: fine-tune the model.')


_IMAGES_ONLY = 'The backbone has seen single images only, no clips.'

register_records({  # we know no table of the paper, so no figure is quoted
    'time_resnet50.a1_in1k': TagRecord(PAPER, IMAGENET_1K, size=102_000_000, limits=_IMAGES_ONLY),
    'time_vit_b.augreg_in21k': TagRecord(PAPER, IMAGENET_21K, size=410_000_000, limits=_IMAGES_ONLY),
    'time_videomae_b.mcg_k400': _videomae_record(
        'videomae_vit_b.mcg_k400',
        'With 400 classes the Kinetics classifier comes along; it has seen ordinary frames only, no grids of them.'),
    'time_videomae_b.mcg_mae_k400': _videomae_record(
        'videomae_vit_b.mcg_mae_k400', 'The encoder has seen no grids of frames.'),
})


def _time_args(
        n: int | None,
        arrangement: str | None,
        num_new_frames: int | None,
        num_frames: int | None,
        layout: LayoutSpec | None,
        img_size: Size,
        default_new_frames: int,
) -> dict[str, Any]:
    """Number of frames and layout, from the arguments that were given.

    Raises:
        ValueError: If the arguments contradict each other.
    """
    check_time_grid(1 if n is None else n, 'spatial' if arrangement is None else arrangement)
    if layout is None:
        n = 2 if n is None else n
        layout = time_layout(n, arrangement or 'spatial', img_size)
    else:
        layout = Layout(layout)
        stated = layout.time_grid or (None, None)
        for name, given, recorded in (('n', n, stated[0]), ('arrangement', arrangement, stated[1])):
            if given is not None and given != recorded:
                raise ValueError(
                    f'{name}={given!r} contradicts layout={str(layout)!r}. Give either n and arrangement, or layout. A '
                    'saved model has its layout; change it with layout= and num_frames=.'
                )
        n = stated[0] or 2
    if num_frames is None:
        num_frames = (default_new_frames if num_new_frames is None else num_new_frames) * n * n
    elif num_new_frames is not None and num_frames != num_new_frames * n * n:
        raise ValueError(
            f'num_frames={num_frames} contradicts num_new_frames={num_new_frames}, which with N={n} takes '
            f'{num_new_frames * n * n} frames: give one of the two.'
        )
    return dict(num_frames=num_frames, layout=layout)


def _create_time(
        model_cls: type[VideoModel],
        variant: str,
        pretrained: bool = False,
        default_new_frames: int = 8,
        n: int | None = None,
        arrangement: str | None = None,
        num_new_frames: int | None = None,
        num_frames: int | None = None,
        layout: LayoutSpec | None = None,
        img_size: Size = 224,
        **kwargs: Any,
) -> VideoModel:
    """Builds a model of the given N, or of the given `num_frames` and `layout`, as saved models are rebuilt."""
    model_args = _time_args(n, arrangement, num_new_frames, num_frames, layout, img_size, default_new_frames)
    return build_video_model(model_cls, variant, pretrained, img_size=img_size, **model_args, **kwargs)


@register_model
def time_resnet50(pretrained: bool = False, **kwargs: Any) -> TimeModel:
    """TIME layer (N = 2, 32 frames -> 8 new ones) on ResNet-50."""
    return _create_time(TimeModel, 'time_resnet50', pretrained, **dict(dict(backbone='resnet50'), **kwargs))


@register_model
def time_vit_b(pretrained: bool = False, **kwargs: Any) -> TimeModel:
    """TIME layer (N = 2, 32 frames -> 8 new ones) on ViT-B/16."""
    return _create_time(TimeModel, 'time_vit_b', pretrained, **dict(dict(backbone='vit_base_patch16_224'), **kwargs))


@register_model
def time_videomae_b(pretrained: bool = False, **kwargs: Any) -> TimeVideoMAE:
    """TIME layer (N = 2, 64 frames -> 16 new ones) in front of VideoMAE on ViT-B/16, which attends over all of them."""
    model_args = dict(backbone='vit_base_patch16_224', default_new_frames=16)
    return _create_time(TimeVideoMAE, 'time_videomae_b', pretrained, **dict(model_args, **kwargs))
