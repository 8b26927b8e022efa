"""Toyota Smarthome, trimmed (Das et al., ICCV 2019): 31 activities of 18 subjects, cross-subject protocol.

Known: a name such as `mp4/Cook.Cleandishes_p02_r00_v02_c03.mp4` gives activity, subject, repetition, part and camera.
Cross-subject trains on the eleven subjects that are listed below and tests on the others. Accuracy is the mean over the
classes, because their sizes differ much. The sorted names number the labels.

Inferred: the videos may lie in `mp4`, in `videos` or in the root, at any depth.
"""
import re
from pathlib import Path

from ..files import first_dir, videos_below
from ..lists import Clip, DataError, VideoList, some

SPLITS = ('train', 'test')
TRAIN_SUBJECTS = frozenset((3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25))
NAMES = (
    'Cook.Cleandishes', 'Cook.Cleanup', 'Cook.Cut', 'Cook.Stir', 'Cook.Usestove', 'Cutbread', 'Drink.Frombottle',
    'Drink.Fromcan', 'Drink.Fromcup', 'Drink.Fromglass', 'Eat.Attable', 'Eat.Snack', 'Enter', 'Getup', 'Laydown',
    'Leave', 'Makecoffee.Pourgrains', 'Makecoffee.Pourwater', 'Maketea.Boilwater', 'Maketea.Insertteabag',
    'Pour.Frombottle', 'Pour.Fromcan', 'Pour.Fromkettle', 'Readbook', 'Sitdown', 'Takepills', 'Uselaptop', 'Usetablet',
    'Usetelephone', 'Walk', 'WatchTV',
)  # fmt: skip
_NAME = re.compile(r'(.+)_p(\d+)_r(\d+)_v(\d+)_c(\d+)')


def matches(root: Path) -> bool:
    """Whether there is a video with the name of a sample."""
    return any(_NAME.fullmatch(Path(path).stem) for path in videos_below(first_dir(root, 'mp4', 'videos')))


def read(root: Path, split: str) -> VideoList:
    """The samples of the cross-subject protocol."""
    label_of = {name: label for label, name in enumerate(NAMES)}
    clips, unknown = [], []
    for path in videos_below(first_dir(root, 'mp4', 'videos')):
        match = _NAME.fullmatch(Path(path).stem)
        if not match or match[1] not in label_of:
            unknown.append(Path(path).name)
        elif (int(match[2]) in TRAIN_SUBJECTS) == (split == 'train'):
            clips.append(Clip(path, label_of[match[1]], id=Path(path).stem))
    if unknown:
        raise DataError(
            f'{root}: {len(unknown)} videos are not named like Cook.Cut_p02_r00_v02_c03.mp4 with one of the 31 '
            f'activities: {some(unknown)}. Move them elsewhere or correct their names.')
    return VideoList('smarthome cross-subject', clips, NAMES, split, metric='mean_class')
