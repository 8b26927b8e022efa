"""From a video to the views of an evaluation protocol: its clips and their crops, each needed frame decoded once."""
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .decode import Backend, VideoError, VideoReader
from .transforms import EvalTransform, Size, resize

if TYPE_CHECKING:
    from .protocol import EvalProtocol

__all__ = ['equal_views', 'load_views', 'read_frames', 'read_views']

FULL_SIZE_FRAMES = 4  # frames that are in memory in full size at the same time


def load_views(
        protocol: 'EvalProtocol',
        path: str | os.PathLike,
        num_frames: int,
        img_size: Size,
        backend: Backend = 'auto',
        transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Decodes a video file into all the views of a protocol.

    Args:
        protocol: The protocol.
        path: The video file.
        num_frames: Frames per clip (T).
        img_size: `(height, width)` of a frame, or one number for a square.
        backend: Decoder, see `VideoReader`.
        transform: Replaces the crops of the protocol and `img_size`. It takes uint8 `[T, C, H, W]` and returns one view
            `[T, C, h, w]` or several views `[V, T, C, h, w]`.

    Returns:
        Views `[views, C, T, height, width]`, `protocol.views` or, where three crops are the same pixels, one for each
        clip. They are uint8 unless the transform changes that. The clips of the first
        crop come first. `model(views).mean(0)` gives the logits of the video.

    Raises:
        VideoError: The file cannot be read, or its frames do not fit the crops.
        ValueError: The transform returned another shape.
    """
    with VideoReader(path, backend) as video:
        return read_views(protocol, video, os.fsdecode(path), (0, len(video)), num_frames, img_size, transform)


def read_views(
        protocol: 'EvalProtocol',
        reader: Any,
        name: str,
        span: tuple[int, int],
        num_frames: int,
        img_size: Size,
        transform: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Reads all the views of a protocol from a part of an open video.

    Args:
        protocol: The protocol.
        reader: An object with `get_frames(indices)`, such as a `VideoReader` or a `FrameFolder`.
        name: The name of the video in error messages.
        span: The first frame of the part, and the frame after its last one.
        num_frames: See `load_views`.
        img_size: See `load_views`.
        transform: See `load_views`.

    Returns:
        See `load_views`.

    Raises:
        VideoError: See `load_views`.
        ValueError: See `load_views`.
    """
    crops = transform or EvalTransform(img_size, protocol.num_crops, protocol.scale_up, protocol.fit)
    needed, rows = protocol.sample(span[1] - span[0], num_frames).unique(return_inverse=True)  # rows: [num_clips, T]
    if transform is None:
        frames = read_frames(reader, name, needed + span[0], crops.resize)
    else:
        frames = reader.get_frames(needed + span[0])  # [N, C, H, W]
    clips = []
    for clip_rows in rows:
        clip = crops(frames[clip_rows])
        if not isinstance(clip, Tensor) or clip.ndim not in (4, 5) or clip.shape[-4] != num_frames:
            got = list(clip.shape) if isinstance(clip, Tensor) else type(clip).__name__
            raise ValueError(
                f'a transform must return [T, C, h, w] or [V, T, C, h, w] with T = {num_frames}, got {got}')
        clips.append(clip[None] if clip.ndim == 4 else clip)  # [V, T, C, h, w]
    views = torch.stack(clips, dim=1).flatten(0, 1)  # [V * num_clips, T, C, h, w]
    return views.transpose(1, 2)


def equal_views(videos: Sequence[Tensor]) -> list[Tensor]:
    """Videos with equally many views, for a batch, without a change of the mean over the views of any of them.

    Args:
        videos: Views `[V, ...]` of each video, with one number of crops or, where crops are the same, with one crop.
    """
    most = max(map(len, videos), default=0)
    return [views.repeat(most // len(views), *[1] * (views.ndim - 1)) for views in videos]


def read_frames(reader: Any, name: str, indices: Tensor, shrink: Callable[[Tensor], Tensor]) -> Tensor:
    """Reads frames and shrinks them at once. Only a few frames are in memory in full size at the same time.

    Args:
        reader: An object with `get_frames(indices)`.
        name: The name of the video in error messages.
        indices: N frame indices.
        shrink: From uint8 `[n, C, H, W]` to `[n, C, h, w]`.

    Returns:
        Frames `[N, C, h, w]`.

    Raises:
        VideoError: The frames cannot be read, or `shrink` raised `ValueError` because they fit no crop.
    """
    parts = []
    for part in indices.split(FULL_SIZE_FRAMES):
        frames = reader.get_frames(part)
        try:
            parts.append(shrink(frames))
        except ValueError as error:
            raise VideoError(f'{name}: {error}') from None
    return torch.cat([resize(part, parts[0].shape[-2:]) for part in parts])  # a stream may change its size on the way
