"""Facts from SIFAR's paper and its publishers: figures of Tables 2 to 9, views, sizes of files.

The paper tests its Swin models on 3 crops of 1 clip, and its cost columns have the factor 3. It does not print the
views of the ResNets (Table 7).
"""
from dataclasses import replace

from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.temporal import TemporalContract

from ..record import IMAGENET_21K, IMAGENET_22K, KINETICS_400, SSV2, DataSet, Figure, Paper, TagRecord

__all__ = ['PAPER', 'records']

PAPER = Paper(
    'SIFAR', 'arXiv:2106.14104', 'Can an Image Classifier Suffice for Action Recognition?',
    'Fan, Quanfu and Chen, Chun-Fu and Panda, Rameswar', 2022, 'fan2022sifar')

# the paper's "Inference": 3 crops of 1 clip; the README of the official repository evaluates with 3 crops x 3 clips
_PAPERS = EvalProtocol(num_crops=3)
_REPOSITORYS = {'repository': EvalProtocol(num_clips=3, num_crops=3)}

# model -> frames, multiply-adds of one view (G), parameters (M), as Table 3 prints them
_SWIN = {
    'sifar_swin_b7': (8, 138, 87), 'sifar_swin_b12': (8, 106, 87), 'sifar_swin_b14': (8, 147, 87),
    'sifar_swin_b12_16f': (16, 189, 87), 'sifar_swin_b14_16f': (16, 263, 87), 'sifar_swin_l14_16f': (16, 576, 196),
    'sifar_swin_b12_384': (8, 423, 87), 'sifar_swin_l12_384': (8, 944, 196),
}
_K400, _SSV2 = KINETICS_400.title, SSV2.title
_MIT, _JESTER, _DIVING48 = 'Moments in Time', 'Jester', 'Diving48'
_APE, _NO_APE = 'with absolute position embedding', 'without absolute position embedding'

# model -> data, top-1, top-5, table, and what differs from the registered model
_SWIN_FIGURES: dict[str, list[tuple[str, float, float | None, str, str]]] = {
    'sifar_swin_b7': [
        (_K400, 79.6, 94.4, 'Table 2', ''),
        (_SSV2, 59.0, 86.0, 'Table 2', ''),
        (_SSV2, 56.6, None, 'Table 8b', _APE),
        (_SSV2, 56.4, None, 'Table 8b', _NO_APE),
        (_K400, 79.7, None, 'Table 8b', _APE),
        (_K400, 79.6, None, 'Table 8b', _NO_APE)],
    'sifar_swin_b12': [
        (_K400, 80.0, 94.5, 'Tables 2 and 3', ''),
        (_SSV2, 60.8, 87.3, 'Tables 2 and 4', ''),
        (_SSV2, 44.4, 74.4, 'Table 8a', 'layout 1x8'),
        (_SSV2, 58.6, 85.5, 'Table 8a', 'layout 2x4, of Figure 4b'),
        (_SSV2, 58.1, 85.1, 'Table 8a', 'layout 2x4, of Figure 4c'),
        (_SSV2, 60.8, 87.3, 'Table 8a', 'layout 3x3'),
        (_SSV2, 60.8, None, 'Table 8b', _APE),
        (_SSV2, 59.5, None, 'Table 8b', _NO_APE),
        (_K400, 79.7, None, 'Table 8b', _APE),
        (_K400, 80.0, None, 'Table 8b', _NO_APE),
        (_K400, 80.0, None, 'Table 9', 'frames in normal order'),
        (_K400, 79.8, None, 'Table 9', 'frames in reverse order'),
        (_K400, 79.7, None, 'Table 9', 'frames in random order'),
        (_SSV2, 60.8, None, 'Table 9', 'frames in normal order'),
        (_SSV2, 23.9, None, 'Table 9', 'frames in reverse order'),
        (_SSV2, 39.4, None, 'Table 9', 'frames in random order')],
    'sifar_swin_b14': [
        (_K400, 80.2, 94.4, 'Tables 2 and 3', ''),
        (_SSV2, 61.6, 87.9, 'Tables 2 and 4', ''),
        (_SSV2, 61.6, None, 'Table 8b', _APE),
        (_SSV2, 60.1, None, 'Table 8b', _NO_APE),
        (_K400, 80.0, None, 'Table 8b', _APE),
        (_K400, 80.2, None, 'Table 8b', _NO_APE)],
    'sifar_swin_b12_16f': [
        (_K400, 80.4, 94.4, 'Table 3', ''),
        (_SSV2, 61.4, 87.4, 'Table 4', ''),
        (_MIT, 39.9, 69.2, 'Table 5', ''),
        (_JESTER, 97.2, 99.9, 'Table 6a', ''),
        (_DIVING48, 85.3, 98.3, 'Table 6b', '')],
    'sifar_swin_b14_16f': [
        (_K400, 81.8, 95.2, 'Table 3', ''),
        (_SSV2, 62.6, 88.5, 'Table 4', ''),
        (_JESTER, 97.2, 99.9, 'Table 6a', ''),
        (_DIVING48, 87.3, 98.8, 'Table 6b', '')],
    'sifar_swin_l14_16f': [
        (_K400, 82.2, 95.1, 'Table 3', ''),
        (_SSV2, 64.2, 88.4, 'Table 4', '')],
    'sifar_swin_b12_384': [(_K400, 81.6, 95.2, 'Table 3', '')],
    'sifar_swin_l12_384': [(_K400, 84.2, 96.0, 'Table 3', '')],
}
# The paper prints "L-12†", a model that no other table has. Number and size of its frames are not known.
_L12 = Figure(
    _MIT, 41.9, 70.3, 'Table 5', clips=1, crops=3, setting='printed as SIFAR-L-12†',
    note='Which L-12 model † means is not said.')
_ABOUT_B7 = 'The paper prints 59.0 for SIFAR-B-7 on Something-Something v2 in Table 2 and 56.6 in Table 8b.'

# top-1 on Something-Something v2 and on Kinetics-400, Table 7
_RESNET_FIGURES = {
    'sifar_resnet50': (50.8, 73.2), 'sifar_resnet101': (56.3, 76.6), 'sifar_resnet152x2': (58.2, 79.0),
    'sifar_resnet50_c7': (54.4, 74.4), 'sifar_resnet50_c11': (55.2, 74.5), 'sifar_resnet50_c21': (55.8, 74.8),
    'sifar_resnet50_c21_11': (57.6, 75.1), 'sifar_resnet101_c21': (58.1, 77.7), 'sifar_resnet101_c21_11': (59.6, 77.5),
}

_SIZES = {  # of timm's repositories, as their pages state them
    'sifar_swin_l14_16f': 916_000_000, 'sifar_resnet50': 273_000_000, 'sifar_resnet50_c7': 273_000_000,
    'sifar_resnet50_c11': 273_000_000, 'sifar_resnet50_c21': 273_000_000, 'sifar_resnet50_c21_11': 273_000_000,
}


def records() -> dict[str, TagRecord]:
    """The record of every tag."""
    found = {'sifar_swin_tiny.untrained': TagRecord(PAPER)}
    for name in _SWIN:
        figures = _swin_figures(name)
        image = TagRecord(
            PAPER, IMAGENET_22K, protocol=_PAPERS, other_protocols=_REPOSITORYS, figures=figures,
            about_figures=_ABOUT_B7 if name == 'sifar_swin_b7' else '', size=_SIZES.get(name),
            limits='The backbone has seen single images only, no clips.')
        found[f'{name}.ms_in22k'] = image
        if name not in ('sifar_swin_b14', 'sifar_swin_b14_16f'):
            continue
        for tag, data, start in (
                ('ibm_k400', KINETICS_400, 'an ImageNet-21K backbone'), ('ibm_ssv2', SSV2, 'weights of Kinetics-400')):
            reached = tuple(figure for figure in figures if figure.data == data.title and not figure.setting)
            found[f'{name}.{tag}'] = replace(
                image, data=data, started_from=start, figures=reached, size=None,
                limits='The order of the class names is inferred from public label lists. The conversion is tested on '
                       'small models of the original code; this file itself was not measured by us.')
    for name, (ssv2, k400) in _RESNET_FIGURES.items():
        found[f'{name}.goog_in21k'] = TagRecord(
            PAPER, IMAGENET_21K, size=_SIZES.get(name), limits='The backbone has seen single images only, no clips.',
            figures=tuple(Figure(data, top1, None, 'Table 7', frames=8) for data, top1 in (
                (_SSV2, ssv2), (_K400, k400))))
    found['sifar_resnet10t.actions16'] = TagRecord(
        PAPER, DataSet('flatzoo.data.actions', None, 'action recognition'),
        size=2_487_160, sha256='d2a6cc41e130ada3eaf4c6c97955631c60bce0cd70a1a7306bf36ddca47f59a5',
        intended_use='To try flatzoo without a download, in tests and for demonstrations. Not for real video.',
        limits='The sixteen classes are motions of textured shapes in rendered scenes. On real video the model names '
               'the motion that it believes to see; it was never measured there.')
    found['sifar_resnet10t.actions49'] = TagRecord(
        PAPER, DataSet('flatzoo.data.actions, verbs', None, 'action recognition'),
        size=2_504_762, sha256='0e41c659ae5a40977b8f6b3c02cf976d9b644f183dfd5d7ba67a287933378b6c',
        temporal=TemporalContract(1.5, 8, 0.1875),
        intended_use='A start for training on few clips of your own, and to try long videos and streams: it has a '
                     'class for nothing.',
        limits='Its classes are motions of rendered figures, hands and things. On real video it names the motion '
               'that it believes to see, and is often wrong: train it on your own clips first. Which of the two '
               'shipped weights is the better start is measured in benchmarks/results/transfer_findings.md.')
    return found


def _swin_figures(name: str) -> tuple[Figure, ...]:
    frames, cost, params = _SWIN[name]
    figures = [
        Figure(data, top1, top5, table, frames, 1, 3, setting, params=f'{params} M', cost=f'{cost} G x 3')
        for data, top1, top5, table, setting in _SWIN_FIGURES[name]]
    return (*figures, _L12) if name == 'sifar_swin_l12_384' else tuple(figures)
