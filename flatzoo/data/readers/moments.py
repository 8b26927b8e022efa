"""Moments in Time (Monfort et al., arXiv 1801.03150), 339 classes, in later releases 305; also its mini version.

Known (from its README): `trainingSet.csv` and `validationSet.csv` have no header. Their columns are file, label, votes
for the label and votes against it. `moments_categories.txt` has lines `label,index`. The videos are `training/FILE` and
`validation/FILE`, where FILE is `LABEL/NAME.mp4`.

Inferred: a label with a comma in its name is quoted, as usual in CSV.
"""
import csv
from pathlib import Path

from ..files import bad_line, need_file, read_lines, read_text, to_int
from ..lists import Clip, DataError, VideoList, generic_list

SPLITS = ('train', 'val')


def matches(root: Path) -> bool:
    """Whether the list of categories is there."""
    return (root / 'moments_categories.txt').is_file()


def read(root: Path, split: str) -> VideoList:
    """The clips of a list."""
    path = need_file('Moments in Time', root, 'moments_categories.txt')
    index = {}
    for number, line in read_lines(path):
        name, _, label = line.rpartition(',')
        index[name.strip('"')] = to_int(label, path, number, 'the index of a category')
    classes = sorted(index, key=index.get)
    if [index[name] for name in classes] != list(range(len(classes))):
        raise DataError(f'{path}: the indices do not count from 0. Get the file again.')
    name = {'train': 'training', 'val': 'validation'}[split]
    path = need_file('Moments in Time', root, f'{name}Set.csv')
    clips = []
    rows = csv.reader(read_text(path).splitlines())
    for row in rows:
        if len(row) < 2 or row[1] not in index:
            why = f'{row[1]!r} is no category' if row[1:] else 'wanted a file and a label'
            raise bad_line(path, rows.line_num, why)
        clips.append(Clip(str(root / name / row[0]), index[row[1]], id=row[0]))
    return generic_list('moments', split, clips, classes)
