"""Something-Something v2 (Goyal et al., arXiv 1706.04261), 174 classes.

Known: `something-something-v2-labels.json` maps names to numbers. `-train.json`, `-validation.json` and `-test.json`
are lists of objects with id and template. Placeholders of a template stand in brackets, which the names of the classes
do not have. The videos are `20bn-something-something-v2/ID.webm`. The later release has `labels/labels.json`,
`train.json`, `validation.json`, and `test-answers.csv` with `ID;name of the class`.

Inferred: the lists may lie in the root, in `labels` or in `annotations`, the videos also in `videos` or in the root.
Converted videos may have any suffix.
"""
from pathlib import Path

from ..files import bad_line, first_dir, first_file, need_file, read_json, read_lines, videos_below
from ..lists import Clip, DataError, VideoList, generic_list

SPLITS = ('train', 'val', 'test')
_LISTS = {'train': ('train',), 'val': ('validation', 'val'), 'labels': ('labels',)}


def matches(root: Path) -> bool:
    """Whether the list of labels is there."""
    path = first_file(root, *_patterns('labels'))
    return path is not None and (path.name.startswith('something') or (path.parent / 'validation.json').is_file())


def read(root: Path, split: str) -> VideoList:
    """The clips of a list. Labels such as "from left to right" have sides: `flip` is off."""
    numbers = read_json(need_file('Something-Something v2', root, *_patterns('labels')), dict)
    classes = sorted(numbers, key=lambda name: int(numbers[name]))
    if [int(numbers[name]) for name in classes] != list(range(len(classes))):
        raise DataError(f'{root}: the numbers of the labels do not count from 0. Get labels.json again.')
    label_of = {name: label for label, name in enumerate(classes)}
    if split == 'test':
        path = need_file('the test split of Something-Something v2', root, '*test-answers.csv', '*/*test-answers.csv')
        pairs = [(number, *line.partition(';')[::2]) for number, line in read_lines(path)]
    else:
        path = need_file('Something-Something v2', root, *_patterns(split))
        rows = read_json(path, list)
        if not all(isinstance(row, dict) and {'id', 'template'} <= row.keys() for row in rows):
            raise DataError(f'{path}: each entry should be an object with id and template. Get the list again.')
        pairs = [(n, str(row['id']), row['template']) for n, row in enumerate(rows, 1)]

    folder = first_dir(root, '20bn-something-something-v2', 'videos/20bn-something-something-v2', 'videos')
    found = {Path(path).stem: path for path in videos_below(folder)}
    clips = []
    for number, name, template in pairs:
        key = template.strip().replace('[', '').replace(']', '')
        if key not in label_of:
            raise bad_line(path, number, f'the class {key!r} is not in the list of labels')
        clips.append(Clip(found.get(name, str(folder / f'{name}.webm')), label_of[key], id=name))
    return generic_list('ssv2', split, clips, classes)


def _patterns(part: str) -> list[str]:
    prefixes = ('something-something-v2-', 'labels/something-something-v2-', 'annotations/something-something-v2-',
                'labels/', 'annotations/', '')  # fmt: skip
    return [f'{prefix}{name}.json' for prefix in prefixes for name in _LISTS[part]]
