"""Frames in memory, read through the interface of `VideoReader`."""
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .decode import VideoError

__all__ = ['ArrayClip']

_ACCEPTED = (
    'Accepted are uint8 frames with values 0...255: a NumPy array [T, H, W, 3], a tensor [3, T, H, W], [T, 3, H, W] or '
    '[T, H, W, 3], or a list of PIL images')


class ArrayClip:
    """Gives frames of an array by their index, with the interface of `VideoReader`.

    Args:
        frames: uint8 frames, C = 3 channels (RGB): a NumPy array or a tensor in the order `[T, H, W, C]`,
            `[T, C, H, W]` or `[C, T, H, W]`, told apart by the axis of 3, or a list of PIL images of one size.

    Raises:
        VideoError: If the frames have another type or shape, or their order cannot be told.
    """

    def __init__(self, frames: Any):
        if isinstance(frames, (list, tuple)):
            frames = _of_images(frames)
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(np.ascontiguousarray(frames))
        if not isinstance(frames, Tensor):
            raise VideoError(f'A clip of type {type(frames).__name__} cannot be read. {_ACCEPTED}.')
        if frames.dtype != torch.uint8:
            raise VideoError(
                f'A clip of {frames.dtype} cannot be read. {_ACCEPTED}. Frames of 0...1 become that by '
                '(frames * 255).round().byte().')
        if frames.ndim != 4 or 0 in frames.shape:
            raise VideoError(f'A clip of shape {list(frames.shape)} cannot be read. {_ACCEPTED}.')
        axes = [axis for axis in (0, 1, 3) if frames.shape[axis] == 3]
        if len(axes) != 1:
            order = 'no axis of 3 channels' if not axes else f'{len(axes)} axes of 3, so the channels cannot be told'
            raise VideoError(
                f'A clip of shape {list(frames.shape)} has {order}. {_ACCEPTED}. Give num_frames other than 3 or '
                'permute() the frames to [T, H, W, 3] with more than three frames, or write a video file.')
        self._frames = frames.movedim(axes[0], 1)  # [T, C, H, W]

    def __len__(self) -> int:
        return len(self._frames)

    def get_frames(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Frames with the given indices, uint8 `[N, C, H, W]`."""
        return self._frames[torch.as_tensor(indices)]


def _of_images(images: Sequence[Any]) -> Tensor:
    from PIL import Image

    wrong = [type(image).__name__ for image in images if not isinstance(image, Image.Image)]
    if wrong or not images:
        raise VideoError(f'A list of {wrong[0] if wrong else "nothing"} is no clip. {_ACCEPTED}.')
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise VideoError(f'The images of a clip have sizes {sorted(sizes)}. Give them one size.')
    return torch.stack([torch.from_numpy(np.array(image.convert('RGB'))) for image in images])  # [T, H, W, C]
