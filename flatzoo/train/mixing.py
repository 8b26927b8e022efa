"""Mixup and CutMix of whole clips.

timm's `Mixup` cuts along the last two dimensions of images `[B, C, H, W]`. On clips `[B, C, T, H, W]` it would run
without an error, but cut the wrong dimensions and give wrong labels. Here timm sees the frames as channels. Every frame
of a clip is then mixed alike, and the shares of the labels match the shares of the pixels.
"""
import torch
from timm.data import Mixup
from timm.data.mixup import mixup_target
from torch import Tensor

__all__ = ['ClipMixup']


class ClipMixup(Mixup):
    """`timm.data.Mixup` for clips, with the same arguments.

    Draws come from numpy's default generator.
    """

    def __call__(self, clips: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes each clip of a batch with another clip.

        Args:
            clips: Normalised clips, floating point `[B, C, T, H, W]`; they are overwritten. In a batch of odd size
                (after broken files) the last clip stays as it is.
            target: Labels `[B]`; with `multi_label` 1 for each class of a clip, `[B, num_classes]`.

        Returns:
            The clips, and the shares of the classes `[B, num_classes]`, smoothed.
        """
        if clips.ndim != 5 or not clips.is_floating_point():
            raise ValueError(
                f'clips must be floating point (normalised) [B, C, T, H, W], got {clips.dtype} {list(clips.shape)}')
        even = len(clips) // 2 * 2
        parts = []
        if even:
            # of contiguous clips these are views, [B, C * T, H, W]
            images, mixed = super().__call__(clips[:even].flatten(1, 2), target[:even])
            clips[:even] = images.view_as(clips[:even])
            parts.append(mixed)
        if even < len(clips):
            parts.append(mixup_target(
                target[even:], self.num_classes, smoothing=self.label_smoothing, multi_label=self.multi_label))
        return clips, torch.cat(parts)
