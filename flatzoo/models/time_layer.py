"""The TIME layer in front of image models and of a video transformer.

Paper: "When Spatial meets Temporal in Action Recognition", Chen et al., 2024, https://arxiv.org/abs/2411.15284. No
    official
code is known, and beyond the abstract only part of its definitions (see `flatzoo.layers.TimeLayer` for what is
inferred).

T frames become T* = T / N^2 new frames, each an N x N grid of N^2 evolving frames at the original frame size. T* is
what the model behind the layer sees and stays fixed when N changes; T* N^2 frames are drawn from the same clip. N = 1
gives ordinary frames. Image models see the new frames one by one, and their logits are averaged; VideoMAE sees them as
a clip.

    model = timm.create_model('time_resnet50', n=2, arrangement='spatial', num_new_frames=8)  # takes 32 frames

RGB (`in_chans=3`) and depth (`in_chans=1`) are taken alike.
"""
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import to_2tuple
from timm.models import generate_default_cfgs, register_model

from ._base import VideoModel
from ._registry import build_video_model
from .videomae import VideoMAE

__all__ = ['VideoModel']  # timm's registry appends the entry points


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        'num_classes': 400, 'input_size': (3, 224, 224), 'fixed_input_size': True, 'crop_pct': 1.0,
        'interpolation': 'bilinear', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'paper_name': 'When Spatial meets Temporal in Action Recognition', 'paper_ids': 'arXiv:2411.15284',
        **kwargs,
    }


default_cfgs = generate_default_cfgs({
    'time_resnet50.a1_in1k': _cfg(
        hf_hub_id='timm/resnet50.a1_in1k', license='apache-2.0',
        first_conv='backbone.conv1', classifier='backbone.fc'),
    'time_vit_b.augreg_in21k': _cfg(
        hf_hub_id='timm/vit_base_patch16_224.augreg_in21k', license='apache-2.0', mean=(0.5,) * 3, std=(0.5,) * 3,
        first_conv='backbone.patch_embed.proj', classifier='backbone.head'),
    'time_videomae_b.mcg_k400': _cfg(
        hf_hub_id='MCG-NJU/videomae-base-finetuned-kinetics', license='cc-by-nc-4.0',
        first_conv='backbone.patch_embed.proj', classifier='backbone.head'),
    'time_videomae_b.mcg_mae_k400': _cfg(
        hf_hub_id='MCG-NJU/videomae-base', license='cc-by-nc-4.0',
        first_conv='backbone.patch_embed.proj', classifier='backbone.head'),
})


def _time_args(n: int, arrangement: str, num_new_frames: int, img_size: Any) -> dict[str, Any]:
    """Number of frames and layout of a model that sees `num_new_frames` grids of n x n frames."""
    whole_cells = all(size % n == 0 for size in to_2tuple(img_size))
    return dict(
        num_frames=num_new_frames * n * n,
        layout=f'time:{n}:{arrangement}' + ('' if whole_cells else ',scale=composite'),
    )


def _create_time(
        variant: str,
        pretrained: bool = False,
        n: int = 2,
        arrangement: str = 'spatial',
        num_new_frames: int = 8,
        img_size: Any = 224,
        model_cls: type = VideoModel,
        **kwargs: Any,
) -> VideoModel:
    """Builds a model of the given N, or, as a saved one is rebuilt, of the given `num_frames` and `layout`."""
    model_args = dict(_time_args(n, arrangement, num_new_frames, img_size), **kwargs)
    return build_video_model(model_cls, variant, pretrained, img_size=img_size, **model_args)


@register_model
def time_resnet50(pretrained: bool = False, **kwargs: Any) -> VideoModel:
    """TIME layer (N = 2, 32 frames -> 8 new ones) on ResNet-50."""
    return _create_time('time_resnet50', pretrained, **dict(dict(backbone='resnet50'), **kwargs))


@register_model
def time_vit_b(pretrained: bool = False, **kwargs: Any) -> VideoModel:
    """TIME layer (N = 2, 32 frames -> 8 new ones) on ViT-B/16."""
    return _create_time('time_vit_b', pretrained, **dict(dict(backbone='vit_base_patch16_224'), **kwargs))


@register_model
def time_videomae_b(pretrained: bool = False, **kwargs: Any) -> VideoMAE:
    """TIME layer (N = 2, 64 frames -> 16 new ones) in front of VideoMAE on ViT-B/16, which attends over all of them."""
    model_args = dict(backbone='vit_base_patch16_224', num_new_frames=16, model_cls=VideoMAE)
    return _create_time('time_videomae_b', pretrained, **dict(model_args, **kwargs))
