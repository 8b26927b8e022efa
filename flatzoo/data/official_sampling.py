"""Which frames the official code of other methods looks at in evaluation, by the name of the method.

They differ from flatzoo's own rules and from each other in where clips begin and in what short videos repeat, which
may move an accuracy a little. All are of shape `[num_clips, num_frames]`, 0-based.
"""
import torch
from torch import Tensor

__all__ = ['RULES', 'official_indices']

RULES = ('st_adapter', 'aim', 'zeroi2v')


def official_indices(
        rule: str,
        length: int,
        num_frames: int,
        stride: int | None = None,
        num_clips: int = 1,
) -> Tensor:
    """Frames of evaluation as the official code of ST-Adapter, AIM or ZeroI2V takes them.

    Args:
        rule: One of `RULES`.
        length: Number of frames in the video.
        num_frames: Frames per clip.
        stride: Step between the frames of dense clips; None for uniform sampling.
        num_clips: Clips per video; the uniform ones of ST-Adapter and AIM are one.

    Returns:
        Frame indices in [0, length), int64 `[num_clips, num_frames]`.

    Raises:
        ValueError: If the rule is unknown or knows no such clips.
    """
    if rule not in RULES:
        raise ValueError(f'rule={rule!r} is none of {", ".join(map(repr, RULES))}.')
    if stride is not None:
        return _dense(rule, length, num_frames, stride, num_clips)
    step = (length - 1) / num_frames
    ends = [round(step * i) for i in range(num_frames + 1)]
    if rule == 'zeroi2v':
        clips = [[end + int(step / (num_clips + 1) * (clip + 1)) for end in ends[:-1]] for clip in range(num_clips)]
    elif num_clips == 1:
        clips = [[(low + high) // 2 for low, high in zip(ends, ends[1:])]]
    else:
        raise ValueError(f'num_clips={num_clips}: uniform sampling by the rule of {rule!r} is of one clip.')
    return torch.tensor(clips).clamp(max=length - 1)


def _dense(rule: str, length: int, num_frames: int, stride: int, num_clips: int) -> Tensor:
    if rule == 'aim':
        room = (length - num_frames * stride + 1) / num_clips
        starts = [int(clip * room + room / 2) if room > 0 else 0 for clip in range(num_clips)]
    else:
        last = max(length - ((num_frames - 1) * stride + 1), 0)
        starts = [last // 2] if num_clips == 1 else [round(last * clip / (num_clips - 1)) for clip in range(num_clips)]
    indices = torch.tensor(starts)[:, None] + stride * torch.arange(num_frames)
    return indices.clamp(max=length - 1) if rule == 'st_adapter' else indices % length
