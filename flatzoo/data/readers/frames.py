"""One folder per class, one folder of images per clip: `root/CLASS/CLIP/00001.jpg`, or with `train/` and `val/` above.

Frames are sorted by the numbers in their names. A folder holds one series of frames, so optical flow must lie in
folders of its own. The splits are those of the layout `folder`.
"""
from pathlib import Path

from ..files import frame_folders_below
from ..lists import VideoList
from .folder import SPLITS as SPLITS, holds_classes, read_classes


def matches(root: Path) -> bool:
    """Whether the folders of the classes hold folders with images."""
    return holds_classes(root, frame_folders_below)


def read(root: Path, split: str, val_share: float | None = None, seed: int = 0) -> VideoList:
    """The frame folders. `val_share`, in (0, 1), and `seed` divide a root that has no folders for splits."""
    return read_classes('frames', root, split, frame_folders_below, val_share, seed)
