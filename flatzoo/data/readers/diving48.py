"""Diving48 (Li et al., ECCV 2018), 48 classes. V2 is the release with cleaned labels, which papers use since 2020.

Known: `Diving48_V2_train.json` and `Diving48_V2_test.json` are lists of objects with vid_name, label, start_frame and
end_frame. `Diving48_vocab.json` has a list of four words for each label. The videos `rgb/VID_NAME.mp4` are already cut:
start_frame is 0 and end_frame is the number of frames, so each file is read as a whole.

Inferred: the lists may lie in the root or in `annotations`, the videos in `rgb`, `videos` or the root. The dives have
no left and right, so clips are mirrored in training.
"""
from pathlib import Path
from typing import Literal

from ..files import choose, first_dir, first_file, need_file, read_json, videos_below
from ..lists import Clip, DataError, VideoList, generic_list

SPLITS = ('train', 'test')


def matches(root: Path) -> bool:
    """Whether a list of Diving48 is there."""
    return first_file(root, 'Diving48_*.json', 'annotations/Diving48_*.json') is not None


def read(root: Path, split: str, version: Literal['V1', 'V2'] = 'V2') -> VideoList:
    """The clips of a list. `version='V1'` reads the labels of the first release."""
    version = choose('version', version, ('V1', 'V2'))
    stem = f'Diving48_V2_{split}' if version == 'V2' else f'Diving48_{split}'
    path = need_file('Diving48', root, *_patterns(f'{stem}.json'))
    vocabulary = read_json(need_file('Diving48', root, *_patterns('Diving48_vocab.json')), list)
    classes = [' '.join(words) if isinstance(words, list) else str(words) for words in vocabulary]
    folder = first_dir(root, 'rgb', 'videos')
    found = {Path(file).stem: file for file in videos_below(folder)}
    clips = []
    for row in read_json(path, list):
        try:
            name, label = str(row['vid_name']), int(row['label'])
        except (KeyError, TypeError, ValueError):
            raise DataError(f'{path}: the entry {row!r} lacks vid_name or label. Get the list again.') from None
        clips.append(Clip(found.get(name, str(folder / f'{name}.mp4')), label, id=name))
    return generic_list('diving48', split, clips, classes)


def _patterns(name: str) -> tuple[str, str]:
    return name, f'annotations/{name}'
