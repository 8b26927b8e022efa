"""One folder per class: `root/CLASS/*.mp4`, or `root/train/CLASS/*.mp4` beside `root/val/` and `root/test/`.

The classes are the sorted names of the folders. If there is a train folder, its classes come first. Classes that only
another split has come behind them; a model that was trained on the train folder cannot know them.

A folder without splits has the split `all`. With `val_share=0.2` a fifth of each class is the split `val`, and the rest
is the split `train`. Every run makes the same division. With `depth=4000` the files are depth maps in arrays, of which
the reading 4000 becomes 255.
"""
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from ..files import arrays_below, depth_option, split_folder, subfolders, videos_below
from ..lists import SPLIT_NAMES, Clip, DataError, NotThere, VideoList, generic_list, same_name, some

SPLITS = ('train', 'val', 'test', 'all')


def matches(root: Path) -> bool:
    """Whether the folders of `root`, or of its train or val folder, hold videos."""
    return holds_classes(root, videos_below)


def read(
        root: Path, split: str, val_share: float | None = None, seed: int = 0, depth: int | None = None) -> VideoList:
    """The videos of a folder.

    Args:
        root: The folder.
        split: The split.
        val_share: Share of a folder without split folders that is its split val, in (0, 1).
        seed: Of this division.
        depth: The reading that becomes 255 of depth maps, which are arrays of NumPy or MATLAB (`.npy`, `.npz`, `.mat`)
            in place of videos, see `flatzoo.data.array_file`.
    """
    find = videos_below if depth is None else arrays_below
    return read_classes('folder', root, split, find, val_share, seed, depth)


def holds_classes(root: Path, find: Callable[[Path], Iterable[str]]) -> bool:
    """Whether `find` finds anything in the folder of any class."""
    if not root.is_dir():
        return False
    return any(next(iter(find(base / name)), None) for base in _bases(root) for name in subfolders(base))


def has_several_classes(root: Path) -> bool:
    """Whether there are folders of splits or of two classes; one alone may be where the files of a list lie."""
    return root.is_dir() and (_bases(root) != [root] or len(subfolders(root)) > 1)


def _bases(root: Path) -> list[Path]:
    """Folders that hold those of the classes."""
    return [folder for folder in map(lambda own: split_folder(root, own), SPLIT_NAMES) if folder] or [root]


def read_classes(
        layout: str,
        root: Path,
        split: str,
        find: Callable[[Path], Iterable[str]],
        val_share: float | None,
        seed: int,
        depth: int | None = None,
) -> VideoList:
    """The clips that `find` finds in the folder of each class."""
    depth = depth_option(depth)
    if not root.is_dir():
        raise DataError(f'{root}: is a file. Give the folder that holds the folders of the classes.')
    folders = {own: folder for own in SPLIT_NAMES if (folder := split_folder(root, own))}
    if folders:
        if split not in folders and split in ('val', 'test') and len(folders.keys() & {'val', 'test'}) == 1:
            split = next(iter(folders.keys() & {'val', 'test'}))  # the only evaluation split
        if val_share is not None:
            raise DataError(f'{root}: has folders of splits ({some(folders)}); leave val_share out')
        if split not in folders and split != 'all':
            raise NotThere(f'{root}: there is no folder for the split {split}, only for {some(folders)}.')
        bases = list(folders.values()) if split == 'all' else [folders[split]]
        classes = subfolders(folders.get('train', bases[0]))
        classes += sorted({name for base in bases for name in subfolders(base)} - set(classes))
    else:
        bases, classes = [root], subfolders(root)
        if split != 'all' and val_share is None:
            raise NotThere(
                f'{root}: has no folders for its splits. Put the classes into train/ and val/, divide them with the '
                "option val_share=0.2, or take everything as the split 'all'.")
        if split == 'test':
            raise NotThere(f'{root}: val_share divides into train and val; there is no test')
    if not classes:
        raise DataError(f'{root}: has no folders. Put the videos of each class into a folder of its own.')
    share = None if split == 'all' or folders else _share(val_share)
    classes = list(dict.fromkeys(map(same_name, classes)))  # Unicode has two forms of an accent; both can be here
    spellings: dict[str, list[Path]] = {}
    for base in bases:
        for name in subfolders(base):
            spellings.setdefault(same_name(name), []).append(base / name)
    clips = []
    for label, name in enumerate(classes):
        found = [path for place in spellings.get(name, ()) for path in find(place)]
        if share is not None:
            count = min(max(round(len(found) * share), 1), len(found))
            held_out = set(random.Random(f'{seed}/{name}').sample(found, count))
            found = [path for path in found if (path in held_out) == (split == 'val')]
        clips += [Clip(path, label, id=Path(path).relative_to(root).as_posix()) for path in found]
    return generic_list(layout, split, clips, classes, depth=depth)


def _share(value: float | str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise DataError(f'val_share must be a number between 0 and 1, got {value!r}')
    return share
