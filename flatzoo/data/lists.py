"""A data set as a list of labelled clips, read from the folder as its publisher lays it out.

`read_videos('ucf101', root, 'train')` is all that a user needs; each publisher has a file in `flatzoo.data.readers`.
"""
import importlib.util
import inspect
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

__all__ = [
    'Clip', 'DataError', 'NO_CLASS', 'NotThere', 'VideoList', 'class_key', 'mirrored_labels', 'parse_spec',
    'places_of_classes', 'read_videos', 'sided_classes']

Unit = Literal['frames', 'seconds']
UNITS: tuple[Unit, ...] = get_args(Unit)
Metric = Literal['top1', 'mean_class', 'map']
METRICS: tuple[Metric, ...] = get_args(Metric)
Missing = Literal['error', 'skip']
MISSING: tuple[Missing, ...] = get_args(Missing)
NO_CLASS = -1
"""The label of a clip that shows none of the classes, in a list whose clips may have several."""
SPLIT_NAMES = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validate', 'validation', 'eval'),
    'test': ('test', 'testing'),
}
"""The names that folders and lists of splits have, by the name that flatzoo gives the split."""


class DataError(ValueError):
    """A data set is not laid out as expected. The message says what was expected and what to do."""


class NotThere(DataError):
    """The folder of a data set does not have this split, or not its list."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One labelled example.

    Attributes:
        path: A video file, a folder with one image per frame, or a shard (with `member`), which may be a URL.
        label: Index into the classes of the list; `NO_CLASS` of a clip without any, which lists whose clips may have
            several classes allow.
        start: Where the clip starts in the file, counted from 0.
        end: Where it ends (excluded). None is the end of the file.
        unit: `'frames'` or `'seconds'`, of `start` and `end`.
        id: The publisher's name of the clip.
        member: Place of the clip in a shard: (name, offset in bytes, size in bytes). None outside of shards.
        group: Who or what is behind the clip, such as the person; empty if that is not known. See
            `flatzoo.data.groups`.
        labels: In a list whose clips may have several classes: all labels of this clip, `label` first; else empty.
    """

    path: str
    label: int
    start: float = 0
    end: float | None = None
    unit: Unit = 'frames'
    id: str = ''
    member: tuple[str, int, int] | None = None
    group: str = ''
    labels: tuple[int, ...] = ()

    def __post_init__(self):
        if self.unit not in UNITS:
            raise ValueError(f"the unit of a clip must be 'frames' or 'seconds', got {self.unit!r}")
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise DataError(
                f'{self.name}: a clip from {self.start} to {self.end} ({self.unit}) holds nothing. Correct the list.')

    @property
    def name(self) -> str:
        """The path, with the member of a shard behind it."""
        return self.path if self.member is None else f'{self.path}/{self.member[0]}'

    @property
    def all_labels(self) -> tuple[int, ...]:
        """All labels of the clip; one in most lists, none of a clip that shows none of the classes."""
        return self.labels or (() if self.label == NO_CLASS else (self.label,))


@dataclass(frozen=True)
class VideoList:
    """The clips of one split of a data set.

    Attributes:
        name: Name of the data set, with its fold or protocol.
        clips: The clips.
        classes: Name of each label, in Unicode's composed form (NFC); `class 0`, ... if the publisher gives no names.
        split: Name of the split.
        flip: Whether mirrored clips keep their labels.
        metric: How accuracy is reported: `'top1'`, or `'mean_class'` where all classes have the same weight, or
            `'map'` (mean average precision) where a clip may have several classes.
        depth: The depth (millimetres for Kinect) that becomes 255; 0 means "not measured". None for RGB.
        note: What a user should know, such as why `flip` is off.
        missing: Files that are listed but do not exist. They are left out of `clips`.
        root: Folder of the data set, below which its files should lie; empty if the list was made by hand.

    Raises:
        DataError: A label that no class has, two classes of one name, or an unknown metric.
    """

    name: str
    clips: tuple[Clip, ...]
    classes: tuple[str, ...]
    split: str = ''
    flip: bool = True
    metric: Metric = 'top1'
    depth: int | None = None
    note: str = ''
    missing: tuple[str, ...] = field(default=(), repr=False)
    root: str = field(default='', repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, 'clips', tuple(self.clips))
        object.__setattr__(self, 'classes', tuple(map(same_name, self.classes)))
        if self.metric not in METRICS:
            raise DataError(f'the metric must be one of {", ".join(METRICS)}, got {self.metric!r}')
        if len(set(self.classes)) < len(self.classes):
            twice = sorted({name for name in self.classes if self.classes.count(name) > 1})
            raise DataError(f'{self.name}: classes of the same name: {some(twice)}. Give each class its own name.')
        wrong = [
            clip for clip in self.clips if not all(0 <= label < len(self.classes) for label in clip.all_labels)
            or not clip.all_labels and not self.multi_label]
        if wrong:
            raise DataError(
                f'{self.name}: {len(wrong)} of {len(self.clips)} clips have labels outside 0 to '
                f'{len(self.classes) - 1}: {some(f"{clip.label} ({clip.name})" for clip in wrong)}. Labels count from '
                '0; check the list of classes.')
        if not self.multi_label and any(len(clip.labels) > 1 for clip in self.clips):
            raise DataError(f"{self.name}: some clips have several classes; such a list has the metric 'map'.")

    def __len__(self) -> int:
        return len(self.clips)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name!r}, {self.split!r}, {len(self)} clips, {len(self.classes)} classes)'

    @property
    def in_chans(self) -> int:
        """Channels of a clip: 3 (RGB) or 1 (depth)."""
        return 3 if self.depth is None else 1

    @property
    def multi_label(self) -> bool:
        """Whether a clip may have several classes."""
        return self.metric == 'map'

    def with_classes(self, names: Sequence[str]) -> 'VideoList':
        """The same clips with their labels counted as a model counts its classes.

        A class of the list is the model's class of the same name; composed and decomposed accents are the same. The
        remaining names are compared without case and without the signs between words (`class_key`). Such a pair is
        taken if each name has only one partner, and a warning names the pairs. The model may know classes that the
        list lacks. Labels without names (`class 7`) stay as they are.

        Args:
            names: Names of the model's classes, in the order of its logits.

        Raises:
            DataError: The model does not know the class of a clip, or two of its classes have the same name.
        """
        if not self.named:
            if len(self.classes) > len(names):
                raise DataError(f'{self.name} has {len(self.classes)} classes, more than the {len(names)} of the model')
            return replace(self, classes=tuple(names))
        names = tuple(map(same_name, names))
        place = {name: label for label, name in enumerate(names)}
        if len(place) < len(names):
            twice = [name for name, count in Counter(names).items() if count > 1]
            raise DataError(f"of the model's classes several have the same name: {some(twice)}")
        loose = _loosely(set(self.classes) - set(place), set(names) - set(self.classes))
        used = sorted({label for clip in self.clips for label in clip.all_labels})
        alike = [self.classes[label] for label in used if self.classes[label] in loose]
        unknown = [self.classes[label] for label in used if self.classes[label] not in {**place, **loose}]
        if unknown:
            raise DataError(
                f'{self.name}: {len(unknown)} of {len(used)} classes are unknown to the model: {some(unknown)}. The '
                f'model knows {some(names)}. Choose a model that was trained on these classes.')
        if alike:
            pairs = some(f'{name!r} as {loose[name]!r}' for name in alike)
            warnings.warn(
                f'{self.name}: {len(alike)} of {len(used)} classes have names that the model spells otherwise; their '
                f'clips count so: {pairs}.', stacklevel=2)
        new = {label: place[loose.get(self.classes[label], self.classes[label])] for label in used}
        new[NO_CLASS] = NO_CLASS
        clips = tuple(
            replace(c, label=new[c.label], labels=tuple(new[label] for label in c.labels)) for c in self.clips)
        return replace(self, clips=clips, classes=names)

    @property
    def named(self) -> bool:
        """Whether the classes have names of their own."""
        return self.classes != unnamed(len(self.classes))


def read_videos(
        spec: str,
        root: str | os.PathLike,
        split: str,
        *,
        missing: Missing = 'error',
        **options: Any,
) -> VideoList:
    """Reads the list of clips of a data set. Its folder is as its publisher lays it out. No video is opened.

        read_videos('folder', 'videos/', 'train')
        read_videos('ucf101:fold=2', 'UCF101/', 'test')
        read_videos('ntu120', 'nturgb+d/', 'train', protocol='xset', modality='depth')

    Args:
        spec: Name of a layout, see `flatzoo.data.readers.READERS`, or `'auto'` to recognise it, which is refused where
            several fit; options may follow as in `'ucf101:fold=2,missing=skip'`.
        root: Folder of the data set. For the layouts `csv` and `jsonl` also the list itself.
        split: `'train'`, `'val'` or `'test'`. A data set with one evaluation split gives it under both names. Some
            layouts know `'all'`.
        missing: What to do about listed files that do not exist. `'error'` raises. `'skip'` leaves them out, names them
            in `VideoList.missing` and warns.
        **options: Options of the layout, such as `fold`.

    Raises:
        DataError: An unknown layout, split or option, a folder that is not laid out so, or missing files.
    """
    from .groups import read_groups, with_groups
    from .readers import READERS, open_reader

    name, spec_options = parse_spec(spec)
    options = {**spec_options, **options}
    missing = options.pop('missing', missing)
    if missing not in MISSING:
        raise DataError(f"missing must be 'error' or 'skip', got {missing!r}")
    root = os.fspath(root)
    if '://' not in root and not os.path.exists(root):
        raise DataError(f'{root}: no such folder. Give the folder of the data set.')
    if name == 'auto':
        name = _recognise(root)
    if name not in READERS:
        raise DataError(f'unknown data set layout {name!r}; known are {", ".join(READERS)}, auto')
    reader, fixed = open_reader(name)
    known = [key for key in inspect.signature(reader.read).parameters if key not in ('root', 'split', *fixed)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise DataError(
            f'{name} has no option {", ".join(map(repr, unknown))}; it has {", ".join([*known, "missing"])}')
    folder = root if '://' in root else Path(root)
    videos = reader.read(folder, _split_name(name, split, reader.SPLITS), **fixed, **options)
    base = root if '://' in root or os.path.isdir(root) else os.path.dirname(root) or '.'
    videos = _without_missing(replace(videos, root=base), missing)
    if any(clip.path.lower().endswith('.mat') for clip in videos.clips) and importlib.util.find_spec('scipy') is None:
        raise DataError(f"{root}: MATLAB files are read with scipy: pip install 'flatzoo[mat]'.")
    return videos if '://' in base else with_groups(videos, read_groups(base))


def parse_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Splits `'ucf101:fold=2'` into the name of a layout and its options.

    Raises:
        DataError: An option without a value.
    """
    name, _, text = spec.partition(':')
    options = {}
    for part in filter(None, text.split(',')):
        key, equals, value = part.partition('=')
        if not equals or not key.strip() or not value.strip():
            raise DataError(f'cannot read {part!r} in {spec!r}: write options as NAME:KEY=VALUE,KEY=VALUE')
        options[key.strip()] = value.strip()
    return name.strip(), options


def same_name(name: str) -> str:
    """A class name in Unicode's composed form (NFC). macOS and some zip files store names in the decomposed form."""
    return unicodedata.normalize('NFC', name)


def class_key(name: str) -> str:
    """A class name without case and the signs between words: `'Moves_Left'` and `'moves left'` have the same key.

    Blanks, underscores, hyphens between letters, quotation marks, brackets, commas, colons, semicolons and slashes are
    left out. Everything else can tell classes apart and stays: accents and vowel signs, symbols such as `+`, `#`, `!`,
    emoji, a minus sign, and a sign between two numbers.
    """
    name = re.sub(r'(?<=\d)[\s_]+(?=\d)', '\0', same_name(name).lower())  # "1 2" is not 12
    return _BETWEEN_WORDS.sub('', name)


_BETWEEN_WORDS = re.compile(
    r"""[\s_'"()\[\]{};\u2018\u2019\u201c\u201d] | (?<!\d)[,:/] | [,:/](?!\d) | (?<=[^\W\d_])-(?=[^\W\d_])""",
    re.VERBOSE)


def places_of_classes(classes: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """The place of each class in a model's names, found as `VideoList.with_classes` does.

    Args:
        classes: Names of the classes.
        names: Names of the model's classes.

    Returns:
        Numbers into `names`; None if the model does not know all classes, or two of its names are the same.
    """
    names = tuple(map(same_name, names))
    place = {name: label for label, name in enumerate(names)}
    loose = _loosely(set(classes) - set(place), set(names) - set(classes))
    found = [loose.get(name, name) for name in classes]
    return [place[name] for name in found] if len(place) == len(names) and place.keys() >= set(found) else None


def _loosely(names: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Name -> the other name with the same key. Keys that several names or several others share are left out."""
    counts = Counter(map(class_key, names))
    found: dict[str, list[str]] = {}
    for other in others:
        found.setdefault(class_key(other), []).append(other)
    alike = {name: found.get(class_key(name), []) for name in names if counts[class_key(name)] == 1}
    return {name: one for name, (one, *more) in ((n, o) for n, o in alike.items() if o) if not more}


_SIDE = re.compile(r'(?<![a-z])(left|right|(counter|anti)?clockwise)(?![a-z])', re.IGNORECASE)


def sided_classes(classes: Iterable[str]) -> list[str]:
    """Names with a side (left, right, clockwise). In a mirrored clip they would be wrong."""
    return [name for name in classes if _SIDE.search(name)]


def mirrored_labels(classes: Sequence[str]) -> list[int]:
    """The label of each class in a mirrored clip: that of the class whose name has the other side, else its own.

    "Pulling something from left to right" becomes "pulling something from right to left", clockwise becomes
    counterclockwise. In Something-Something v2 these are the three pairs that the official code of ZeroI2V swaps.

    Args:
        classes: Names of the classes.
    """
    labels = {class_key(name): label for label, name in enumerate(classes)}
    swapped = (class_key(_SIDE.sub(_other_side, name)) for name in classes)
    return [labels.get(name, label) for label, name in enumerate(swapped)]


def _other_side(match: re.Match) -> str:
    word = match[0].lower()
    if word in ('left', 'right'):
        return 'right' if word == 'left' else 'left'
    return 'clockwise' if match[2] else 'counterclockwise'


def class_findings(lists: Sequence[VideoList]) -> list[str]:
    """What looks wrong about the classes of the splits of a data set, a line each: classes without clips and the like.

    Args:
        lists: The splits.
    """
    found = []
    used = {
        videos.split: {videos.classes[label] for clip in videos.clips for label in clip.all_labels} for videos in lists}
    everything = set().union(*used.values())
    if len(everything) == 1:
        found.append(f'all clips are of one class ({next(iter(everything))}): there is nothing to tell apart')
    for videos in lists:
        if empty := sorted((everything | set(videos.classes)) - used[videos.split], key=_natural):
            line = f'{videos.split}: {len(empty)} of {len(videos.classes)} classes have no clip: {some(empty, 10)}'
            if not videos.named and videos.classes[0] not in everything:
                line += '; labels count from 0, and these seem to count from 1'
            found.append(line)
    return found


def _natural(name: str) -> list:
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in re.split(r'(\d+)', name)]


def generic_list(name: str, split: str, clips: Sequence[Clip], classes: Sequence[str], **fields: Any) -> VideoList:
    """A `VideoList` whose `flip` and `note` follow from the names of its classes and from its clips."""
    sided = sided_classes(classes)
    note = ''
    if sided:
        note = f'no horizontal flip: labels have sides ({some(sided, 2)})'
    elif tuple(classes) == unnamed(len(classes)):
        note = 'the classes have no names; if labels have sides, switch the horizontal flip off'
    if none := sum(not clip.all_labels for clip in clips):
        note += f'{"; " * bool(note)}{none} of {len(clips)} clips have an empty label and count as clips of no class'
    return VideoList(name, tuple(clips), tuple(classes), split, not sided, note=note, **fields)


def unnamed(count: int) -> tuple[str, ...]:
    """Names for classes that have no names of their own: `class 0`, `class 1`, ..."""
    return tuple(f'class {label}' for label in range(count))


def some(names: Iterable[Any], count: int = 5) -> str:
    """The first few of many names, for a message."""
    names = [str(name) for name in names]
    rest = len(names) - count
    return ', '.join(names[:count]) + (f' and {rest} more' if rest > 0 else '')


def _split_name(name: str, split: str, splits: tuple[str, ...]) -> str:
    asked = next((own for own, names in SPLIT_NAMES.items() if split in names), split)
    if asked in splits:
        return asked
    evaluation = [own for own in splits if own in ('val', 'test')]
    if asked in ('val', 'test') and len(evaluation) == 1:
        return evaluation[0]
    raise NotThere(f'{name} has no split {split!r}; it has {", ".join(splits)}')


def _recognise(root: str) -> str:
    from .readers import GENERIC, READERS, open_reader
    from .readers.folder import has_several_classes

    if '://' in root:
        return 'wds'
    for names in ([name for name in READERS if name not in GENERIC], GENERIC):
        fitting = []
        for name in names:
            reader, fixed = open_reader(name)
            if reader.matches(Path(root), **fixed):
                fitting.append(name)
        if len(fitting) > 1 and not has_several_classes(Path(root)):
            fitting = [name for name in fitting if name not in ('folder', 'frames')]
        if len(fitting) > 1:  # each would give other clips or other labels
            raise DataError(
                f'{root}: looks like {" and like ".join(fitting)} at once, so auto cannot choose. Name the layout in '
                f'place of auto ({", ".join(fitting)}), or remove what does not belong there.')
        if fitting:
            return fitting[0]
    raise DataError(
        f'{root}: no known layout. Looked for {", ".join(READERS)}. Put the videos of each class into a folder of its '
        'own, or write a CSV file with the columns path and label.')


def _without_missing(videos: VideoList, missing: Missing) -> VideoList:
    """Looks for missing files by listing each folder once. A look at each file would take minutes on a network.

    A file also counts as found if its name has the other form of the accents (macOS), or backslashes (Windows).
    """
    listings: dict[str, dict[str, str]] = {}

    def listing(folder: str) -> dict[str, str]:
        if folder not in listings:
            try:
                listings[folder] = {same_name(name): name for name in os.listdir(folder or '.')}
                listings[folder] |= {name: name for name in listings[folder].values()}
            except OSError:
                parent, name = os.path.split(folder)
                other = listing(parent).get(same_name(name), name) if name and not folder.isascii() else name
                listings[folder] = listing(os.path.join(parent, other)) if other != name else {}
                folders[folder] = os.path.join(parent, other)
        return listings[folder]

    def find(path: str) -> str | None:
        folder, name = os.path.split(path)
        names = listing(folder)
        found = names.get(name) or names.get(same_name(name))
        if found is None:
            return find(path.replace('\\', '/')) if '\\' in path and os.sep == '/' else None
        return path if found == name and folder not in folders else os.path.join(folders.get(folder, folder), found)

    folders: dict[str, str] = {}  # as listed -> as they are

    if not videos.clips:
        raise NotThere(f'{videos.name}: the split {videos.split} has no clips. Check the folder and its lists.')
    places = [clip.path if '://' in clip.path else find(clip.path) for clip in videos.clips]
    present = tuple(
        clip if clip.path == place else replace(clip, path=place)
        for clip, place in zip(videos.clips, places, strict=True) if place is not None)
    if len(present) == len(videos):
        return videos if present == videos.clips else replace(videos, clips=present)
    gone = tuple(clip.path for clip, place in zip(videos.clips, places, strict=True) if place is None)
    text = f'{videos.name}, {videos.split}: {len(gone)} of {len(videos)} files are missing: {some(gone)}.'
    if not present:
        raise DataError(f'{text} Check that this is the folder of the data set.')
    if missing == 'error':
        raise DataError(f'{text} Get them, or go on without them by the option missing=skip.')
    warnings.warn(f'{text} They are left out.', stacklevel=3)
    return replace(videos, clips=present, missing=gone)
