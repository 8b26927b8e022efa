"""A list of your own: CSV with a header, or JSONL with one object per line.

Columns: `path` (a video or a folder of frames, from the folder of the list on) and `label` (a name, or a number from
0); and where wanted `split`, `id`, and the part of the file that is the clip, `start` and `end` in frames from 0 (end
excluded) or `start_time` and `end_time` in seconds. CSV may be separated by commas, semicolons or tabs; without a
header it has the columns path and label, also separated by a blank, as the lists of many video libraries.

The list is `train.csv` or `val.csv` in the root, or one list with the column `split`; of one list without it
everything is the split `all`. Classes are the sorted names; those of numbers stand in `classes.txt` or `labels.txt`
beside the list, one a line, if there is one.
"""
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import bad_line, first_file, read_lines, read_text, to_int
from ..lists import SPLIT_NAMES, Clip, DataError, NotThere, VideoList, generic_list, unnamed

SPLITS = ('train', 'val', 'test', 'all')
_PATHS, _LABELS = ('path', 'video', 'file', 'filename'), ('label', 'class', 'action')


def matches(root: Path, kind: str) -> bool:
    """Whether there is a list of this kind."""
    lists = _lists(root, kind)
    try:
        return bool(lists) and next(_rows(next(iter(lists.values())), kind), None) is not None
    except DataError:
        return False


def read(root: Path, split: str, kind: str) -> VideoList:
    """The clips of a list; `root` is its folder or the list itself."""
    lists = _lists(root, kind)
    if not lists:
        raise DataError(f'{root}: has no list such as train.{kind}. Write one with the columns path and label.')
    rows = [
        (path, number, own or _SPLIT_OF.get(str(row.get('split')), row.get('split')), row)
        for own, path in lists.items()
        for number, row in _rows(path, kind)
    ]
    if split != 'all':
        known = sorted({own for _, _, own, _ in rows if own})
        if split not in known and split in ('val', 'test') and len({'val', 'test'} & set(known)) == 1:
            split = next(iter({'val', 'test'} & set(known)))  # the one evaluation split that there is
        if split not in known:
            raise NotThere(
                f"{root}: has no split {split}. It has {', '.join([*known, 'all'])}; name the lists train.{kind} and "
                f'val.{kind}, or add a column split.')
    labels = [row['label'] for *_, row in rows]
    numbered = all(isinstance(label, int) or str(label).isdecimal() for label in labels)
    folder = root if root.is_dir() else root.parent
    classes = _classes(folder, labels, numbered)
    label_of = {name: label for label, name in enumerate(classes)}
    clips = []
    for path, number, own, row in rows:
        if split in (own, 'all'):
            if not numbered and row['label'] not in label_of:
                raise bad_line(path, number, f'the class {row["label"]!r} is not in the list of classes')
            label = int(row['label']) if numbered else label_of[row['label']]
            clips.append(_clip(path, number, row, folder, label))
    return generic_list(kind, split, clips, classes)


_SPLIT_OF = {name: own for own, names in SPLIT_NAMES.items() for name in names}


def _lists(root: Path, kind: str) -> dict[str | None, Path]:
    """Lists by split; None where the list itself says it, or nothing does."""
    if root.is_file():
        return {None: root} if root.suffix.lower() == f'.{kind}' else {}
    lists = {
        own: path for own, names in SPLIT_NAMES.items()
        if (path := first_file(root, *(f'{name}.{kind}' for name in names)))
    }  # fmt: skip
    if not lists and len(others := sorted(root.glob(f'*.{kind}'))) == 1:
        lists = {None: others[0]}
    return lists


def _rows(path: Path, kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows that have a path and a label under these names."""
    for number, row in _csv_rows(path) if kind == 'csv' else _json_rows(path):
        for wanted, names in (('path', _PATHS), ('label', _LABELS)):
            value = next((row[name] for name in names if row.get(name) not in (None, '')), None)
            if value is None:
                raise bad_line(path, number, f'there is no {wanted}')
            row[wanted] = value
        if not isinstance(row['path'], str):
            raise bad_line(path, number, f'the path should be text, it is {row["path"]!r}')
        if isinstance(row['label'], list | dict | float | bool):
            raise bad_line(path, number, f'the label should be a name or a whole number, it is {row["label"]!r}')
        yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    text = read_text(path)
    head = text.partition('\n')[0]
    separator = max(',;\t', key=head.count)
    names = [name.strip().lower() for name in next(csv.reader([head], delimiter=separator), ())]
    if not set(names) & set(_PATHS) or not set(names) & set(_LABELS):
        if separator in head and len(names) != 2:
            raise DataError(
                f'{path}: its columns are {", ".join(names)}. Write a header that names path and label among them.')
        for number, line in read_lines(path):
            parts = next(csv.reader([line], delimiter=separator)) if separator in head else line.rsplit(None, 1)
            if len(parts) != 2:
                raise bad_line(path, number, 'should be a path and a label')
            yield number, {'path': parts[0].strip(), 'label': parts[1].strip()}
        return
    reader = csv.DictReader(text.splitlines(), fieldnames=names, delimiter=separator, skipinitialspace=True)
    next(reader)
    for row in reader:
        yield reader.line_num, {key: value.strip() for key, value in row.items() if key and isinstance(value, str)}


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise bad_line(path, number, f'is not JSON ({error})') from None
        if not isinstance(row, dict):
            raise bad_line(path, number, 'should be an object')
        yield number, row


def _classes(folder: Path, labels: list[Any], numbered: bool) -> tuple[str, ...]:
    path = first_file(folder, 'classes.txt', 'labels.txt')
    if path is not None:
        return tuple(line for _, line in read_lines(path))
    return unnamed(max(map(int, labels)) + 1) if numbered else tuple(sorted(set(map(str, labels))))


def _clip(path: Path, number: int, row: dict[str, Any], folder: Path, label: int) -> Clip:
    def value(name: str) -> Any:
        return row[name] if row.get(name) not in (None, '') else None

    target = row['path'] if '://' in row['path'] else str(folder / row['path'])  # an absolute path stays
    name = str(value('id') or row['path'])
    frames = value('start'), value('end')
    times = value('start_time'), value('end_time')
    if times == (None, None):
        start, end = (None if one is None else to_int(one, path, number, 'a frame') for one in frames)
        return Clip(target, label, start or 0, end, 'frames', name)
    if frames != (None, None):
        raise bad_line(path, number, 'gives its start or end in frames and in seconds')
    try:
        start, end = (None if one is None else float(one) for one in times)
    except (TypeError, ValueError):
        raise bad_line(path, number, f'start_time and end_time should be seconds, they are {times}') from None
    return Clip(target, label, start or 0, end, 'seconds', name)
