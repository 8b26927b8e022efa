"""Long videos with actions at known times: the ground truth for answers over time.

Actions of `render_action` follow each other with gaps between them in which nothing happens: the scene stands still
before and after its action, or another scene passes in which nobody acts but bystanders drift. With `camera_shake` the
camera moves all the time, so that stillness alone does not tell a gap.
"""
import os
import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .actions import ACTIONS
from .scenes import SPLITS, Split, paint_stretch

__all__ = ['NOTHING', 'Segment', 'render_nothing', 'spliced_frames', 'write_spliced']

NOTHING = 'nothing'
"""Name of the class of clips in which no action happens."""


class Segment(NamedTuple):
    """An action in a long video.

    Attributes:
        start: Its start in seconds.
        end: Its end.
        label: Its name, of `ACTIONS` or of other given names.
    """

    start: float
    end: float
    label: str


def render_nothing(
        seed: int,
        num_frames: int = 16,
        size: int = 64,
        *,
        camera_shake: float = 0.0,
        split: Split = 'train',
) -> Tensor:
    """Renders a clip in which no action happens, as between the actions of `write_spliced`.

    Args:
        seed: Any integer; scenes are those of `render_action` for the same seed.
        num_frames: Number of frames T.
        size: Height and width in pixels, at least 16.
        camera_shake: See `render_action`.
        split: See `render_action`.

    Returns:
        uint8 tensor `[T, 3, size, size]`, RGB.

    Raises:
        ValueError: An unknown split, or a size that is too small.
    """
    if split not in SPLITS or size < 16 or num_frames < 1:
        raise ValueError(f"give split 'train' or 'test', a size of at least 16 and a frame, got {split!r}, {size}, "
                         f'{num_frames}')
    rng = random.Random(f'nothing/{split}/{seed}')
    pair, place = rng.randrange(len(ACTIONS) // 2), float(rng.random() < 0.5)
    kind = rng.choice(('still', 'drift', 'cut'))
    camera = [(i + 0.5) / num_frames for i in range(num_frames)]
    if kind == 'drift':
        times = [abs(place - t) for t in camera]
        return paint_stretch(pair, seed, times, camera, size, camera_shake, split, acting=False)
    if kind == 'still' or num_frames == 1:
        return paint_stretch(pair, seed, [place] * num_frames, camera, size, camera_shake, split)
    cut = rng.randint(1, num_frames - 1)
    other = rng.randrange(len(ACTIONS) // 2)
    return torch.cat([
        paint_stretch(pair, seed, [place] * cut, camera[:cut], size, camera_shake, split),
        paint_stretch(
            other, ~seed, [1 - place] * (num_frames - cut), camera[cut:], size, camera_shake, split)])


def spliced_frames(
        seconds: float,
        seed: int,
        size: int = 96,
        fps: int | Fraction = 16,
        *,
        action_seconds: tuple[float, float] = (1.5, 2.5),
        gap_seconds: tuple[float, float] = (1.0, 4.0),
        camera_shake: float = 0.0,
        split: Split = 'train',
        names: Sequence[str] = ACTIONS,
        paint: Callable[..., Tensor] = paint_stretch,
) -> Iterator[tuple[Tensor, Segment | None]]:
    """Renders a long video piece by piece.

    Args:
        seconds: How long it is, about: the last action is not cut.
        seed: Any integer; two seeds share no scene.
        size: Height and width in pixels, even.
        fps: Frames per second.
        action_seconds: Shortest and longest action.
        gap_seconds: Shortest and longest gap; (0, 0) for none.
        camera_shake: See `render_action`.
        split: See `render_action`.
        names: The actions, in pairs: `VERBS[:-1]` for those of `render_verb`.
        paint: What paints them: `paint_verb` for those of `render_verb`.

    Yields:
        Frames uint8 `[T, 3, size, size]`, and the action that they show; None for a gap.

    Raises:
        ValueError: An argument lies outside its range.
    """
    for name, (low, high) in (('action_seconds', action_seconds), ('gap_seconds', gap_seconds)):
        if not 0 <= low <= high:
            raise ValueError(f'{name} must be the shortest and the longest, got {(low, high)}')
    if action_seconds[0] * fps < 2 or split not in SPLITS or size < 16 or size % 2 or seconds <= 0:
        raise ValueError(
            "actions must last two frames, split must be 'train' or 'test', size even and at least 16, seconds above "
            f'0; got {action_seconds}, {split!r}, {size}, {seconds}')
    rng = random.Random(f'splice/{split}/{seed}')
    frames, number = 0, 0
    before: tuple[int, int, float] | None = None  # pair, seed of the scene and its last moment
    while frames < seconds * fps:
        label, scene = rng.randrange(len(names)), (seed << 32) + number
        number += 1
        pair, backwards = divmod(label, 2)
        gap = round(rng.uniform(*gap_seconds) * fps)
        count = max(2, round(rng.uniform(*action_seconds) * fps))
        drifts = rng.random() < 0.3
        after = pair, scene, float(backwards)
        for piece in _gap(gap, before, after, drifts, size, camera_shake, split, count, paint):
            frames += len(piece)
            yield piece, None
        times = [(i + 0.5) / count for i in range(count)]
        order = times[::-1] if backwards else times
        segment = Segment(float(frames / fps), float((frames + count) / fps), names[label])
        frames += count
        yield paint(pair, scene, order, times, size, camera_shake, split), segment
        before = pair, scene, 1.0 - backwards
    if gap_seconds[1]:
        pair, scene, place = before
        count = max(1, round(gap_seconds[0] * fps))
        moments = [1 + i / (2 * fps) for i in range(count)]
        yield paint(pair, scene, [place] * count, moments, size, camera_shake, split), None


def _gap(
        count: int,
        before: tuple[int, int, float] | None,
        after: tuple[int, int, float],
        drifts: bool,
        size: int,
        shake: float,
        split: str,
        action: int,
        paint: Callable[..., Tensor],
) -> Iterator[Tensor]:
    """Frames of a gap: the scene before stands still, then the scene to come does; between them another one drifts."""
    third = count // 3 if drifts else 0
    parts = [count // 2, 0, count - count // 2]
    if drifts:
        parts = [third, third, count - 2 * third]
    if before is None:
        parts = [0, 0, count]
    for place, length in zip((before, 'drift', after), parts, strict=True):
        if not length:
            continue
        if place == 'drift':
            camera = [(i + 0.5) / length for i in range(length)]
            yield paint(
                after[0], ~after[1], camera, camera, size, shake, split, acting=False)
            continue
        pair, scene, moment = place
        shift = -length if place is after else action  # the camera goes on before and after the action
        camera = [(shift + i + 0.5) / action for i in range(length)]
        yield paint(pair, scene, [moment] * length, camera, size, shake, split)


def write_spliced(
        path: str | os.PathLike,
        seconds: float,
        seed: int = 0,
        size: int = 96,
        fps: int | Fraction = 16,
        *,
        crf: int = 23,
        **options,
) -> list[Segment]:
    """Writes a long H.264 video of actions with gaps; the file appears when it is complete.

    Args:
        path: File to write, for example `long.mp4`; its folder must exist.
        seconds: See `spliced_frames`.
        seed: See `spliced_frames`.
        size: See `spliced_frames`.
        fps: See `spliced_frames`.
        crf: Constant rate factor of the encoder: 0 is lossless, 51 worst.
        **options: Further ones of `spliced_frames`.

    Returns:
        The actions and their times.

    Raises:
        ValueError: See `spliced_frames`.
    """
    import av

    path = Path(path)
    partial = path.with_name(f'{path.name}.partial')
    kind = {'.mkv': 'matroska', '.ts': 'mpegts', '.avi': 'avi'}.get(path.suffix.lower(), 'mp4')
    segments = []
    try:
        with av.open(str(partial), 'w', format=kind) as container:
            stream = container.add_stream('libx264', rate=fps, options={'crf': str(crf), 'threads': '1'})
            stream.width = stream.height = size
            stream.pix_fmt = 'yuv420p'
            for piece, segment in spliced_frames(seconds, seed, size, fps, **options):
                if segment is not None:
                    segments.append(segment)
                for frame in piece.permute(0, 2, 3, 1).contiguous().numpy():
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
            container.mux(stream.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return segments
