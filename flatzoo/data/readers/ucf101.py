"""UCF101 (Soomro et al., arXiv 1212.0402), 101 classes, three folds.

Known: the videos are `UCF-101/CLASS/v_CLASS_gGG_cCC.avi`. In `ucfTrainTestlist`, `classInd.txt` has lines such as
`1 ApplyEyeMakeup`, `trainlist01.txt` has `CLASS/FILE.avi NUMBER`, and `testlist01.txt` has `CLASS/FILE.avi`. The class
HandstandPushups is sometimes written HandStandPushups, and copies of the data set differ in this. Names are therefore
compared without regard to case.

Inferred: the lists may lie in `ucfTrainTestlist`, in `annotations`, in the root or beside it. The videos may lie in any
folder and have another suffix.
"""
from pathlib import Path

from ..files import bad_line, choose, first_dir, first_file, need_file, read_lines, videos_below
from ..lists import Clip, VideoList, generic_list

SPLITS = ('train', 'test')
_FOLDERS = ('ucfTrainTestlist', 'annotations', '.', '../ucfTrainTestlist')


def matches(root: Path) -> bool:
    """Whether the lists of UCF101 are there."""
    return first_file(root, *_patterns('classInd.txt')) is not None and first_file(root, *_patterns('trainlist01.txt'))


def read(root: Path, split: str, fold: int = 1) -> VideoList:
    """The clips of a list of fold 1, 2 or 3. Papers report the mean of the three folds, or the first one."""
    fold = choose('fold', fold, '123')
    index = need_file('UCF101', root, *_patterns('classInd.txt'))
    classes = [line.split()[-1] for _, line in read_lines(index)]
    label_of = {name.lower(): label for label, name in enumerate(classes)}
    path = need_file('UCF101', root, *_patterns(f'{split}list0{fold}.txt'))
    folder = first_dir(root, 'UCF-101', 'videos')
    found = {Path(file).stem.lower(): file for file in videos_below(folder)}
    clips = []
    for number, line in read_lines(path):
        name = line.split()[0]
        class_name, _, file = name.rpartition('/')
        if class_name.lower() not in label_of:
            raise bad_line(path, number, f'the class {class_name!r} is not in {index.name}')
        clips.append(Clip(
            found.get(Path(file).stem.lower(), str(folder / name)), label_of[class_name.lower()], id=name))
    return generic_list(f'ucf101 fold {fold}', split, clips, classes)


def _patterns(name: str) -> list[str]:
    return [f'{folder}/{name}' for folder in _FOLDERS[:3]]
