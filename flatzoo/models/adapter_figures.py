"""What is printed of ST-Adapter, AIM, ZeroI2V and DualPath: accuracies, each with the place where it stands.

Quoted are the methods' own repositories, and what the tables of AM Flow's paper quote of them. What their papers print
beyond that could not be read, and is left out.
"""
from .record import KINETICS_400, SSV2, Figure

__all__ = ['ABOUT_FIGURES', 'FIGURES']

_K400, _SSV2 = KINETICS_400.title, SSV2.title
_README = 'README of the official repository'
_QUOTED = {_K400: "Table 2 of AM Flow's paper", _SSV2: "Table 1 of AM Flow's paper"}
_THREE = {_K400: dict(clips=3, crops=1), _SSV2: dict(clips=1, crops=3)}  # views: three clips, or three crops of one
_ONE = dict(clips=1, crops=1)


def _own(data: str, top1: float, frames: int | None, views: dict[str, int] | None = None, note: str = '') -> Figure:
    return Figure(data, top1, None, _README, frames, **(_THREE.get(data, {}) if views is None else views), note=note)


def _quoted(data: str, top1: float, top5: float, params: str = '', **kwargs: int | None) -> Figure:
    return Figure(data, top1, top5, _QUOTED[data], params=params, **kwargs)


_OLDER = 'An older README prints it for 8 frames; the only configuration of the code has 16.'

FIGURES: dict[str, tuple[Figure, ...]] = {
    'st_adapter_clip_b': (
        _own(_K400, 82.2, 8),
        _quoted(_K400, 82.7, 96.2, '7 M', frames=32, clips=1, crops=3)),
    'st_adapter_clip_b_ssv2': (
        _own(_SSV2, 66.9, 8),
        _quoted(_SSV2, 69.5, 92.6, '11 M', frames=32)),
    'aim_clip_b': (
        _own(_K400, 83.9, 8), _own(_K400, 84.5, 16), _own(_K400, 84.7, 32),
        _own('Kinetics-700', 76.9, None, {}), _own('Diving48', 88.9, 32, _ONE)),
    'aim_clip_l': (
        _own(_K400, 86.8, 8), _own(_K400, 87.3, 16), _own(_K400, 87.5, 32),
        _own('Kinetics-700', 80.4, None, {}), _own('Diving48', 90.6, 32, _ONE)),
    'zeroi2v_clip_b': (_own(_K400, 83.0, 8),),
    'zeroi2v_clip_b_ssv2': (_own(_SSV2, 67.7, 8, note=_OLDER),),
    'zeroi2v_clip_l': (_own(_K400, 86.3, 8),),
    'zeroi2v_clip_l_32f': (_own(_K400, 87.2, 32),),
    'zeroi2v_clip_l_ssv2': (_own(_SSV2, 72.2, 32),),
    'dualpath_clip_b': (
        _quoted(_K400, 85.4, 97.1, '10 M'), _quoted(_SSV2, 70.3, 92.9, '13 M', frames=16)),
    'dualpath_clip_l': (_quoted(_K400, 87.7, 97.8), _quoted(_SSV2, 72.2, 93.7)),
}

_PROBABILITIES = 'The repository averages the probabilities of the views, flatzoo their logits.'
ABOUT_FIGURES = {
    'ST-Adapter': (
        f'{_PROBABILITIES} Its README calls itself a reproduction. What is quoted of the paper is of 32 frames, which '
        'this name takes with `num_frames=32`.'),
    'AIM': f'{_PROBABILITIES} Other numbers of frames are taken with `num_frames=`.',
    'ZeroI2V': _PROBABILITIES,
    'DualPath': (
        'The paper could not be read: AM Flow quotes it, with fewer trained parameters than the released code gives.'),
}
