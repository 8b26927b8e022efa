"""TALL: consecutive frames as the thumbnails of one image, for an image transformer.

Paper: "TALL: Thumbnail Layout for Deepfake Video Detection", Xu et al., ICCV 2023, https://arxiv.org/abs/2307.07494,
and its continuation https://arxiv.org/abs/2403.10261. Official code: https://github.com/rainy-xu/TALL4Deepfake.

Four consecutive frames lie row by row in a grid of 2 x 2. The grid is resized as a whole to the size of one frame (the
layout `tall`), so a clip costs as much as an image. In training a square is masked at the same random place in all
frames of a clip, so that the network looks at changes over time. The paper does not state details of the square. Here
it lies completely in the frame, at a new place for each clip, and is filled with the mean colour (0 after
normalisation).

    model = timm.create_model('tall', backbone='swin_base_patch4_window7_224', pretrained=True, num_classes=2)

More than four frames make more images, whose logits are averaged. We know of no weights and no recipe, so there is no
tag and no preset.
"""
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model, register_notrace_function
from torch import Tensor

from flatzoo.layers.layout import LayoutSpec
from flatzoo.layers.super_image import resize_images

from .backbone import default_img_size
from .base import Size, VideoModel, average_images
from .superimage import cfg_of_backbone, create_on_backbone

__all__ = ['TALL', 'mask_square']  # timm's registry appends the entry points


@register_notrace_function  # fx: it looks at shapes
def mask_square(clip: Tensor, size: int) -> Tensor:
    """Sets a square to 0 at the same random place in all frames of a clip. Each clip has another place.

    Args:
        clip: `[B, C, T, H, W]`, normalised.
        size: Side of the square in pixels.
    """
    top = torch.randint(clip.shape[3] - size + 1, (clip.shape[0], 1), device=clip.device)
    left = torch.randint(clip.shape[4] - size + 1, (clip.shape[0], 1), device=clip.device)
    rows = torch.arange(clip.shape[3], device=clip.device).unsqueeze(0) - top
    cols = torch.arange(clip.shape[4], device=clip.device).unsqueeze(0) - left
    inside = ((rows >= 0) & (rows < size)).unsqueeze(2) & ((cols >= 0) & (cols < size)).unsqueeze(1)
    return clip.masked_fill(inside.unsqueeze(1).unsqueeze(1), 0.)


@register_notrace_function
def normalised_frames(clip: Tensor, scale: Tensor, shift: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """A clip as the super image would normalise and resize its frames."""
    as_bytes = clip.dtype == torch.uint8
    if as_bytes:
        clip = clip.to(scale.dtype)
    if clip.shape[3] != height or clip.shape[4] != width:
        clip = resize_images(clip.flatten(1, 2), height, width, antialias).unflatten(1, clip.shape[1:3])
    return clip * scale.unsqueeze(1) + shift.unsqueeze(1) if as_bytes else clip


class TALL(VideoModel):
    """An image model on thumbnails of consecutive frames.

    Args:
        backbone: Any timm image model.
        num_frames: Frames T per clip. Cells beyond the last frame stay 0.
        layout: The thumbnail layout. Any other layout is accepted, too.
        img_size: Size in pixels of a frame, and of the image of four. By default that of the backbone's weights.
        mask_size: Side in frame pixels of the square that is masked in training. 0 masks nothing.
        **kwargs: As for `VideoModel`. Arguments that it does not know go to the backbone.

    Raises:
        ValueError: If the square is larger than a frame, or frames do not fit the layout.
    """

    def __init__(
            self,
            backbone: str = 'swin_base_patch4_window7_224',
            num_frames: int = 4,
            layout: LayoutSpec = 'tall',
            img_size: Size | None = None,
            num_classes: int = 2,
            mask_size: int = 16,
            **kwargs: Any,
    ):
        super().__init__(
            backbone, num_frames, layout, default_img_size(backbone) if img_size is None else img_size,
            num_classes=num_classes, **kwargs)
        if not isinstance(mask_size, int) or not 0 <= mask_size <= min(self.img_size):
            raise ValueError(
                f'mask_size={mask_size!r}: a whole number of pixels is accepted, 0 to the {min(self.img_size)} of a '
                'frame.')
        self.mask_size = mask_size
        self.check_input_size()

    def _complete_cfg(self, cfg: dict[str, Any]) -> dict[str, Any]:
        return cfg_of_backbone(self, cfg)

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            **backbone_args: Any,
    ) -> None:
        smallest = min(self.img_size if img_size is None else (img_size,) if isinstance(img_size, int) else img_size)
        if smallest < self.mask_size:
            raise ValueError(f'Frames of {smallest} pixels are smaller than mask_size={self.mask_size}.')
        super().set_input_size(img_size, num_frames, layout, **backbone_args)

    def _masked(self, x: Tensor) -> Tensor:
        if self.training and self.mask_size > 0:
            height, width = self.super_image.img_size
            scale, shift = self.super_image.norm_scale, self.super_image.norm_shift
            x = normalised_frames(x, scale, shift, height, width, self.super_image.antialias)
            x = mask_square(x, self.mask_size)
        return x

    def forward_features(self, x: Tensor) -> Tensor:
        """As in every video model, but masked in training."""
        return super().forward_features(self._masked(x))

    def forward(self, x: Tensor) -> Tensor:
        """Clips `[B, C, T, H, W]` -> logits `[B, num_classes]`. Clips are masked in training."""
        return average_images(self.backbone(self.super_image(self._masked(x))), self.num_images)


default_cfgs = generate_default_cfgs({'tall.untrained': dict(num_classes=2, input_size=(3, 224, 224))})


@register_model
def tall(pretrained: bool = False, **kwargs: Any) -> TALL:
    """TALL's thumbnails of `num_frames` frames (default 4) on any timm `backbone` (default Swin-B), 2 classes."""
    return create_on_backbone(TALL, 'tall', pretrained, **kwargs)
