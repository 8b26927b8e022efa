"""Moves channels between the frames of a clip."""
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ['shift_frames']


def shift_frames(x: Tensor, num_frames: int, shifts: Sequence[tuple[int, int]]) -> Tensor:
    """Takes groups of channels from another frame, x'[t] = x[t + o] where there is such a frame, else x[t].

    Space-time dual-headed attention of ZeroI2V (https://arxiv.org/abs/2310.01324). No parameters, no multiply-adds.

    Args:
        x: Keys or values of the frames of clips, `[B * T, heads, N, d]`. The frames of a clip follow one another.
        num_frames: Frames T of a clip.
        shifts: Offset o and number of channels of each group. Channels are counted head by head. Groups follow one
            another from channel 0 and may end within a head. The remaining channels stay unchanged.

    Returns:
        The shifted keys or values, `[B * T, heads, N, d]`.
    """
    head_dim = x.shape[-1]
    x = x.unflatten(0, (-1, num_frames)).transpose(2, 3).flatten(3)  # [B, T, N, heads * d]
    parts, start = [], 0
    for offset, channels in shifts:
        part = x[..., start:start + channels]
        edge = min(abs(offset), num_frames)
        if offset < 0:
            part = torch.cat([part[:, :edge], part[:, :num_frames - edge]], dim=1)
        elif offset > 0:
            part = torch.cat([part[:, edge:], part[:, num_frames - edge:]], dim=1)
        parts.append(part)
        start += channels
    x = torch.cat([*parts, x[..., start:]], dim=-1)
    return x.unflatten(3, (-1, head_dim)).transpose(2, 3).flatten(0, 1)
