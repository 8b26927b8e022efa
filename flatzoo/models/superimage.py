"""Any timm backbone as a video model: the clip as one image in front of the image model of your choice.

    model = timm.create_model('superimage', backbone='convnext_tiny', num_frames=8, layout='grid', img_size=112)

With `pretrained=True` the backbone has its own image weights. `backbone='convnext_tiny.fb_in22k'` chooses one of
several sets. `benchmarks/models/any_backbone.py` tries one model of every timm module.
"""
from typing import Any

from timm.models import generate_default_cfgs, register_model

from .backbone import default_img_size
from .base import VideoModel, prefixed
from .builder import build_video_model, has_own_weights

__all__ = ['VideoModel', 'cfg_of_backbone', 'create_on_backbone']  # timm's registry appends the entry points


class _AnyBackbone(VideoModel):
    """A `VideoModel` that takes frame size and configuration from its backbone."""

    def __init__(self, backbone: str = 'resnet50', img_size: Any = None, **kwargs: Any):
        super().__init__(backbone, img_size=default_img_size(backbone) if img_size is None else img_size, **kwargs)
        self.check_input_size()

    @property
    def encodes_frames(self) -> bool:
        return self.num_images == self.num_frames and self.grid_size == (1, 1)  # `time:1`: an image for each frame

    def _complete_cfg(self, cfg: dict[str, Any]) -> dict[str, Any]:
        return cfg_of_backbone(self, cfg)


def cfg_of_backbone(model: VideoModel, cfg: dict[str, Any], classifier: Any = None) -> dict[str, Any]:
    """The configuration of an entry point for any backbone. Fields that timm's lacks come from the backbone's.

    Args:
        model: The model that takes the configuration.
        cfg: The configuration that timm assigns.
        classifier: Name of the classifier. None takes that of the backbone.
    """
    if cfg.get('classifier'):
        return cfg
    image = model.backbone.pretrained_cfg
    return {
        **{key: image[key] for key in ('interpolation', 'crop_pct', 'mean', 'std', 'license') if key in image},
        **{key: cfg[key] for key in ('architecture', 'tag', 'custom_load') if key in cfg},
        'input_size': (model.in_chans, *model.img_size),
        'num_classes': model.num_classes,
        'first_conv': model._traits['first_conv'],
        'classifier': classifier or prefixed(image.get('classifier')),
    }


def create_on_backbone(model_cls: type[VideoModel], variant: str, pretrained: bool = False, **kwargs: Any) -> Any:
    """Builds the entry point for any backbone. `pretrained` loads the backbone's image weights."""
    cfg, overlay = kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay')
    if pretrained and not has_own_weights(variant, cfg, overlay):
        kwargs['backbone_pretrained'] = True
        pretrained = False
    return build_video_model(model_cls, variant, pretrained, **kwargs)


default_cfgs = generate_default_cfgs({'superimage.untrained': dict(num_classes=400, input_size=(3, 224, 224))})


@register_model
def superimage(pretrained: bool = False, **kwargs: Any) -> VideoModel:
    """Super image of `num_frames` frames (default 8) in `layout` (default `grid`) on any timm `backbone`."""
    return create_on_backbone(_AnyBackbone, 'superimage', pretrained, **kwargs)
