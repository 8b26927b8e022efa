"""Forty-eight verbs and 'nothing': the larger set of procedural actions, for a training that serves other videos.

The first sixteen verbs are those of `ACTIONS`, in more renderings. Sixteen more pairs show articulated figures, and
hands beside objects. As there, one verb of a pair is the other one played backwards: the two have the same frames, and
only their order tells them apart. The last class is 'nothing': stillness, aimless motion, empty places, cuts, and
cameras that move over them.

Pictures are textured, grey, like those of a depth camera, or silhouettes. The camera may shake, pan and zoom. A seed
determines everything, on any number of threads.
"""
import math
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .actions import ACTIONS, check_rendering, check_split, clip_seed
from .plots import NEW_PAIRS, PLOTS, fidgets, thing
from .scenes import Split, paint_stretch
from .splice import NOTHING, render_nothing
from .stage import Camera, Part, Stage

__all__ = ['VERBS', 'VerbClips', 'mirrored_verb', 'paint_verb', 'render_verb', 'reversed_verb']

VERBS: tuple[str, ...] = (*ACTIONS, *(name for pair in NEW_PAIRS for name in pair), NOTHING)
"""Class names: 24 pairs, whose labels `2p` and `2p + 1` are each other reversed, and the class 'nothing'."""

_OLD = len(ACTIONS) // 2
_PAIRS = len(VERBS) // 2
_SIDES = [VERBS.index(name) // 2 for name in (
    'moves left', 'turns clockwise', 'passes behind from the left', 'draws a circle clockwise')]
_ONE_SIDED = VERBS.index('draws a tick') // 2


def _label_index(label: int | str) -> int:
    if isinstance(label, str) and label in VERBS:
        return VERBS.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(VERBS):
        return label
    raise ValueError(f'unknown verb {label!r}: give a label from 0 to {len(VERBS) - 1} or one of {", ".join(VERBS)}')


def reversed_verb(label: int | str) -> int:
    """The label of a verb played backwards; 'nothing' stays what it is.

    Args:
        label: Label or name of a verb.

    Raises:
        ValueError: If there is no such verb.
    """
    index = _label_index(label)
    return index if VERBS[index] == NOTHING else index ^ 1


def mirrored_verb(label: int | str) -> int | None:
    """The label of a verb in a mirror, left for right. None if that has no name.

    Args:
        label: Label or name of a verb.

    Raises:
        ValueError: If there is no such verb.
    """
    index = _label_index(label)
    if index // 2 == _ONE_SIDED:
        return None
    return index ^ 1 if index // 2 in _SIDES else index


def render_verb(
        label: int | str,
        seed: int,
        num_frames: int = 16,
        size: int = 64,
        *,
        camera_shake: float = 0.0,
        split: Split = 'train',
        stretch: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Renders one clip of a verb.

    Args:
        label: Label (index into `VERBS`) or name of the verb.
        seed: Any integer. It chooses the scene, the rendering and the speed.
        num_frames: Number of frames T, at the centres of as many equal segments.
        size: Height and width in pixels, at least 16.
        camera_shake: Largest shift of a hand-held camera as a share of the frame, 0 to 0.25. With it the camera of the
            figures and hands also pans and zooms.
        split: 'train' or 'test': they share no scene, and 'test' has more kinds of texture.
        stretch: Start and end of what is shown, in lengths of the action. Before 0 and after 1 the scene rests.

    Returns:
        uint8 tensor `[T, 3, size, size]`, RGB.

    Raises:
        ValueError: If an argument lies outside the range given above.
    """
    index = _label_index(label)
    start, stop = stretch
    if not start < stop:
        raise ValueError(f'cannot render over {stretch}: give a stretch that begins before it ends')
    check_rendering(num_frames, size, camera_shake, split)
    if VERBS[index] == NOTHING:
        return _nothing(seed, num_frames, size, camera_shake, split)
    pair, backwards = divmod(index, 2)
    if backwards:
        start, stop = 1 - stop, 1 - start
    times = [start + (stop - start) * (i + 0.5) / num_frames for i in range(num_frames)]
    clip = paint_verb(pair, seed, times, times, size, camera_shake, split)
    return clip.flip(0) if backwards else clip


def paint_verb(
        pair: int,
        seed: int,
        times: list[float],
        camera_times: list[float],
        size: int,
        camera_shake: float,
        split: str,
        acting: bool = True,
) -> Tensor:
    """Paints moments of the even verb of a pair: uint8 `[T, 3, size, size]`. Arguments as for `paint_stretch`."""
    rng = random.Random(f'verb/{split}/{pair}/{seed}')
    if pair < _OLD:
        return _paint_old(rng, pair, seed, times, camera_times, size, camera_shake, split, acting)
    stage = Stage(rng, split)
    progress = _progress(rng)
    camera = _camera(rng, camera_shake, camera_times)
    clock = np.array([*camera_times, 0.5])
    steps = np.array([progress(t) for t in (*times, 0.5)])
    clutter = _clutter(rng, stage, clock)
    actors = PLOTS[pair - _OLD](rng, stage, steps, clock) if acting else fidgets(rng, stage, clock)
    return _show(stage, [*clutter, *actors], camera, size)


def _show(stage: Stage, parts: list[Part], camera: Camera, size: int) -> Tensor:
    """Paints parts without their last moment, which is not shown."""
    shown = [part._replace(**{
        name: getattr(part, name)[:-1] for name in ('a', 'b', 'radius', 'other', 'near')}) for part in parts]
    return stage.paint(shown, camera, size)


def _progress(rng: random.Random) -> Callable[[float], float]:
    """As that of the sixteen actions: from 0 to 1 with a rest before and after and some easing."""
    start, stop, ease = rng.uniform(0, 0.15), rng.uniform(0.85, 1), rng.random()

    def progress(t: float) -> float:
        s = min(max((t - start) / (stop - start), 0.0), 1.0)
        return s + ease * (s * s * (3 - 2 * s) - s)

    return progress


def _camera(rng: random.Random, shake: float, times: list[float]) -> Camera:
    waves = [[(rng.uniform(0.5, 4), rng.uniform(0, math.tau)) for _ in range(3)] for _ in range(3)]
    pan_x, pan_y, zoom = (rng.choice((0, rng.uniform(-1, 1))) for _ in range(3))
    x, y, roll = ([sum(math.sin(math.tau * f * t + p) for f, p in wave) / 3 * shake for t in times] for wave in waves)
    past = np.clip(np.array(times) - 0.5, -2, 2) * shake
    return Camera(
        2 * np.array(x) + 3 * pan_x * past, 2 * np.array(y) + 2 * pan_y * past, 1 + 2 * zoom * np.clip(past, -0.2, 0.2),
        np.array([math.cos(angle) for angle in roll]), np.array([math.sin(angle) for angle in roll]))


def _clutter(rng: random.Random, stage: Stage, clock: np.ndarray) -> list[Part]:
    """Things that stand or drift and mean nothing."""
    parts = []
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        size, drift = rng.uniform(0.08, 0.3), rng.choice((0, 0, 0.1))
        way = np.array([rng.uniform(-drift, drift), rng.uniform(-drift, drift)])
        spot = np.array([rng.uniform(-0.95, 0.95), rng.uniform(-0.95, 0.95)])
        part = thing(rng, stage, spot + (clock - 0.5)[:, None] * way, size, rng.uniform(-0.6, 0.1), False)
        parts.append(part)
    return parts


def _paint_old(rng, pair, seed, times, camera_times, size, shake, split, acting) -> Tensor:
    """One of the sixteen actions, half of the time as they are, else in another look."""
    look = rng.choice(('colour', 'colour', 'colour', 'grey', 'depth', 'silhouette'))
    bright, level, step = rng.random() < 0.7, rng.uniform(0, 0.2), rng.uniform(0.12, 0.25)
    flat = rng.random() < 0.5

    def repaint(number: int, actor: int, pixels: Tensor) -> Tensor:
        if number == 0 and look == 'silhouette' and not flat:
            return pixels
        tone = level if number == 0 else 0.25 + 0.04 * number if actor < 0 else min(1.0, 0.55 + step * actor)
        tone = tone if bright or look == 'depth' else 1 - tone
        return torch.cat((torch.full_like(pixels[:3], tone), pixels[3:]))

    clip = paint_stretch(
        pair, seed, times, camera_times, size, shake, split, acting,
        repaint if look in ('depth', 'silhouette') else None)
    return clip if look in ('colour', 'depth') else clip[:, 1:2].repeat(1, 3, 1, 1)


def _nothing(seed: int, num_frames: int, size: int, shake: float, split: str) -> Tensor:
    """A clip in which no verb happens."""
    rng = random.Random(f'no verb/{split}/{seed}')
    kind = rng.choice(('old', 'still', 'still', 'fidgets', 'fidgets', 'empty', 'cut'))
    clock = [(i + 0.5) / num_frames for i in range(num_frames)]
    if kind == 'old':
        return render_nothing(seed, num_frames, size, camera_shake=shake, split=split)
    if kind == 'empty':
        stage = Stage(rng, split)
        return _show(stage, _clutter(rng, stage, np.array([*clock, 0.5])), _camera(rng, shake, clock), size)
    pair, place = rng.randrange(_PAIRS), float(rng.random() < 0.5)
    if kind == 'fidgets':
        pair = rng.randrange(_OLD, _PAIRS)
        return paint_verb(pair, seed, clock, clock, size, shake, split, acting=False)
    if kind == 'still' or num_frames == 1:
        return paint_verb(pair, seed, [place] * num_frames, clock, size, shake, split)
    cut, other = rng.randint(1, num_frames - 1), rng.randrange(_PAIRS)
    return torch.cat([
        paint_verb(pair, seed, [place] * cut, clock[:cut], size, shake, split),
        paint_verb(other, ~seed, [1 - place] * (num_frames - cut), clock[cut:], size, shake, split)])


class VerbClips(Dataset):
    """Rendered clips of the verbs as a map-style data set, the classes in turn.

    Args:
        num_clips: Number of clips.
        num_frames: Frames per clip, T.
        size: Height and width in pixels.
        seed: Seed of the whole set, at least 0; sets of different seeds share no clip.
        split: See `render_verb`.
        camera_shake: See `render_verb`.

    Each item is the clip, uint8 `[C, T, H, W]`, and its label. `classes` holds the names of the labels.
    """

    classes = VERBS

    def __init__(
            self, num_clips: int, num_frames: int = 8, size: int = 32, *, seed: int = 0, split: Split = 'train',
            camera_shake: float = 0.0,
    ) -> None:
        check_split(split)
        self.num_clips, self.num_frames, self.size = num_clips, num_frames, size
        self.seed, self.split, self.camera_shake = seed, split, camera_shake

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.num_clips:
            raise IndexError(f'clip {index} of {self.num_clips}')
        label = index % len(VERBS)
        clip = render_verb(
            label, clip_seed(self.seed, index), self.num_frames, self.size, camera_shake=self.camera_shake,
            split=self.split)
        return clip.transpose(0, 1), label
