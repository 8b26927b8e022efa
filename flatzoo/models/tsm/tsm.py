"""Entry points and released weights of TSM. `flatzoo.models.tsm.model` describes the method.

| name | params | G multiply-adds (224 pixels) |
|---|---|---|
| `tsm_resnet50` (8 frames; `_16f`: 16) | 24.3 M | 32.7 (65.4) |
| `tsm_resnet50_nl` (with non-local blocks) | 31.7 M | 61.1 |
| `tsm_resnet101` (174 classes) | 42.9 M | 62.4 |
| `tsm_mobilenetv2_100` | 2.7 M | 2.4 |
| `tsm_online_mobilenetv2_100` (27 classes) | 2.3 M | 0.3 per frame |

`tsm` takes any `backbone=` with residual or inverted-residual blocks. The weights are those of the official code, under
its MIT licence. It has no weights for `shift='past'` on ResNets. `flatzoo convert` takes weights that were trained on
Something-Something v1 or by mmaction2. Weights of Kinetics-400 were trained with dense sampling, except those with
`uniform` in their tag. They were tested on frames of 256 pixels; build the model with `img_size=256` to repeat that.
"""
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model

from flatzoo.data.protocol import EvalProtocol

from ..builder import build_video_model, label_names
from ..record import IMAGENET_1K, KINETICS_400, SSV2, DataSet, Figure, Paper, TagRecord, register_records
from ..superimage import create_on_backbone
from .model import TSM

__all__: list[str] = []  # timm's registry appends the entry points

PAPER = Paper(
    'TSM', 'arXiv:1811.08383', 'TSM: Temporal Shift Module for Efficient Video Understanding',
    'Lin, Ji and Gan, Chuang and Han, Song', 2019, 'lin2019tsm')


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        'num_classes': 400, 'input_size': (3, 224, 224), 'fixed_input_size': True, 'crop_pct': 0.875,
        'interpolation': 'bilinear', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'backbone.conv1', 'classifier': 'backbone.fc',
        'paper_name': PAPER.title, 'paper_ids': PAPER.id,
        'origin_url': 'https://github.com/mit-han-lab/temporal-shift-module',
        **kwargs,
    }


def _official(file: str, **kwargs: Any) -> dict[str, Any]:
    return _cfg(
        url=f'https://hanlab18.mit.edu/projects/tsm/models/{file}', custom_load=True, license='mit', **kwargs)


_K400 = dict(label_names=label_names('kinetics400'), num_classes=400)
_SSV2 = dict(label_names=label_names('ssv2'), num_classes=174)
_MOBILENET = dict(first_conv='backbone.conv_stem', classifier='backbone.classifier')
_KINETICS, _SOMETHING = 'TSM_kinetics_RGB', 'TSM_somethingv2_RGB'
_IMAGENET = dict(hf_hub_id='timm/resnet50.tv_in1k', license='bsd-3-clause')

default_cfgs = generate_default_cfgs({
    'tsm.untrained': dict(num_classes=400, input_size=(3, 224, 224)),
    'tsm_resnet50.mit_k400': _official(f'{_KINETICS}_resnet50_shift8_blockres_avg_segment8_e100_dense.pth', **_K400),
    'tsm_resnet50.mit_uniform_k400': _official(f'{_KINETICS}_resnet50_shift8_blockres_avg_segment8_e50.pth', **_K400),
    'tsm_resnet50.mit_ssv2': _official(f'{_SOMETHING}_resnet50_shift8_blockres_avg_segment8_e45.pth', **_SSV2),
    'tsm_resnet50.tv_in1k': _cfg(**_IMAGENET),
    'tsm_resnet50_16f.mit_uniform_k400': _official(
        f'{_KINETICS}_resnet50_shift8_blockres_avg_segment16_e50.pth', **_K400),
    'tsm_resnet50_16f.mit_ssv2': _official(f'{_SOMETHING}_resnet50_shift8_blockres_avg_segment16_e45.pth', **_SSV2),
    'tsm_resnet50_nl.mit_k400': _official(
        f'{_KINETICS}_resnet50_shift8_blockres_avg_segment8_e100_dense_nl.pth', **_K400),
    'tsm_resnet101.mit_ssv2': _official(f'{_SOMETHING}_resnet101_shift8_blockres_avg_segment8_e45.pth', **_SSV2),
    'tsm_mobilenetv2_100.mit_k400': _official(
        f'{_KINETICS}_mobilenetv2_shift8_blockres_avg_segment8_e100_dense.pth', **_K400, **_MOBILENET),
    'tsm_mobilenetv2_100.ra_in1k': _cfg(
        hf_hub_id='timm/mobilenetv2_100.ra_in1k', license='apache-2.0', **_MOBILENET),
    'tsm_online_mobilenetv2_100.mit_jester': _official(
        'mobilenetv2_jester_online.pth.tar', label_names=label_names('jester'), num_classes=27, **_MOBILENET),
})

JESTER = DataSet('Jester', None, 'action recognition')
_DENSE = EvalProtocol('dense', num_clips=10, num_crops=3, stride=8)
_ONE_CLIP = EvalProtocol('uniform', scale_up=True)
_TWO_CLIPS = EvalProtocol('uniform', num_clips=2, num_crops=3)


def _of(data: DataSet, protocol: EvalProtocol, top1: float, frames: int = 8) -> TagRecord:
    return TagRecord(
        PAPER, data, protocol=protocol, figures=(Figure(
            data.title, top1, None, 'README of the official repository', frames=frames, clips=protocol.num_clips,
            crops=protocol.num_crops),),
        limits='The conversion is tested on networks of the official code; this file itself was not measured by us.')


_IMAGES = TagRecord(PAPER, IMAGENET_1K, limits='The backbone has seen single images only, no clips.')

register_records({
    'tsm_resnet50.mit_k400': _of(KINETICS_400, _DENSE, 74.1),
    'tsm_resnet50.mit_uniform_k400': _of(KINETICS_400, _ONE_CLIP, 71.2),
    'tsm_resnet50.mit_ssv2': _of(SSV2, _TWO_CLIPS, 61.2),
    'tsm_resnet50.tv_in1k': _IMAGES,
    'tsm_resnet50_16f.mit_uniform_k400': _of(KINETICS_400, _ONE_CLIP, 72.6, 16),
    'tsm_resnet50_16f.mit_ssv2': _of(SSV2, _TWO_CLIPS, 63.1, 16),
    'tsm_resnet50_nl.mit_k400': _of(KINETICS_400, _DENSE, 75.6),
    'tsm_resnet101.mit_ssv2': _of(SSV2, _TWO_CLIPS, 63.3),
    'tsm_mobilenetv2_100.mit_k400': _of(KINETICS_400, _DENSE, 69.5),
    'tsm_mobilenetv2_100.ra_in1k': _IMAGES,
    'tsm_online_mobilenetv2_100.mit_jester': TagRecord(
        PAPER, JESTER, limits='The repository states no accuracy of these weights, and they were not measured by us.'),
})


def _create_tsm(variant: str, pretrained: bool, model_args: dict[str, Any], kwargs: dict[str, Any]) -> TSM:
    return build_video_model(TSM, variant, pretrained, **dict(num_frames=8, img_size=224) | model_args | kwargs)


@register_model
def tsm(pretrained: bool = False, **kwargs: Any) -> TSM:
    """TSM on any timm `backbone` with residual or inverted-residual blocks (default ResNet-50), 8 frames."""
    return create_on_backbone(TSM, 'tsm', pretrained, **kwargs)


@register_model
def tsm_resnet50(pretrained: bool = False, **kwargs: Any) -> TSM:
    """TSM on ResNet-50: 8 frames of 224 pixels, 32.7 G multiply-adds per view."""
    return _create_tsm('tsm_resnet50', pretrained, dict(backbone='resnet50'), kwargs)


@register_model
def tsm_resnet50_16f(pretrained: bool = False, **kwargs: Any) -> TSM:
    """TSM on ResNet-50: 16 frames of 224 pixels, 65.4 G multiply-adds per view."""
    return _create_tsm('tsm_resnet50_16f', pretrained, dict(backbone='resnet50', num_frames=16), kwargs)


@register_model
def tsm_resnet50_nl(pretrained: bool = False, **kwargs: Any) -> TSM:
    """TSM with non-local blocks on ResNet-50: 8 frames of 224 pixels."""
    return _create_tsm('tsm_resnet50_nl', pretrained, dict(backbone='resnet50', non_local=True), kwargs)


@register_model
def tsm_resnet101(pretrained: bool = False, **kwargs: Any) -> TSM:
    """TSM on ResNet-101: 8 frames of 224 pixels, 62.4 G multiply-adds per view."""
    return _create_tsm('tsm_resnet101', pretrained, dict(backbone='resnet101'), kwargs)


@register_model
def tsm_mobilenetv2_100(pretrained: bool = False, **kwargs: Any) -> TSM:
    """TSM on MobileNetV2: 8 frames of 224 pixels, 2.4 G multiply-adds per view."""
    return _create_tsm('tsm_mobilenetv2_100', pretrained, dict(backbone='mobilenetv2_100'), kwargs)


@register_model
def tsm_online_mobilenetv2_100(pretrained: bool = False, **kwargs: Any) -> TSM:
    """TSM on MobileNetV2 that sees the past alone, for streams: 0.3 G multiply-adds per frame of 224 pixels."""
    return _create_tsm(
        'tsm_online_mobilenetv2_100', pretrained, dict(backbone='mobilenetv2_100', shift='past'), kwargs)
