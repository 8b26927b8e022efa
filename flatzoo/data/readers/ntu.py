"""NTU RGB+D (Shahroudy et al., CVPR 2016), 60 actions, and NTU RGB+D 120 (Liu et al., TPAMI 2019), 120 actions.

Known: a name `SsssCcccPpppRrrrAaaa` gives setup, camera, performer, repetition and action. RGB videos are
`nturgb+d_rgb/NAME_rgb.avi`. Depth maps are `nturgb+d_depth/NAME/Depth-00000001.png`, or with the background removed
`nturgb+d_depth_masked/NAME/MDepth-00000001.png`; their 16-bit values are millimetres. The 60 actions are A001 to A060
in setups S001 to S017. Cross-subject (xsub) trains on the performers that are listed below. Cross-view (xview, 60
actions) trains on cameras 2 and 3 and tests on camera 1. Cross-setup (xset, 120 actions) trains on even setups. The
publisher's list of missing skeletons does not concern RGB and depth. The names of the actions come from the publisher's
page.

Inferred: the archives may be unpacked at any depth of the root. A depth of 8000 mm, the range of the camera, becomes
255.
"""
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ..files import choose, is_video
from ..lists import Clip, DataError, VideoList

SPLITS = ('train', 'test')
MAX_DEPTH = 8000  # [mm]
TRAIN_SUBJECTS = frozenset((
    1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38,  # of 40, NTU RGB+D, section 3.2.1
    45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95,
    97, 98, 100, 103,  # of 106, NTU RGB+D 120
))  # fmt: skip
NAMES = (
    'drink water', 'eat meal/snack', 'brushing teeth', 'brushing hair', 'drop', 'pickup', 'throw', 'sitting down',
    'standing up (from sitting position)', 'clapping', 'reading', 'writing', 'tear up paper', 'wear jacket',
    'take off jacket', 'wear a shoe', 'take off a shoe', 'wear on glasses', 'take off glasses', 'put on a hat/cap',
    'take off a hat/cap', 'cheer up', 'hand waving', 'kicking something',
    'put something inside pocket / take out something from pocket', 'hopping (one foot jumping)', 'jump up',
    'make a phone call/answer phone', 'playing with phone/tablet', 'typing on a keyboard',
    'pointing to something with finger', 'taking a selfie', 'check time (from watch)', 'rub two hands together',
    'nod head/bow', 'shake head', 'wipe face', 'salute', 'put the palms together', 'cross hands in front (say stop)',
    'sneeze/cough', 'staggering', 'falling', 'touch head (headache)', 'touch chest (stomachache/heart pain)',
    'touch back (backache)', 'touch neck (neckache)', 'nausea or vomiting condition',
    'use a fan (with hand or paper)/feeling warm', 'punching/slapping other person', 'kicking other person',
    'pushing other person', 'pat on back of other person', 'point finger at the other person', 'hugging other person',
    'giving something to other person', "touch other person's pocket", 'handshaking', 'walking towards each other',
    'walking apart from each other', 'put on headphone', 'take off headphone', 'shoot at the basket', 'bounce ball',
    'tennis bat swing', 'juggling table tennis balls', 'hush (quiet)', 'flick hair', 'thumb up', 'thumb down',
    'make ok sign', 'make victory sign', 'staple book', 'counting money', 'cutting nails',
    'cutting paper (using scissors)', 'snapping fingers', 'open bottle', 'sniff (smell)', 'squat down', 'toss a coin',
    'fold paper', 'ball up paper', 'play magic cube', 'apply cream on face', 'apply cream on hand back', 'put on bag',
    'take off bag', 'put something into a bag', 'take something out of a bag', 'open a box', 'move heavy objects',
    'shake fist', 'throw up cap/hat', 'hands up (both hands)', 'cross arms', 'arm circles', 'arm swings',
    'running on the spot', 'butt kicks (kick backward)', 'cross toe touch', 'side kick', 'yawn', 'stretch oneself',
    'blow nose', 'hit other person with something', 'wield knife towards other person',
    'knock over other person (hit with body)', "grab other person's stuff", 'shoot at other person with a gun',
    'step on foot', 'high-five', 'cheers and drink', 'carry something with other person',
    'take a photo of other person', 'follow other person', "whisper in other person's ear",
    'exchange things with other person', "support somebody with one's hand (someone is sick, help him to walk)",
    'finger-guessing game (playing rock-paper-scissors)',
)  # fmt: skip
_NAME = re.compile(r'S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})')


def matches(root: Path, actions: int) -> bool:
    """Whether there are samples, of all 120 actions (`actions=120`) or of the first 60 only (`actions=60`)."""
    found = [*_samples(root, 'rgb'), *_samples(root, 'depth')]
    later = any(_numbers(name)[4] > 60 or _numbers(name)[0] > 17 for name, _ in found)
    return bool(found) and later == (actions == 120)


def read(
        root: Path, split: str, actions: int, protocol: Literal['xsub', 'xview', 'xset'] = 'xsub',
        modality: Literal['rgb', 'depth'] = 'rgb') -> VideoList:
    """The samples of a protocol, `xsub`, `xview` (60 actions) or `xset` (120 actions).

    Args:
        root: Folder of the data set.
        split: `'train'` or `'test'`.
        actions: 60 or 120.
        protocol: The publisher's protocol.
        modality: `'rgb'` or `'depth'`. Masked depth is read if there is no other depth.
    """
    protocol = choose('protocol', protocol, ('xsub', 'xview' if actions == 60 else 'xset'))
    modality = choose('modality', modality, ('rgb', 'depth'))
    clips = []
    for name, path in _samples(root, modality):
        setup, camera, performer, _, action = _numbers(name)
        if action > actions or (actions == 60 and setup > 17):
            continue
        train = {
            'xsub': performer in TRAIN_SUBJECTS,
            'xview': camera in (2, 3),
            'xset': setup % 2 == 0,
        }[protocol]
        if action == 0 or action > len(NAMES):
            raise DataError(f'{path}: there is no action A{action:03d}; the last is A{len(NAMES)}. Rename the file.')
        if train == (split == 'train'):
            clips.append(Clip(path, action - 1, id=name))
    depth = MAX_DEPTH if modality == 'depth' else None
    return VideoList(f'ntu{actions} {protocol} {modality}', clips, NAMES[:actions], split, depth=depth)


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(map(int, _NAME.match(name).groups()))


def _samples(root: Path, modality: str) -> Iterator[tuple[str, str]]:
    """Names and paths, sorted by name."""
    found = {}
    for here, folders, files in os.walk(root):
        for name in files if modality == 'rgb' else folders:
            match = _NAME.match(name)
            if match and (modality == 'depth' or is_video(name)):
                path = os.path.join(here, name)
                if match[0] not in found or 'masked' in found[match[0]]:
                    found[match[0]] = path
        folders[:] = [name for name in folders if not _NAME.match(name)]
    yield from sorted(found.items())
