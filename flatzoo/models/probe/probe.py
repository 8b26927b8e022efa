"""Entry points of the probes. `flatzoo.models.probe.model` describes the method.

| M parameters (400 classes), trained | `attentive` | `attentive`, `probe_depth=1` | `step` | `linear` |
|---|---|---|---|---|
| `probe_dinov2_s` | 7.1 | 1.8 | 0.75 | 0.15 |
| `probe_dinov2_b` | 28.1 | 6.8 | 2.7 | 0.31 |
| `probe_dinov2_l` | 49.7 | 12.0 | 4.6 | 0.41 |

`pretrained=True` loads DINOv2's image weights (Apache-2.0). The probe is untrained. The released probes of V-JEPA 2
only fit its own video encoders.
"""
from dataclasses import replace
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model

from ..builder import build_video_model
from ..record import LVD_142M, Paper, TagRecord, register_records
from ..superimage import create_on_backbone
from .model import Probe

__all__: list[str] = []  # timm's registry appends the entry points

_BACKBONES = {'s': 'vit_small_patch14_dinov2', 'b': 'vit_base_patch14_dinov2', 'l': 'vit_large_patch14_dinov2'}

PAPER = Paper(
    'V-JEPA 2', 'arXiv:2506.09985',
    'V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning',
    'Assran, Mido and others', 2025, 'assran2025vjepa2')

default_cfgs = generate_default_cfgs({
    'probe.untrained': dict(num_classes=400, input_size=(3, 224, 224)),
    **{f'probe_dinov2_{size}.lvd142m': {
        'hf_hub_id': f'timm/{backbone}.lvd142m', 'license': 'apache-2.0',
        'num_classes': 400, 'input_size': (3, 224, 224), 'fixed_input_size': True, 'crop_pct': 1.0,
        'interpolation': 'bicubic', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'backbone.patch_embed.proj', 'classifier': 'head',
        'paper_name': PAPER.title, 'paper_ids': PAPER.id, 'origin_url': 'https://github.com/facebookresearch/vjepa2',
    } for size, backbone in _BACKBONES.items()},
})

_RECORD = TagRecord(
    PAPER, LVD_142M, frozen_backbone=True, limits='The backbone has seen single images only, no clips.',
    starts_fresh='**The probe and its classifier are freshly initialised** and must be trained.')
register_records({
    f'probe_dinov2_{size}.lvd142m': replace(_RECORD, size=346_000_000 if size == 'b' else None) for size in _BACKBONES})


def _create_probe(size: str, pretrained: bool, kwargs: dict[str, Any]) -> Probe:
    name, own = f'probe_dinov2_{size}', _BACKBONES[size]
    if kwargs.get('backbone', own).partition('.')[0] != own:
        raise ValueError(
            f"{name} is a probe on {own}. For backbone={kwargs['backbone']!r}, with its normalisation and weights, "
            "use 'probe'.")
    return build_video_model(Probe, name, pretrained, **dict(backbone=own, num_frames=8, img_size=224) | kwargs)


@register_model
def probe(pretrained: bool = False, **kwargs: Any) -> Probe:
    """A probe on any timm `backbone` (default DINOv2 ViT-B/14), 8 frames."""
    return create_on_backbone(Probe, 'probe', pretrained, **kwargs)


@register_model
def probe_dinov2_s(pretrained: bool = False, **kwargs: Any) -> Probe:
    """The attentive probe of V-JEPA 2 on a frozen DINOv2 ViT-S/14: 8 frames of 224 pixels."""
    return _create_probe('s', pretrained, kwargs)


@register_model
def probe_dinov2_b(pretrained: bool = False, **kwargs: Any) -> Probe:
    """The attentive probe of V-JEPA 2 on a frozen DINOv2 ViT-B/14: 8 frames of 224 pixels."""
    return _create_probe('b', pretrained, kwargs)


@register_model
def probe_dinov2_l(pretrained: bool = False, **kwargs: Any) -> Probe:
    """The attentive probe of V-JEPA 2 on a frozen DINOv2 ViT-L/14: 8 frames of 224 pixels."""
    return _create_probe('l', pretrained, kwargs)
