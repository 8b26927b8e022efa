"""Helpers for all readers: finding files, and reading lists with errors that name file and line."""
import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .lists import SPLIT_NAMES, DataError, NotThere

VIDEO_SUFFIXES = frozenset(
    '.3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .m2ts .m2v .m4v .mjpeg .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .rm '
    '.rmvb .ts .vob .webm .webp .wmv .y4m'.split()
)
ARRAY_SUFFIXES = frozenset(('.mat', '.npy', '.npz'))
IMAGE_SUFFIXES = frozenset('.bmp .jpeg .jpg .png .tif .tiff .webp'.split())


_LEFT_BY_SYSTEMS = frozenset(
    ('__MACOSX', '@eaDir', '#recycle', '$RECYCLE.BIN', 'System Volume Information', 'lost+found', '__pycache__'))


def is_video(name: str) -> bool:
    """Whether a file name is that of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES and not name.startswith('.')


def is_array(name: str) -> bool:
    """Whether a file name is that of an array of NumPy or MATLAB."""
    return os.path.splitext(name)[1].lower() in ARRAY_SUFFIXES and not os.path.basename(name).startswith('.')


def is_image(name: str) -> bool:
    """Whether a file name is that of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not os.path.basename(name).startswith('.')


def natural_key(name: str) -> tuple:
    """Sorts `frame10` behind `frame9`, `frame` before `frame1`, and `IMG_2` behind `img_1`."""
    stem, suffix = os.path.splitext(name)
    return [(1, int(part), '') if part.isdecimal() else (0, 0, part) for part in _pieces(stem)], suffix, name


def _pieces(stem: str) -> list[str]:
    return re.split(r'(\d+)', stem.casefold())


def frame_order(names: Iterable[str]) -> list[str]:
    """The images among the files of a folder, in the order of the numbers in their names.

    Raises:
        DataError: There are several series of frames with the same numbers, such as `img_00001.jpg` beside
            `flow_x_00001.jpg`, or `1.png` beside `1.jpg`.
    """
    names = sorted(filter(is_image, names), key=natural_key)
    series: dict[tuple, dict[tuple, str]] = {}  # by what the names have beside their numbers
    for name in names:
        stem, suffix = os.path.splitext(name)
        pieces = _pieces(stem)
        numbers = tuple(map(int, pieces[1::2]))
        if numbers:
            series.setdefault((*pieces[::2], suffix.lower()), {}).setdefault(numbers, name)
    taken: dict[tuple, str] = {}
    for members in series.values():
        for numbers, name in members.items():
            if taken.setdefault(numbers, name) != name:
                raise DataError(
                    f'holds several series of frames: {taken[numbers]} and {name} have the same number. Put each '
                    'series into a folder of its own.')
    return names


def is_ours(name: str) -> bool:
    """Whether a folder is the user's: neither hidden nor left behind by a system, as `__MACOSX` is by zip files."""
    return not name.startswith('.') and name not in _LEFT_BY_SYSTEMS


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones and those of systems left out."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_ours(entry.name) and entry.is_dir())


def videos_below(folder: Path) -> Iterator[str]:
    """Paths of the videos at any depth of a folder, sorted within each folder."""
    yield from _files_below(folder, is_video)


def arrays_below(folder: Path) -> Iterator[str]:
    """Paths of the arrays of NumPy and MATLAB at any depth of a folder, sorted within each folder."""
    yield from _files_below(folder, is_array)


def _files_below(folder: Path, wanted: Callable[[str], bool]) -> Iterator[str]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(filter(is_ours, folders))
        yield from (os.path.join(here, name) for name in sorted(names) if wanted(name))


def frame_folders_below(folder: Path) -> Iterator[str]:
    """Paths of the folders that hold images, at any depth below a folder."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(filter(is_ours, folders))
        if here != str(folder) and any(map(is_image, names)):
            folders.clear()
            yield here


def first_dir(root: Path, *names: str) -> Path:
    """The first of some folders that is there; the root itself if none is."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def first_file(root: Path, *patterns: str) -> Path | None:
    """The first file that one of some patterns matches, None if there is none."""
    return next((path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()), None)


def need_file(data_set: str, root: Path, *patterns: str) -> Path:
    """`first_file`, or an error that says what was looked for."""
    path = first_file(root, *patterns)
    if path is None:
        raise NotThere(
            f'{root}: {data_set} has a file {" or ".join(patterns)} here, and it is missing. Give the folder of the '
            "data set with the publisher's lists in it.")
    return path


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split under any of its usual names."""
    return next((root / name for name in SPLIT_NAMES[split] if (root / name).is_dir()), None)


def read_text(path: Path) -> str:
    """Text of a list."""
    try:
        return path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f'{path}: cannot be read as text ({error}). Get the file again.') from None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Numbers (from 1) and text of the lines that are not empty."""
    return [(n, line.strip()) for n, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]


def read_json(path: Path, kind: type) -> Any:
    """A JSON file whose top is of the given kind."""
    try:
        value = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f'{path}: is not JSON ({error}). Get the file again.') from None
    if not isinstance(value, kind):
        raise DataError(f'{path}: should hold a {kind.__name__}, it holds a {type(value).__name__}.')
    return value


def read_table(path: Path, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows of a CSV file with a header.

    Raises:
        DataError: A column that is not there, or a row that is too short.
    """
    reader = csv.DictReader(read_text(path).splitlines(), skipinitialspace=True)
    lacking = [name for name in columns if name not in (reader.fieldnames or ())]
    if lacking:
        raise DataError(f'{path}: has no column {", ".join(lacking)}; it has {", ".join(reader.fieldnames or ())}.')
    for row in reader:
        if any(row[name] is None for name in columns):
            raise bad_line(path, reader.line_num, f'should have {len(reader.fieldnames)} columns')
        yield reader.line_num, row


def bad_line(path: Path, number: int, why: str) -> DataError:
    """The error of a line of a list."""
    return DataError(f'{path}, line {number}: {why}. Correct the line or get the list again.')


def to_int(text: Any, path: Path, number: int, what: str) -> int:
    """An integer of a list, also written as `3.0`."""
    try:
        value = float(text)
        if value == int(value):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise bad_line(path, number, f'{what} should be a whole number, it is {text!r}')


def depth_option(value: Any) -> int | None:
    """The option `depth` of a layout: the reading that becomes 255, None for RGB.

    Raises:
        DataError: It is no whole number of at least 1.
    """
    if value is None or (isinstance(value, int) and value >= 1):
        return value
    if not str(value).isdecimal() or int(value) < 1:
        raise DataError(
            f'depth must be the reading that becomes 255, a whole number of at least 1 such as 4000 for millimetres up '
            f'to four metres, got {value!r}')
    return int(value)


def choose(name: str, value: Any, choices: Iterable[str]) -> str:
    """An option out of some.

    Raises:
        DataError: Another value.
    """
    choices = [str(choice) for choice in choices]
    if str(value) not in choices:
        raise DataError(f'{name} must be one of {", ".join(choices)}, got {value!r}')
    return str(value)
