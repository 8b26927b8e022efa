"""Jester (Materzynska et al., ICCV Workshops 2019), 27 gestures, frames at 12 per second.

Known: `jester-v1-train.csv` and `jester-v1-validation.csv` have lines `ID;label`. `jester-v1-labels.csv` has one label
per line; the order of the lines numbers the labels. The frames are `20bn-jester-v1/ID/00001.jpg`. The test list has no
labels. The later release has `labels/labels.csv`, `train.csv`, `validation.csv`, and `test-answers.csv` with
`ID;label`.

Inferred: the lists may lie in the root, in `labels` or in `annotations`. The folders of frames may lie in the root.
"""
from pathlib import Path

from ..files import bad_line, first_dir, first_file, need_file, read_lines
from ..lists import Clip, VideoList, generic_list

SPLITS = ('train', 'val', 'test')
_NAMES = {'train': 'train', 'val': 'validation', 'test': 'test-answers', 'labels': 'labels'}


def matches(root: Path) -> bool:
    """Whether the lists of Jester are there."""
    path = first_file(root, *_patterns('labels'))
    return path is not None and (path.name.startswith('jester') or (root / '20bn-jester-v1').is_dir())


def read(root: Path, split: str) -> VideoList:
    """The frame folders of a list. Labels such as "Swiping Left" have sides: `flip` is off."""
    labels = need_file('Jester', root, *_patterns('labels'))
    classes = [line for _, line in read_lines(labels)]
    label_of = {name: label for label, name in enumerate(classes)}
    path = need_file('Jester', root, *_patterns(split))
    folder = first_dir(root, '20bn-jester-v1', 'videos', 'rawframes')
    clips = []
    for number, line in read_lines(path):
        name, _, label = line.partition(';')
        if label not in label_of:
            raise bad_line(path, number, f'the class {label!r} is not in {labels.name}')
        clips.append(Clip(str(folder / name), label_of[label], id=name))
    return generic_list('jester', split, clips, classes)


def _patterns(part: str) -> list[str]:
    name = _NAMES[part]
    return [
        f'{folder}{prefix}{name}.csv'
        for prefix in ('jester-v1-', '')
        for folder in ('', 'labels/', 'annotations/')
    ]
