"""UWA3D Multiview Activity II (Rahmani et al., TPAMI 2016): 30 activities, 10 subjects, 4 views, Kinect v1.

Known: a name `aAA_sSS_vVV_eEE` gives activity, subject, view and repetition. Each sample is a folder of images, such as
`UWA3DII_RGB/UWA3D-RGB/a01_s01_v01_e00/001.jpg`. The protocol V12-3 trains on the samples of views 1 and 2 and tests on
view 3. The paper reports the mean over the twelve choices of views, and lists the names of the activities.

Inferred: the folders may lie at any depth of the root. RGB may also come as videos whose names start like this. Depth
lies below a folder with `depth` in its name, as in `UWA3DII_Depth_ROI/UWA3D-Depth/`. Depth maps are 16-bit PNG images
in millimetres, or MATLAB arrays `[H, W, T]` whose names start like this; 4000 mm, the range of the camera, becomes 255.
The names of the activities are taken in the order of their numbers.
"""
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..files import choose, is_array, is_video
from ..lists import Clip, DataError, VideoList

SPLITS = ('train', 'test')
MAX_DEPTH = 4000  # [mm]
NAMES = (
    'one hand waving', 'one hand punching', 'two hand waving', 'two hand punching', 'sitting down', 'standing up',
    'vibrating', 'falling down', 'holding chest', 'holding head', 'holding back', 'walking', 'irregular walking',
    'lying down', 'turning around', 'drinking', 'phone answering', 'bending', 'jumping jack', 'running', 'picking up',
    'putting down', 'kicking', 'jumping', 'dancing', 'mopping floor', 'sneezing', 'sitting down (chair)', 'squatting',
    'coughing',
)  # fmt: skip
_NAME = re.compile(r'a(\d{2})_s(\d{2})_v(\d{2})_e(\d{2})')


def matches(root: Path) -> bool:
    """Whether there are samples."""
    return any(next(_samples(root, modality), None) for modality in ('rgb', 'depth'))


def read(root: Path, split: str, protocol: str = 'V12-3', modality: Literal['rgb', 'depth'] = 'rgb') -> VideoList:
    """The samples of a protocol.

    Args:
        root: Folder of the data set.
        split: `'train'` or `'test'`.
        protocol: `'V12-3'` trains on views 1 and 2 and tests on view 3. `'V12-34'` tests on views 3 and 4.
        modality: `'rgb'` or `'depth'`.
    """
    modality = choose('modality', modality, ('rgb', 'depth'))
    match = re.fullmatch(r'V([1-4]{2})-([1-4]{1,2})', protocol)
    if not match or len(set(match[1] + match[2])) < len(match[1] + match[2]):
        raise DataError(f'protocol must name two views and one or two others, such as V12-3, got {protocol!r}')
    views = {int(view) for view in match[1 if split == 'train' else 2]}
    clips = []
    for name, path in _samples(root, modality):
        activity, _, view, _ = map(int, _NAME.match(name).groups())
        if not 1 <= activity <= len(NAMES):
            raise DataError(f'{path}: there is no activity a{activity:02d}; the last is a{len(NAMES)}. Rename it.')
        if view in views:
            clips.append(Clip(path, activity - 1, id=name))
    depth = MAX_DEPTH if modality == 'depth' else None
    return VideoList(f'uwa3d {protocol} {modality}', clips, NAMES, split, depth=depth)


def _samples(root: Path, modality: str) -> Iterator[tuple[str, str]]:
    """Names and paths, sorted by name."""
    found = {}
    for here, folders, files in os.walk(root):
        is_depth = 'depth' in os.path.relpath(here, root).lower()
        for name in folders + [file for file in files if (is_array if is_depth else is_video)(file)]:
            match = _NAME.match(name)
            if match and is_depth == (modality == 'depth'):
                found.setdefault(match[0], os.path.join(here, name))
        folders[:] = [name for name in folders if not _NAME.match(name)]
    yield from sorted(found.items())
