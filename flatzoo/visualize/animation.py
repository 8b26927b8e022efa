"""Short looping pictures of a clip."""
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .figures import overlay

__all__ = ['save_cam_gif']

SIDE = 224  # pixels of the shorter side of a frame, at least


def save_cam_gif(
        path: str | os.PathLike,
        frames: Tensor,
        frame_maps: Tensor,
        times: Sequence[float] | None = None,
        comment: str = '',
) -> None:
    """Writes a looping GIF: the frame on the left, the frame under its map on the right, a time bar below.

    Args:
        path: The file to write. Its suffix does not matter.
        frames: uint8 `[T, 3, H, W]`.
        frame_maps: `[T, h, w]`, 0...1.
        times: Time of each frame in seconds. It sets how long each frame is shown, 0.1 to 0.6 s. None shows each frame
            for 0.2 s.
        comment: Text that is stored in the file.
    """
    frames = frames.cpu()
    scale = max(1.0, SIDE / min(frames.shape[-2:]))
    height, width = (round(side * scale) for side in frames.shape[-2:])
    large = F.interpolate(frames.float(), (height, width), mode='bicubic').round().clamp(0, 255).to(torch.uint8)
    both = torch.cat([large, overlay(large, frame_maps)], dim=3)  # [T, 3, h, 2 w]
    bar = both.new_full((len(both), 3, 5, 2 * width), 40)
    for t in range(len(both)):
        bar[t, :, :, :2 * width * (t + 1) // len(both)] = 220
    pictures = [Image.fromarray(p.movedim(0, -1).numpy()) for p in torch.cat([both, bar], dim=2)]
    times = [0.2 * t for t in range(len(frames))] if times is None else list(times)
    steps = [after - before for before, after in zip(times, times[1:])] or [0.6]
    durations = [round(1000 * min(max(step, 0.1), 0.6)) for step in (*steps, max(steps[-1], 0.6))][:len(frames)]
    pictures[0].save(
        path, format='GIF', save_all=True, append_images=pictures[1:], duration=durations, loop=0, comment=comment)
