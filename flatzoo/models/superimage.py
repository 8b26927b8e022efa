"""Any timm backbone as a video model: the clip as one image in front of the image model of your choice.

    model = timm.create_model('superimage', backbone='convnext_tiny', num_frames=8, layout='grid', img_size=112)

With `pretrained=True` the backbone starts from its own image weights; `backbone='convnext_tiny.fb_in22k'` chooses among
them. `benchmarks/models/any_backbone.py` tries one model of every timm module.
"""
from typing import Any

from timm.models import generate_default_cfgs, register_model

from .backbone import default_img_size
from .base import VideoModel, prefixed
from .builder import build_video_model, has_own_weights

__all__ = ['VideoModel']  # timm's registry appends the entry points


class _AnyBackbone(VideoModel):
    """A `VideoModel` that takes frame size and configuration from its backbone."""

    def __init__(self, backbone: str = 'resnet50', img_size: Any = None, **kwargs: Any):
        super().__init__(backbone, img_size=default_img_size(backbone) if img_size is None else img_size, **kwargs)
        self.check_input_size()

    def _complete_cfg(self, cfg: dict[str, Any]) -> dict[str, Any]:
        if not cfg.get('classifier'):  # timm's configuration of the bare entry point: the backbone's says more
            image = self.backbone.pretrained_cfg
            cfg = {
                **{key: image[key] for key in ('interpolation', 'crop_pct', 'mean', 'std', 'license') if key in image},
                **{key: cfg[key] for key in ('architecture', 'tag', 'custom_load') if key in cfg},
                'input_size': (self.in_chans, *self.img_size),
                'num_classes': self.num_classes,
                'first_conv': self._traits['first_conv'],
                'classifier': prefixed(image.get('classifier')),
            }
        return cfg


default_cfgs = generate_default_cfgs({'superimage.untrained': dict(num_classes=400, input_size=(3, 224, 224))})


@register_model
def superimage(pretrained: bool = False, **kwargs: Any) -> VideoModel:
    """Super image of `num_frames` frames (default 8) in `layout` (default `grid`) on any timm `backbone`."""
    cfg, overlay = kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay')
    if pretrained and not has_own_weights('superimage', cfg, overlay):
        kwargs['backbone_pretrained'] = True
        pretrained = False
    return build_video_model(_AnyBackbone, 'superimage', pretrained, **kwargs)
