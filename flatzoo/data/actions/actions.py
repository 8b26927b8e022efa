"""Procedural labelled actions: a small video data set that is rendered from a seed, without a download.

There are sixteen actions in eight pairs. One action of a pair is the other one played backwards: a clip of class
`2p + 1` is the clip of class `2p` for the same seed, with its frames in reverse order. The two classes thus have
exactly the same frames, and a model that ignores the order of frames cannot tell them apart better than chance. Only
motion can be learned.

A single frame also shows things: the shape and the texture of the object, and the texture of the place. They have
labels too, from which an image model can be trained first. Rendering needs torch. PyAV decodes, once, the real clip
from which some textures are taken.
"""
import random
from collections.abc import Callable

from torch import Tensor
from torch.utils.data import Dataset

from .scenes import SCENE_CLASSES, SPLITS, Split, describe, paint, paint_frame

__all__ = [
    'ACTIONS', 'ActionClips', 'ActionFrames', 'check_rendering', 'check_split', 'clip_seed', 'render_action',
    'reversed_label', 'scene_labels',
]

ACTIONS: tuple[str, ...] = (
    'moves left', 'moves right',
    'moves down', 'moves up',
    'approaches', 'recedes',
    'appears', 'vanishes',
    'turns clockwise', 'turns counter-clockwise',
    'passes behind from the left', 'passes behind from the right',
    'is picked up', 'is put down',
    'joins', 'separates',
)  # fmt: skip
"""Class names. The label of an action is its index here. Labels `2p` and `2p + 1` are each other reversed."""


def _label_index(label: int | str) -> int:
    if isinstance(label, str) and label in ACTIONS:
        return ACTIONS.index(label)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(ACTIONS):
        return label
    raise ValueError(
        f'unknown action {label!r}: give a label from 0 to {len(ACTIONS) - 1} or one of {", ".join(ACTIONS)}')


def reversed_label(label: int | str) -> int:
    """The label of an action played backwards.

    Args:
        label: Label or name of an action.

    Raises:
        ValueError: If there is no such action.
    """
    return _label_index(label) ^ 1


def check_split(split: str) -> None:
    """Refuses an unknown split.

    Raises:
        ValueError: If there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: give 'train' or 'test'")


def check_rendering(num_frames: int, size: int, camera_shake: float, split: str) -> None:
    """Refuses what no clip can be rendered with, see `render_action`.

    Raises:
        ValueError: If an argument lies outside its range.
    """
    if num_frames < 1 or size < 16:
        raise ValueError(
            f'cannot render {num_frames} frames of {size} pixels: give at least 1 frame of at least 16 pixels')
    if not 0 <= camera_shake <= 0.25:
        raise ValueError(f'camera_shake must be from 0 to 0.25 (share of the frame), got {camera_shake}')
    check_split(split)


def clip_seed(seed: int, index: int) -> int:
    """The seed of clip `index` in the set of a seed. Two sets of up to 2**32 clips never share a seed."""
    return (seed << 32) + index


def render_action(
        label: int | str,
        seed: int,
        num_frames: int = 16,
        size: int = 64,
        *,
        camera_shake: float = 0.0,
        split: Split = 'train',
) -> Tensor:
    """Renders one clip of an action.

    The frames are taken at the centres of `num_frames` equal segments of the action. Uniform sampling takes the same
    moments of a longer clip. The same arguments give the same bytes with any number of threads.

    Args:
        label: Label (index into `ACTIONS`) or name of the action.
        seed: Any integer. It chooses textures, shapes, places, sizes and speeds.
        num_frames: Number of frames T.
        size: Height and width in pixels, at least 16.
        camera_shake: Largest shift of a hand-held camera as a share of the frame, 0 to 0.25. 0.05 is a nervous hand.
        split: 'train' or 'test'. The splits share no scene, no texture and no pixel of the real clip, and 'test' has
            two more kinds of texture.

    Returns:
        uint8 tensor `[T, 3, size, size]`, RGB.

    Raises:
        ValueError: If an argument lies outside the range given above.
    """
    index = _label_index(label)
    check_rendering(num_frames, size, camera_shake, split)
    pair, backwards = divmod(index, 2)
    clip = paint(pair, seed, num_frames, size, camera_shake, split)
    return clip.flip(0) if backwards else clip


def scene_labels(label: int | str, seed: int, split: Split = 'train') -> dict[str, str]:
    """What the frames of a clip show besides its action.

    Args:
        label: Label or name of the action. Both actions of a pair show the same.
        seed: See `render_action`.
        split: See `render_action`.

    Returns:
        'object' is the shape of the acting object (the larger one of two that join), 'texture' the kind of its texture,
        and 'place' the kind of texture of the background. `ActionFrames.classes` has all possible values.

    Raises:
        ValueError: If an argument lies outside its range.
    """
    index = _label_index(label)
    check_split(split)
    return describe(index // 2, seed, split)


class ActionClips(Dataset):
    """Rendered clips as a map-style data set, the classes in turn.

    Args:
        num_clips: Number of clips.
        num_frames: Frames per clip, T.
        size: Height and width in pixels.
        seed: Seed of the whole set; sets of different seeds share no clip.
        split: 'train' or 'test', see `render_action`.
        camera_shake: See `render_action`.
        transform: Called on each clip as uint8 `[T, C, H, W]`, for example a torchvision v2 transform.

    Each item is the clip `[C, T, H, W]` (uint8 unless the transform changes it) and its label. `classes` holds the
    names of the labels.
    """

    classes = ACTIONS

    def __init__(
            self,
            num_clips: int,
            num_frames: int = 8,
            size: int = 64,
            *,
            seed: int = 0,
            split: Split = 'train',
            camera_shake: float = 0.0,
            transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check_split(split)
        self.num_clips = num_clips
        self.num_frames = num_frames
        self.size = size
        self.seed = seed
        self.split = split
        self.camera_shake = camera_shake
        self.transform = transform

    def __len__(self) -> int:
        return self.num_clips

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.num_clips:
            raise IndexError(f'clip {index} of {self.num_clips}')
        label = index % len(ACTIONS)
        clip = render_action(
            label,
            clip_seed(self.seed, index),
            self.num_frames,
            self.size,
            camera_shake=self.camera_shake,
            split=self.split,
        )
        if self.transform is not None:
            clip = self.transform(clip)
        return clip.transpose(0, 1), label


class ActionFrames(Dataset):
    """Single frames as a map-style data set for image classifiers, the actions in turn, each at a random moment.

    Args:
        num_frames: Number of frames in the set, each of a scene of its own.
        size: Height and width in pixels.
        seed: Seed of the whole set. Sets of other seeds, and `ActionClips` of the same seed, share no scene with it.
        split: 'train' or 'test', see `render_action`. Two kinds of texture occur only in 'test'.
        camera_shake: See `render_action`.
        zoom: Largest magnification, at least 1. Each frame draws its own between 1 and this, and shows a part of the
            picture around the object, like a photograph of an object.

    Each item is the frame, uint8 `[3, size, size]`, and its labels by name as in `scene_labels`. A label is an index
    into `classes[name]`. Sometimes the object is out of sight; such a frame does not show its label.
    """

    classes = SCENE_CLASSES

    def __init__(
            self,
            num_frames: int,
            size: int = 64,
            *,
            seed: int = 0,
            split: Split = 'train',
            camera_shake: float = 0.0,
            zoom: float = 1.0,
    ) -> None:
        check_split(split)
        if not zoom >= 1:
            raise ValueError(f'zoom must be at least 1, got {zoom}')
        self.num_frames = num_frames
        self.size = size
        self.seed = seed
        self.split = split
        self.camera_shake = camera_shake
        self.zoom = zoom

    def __len__(self) -> int:
        return self.num_frames

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, int]]:
        if not 0 <= index < self.num_frames:
            raise IndexError(f'frame {index} of {self.num_frames}')
        seed = ~clip_seed(self.seed, index)  # below 0, where no clip of a set is
        rng = random.Random(f'frame/{self.split}/{seed}')
        time, zoom = rng.random(), self.zoom ** rng.random()
        pair = index % (len(ACTIONS) // 2)
        frame, labels = paint_frame(pair, seed, time, self.size, self.camera_shake, self.split, zoom)
        return frame, {name: self.classes[name].index(label) for name, label in labels.items()}
