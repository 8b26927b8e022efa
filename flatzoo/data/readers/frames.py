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


def read(
        root: Path, split: str, val_share: float | None = None, seed: int = 0, depth: int | None = None) -> VideoList:
    """The frame folders.

    Args:
        root: The folder.
        split: The split.
        val_share: Share of a root without split folders that is its split val, in (0, 1).
        seed: Of this division.
        depth: The images are depth maps of 16 bits, and this reading becomes 255.
    """
    return read_classes('frames', root, split, frame_folders_below, val_share, seed, depth)
