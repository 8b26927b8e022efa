"""Augmentations that change every frame of a clip alike: timm's image augmentations, applied to clips."""
import random
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from flatzoo.data.fit import Fit
from flatzoo.data.transforms import EvalTransform, Size, TrainTransform, WholeFrame

__all__ = ['AutoAugment', 'ClipErasing', 'train_crop']


class AutoAugment:
    """An augmentation policy of timm on clips: RandAugment, AutoAugment, AugMix or 3-Augment.

    A policy changes one image. It draws random numbers from the default generators of Python and numpy. Each frame is
    changed with the same state of both generators, so all frames get the same operations with the same strengths.

    Args:
        policy: timm's description, such as `'rand-m7-n4-mstd0.5-inc1'`.
        img_size: Frame size in pixels. It sets the range of shifts.
        mean: Mean per channel, 0...1. It fills the area that a shift uncovers.

    Raises:
        ValueError: A policy that timm does not know.
    """

    def __init__(self, policy: str, img_size: Size, mean: tuple[float, ...] = (0.5, 0.5, 0.5)):
        side = img_size if isinstance(img_size, int) else min(img_size)
        hparams = dict(translate_const=int(side * 0.45), img_mean=tuple(min(255, round(255 * m)) for m in mean))
        kind = policy.partition('-')[0]
        make = {'rand': rand_augment_transform, 'augmix': augment_and_mix_transform}.get(kind, auto_augment_transform)
        try:
            self.augment = make(policy, dict(hparams))
        except (AssertionError, KeyError, ValueError) as error:
            raise ValueError(
                f'{policy!r} is no augmentation policy of timm ({error or "unknown"}). Give one such as '
                "'rand-m7-n4-mstd0.5-inc1'.") from error
        self.policy = policy

    def __call__(self, clip: Tensor) -> Tensor:
        """Changes a uint8 clip `[T, 3, H, W]`. The result has the same shape and type."""
        if clip.ndim != 4 or clip.shape[1] != 3 or clip.dtype != torch.uint8:
            raise ValueError(
                f'{self.policy} changes colours: it takes uint8 clips [T, 3, H, W], got {clip.dtype} '
                f'{list(clip.shape)}. Leave it out for depth maps.')
        states = random.getstate(), np.random.get_state()
        frames = []
        for frame in clip:
            random.setstate(states[0])
            np.random.set_state(states[1])
            frames.append(pil_to_tensor(self.augment(to_pil_image(frame))))
        return torch.stack(frames)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.policy!r})'


class ClipErasing:
    """Random erasing of clips: the same rectangle in all frames of a clip, with the same filling.

    Args:
        probability: Share of clips that are erased.
        mode: Filling, of normalised values: 0 (`'const'`), a random colour (`'rand'`) or noise (`'pixel'`).
        max_count: Largest number of rectangles per clip.
        device: Device of the clips.
    """

    def __init__(
            self,
            probability: float,
            mode: Literal['const', 'rand', 'pixel'] = 'pixel',
            max_count: int = 1,
            device: torch.device | str = 'cpu',
    ):
        self.erase = RandomErasing(probability, mode=mode, max_count=max_count, device=device)

    def __call__(self, clips: Tensor) -> Tensor:
        """Erases rectangles of normalised clips `[B, C, T, H, W]`. The result is a new tensor of the same shape."""
        # timm erases images of nothing; what it has written is the filling, of every frame
        nothing = clips.new_full((*clips.shape[:2], *clips.shape[3:]), torch.nan)  # [B, C, H, W]
        filling = self.erase(nothing)[:, :, None]
        return torch.where(filling.isnan(), clips, filling)


def train_crop(
        img_size: Size,
        flip: float,
        scale: tuple[float, float] | None = None,
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        no_aug: bool = False,
        fit: Fit = 'crop',
) -> Callable[[Tensor], Tensor]:
    """The crop of training clips, for uint8 frames `[n, C, H, W]`. It draws from torch's default generator.

    Args:
        img_size: Frame size in pixels.
        flip: Share of mirrored clips.
        scale: Area of a random resized crop; None for the multi-scale crop of SIFAR.
        ratio: Aspect ratio of a random resized crop.
        no_aug: Whether to take the centre, or the whole frame, without mirroring.
        fit: `'letterbox'` or `'stretch'` take the crop out of whole frames of the aspect ratio of `img_size`.
    """
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if no_aug:
        return _CentreCrop(size, fit)
    if scale is None:
        crop = TrainTransform(size, flip=False)
    else:
        crop = v2.RandomResizedCrop(size, tuple(scale), tuple(ratio), antialias=True)
    steps = [] if fit == 'crop' else [WholeFrame(size, fit)]
    steps += [crop, v2.RandomHorizontalFlip(flip)] if flip else [crop]
    return v2.Compose(steps) if len(steps) > 1 else crop


class _CentreCrop:
    """The centre crop of the evaluation, or the whole frame, as one view."""

    def __init__(self, size: tuple[int, int], fit: Fit):
        self.views = EvalTransform(size, fit=fit)

    def __call__(self, frames: Tensor) -> Tensor:
        return self.views(frames)[0]
