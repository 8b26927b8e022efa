"""Every registered video model against timm's contract: full size on the meta device, small ones in action."""
import pytest
from base import ConfigTester, ModelTester

from flatzoo import list_models

SWIN = dict(
    model_name='sifar_swin_b12', embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8),
    window_size=(3, 3, 3, None), img_size=32,
)
RESNET = dict(model_name='sifar_resnet50_c7', backbone='resnetv2_18', groups=128, img_size=32)


ADAPTERS = [name for family in ('st_adapter', 'aim', 'zeroi2v', 'dualpath') for name in list_models(f'{family}_*')]
ONE_OF_EACH = (  # the others differ from these in nothing but widths, depths and frames
    'flatten_resnet50', 'flatten_swinv2_t', 'flatten_uniformer_s', 'probe', 'probe_dinov2_s', 'sifar_resnet10t',
    'sifar_resnet50', 'sifar_resnet50_c7', 'sifar_resnet50_c21_11', 'sifar_swin_b7', 'sifar_swin_b12',
    'sifar_swin_b14_16f', 'sifar_swin_l12_384', 'sifar_swin_tiny', 'superimage', 'tall', 'time_resnet50',
    'time_videomae_b', 'time_vit_b', 'tsm', 'tsm_mobilenetv2_100', 'tsm_online_mobilenetv2_100', 'tsm_resnet50',
    'tsm_resnet50_nl', 'videomae_vit_s', 'st_adapter_clip_b', 'aim_clip_b', 'zeroi2v_clip_b', 'dualpath_clip_b',
)


def marked(names):
    """The names, of which all but one of each are for `-m slow`."""
    return [name if name in ONE_OF_EACH else pytest.param(name, marks=pytest.mark.slow) for name in names]


class TestConfigs(ConfigTester):
    names = marked(
        name for name in list_models()
        if name not in ADAPTERS and not name.startswith('amflow'))  # which has its own in test_amflow


class TestAdapterConfigs(ConfigTester):
    names = marked(ADAPTERS)

    def of_images(self, features):
        return features.flatten(0, 1)


class TestSifar(ModelTester):
    cases = {
        'swin_tiny': dict(model_name='sifar_swin_tiny'),
        'swin': SWIN,
        'swin_ape_16f': dict(SWIN, num_frames=16, ape=True, window_size=(4, 4, 4, None)),
        'swin_2x4': dict(SWIN, layout='2x4', shift_rule='short_side', window_size=(4, 4, 4, None)),
        'swin_time': dict(SWIN, layout='time:2', img_size=64, window_size=(4, 4, 4, None)),
        'resnet_c7': RESNET,
    }
    compiled = ('swin_time', 'resnet_c7')


class TestSuperImage(ModelTester):
    cases = {
        backbone: dict(model_name='superimage', backbone=backbone, num_frames=8, img_size=32)
        for backbone in (
            'test_vit', 'test_vit_relpos', 'test_convnext', 'test_efficientnet', 'test_mambaout',
        )
    } | {
        'test_resnet-time': dict(model_name='superimage', backbone='test_resnet', img_size=64, layout='time:2'),
        'test_vit3-time': dict(model_name='superimage', backbone='test_vit3', img_size=64, layout='time:2:temporal'),
        'test_byobnet-random': dict(model_name='superimage', backbone='test_byobnet', img_size=32, layout='random:2x4'),
    }
    compiled = ('test_resnet-time', 'test_byobnet-random')
