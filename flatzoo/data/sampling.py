"""Which frames of a video make a clip: uniform and dense sampling as SIFAR and its predecessors do it.

Indices are 0-based and of shape `[num_clips, num_frames]`, ready for `VideoReader.get_frames` row by row.
"""
from typing import Literal

import torch
from torch import Tensor

__all__ = ['Sampling', 'dense_indices', 'span_indices', 'uniform_indices']

Sampling = Literal['uniform', 'dense']


def uniform_indices(
        length: int,
        num_frames: int,
        num_clips: int = 1,
        *,
        training: bool = False,
        short: Literal['even', 'random'] = 'even',
        generator: torch.Generator | None = None,
) -> Tensor:
    """One frame from each of `num_frames` equal segments of the video (SIFAR, arXiv 2106.14104).

    Evaluation takes the centres of the segments; further clips are the same centres moved by whole frames (3 clips: by
    -1, 0, +1), never out of their segments. Training takes segments of a whole number of frames and ONE random offset
    that all of them share, so that the step between frames is the same everywhere.

    Where the video has fewer frames than asked for (in evaluation also: just as many) the official code draws frames
    at random with replacement and sorts them (`short='random'`; clip c of an evaluation is drawn from numpy's legacy
    seed c, so that it is the same in every run). `short='even'`, the default, keeps to the rule for long videos: each
    frame is repeated about equally often, and a video of just `num_frames` frames gives each frame once.

    Args:
        length: Number of frames in the video.
        num_frames: Frames per clip.
        num_clips: Clips per video; in training each has its own draw.
        training: Draw at random instead of taking centres.
        short: `'even'` or `'random'`, see above.
        generator: Source of the training draws; None is torch's default one.

    Returns:
        Frame indices in [0, length), ascending in each row, int64 `[num_clips, num_frames]`.

    Raises:
        ValueError: A number below 1 or an unknown `short`.
    """
    _check_counts(length=length, num_frames=num_frames, num_clips=num_clips)
    if short not in ('even', 'random'):
        raise ValueError(f"short must be 'even' or 'random', got {short!r}")

    if training:
        if length < num_frames and short == 'random':
            draws = torch.randint(length, (num_clips, num_frames), generator=generator)
            return draws.sort(dim=1).values
        # Whole segments drop the last length % num_frames frames; of a short video the segments are parts of a frame.
        segment = length // num_frames if length >= num_frames else length / num_frames
        offset = torch.rand(num_clips, 1, generator=generator, dtype=torch.float64) * segment
        if length >= num_frames:
            offset = offset.floor()
        starts = torch.arange(num_frames, dtype=torch.float64) * segment
        return (starts + offset).long().clamp_(max=length - 1)

    if length <= num_frames and short == 'random':
        return torch.stack([_legacy_draw(length, num_frames, seed=clip) for clip in range(num_clips)])
    segment = length / num_frames
    shift = torch.arange(num_clips, dtype=torch.float64) + (-num_clips // 2 + 1)  # 3 clips: -1, 0, 1; 2 clips: 0, 1
    shift = shift.clamp(-segment / 2, segment / 2 - 1e-4)  # stay in the segment
    starts = torch.arange(num_frames, dtype=torch.float64) * segment
    return (segment / 2 + shift[:, None] + starts).long()


def span_indices(
        length: int, num_frames: int, share: tuple[float, float], *, generator: torch.Generator | None = None,
) -> Tensor:
    """A random part of the video in `num_frames` equal segments, and a frame of each: a crop in time, for training.

    All segments share one random offset, as in `uniform_indices`, but they need not be a whole number of frames. So the
    whole video is seen, which `uniform_indices` cuts to a multiple of `num_frames` frames: of 15 frames and 8 segments
    it trains on the first 8.

    Args:
        length: Number of frames in the video.
        num_frames: Frames per clip.
        share: Smallest and largest part of the video, in (0, 1]. Its length and its place are drawn.
        generator: Source of the draws; None is torch's default one.

    Returns:
        Frame indices in [0, length), ascending, int64 `[1, num_frames]`.

    Raises:
        ValueError: A number below 1, or shares that are none.
    """
    _check_counts(length=length, num_frames=num_frames)
    low, high = share
    if not 0 < low <= high <= 1:
        raise ValueError(f'share must be two numbers in (0, 1], the lower one first, got {share!r}')
    part, place, offset = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    span = length * (low + (high - low) * part)
    starts = (torch.arange(num_frames, dtype=torch.float64) + offset) * (span / num_frames)
    return ((length - span) * place + starts).long().clamp_(max=length - 1)[None]


def dense_indices(
        length: int,
        num_frames: int,
        stride: int,
        num_clips: int = 1,
        *,
        training: bool = False,
        generator: torch.Generator | None = None,
) -> Tensor:
    """`num_frames` frames at a fixed step; a video that is too short starts again from its first frame.

    Evaluation spreads the starts of the clips evenly over the video, from its first frame on; training draws each start
    at random.

    Args:
        length: Number of frames in the video.
        num_frames: Frames per clip.
        stride: Step between frames, in frames.
        num_clips: Clips per video.
        training: Draw the starts at random.
        generator: Source of the training draws; None is torch's default one.

    Returns:
        Frame indices in [0, length), int64 `[num_clips, num_frames]`.

    Raises:
        ValueError: A number below 1.
    """
    _check_counts(length=length, num_frames=num_frames, stride=stride, num_clips=num_clips)
    last_start = max(length - stride * num_frames, 0)
    if training:
        starts = torch.randint(last_start + 1, (num_clips,), generator=generator)
    else:
        starts = torch.linspace(0, last_start, num_clips, dtype=torch.float64).long()
    return (starts[:, None] + stride * torch.arange(num_frames)) % length


def _legacy_draw(length: int, num_frames: int, seed: int) -> Tensor:
    import numpy as np
    return torch.from_numpy(np.random.RandomState(seed).choice(length, num_frames).astype(np.int64)).sort().values


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f'{name} must be an integer of at least 1, got {value!r}')
