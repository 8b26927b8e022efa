"""A list of your own: CSV with a header, or JSONL with one object per line.

Two columns are needed. `path` is a video or a folder of frames, relative to the folder of the list. `label` is a name,
or a number from 0. Other common words for these are understood (`video_path`, `filename`, `class_id`, ...). Further
columns are optional: `split`, `id`, `group` (the person or whatever else makes clips alike, see `flatzoo.data.groups`),
and the part of the file that is the clip. That part is `start` and `end` in frames from 0 (end excluded), or
`start_time` and `end_time` in seconds.

CSV may be separated by commas, semicolons, tabs or blanks. Without a header its columns are path and label, or path,
number of frames and label, as in the lists of many video libraries. The number of frames is not used; the files tell
it.

A clip may have several classes: `label` is then `a|b`, in JSONL also a list. One such clip is enough for the list to be
one of several classes per clip (`VideoList.multi_label`). In such a list an empty label (in JSONL `""` or `[]`) says
that the clip shows none of the classes. Where a class has `|` in its name, list the names in `classes.txt`.

The list is `train.csv` or `val.csv` in the root, or one list with a column `split`. In one list without that column
everything is the split `all`. If the labels are names, the classes are the sorted names. If they are numbers, the names
may stand in `classes.txt` or `labels.txt` beside the list, one a line. A mixture of names and numbers is an error,
because one wrong label would change the classes of all clips.
"""
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import bad_line, depth_option, first_file, is_video, read_lines, read_text, to_int
from ..groups import GROUP_COLUMNS, GROUPS_FILE
from ..lists import NO_CLASS, SPLIT_NAMES, Clip, DataError, NotThere, VideoList, generic_list
from ._labels import read_label_sets

SPLITS = ('train', 'val', 'test', 'all')
_PATHS = (
    'path', 'video', 'file', 'filename', 'file_name', 'filepath', 'file_path', 'video_path', 'video_file', 'video_name',
    'videoname', 'clip', 'clip_path', 'clip_name')
_LABELS = (
    'label', 'class', 'action', 'labels', 'label_name', 'class_name', 'classname', 'action_name', 'category', 'target',
    'label_id', 'class_id', 'class_idx', 'class_index', 'action_id', 'category_id')


def matches(root: Path, kind: str) -> bool:
    """Whether there is a list of this kind."""
    lists = _lists(root, kind)
    try:
        return bool(lists) and next(_rows(next(iter(lists.values())), kind), None) is not None
    except DataError:
        return False


def read(root: Path, split: str, kind: str, depth: int | None = None) -> VideoList:
    """The clips of a list.

    Args:
        root: Its folder or the list itself.
        split: The split.
        kind: `'csv'` or `'jsonl'`.
        depth: All clips are depth maps, folders of images of 16 bits or arrays (see `flatzoo.data.array_file`), and
            this reading becomes 255.
    """
    lists = _lists(root, kind)
    if not lists:
        raise DataError(f'{root}: has no list such as train.{kind}. Write one with the columns path and label.')
    rows, empty = [], []
    for own, path in lists.items():
        found = [
            (path, number, own or _SPLIT_OF.get(str(row.get('split')), row.get('split')), row)
            for number, row in _rows(path, kind)]
        rows += found
        if not found:
            empty.append((own, path))
    for own, path in empty:
        if own in (None, split) or not rows:
            raise DataError(f'{path}: lists no clip. Write a line with a path and a label for each.')
    if split != 'all':
        known = sorted({own for _, _, own, _ in rows if own})
        if split not in known and split in ('val', 'test') and len({'val', 'test'} & set(known)) == 1:
            split = next(iter({'val', 'test'} & set(known)))  # the only evaluation split
        if split not in known:
            raise NotThere(
                f"{root}: has no split {split}. It has {', '.join([*known, 'all'])}; name the lists train.{kind} and "
                f'val.{kind}, or add a column split.')
    folder = root if root.is_dir() else root.parent
    path = first_file(folder, 'classes.txt', 'labels.txt')
    names = None if path is None else tuple(line for _, line in read_lines(path))
    labels, classes, several = read_label_sets(
        [row['label'] for *_, row in rows], names, lambda place, why: bad_line(*rows[place][:2], why))
    clips = [
        _clip(path, number, row, folder, own_labels, several)
        for (path, number, own, row), own_labels in zip(rows, labels, strict=True) if split in (own, 'all')]
    return generic_list(
        kind, split, clips, classes, depth=depth_option(depth), metric='map' if several else 'top1')


_SPLIT_OF = {name: own for own, names in SPLIT_NAMES.items() for name in names}


def _lists(root: Path, kind: str) -> dict[str | None, Path]:
    """Split -> its list. The key None is a list with the column `split`, or one without any split."""
    if root.is_file():
        return {None: root} if root.suffix.lower() == f'.{kind}' else {}
    lists = {
        own: path for own, names in SPLIT_NAMES.items()
        if (path := first_file(root, *(f'{name}.{kind}' for name in names)))
    }  # fmt: skip
    others = [path for path in sorted(root.glob(f'*.{kind}')) if path.name != GROUPS_FILE]
    if not lists and len(others) == 1:
        lists = {None: others[0]}
    return lists


def _rows(path: Path, kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows. Path and label have these names, whatever the names of the columns are."""
    for number, row in _csv_rows(path) if kind == 'csv' else _json_rows(path):
        for wanted, names in (('path', _PATHS), ('label', _LABELS)):
            value = next((row[name] for name in names if row.get(name) not in (None, '')), None)
            if value is None and wanted == 'label' and any(row.get(name) == '' for name in names):
                value = ''  # none of the classes, or forgotten; the other lines decide
            if value is None:
                raise bad_line(path, number, f'there is no {wanted}')
            row[wanted] = value
        if not isinstance(row['path'], str):
            raise bad_line(path, number, f'the path should be text, it is {row["path"]!r}')
        own = row['label'] if isinstance(row['label'], list) else [row['label']]
        if any(isinstance(part, list | dict | bool) or part is None for part in own):
            raise bad_line(
                path, number, f'the label should be a name or a whole number, or several of them, it is '
                f'{row["label"]!r}')
        yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = read_lines(path)
    if not lines:
        return
    head = lines[0][1]
    for separator in sorted(',;\t', key=head.count, reverse=True) + [' ']:
        names = [name.strip().lower() for name in _split(head, separator)]
        if set(names) & set(_PATHS) and set(names) & set(_LABELS):
            break
    else:
        yield from _bare_rows(path, lines)
        return
    if separator == ' ':
        for number, line in lines[1:]:
            parts = _split(line, ' ')
            if len(parts) != len(names) and len(names) == 2:  # a path with blanks
                parts = line.rsplit(None, 1) if names[0] in _PATHS else line.split(None, 1)
            if len(parts) != len(names):
                raise bad_line(path, number, f'should have {len(names)} columns, separated by blanks')
            yield number, dict(zip(names, parts, strict=True))
        return
    text = read_text(path).lstrip()
    skipped = lines[0][0] - 1
    reader = csv.DictReader(text.splitlines(), fieldnames=names, delimiter=separator, skipinitialspace=True)
    next(reader)
    for row in reader:
        yield reader.line_num + skipped, {
            key: value.strip() for key, value in row.items() if key and isinstance(value, str)}


def _bare_rows(path: Path, lines: list[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a list without a header. The separator is the one that makes most first columns paths of videos."""
    folder = path.parent

    def is_path(text: str) -> bool:
        return is_video(text.replace('\\', '/').rpartition('/')[2]) or '://' in text or (folder / text).exists()

    def good(separator: str, count: int) -> int:
        return sum(is_path(row[0]) for _, line in lines[:50] if (row := _bare(line, separator, count)))

    head = lines[0][1]
    by_count = sorted(',;\t', key=head.count, reverse=True)
    ways = [(by_count[0] if by_count[0] in head else ' ', 2)]
    ways += [way for separator in (*by_count, ' ') for way in ((separator, 2), (separator, 3)) if way not in ways]
    separator, count = max(ways, key=lambda way: good(*way))  # the first of the best
    if not good(separator, count) and separator in ',;\t' and len(_split(head, separator)) != 2:
        raise DataError(f'{path}: its columns are {head}. Write a header that names path and label among them.')
    first = _bare(head, separator, count)
    if first and not is_path(first[0]) and any(
            (row := _bare(line, separator, count)) and is_path(row[0]) for _, line in lines[1:50]):
        if not first[1].isdecimal():
            raise bad_line(
                path, lines[0][0], f'{first[0]!r} is not a file; this looks like a header with unknown words. '
                'Name the columns path and label')
    for number, line in lines:
        row = _bare(line, separator, count)
        if row is None:
            raise bad_line(path, number, 'should be a path and a label')
        yield number, dict(zip(('path', 'label'), row, strict=True))


def _bare(line: str, separator: str, count: int) -> tuple[str, str] | None:
    """Path and label of a line with 2 columns, or with 3 where the middle one is a number of frames; else None."""
    parts = _split(line, separator)
    if separator == ' ' and not line.startswith('"'):
        parts = line.rsplit(None, count - 1)  # paths may have blanks
    if len(parts) != count or count == 3 and not parts[1].isdecimal():
        return None
    return parts[0].strip(), parts[-1].strip()


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise bad_line(path, number, f'is not JSON ({error})') from None
        if not isinstance(row, dict):
            raise bad_line(path, number, 'should be an object')
        yield number, row


def _clip(
        path: Path, number: int, row: dict[str, Any], folder: Path, labels: tuple[int, ...], several: bool) -> Clip:
    def value(name: str) -> Any:
        return row[name] if row.get(name) not in (None, '') else None

    target = row['path'] if '://' in row['path'] else str(folder / row['path'])  # an absolute path stays
    name = str(value('id') or row['path'])
    label, all_labels = labels[0] if labels else NO_CLASS, labels if several else ()
    group = str(next((one for one in map(value, GROUP_COLUMNS) if one is not None), ''))
    frames = value('start'), value('end')
    times = value('start_time'), value('end_time')
    if times == (None, None):
        start, end = (None if one is None else to_int(one, path, number, 'a frame') for one in frames)
        return Clip(target, label, start or 0, end, 'frames', name, group=group, labels=all_labels)
    if frames != (None, None):
        raise bad_line(path, number, 'gives its start or end in frames and in seconds')
    try:
        start, end = (None if one is None else float(one) for one in times)
    except (TypeError, ValueError):
        raise bad_line(path, number, f'start_time and end_time should be seconds, they are {times}') from None
    return Clip(target, label, start or 0, end, 'seconds', name, group=group, labels=all_labels)
