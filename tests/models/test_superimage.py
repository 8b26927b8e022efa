"""`superimage`: any timm backbone as a video model, its image weights, its sizes, and what it refuses."""
import copy
import logging

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from flatzoo import VideoModel
from flatzoo.models import backbone as backbones, base

BACKBONES = ['test_resnet', 'test_vit', 'test_vit3', 'test_convnext', 'test_efficientnet', 'test_mambaout']
SWIN = dict(backbone='swin_tiny_patch4_window7_224', embed_dim=16, depths=(1, 1, 2, 2), num_heads=(1, 2, 4, 8))


def create(backbone='test_resnet', **kwargs):
    torch.manual_seed(0)
    args = {'backbone': backbone, 'img_size': 32, 'num_classes': 5, **kwargs}
    return timm.create_model('superimage', **args).eval()


def random_clip(model, batch_size=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch_size, model.in_chans, model.num_frames, *model.img_size, generator=generator)


def sizes_in(message):
    assert 'Frame sizes that fit: ' in message
    return [int(size) for size in message.split('Frame sizes that fit: ')[1].rstrip('.').split(', ')]


@torch.no_grad()
@pytest.mark.parametrize('backbone', BACKBONES)
def test_is_the_backbone_on_the_super_image(backbone):
    model = create(backbone)
    clip = random_clip(model)
    assert torch.equal(model(clip), model.backbone(model.super_image(clip)))
    folded = create(backbone, layout='time:2,scale=none', num_frames=8)
    clip = random_clip(folded)
    logits = folded.backbone(folded.super_image(clip))
    assert logits.shape == (4, 5)
    torch.testing.assert_close(folded(clip), (logits[::2] + logits[1::2]) / 2)


# image weights


@pytest.mark.parametrize('how', ['memory', 'file', 'safetensors'])
@pytest.mark.parametrize('backbone', BACKBONES)
def test_image_weights(backbone, how, tmp_path, caplog):
    """The size of the image and of the classifier differ; all the rest is taken."""
    image = timm.create_model(backbone, num_classes=7)
    overlay = dict(state_dict=image.state_dict())
    if how != 'memory':
        overlay = dict(file=str(tmp_path / ('image.pth' if how == 'file' else 'image.safetensors')))
        (torch.save if how == 'file' else save_file)(image.state_dict(), overlay['file'])
    with caplog.at_level(logging.INFO):
        model = create(backbone, pretrained=True, pretrained_cfg_overlay=overlay)
    assert 'The head for 5 classes' in caplog.text
    assert not model.head_trained
    head = model.classifier_keys()
    taken = {name.removeprefix('backbone.'): value for name, value in model.state_dict().items() if name not in head}
    for name, value in taken.items():
        same = torch.equal(value, image.state_dict()[name])
        assert same or name == 'pos_embed' and value.shape != image.state_dict()[name].shape, name
    assert all(model.get_parameter(name).isfinite().all() for name in head)


def test_image_weights_of_the_registry(monkeypatch):
    """`pretrained=True` asks timm for the weights of the backbone, tag included."""
    asked = []
    weights = timm.create_model('test_resnet', num_classes=1000).state_dict()

    def load(hub_id, *args, **kwargs):
        asked.append(hub_id)
        return dict(weights)

    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', load)
    model = create('test_resnet.r160_in1k', pretrained=True)
    assert asked == ['timm/test_resnet.r160_in1k']
    assert torch.equal(model.backbone.conv1[0].weight, weights['conv1.0.weight'])
    assert not model.head_trained
    assert model.pretrained_cfg['mean'] == (0.5, 0.5, 0.5)  # uint8 clips are normalised as the weights want it
    torch.testing.assert_close(model.super_image.norm_scale.flatten(), torch.full((3,), 2 / 255))


def test_image_weights_without_counters():
    """Old or stripped files do not count the batches that their norms have seen."""
    weights = {k: v for k, v in timm.create_model('test_resnet').state_dict().items() if 'num_batches' not in k}
    model = create('test_resnet', pretrained=True, pretrained_cfg_overlay=dict(state_dict=weights))
    assert torch.equal(model.backbone.conv1[0].weight, weights['conv1.0.weight'])


def test_wrong_image_weights():
    overlay = dict(state_dict=timm.create_model('test_resnet').state_dict())
    with pytest.raises(RuntimeError, match='not those of .* keys are missing .* are not wanted .*Build the model with'):
        create('test_efficientnet', pretrained=True, pretrained_cfg_overlay=overlay)
    with pytest.raises(RuntimeError, match='not those of ConvNeXt.*Build the model with'):
        create('test_convnext', pretrained=True, pretrained_cfg_overlay=overlay)


# save and load


@torch.no_grad()
@pytest.mark.parametrize('args', [
    dict(), dict(num_frames=16), dict(num_frames=9, layout='2x5:snake,pad=last'), dict(layout='time:2'),
    dict(in_chans=1),
    dict(layout=[[0, 7], [3, -1]]), dict(layout=torch.tensor([[[0, 1]], [[2, 3]]]), num_frames=4),
    dict(img_size=(32, 64)),
    dict(layout='random:2x4'), dict(global_pool='max'), dict(num_classes=0), dict(SWIN, layout='2x4'),
    dict(backbone='test_vit', layout='nested:1x2/2x2'),
], ids=lambda args: '-'.join(args) or 'default')
def test_save_and_load(args, tmp_path):
    model = create(**args)
    model.pretrained_cfg = dict(model.pretrained_cfg, mean=(0.1,) * 3, std=(0.7,) * 3)
    save_for_hf(model, tmp_path, safe_serialization=True)
    assert not list(tmp_path.glob('*.bin'))
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    clip = random_clip(model)
    assert torch.equal(loaded(clip), model(clip))
    for name in ('num_frames', 'layout', 'img_size', 'in_chans', 'num_classes', 'global_pool', 'grid_size'):
        assert getattr(loaded, name) == getattr(model, name), name
    raw = torch.randint(0, 256, clip.shape, dtype=torch.uint8)
    assert torch.equal(loaded(raw), model(raw))  # mean and std came along
    assert loaded.head_trained == (model.num_classes > 0)


def test_labels_follow_the_head(tmp_path):
    model = create()
    model.pretrained_cfg = dict(model.pretrained_cfg, label_names=('a', 'b', 'c', 'd', 'e'))
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert tuple(loaded.pretrained_cfg['label_names']) == ('a', 'b', 'c', 'd', 'e')
    loaded.reset_classifier(2)
    assert 'label_names' not in loaded.pretrained_cfg and not loaded.head_trained
    assert 'label_names' not in timm.create_model(f'local-dir:{tmp_path}', num_classes=2).pretrained_cfg


# other sizes


@torch.no_grad()
@pytest.mark.parametrize('change', [
    dict(num_frames=16), dict(layout='time:2'), dict(img_size=(32, 64), num_frames=4, layout='2x4'),
], ids=str)
@pytest.mark.parametrize('args', [
    dict(backbone=name) for name in ('test_resnet', 'test_vit', 'test_vit3', 'test_maxvit', 'test_coatnet')
] + [SWIN, dict(SWIN, backbone='swinv2_tiny_window8_256')], ids=lambda args: args['backbone'])
def test_set_input_size(args, change, tmp_path):
    model = create(**args)
    model.set_input_size(**change)
    clip = random_clip(model)
    logits = model(clip)
    for block in (m for m in model.modules() if hasattr(m, 'shift_size') and hasattr(m, 'input_resolution')):
        assert all(side % window == 0 for side, window in zip(block.input_resolution, block.window_size, strict=True))
    save_for_hf(model, tmp_path, safe_serialization=True)
    assert torch.equal(timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()(clip), logits)


def test_a_size_is_tried_once_for_each_way_to_build(monkeypatch):
    tried = []
    check = backbones.check_image
    monkeypatch.setattr(base, 'check_image', lambda *args: tried.append(args[2]) or check(*args))
    monkeypatch.setattr(backbones, '_fitting', set())
    for size in (32, 32, 64, 32, 64):
        create(backbone='test_resnet', img_size=size).set_input_size(num_frames=4)
    first, second = ([(3 * size, 3 * size), (2 * size, 2 * size)] for size in (32, 64))
    assert tried == [*first, first[1], *second, first[1], second[1]]
    create(backbone='test_resnet', img_size=32, device='meta', num_classes=2)
    create(backbone='test_resnet', img_size=32, in_chans=1)
    assert tried[-2:] == [second[1], first[0]]
    for _ in range(2):
        with pytest.raises(ValueError, match='does not take|super image of'):
            create(backbone='test_maxvit', img_size=30)


@torch.no_grad()
@pytest.mark.parametrize('args, change, message', [
    (dict(backbone='test_vit'), dict(img_size=30), '90x90 pixels are no multiple of its patches of 16x16'),
    (SWIN, dict(img_size=30), 'no multiple of its patches of 4x4'),
    (SWIN, dict(img_size=64, window_size=5), 'windows of 5x5 do not divide'),
    (dict(backbone='test_maxvit'), dict(img_size=60), 'does not take the super image of 180x180'),
    (dict(backbone='mixer_s32_224'), dict(img_size=64), 'build a new model'),
    (dict(backbone='test_vit'), dict(num_frames=10, layout='3x3'), 'has 9 cells and 10 frames'),
    (dict(backbone='test_vit'), dict(layout='3x3,scale=cell'), 'use a frame of 33x33'),
])
def test_set_input_size_refuses(args, change, message):
    model = create(**args)
    state, clip = copy.deepcopy(model.state_dict()), random_clip(model)
    logits = model(clip)
    with pytest.raises(ValueError, match=message):
        model.set_input_size(**change)
    assert torch.equal(model(clip), logits)  # it kept its size
    assert model.state_dict().keys() == state.keys()
    with pytest.raises(TypeError, match='no_such'):
        create().set_input_size(no_such=1)


# refusals


@pytest.mark.parametrize('args, message', [
    (dict(backbone='test_vit', img_size=30), '90x90 pixels are no multiple of its patches of 16x16'),
    (dict(backbone='test_vit', img_size=72, layout='3x3,scale=cell'), '72x72 pixels are no multiple of its patches'),
    (dict(backbone='test_maxvit', img_size=30), 'super image of 90x90 pixels that 3x3 cells'),
    (dict(backbone='test_coatnet', img_size=60, layout='2x4'), 'super image of 120x240 pixels that 2x4 cells'),
    (dict(SWIN, img_size=72, window_size=4), 'stage 1 a map of 54x54, which windows of 4x4 do not divide'),
    (dict(backbone='mixer_s32_224', img_size=40), '120x120 pixels are no multiple of its patches of 32x32'),
])
def test_sizes_that_do_not_fit(args, message):
    with pytest.raises(ValueError, match=message) as caught:
        create(**args)
    sizes = sizes_in(str(caught.value))
    assert sizes and args['img_size'] not in sizes
    for size in sizes:  # they do fit
        model = create(**dict(args, img_size=size))
        with torch.no_grad():
            assert model(random_clip(model, 1)).shape == (1, 5)


@pytest.mark.parametrize('args, error, message', [
    (dict(backbone='no_such_model'), ValueError, "'no_such_model' is no timm model"),
    (dict(backbone='resnet5'), ValueError, "'resnet5' is no timm model.*Similar names: .*resnet"),
    (dict(backbone='superimage'), ValueError, 'is a video model itself; name an image model'),
    (dict(backbone='sifar_swin_tiny'), ValueError, 'is a video model itself; name an image model'),
    (dict(no_such_argument=1), TypeError, 'no_such_argument'), (dict(layout='4x'), ValueError, 'Accepted forms'),
    (dict(num_frames=10, layout='3x3'), ValueError, 'at most 9 frames'), (dict(img_size=0), ValueError, 'positive'),
    (dict(num_frames=0), ValueError, 'at least 1 frame'), (dict(num_frames=6, layout='time:2'),
    ValueError, 'multiple of 4'),
])
def test_wrong_arguments(args, error, message):
    with pytest.raises(error, match=message):
        create(**args)


@torch.no_grad()
def test_windows_follow_the_super_image():
    """timm would pad what a window does not divide."""
    for size in (32, 40, 60, 100):
        model = create(**SWIN, img_size=size)
        for stage in model.backbone.layers:
            for block in stage.blocks:
                for side, window in zip(block.input_resolution, block.window_size, strict=True):
                    assert side % window == 0 and window > 1
        assert model(random_clip(model, 1)).isfinite().all()


def test_default_size_and_base_class():
    model = timm.create_model('superimage', backbone='test_resnet', device='meta')
    assert isinstance(model, VideoModel)
    assert (model.img_size, model.num_frames, model.layout) == ((160, 160), 8, 'grid')
    assert model.pretrained_cfg['classifier'] == 'backbone.fc'
    assert timm.create_model('superimage', device='meta').backbone.pretrained_cfg['architecture'] == 'resnet50'


@torch.no_grad()
def test_random_layout_gives_maps_in_order():
    model = create('test_resnet', layout='random:2x4:always')
    plain = create('test_resnet', layout='2x4')
    clip = torch.ones(1, 3, 8, 32, 32) * torch.arange(8.).view(1, 1, 8, 1, 1)
    maps, expected = (
        m.forward_intermediates(clip, indices=[0], intermediates_only=True, per_frame=True)[0] for m in (model, plain))
    torch.testing.assert_close(maps[..., 4:12, 4:12], expected[..., 4:12, 4:12])  # far from the neighbours


def test_missing_image_weights_do_not_blame_the_size():
    with pytest.raises(ValueError, match='No pretrained weights exist') as caught:
        timm.create_model('superimage', backbone='starnet_s050', pretrained=True, img_size=64)
    assert 'img_size' not in str(caught.value)
