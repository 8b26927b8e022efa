"""Facts from AM Flow's paper and from the publishers of its backbones: figures of Tables 1 to 4, sizes of files.

Tables print parameters as backbone + AM flow and linear layers + aligning encoder + temporal processing. Views are
printed only for Kinetics-400, as frames x crops x clips.
"""
from ..record import KINETICS_400, LVD_142M, SSV2, DataSet, Figure, Paper, TagRecord

__all__ = ['PAPER', 'record']

PAPER = Paper(
    'AM Flow', 'arXiv:2411.02065', 'AM Flow: Adapters for Temporal Processing in Action Recognition',
    'Agrawal, Tanay and Ali, Abid and Dantcheva, Antitza and Bremond, Francois', 2024, 'agrawal2024amflow')

_K400, _SSV2 = KINETICS_400.title, SSV2.title
_SMARTHOME = 'Toyota Smarthome, cross-subject'
_DATA = {
    'lvd142m': LVD_142M,
    'openai': DataSet('400 M image-text pairs', None, 'matching images and text'),
}
_SIZES = {'vit_base_patch14_dinov2': 346_000_000}  # of timm's repositories, as their pages state them
_DINOV2 = dict(backbone='ViT-B (DINOv2)')

_FIGURES: dict[str, tuple[Figure, ...]] = {
    'amflow_dinov2_b_tcn': (
        Figure(_SSV2, 74.8, 95.0, 'Table 1', 24, params='86 + 28 + 45 + 54 M', cost='5.1 TFLOPs', **_DINOV2),),
    'amflow_clip_b_tcn': (
        Figure(
            _SSV2, 73.5, 94.7, 'Table 1', 24, backbone='ViT-B (CLIP)', params='86 + 28 + 45 + 54 M',
            cost='5.1 TFLOPs'),),
    'amflow_dinov2_b_transformer': (
        Figure(_SSV2, 74.6, 95.0, 'Table 1', 24, params='86 + 28 + 45 + 103 M', cost='11.9 TFLOPs', **_DINOV2),
        Figure(_K400, 89.1, 98.3, 'Table 2', 8, 1, 3, params='86 + 32 + 45 + 103 M', cost='6.9 TFLOPs', **_DINOV2),
        Figure(_K400, 89.6, 98.4, 'Table 2', 32, 1, 3, params='86 + 32 + 45 + 103 M', cost='13.8 TFLOPs', **_DINOV2)),
    'amflow_dinov2_b_lstm': (
        Figure(_SSV2, 58.3, 82.8, 'Table 1', 8, params='86 + 30 + 45 + 360 M', cost='4.6 TFLOPs', **_DINOV2),
        Figure(
            _K400, 88.8, 98.2, 'Tables 2 and 4', 8, 1, 3, params='86 + 32 + 45 + 360 M', cost='5.3 TFLOPs', **_DINOV2),
        Figure(_K400, 74.3, None, 'Table 4', setting='without AM flow'),
        Figure(_K400, 72.7, None, 'Table 4', setting='without the aligning encoder'),
        Figure(_K400, 78.3, None, 'Table 4', setting='trained from scratch'),
        Figure(_K400, 84.2, None, 'Table 4', setting='adapters of a hyperformer')),
    'amflow_dinov2_b_smarthome': (Figure(_SMARTHOME, 70.2, None, 'Table 3', 8),),
}


def record(name: str, backbone: str, tag: str) -> TagRecord:
    """The record of a tag.

    Args:
        name: Name of the entry point.
        backbone: Name of timm's model.
        tag: Tag of its weights.
    """
    lite = name.endswith('_lite')
    return TagRecord(
        PAPER, _DATA[tag], figures=_FIGURES.get(name, ()), size=_SIZES.get(backbone), frozen_backbone=True,
        about_figures=(
            'No code and no weights were published with these figures, and the paper does not print what is needed to '
            'repeat them (learning rate, resolution, widths). It gives "IN-21K" as the pre-training of backbones that '
            'were trained on LVD-142M or on image-text pairs. The zoo promises none of them.'),
        starts_fresh=(
            'These are weights of the image backbone; **adapters, temporal units and classifiers are freshly '
            'initialised** and must be trained.'),
        limits=(
            'The paper does not print the widths of its adapters and temporal units. Those here were fitted to its '
            f'parameter counts{" and then narrowed" if lite else ""}.'),
        unsupported=('torch.jit.script', 'torch.fx'),  # blocks are run by a runner that is no module
    )
