"""The lists of the official SIFAR code and of its predecessors (github.com/IBM/sifar-pytorch, `video_dataset.py`).

Known: `train.txt`, `val.txt` and `test.txt` lie in the root. A line has path, first frame, last frame and label,
separated by blanks, or by `;` for Kinetics. Frames count from 1, and the last frame is included. Paths start at the
root and name videos or folders of frames. The official code can train on several labels in a line; here such lines are
refused. It drops Kinetics videos of fewer than 30 frames, also in its tests; here all videos are kept.

Inferred: the names of the classes come from `classes.txt` or `labels.txt`, one a line, if there is such a file.
"""
import re
from pathlib import Path

from ..files import bad_line, first_file, need_file, read_lines, to_int
from ..lists import Clip, DataError, VideoList, generic_list, unnamed

SPLITS = ('train', 'val', 'test')
_LINE = re.compile(r'(?P<path>.+?)(?P<sep>[ ;\t])(?P<first>\d+)(?P=sep)(?P<last>\d+)(?P=sep)(?P<label>\d+)')


def matches(root: Path) -> bool:
    """Whether a list is there whose first line is one of SIFAR's."""
    path = first_file(root, *(f'{split}.txt' for split in SPLITS)) if root.is_dir() else None
    lines = read_lines(path) if path else []
    return bool(lines) and _LINE.fullmatch(lines[0][1]) is not None


def read(root: Path, split: str) -> VideoList:
    """The clips of a list."""
    path = need_file('the layout of SIFAR', root, f'{split}.txt')
    clips = []
    for number, line in read_lines(path):
        match = _LINE.fullmatch(line)
        if not match:
            raise bad_line(path, number, f'should be "path first last label" (or with ;), it is {line!r}')
        first, last = int(match['first']), int(match['last'])
        if not 1 <= first <= last:
            raise bad_line(path, number, f'there are no frames {first} to {last}; frames count from 1')
        label = to_int(match['label'], path, number, 'the label')
        clips.append(Clip(str(root / match['path']), label, first - 1, last, id=match['path']))
    return generic_list('sifar', split, clips, class_names(root, clips))


def class_names(root: Path, clips: list[Clip]) -> tuple[str, ...]:
    """The names in `classes.txt` or `labels.txt`. Without such a file, one per label of the lists of all splits."""
    path = first_file(root, 'classes.txt', 'labels.txt')
    if path is not None:
        return tuple(line for _, line in read_lines(path))
    labels = [clip.label for clip in clips]
    for other in filter(Path.is_file, (root / f'{split}.txt' for split in SPLITS)):
        labels += [int(match['label']) for _, line in read_lines(other) if (match := _LINE.fullmatch(line))]
    if not labels:
        raise DataError(f'{root}: the lists are empty')
    return unnamed(max(labels) + 1)
