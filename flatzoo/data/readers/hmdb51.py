"""HMDB51 (Kuehne et al., ICCV 2011), 51 classes, three folds.

Known: `testTrainMulti_7030_splits/CLASS_test_split1.txt` has lines `FILE.avi N`. N is 1 for training, 2 for testing and
0 for neither. The videos come as one archive per class, which unpacks to `CLASS/FILE.avi`. File names repeat across
classes.

Inferred: the classes lie in the root, in `hmdb51_org` or in `videos`. The lists may lie in the root, in `annotations`
or in `test_train_splits/testTrainMulti_7030_splits`. Converted videos may have another suffix.
"""
import os
from pathlib import Path

from ..files import bad_line, choose, first_dir, is_video, read_lines
from ..lists import Clip, NotThere, VideoList, generic_list

SPLITS = ('train', 'test')
_LISTS = 'testTrainMulti_7030_splits'
_FOLDERS = (_LISTS, f'test_train_splits/{_LISTS}', 'test_train_splits', 'annotations', '.')


def matches(root: Path) -> bool:
    """Whether the lists of HMDB51 are there."""
    return bool(_lists(root, '1'))


def read(root: Path, split: str, fold: int = 1) -> VideoList:
    """The clips of fold 1, 2 or 3. Papers report the mean of the three folds, or the first one."""
    fold = choose('fold', fold, '123')
    lists = _lists(root, fold)
    if not lists:
        raise NotThere(
            f'{root}: HMDB51 has lists testTrainMulti_7030_splits/*_test_split{fold}.txt here, and they are missing. '
            'Get them from its publisher.')
    classes = sorted(lists)
    folder = first_dir(root, 'hmdb51_org', 'videos', 'hmdb51')
    clips = []
    for label, name in enumerate(classes):
        here = folder / name
        found = {Path(file).stem: file for file in os.listdir(here) if is_video(file)} if here.is_dir() else {}
        for number, line in read_lines(lists[name]):
            file, _, use = line.rpartition(' ')
            if use not in ('0', '1', '2') or not file:
                raise bad_line(lists[name], number, 'should be a file and 0, 1 or 2')
            file = file.strip()
            if use == {'train': '1', 'test': '2'}[split]:
                clips.append(Clip(str(here / found.get(Path(file).stem, file)), label, id=f'{name}/{file}'))
    return generic_list(f'hmdb51 fold {fold}', split, clips, classes)


def _lists(root: Path, fold: str) -> dict[str, Path]:
    """Class name -> its list."""
    ending = f'_test_split{fold}.txt'
    for folder in _FOLDERS:
        if paths := sorted((root / folder).glob(f'*{ending}')):
            return {path.name.removesuffix(ending): path for path in paths}
    return {}
