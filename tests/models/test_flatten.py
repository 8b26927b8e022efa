"""Flatten: the contract on small members, its transforms, and windows that are frames."""
import pytest
import timm
import torch
from base import ModelTester, assert_close, build, random_clip
from timm.models import save_for_hf

import flatzoo

UNIFORMER = dict(
    model_name='flatten_uniformer_s', depths=(1, 1, 2, 1), embed_dims=(16, 24, 32, 48), head_dim=16, img_size=32)
SWIN = dict(
    model_name='flatten_swinv2_t', embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=4,
    img_size=32)


class TestFlatten(ModelTester):
    cases = {
        'uniformer': UNIFORMER,
        'uniformer_nested': dict(UNIFORMER, layout='nested:1x2/2x2'),
        'uniformer_hybrid': dict(UNIFORMER, attn='hybrid'),
        'uniformer_random': dict(UNIFORMER, layout='random:2x4'),
        'uniformer_cell': dict(UNIFORMER, layout='2x4,scale=cell', img_size=128, attn='window'),
        'swinv2': SWIN,
        'swinv2_column': dict(SWIN, layout='2x4:column'),
        'resnet': dict(model_name='flatten_resnet50', backbone='test_resnet', img_size=32),
    }
    compiled = ('uniformer_hybrid', 'swinv2')


def test_row_major_is_the_default_and_column_order_an_option():
    model = timm.create_model('flatten_uniformer_s', device='meta')
    assert model.super_image.index == [[[0, 1, 2, 3], [4, 5, 6, 7]]]
    model = timm.create_model('flatten_uniformer_s', layout='2x4:column', device='meta')
    assert model.super_image.index == [[[0, 2, 4, 6], [1, 3, 5, 7]]]
    model = timm.create_model('flatten_uniformer_s_16f', layout='nested:2x2/2x2', device='meta')
    assert model.super_image.index[0][0] == [0, 1, 4, 5]


def test_random_transform_shuffles_in_training_only():
    model = build(dict(UNIFORMER, layout='random:2x4'))
    clip = random_clip(model)
    with torch.no_grad():
        assert torch.equal(model(clip), model(clip))
        model.super_image.train()
        torch.manual_seed(3)
        shuffled = model(clip)
        torch.manual_seed(3)
        assert torch.equal(model(clip), shuffled)
        assert not torch.equal(model(clip), shuffled)


@torch.no_grad()
def test_random_transform_is_drawn_from_a_generator():
    """The recipe of the module's docstring, in eval mode."""
    model = build(dict(UNIFORMER, layout='random:2x4'))
    clip = random_clip(model)

    def logits(seed):
        order = model.super_image.draw(len(clip), torch.Generator().manual_seed(seed))
        return model.backbone(model.super_image(clip, order=order)), order

    (first, order), (again, _), (other, _) = logits(5), logits(5), logits(6)
    assert torch.equal(first, again) and not torch.equal(first, other)
    plain = build(UNIFORMER)  # the same weights
    shuffled = torch.stack([frames[:, permutation] for frames, permutation in zip(clip, order, strict=True)])
    assert_close(first, plain(shuffled))


@pytest.mark.parametrize('attn, num_global', [('global', 4), ('window', 0), ('hybrid', 1)])
def test_windows_are_frames_and_follow_them(attn, num_global):
    model = build(dict(UNIFORMER, depths=(1, 1, 4, 1), attn=attn))
    windows = [block.window_size for block in model.backbone.stages[2].blocks]
    assert windows.count(None) == num_global
    assert set(windows) - {None} == ({(2, 2)} if attn != 'global' else set())
    model.set_input_size(img_size=(64, 32))
    windows = [block.window_size for block in model.backbone.stages[2].blocks]
    assert set(windows) - {None} == ({(4, 2)} if attn != 'global' else set())
    assert model(random_clip(model)).shape == (2, 10)


def stage_3_windows(model):
    return {block.window_size for block in model.backbone.stages[2].blocks} - {None}


@pytest.mark.parametrize('scale', ['cell', 'composite'])
def test_windows_are_cells_of_scaled_layouts(scale, tmp_path):
    model = build(dict(UNIFORMER, layout=f'2x4,scale={scale}', img_size=128, attn='hybrid'))
    assert model.image_size == (128, 128) and stage_3_windows(model) == {(4, 2)}
    model.set_input_size(img_size=(64, 192))
    assert stage_3_windows(model) == {(2, 3)}
    clip = random_clip(model)
    with torch.no_grad():
        maps = model.forward_intermediates(clip, indices=[2], intermediates_only=True)[0]
    assert maps.shape[2:] == (4, 12)  # 2x4 cells of the window's size
    for change in (dict(img_size=(64, 96)), dict(img_size=16), dict(layout=f'4x4,scale={scale}', img_size=(32, 128))):
        with pytest.raises(ValueError, match='frames'):
            model.set_input_size(**change)
        assert model.img_size == (64, 192) and stage_3_windows(model) == {(2, 3)}  # nothing has changed

    model.set_input_size(num_frames=4, layout=f'2x2,scale={scale}')
    assert stage_3_windows(model) == {(2, 6)}
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}').eval()
    assert stage_3_windows(loaded) == {(2, 6)}
    for follower in (model, loaded):  # also after it was saved and rebuilt
        follower.set_input_size(layout='2x2', img_size=32)
        assert stage_3_windows(follower) == {(2, 2)}
    model.set_input_size(window_size=1)
    model.set_input_size(img_size=64)
    assert stage_3_windows(model) == {(1, 1)}


@pytest.mark.parametrize('layout, img_size, fits', [
    ('2x4,scale=cell', 96, '96x128'),
    ('2x4,scale=cell', 8, '32x64'),
    ('2x4,scale=composite', 100, '96x128'),
    ('2x4,scale=composite', (5, 300), '32x320'),
    ('2x4', 4, '16x16'),
    ('2x4', (120, 250), '128x256'),
])
def test_cells_that_are_no_whole_windows_are_refused_with_sizes_that_fit(layout, img_size, fits):
    arguments = dict(UNIFORMER, layout=layout, attn='window', device='meta')
    with pytest.raises(ValueError, match=f'cells of whole tokens of 16x16 pixels.*use img_size={fits}'):
        timm.create_model(**dict(arguments, img_size=img_size))
    size = tuple(map(int, fits.split('x')))
    assert stage_3_windows(timm.create_model(**dict(arguments, img_size=size)))


def test_windowed_blocks_see_one_frame_only():
    """Stage 3 alone, all windowed: a change in one frame stays in its cell."""
    model = build(dict(UNIFORMER, depths=(1, 1, 1, 1), attn='window'))
    block = model.backbone.stages[2].blocks[0]
    block.pos_embed = torch.nn.Identity()  # a 3x3 convolution, which leaks across seams whatever the windows
    maps = torch.randn(1, 32, 4, 8)  # 2x4 frames of 2x2 tokens
    changed = maps.clone()
    changed[..., 2:, 2:4] += 1
    with torch.no_grad():
        difference = (block(changed) - block(maps)).abs().amax(1)[0]
    assert (difference[2:, 2:4] > 0).all()
    difference[2:, 2:4] = 0
    assert (difference == 0).all()


def test_frames_that_are_no_whole_windows_are_refused_with_sizes():
    with pytest.raises(ValueError, match=r'whole tokens of 16x16 pixels, .*img_size=120x120.*use img_size=128x128'):
        timm.create_model('flatten_uniformer_s', img_size=120, attn='hybrid', device='meta')
    model = timm.create_model('flatten_uniformer_s', img_size=128, attn='hybrid', device='meta')
    assert model.backbone.window_size == (8, 8)


def test_image_weights_load_and_the_head_starts_fresh():
    args = {key: value for key, value in UNIFORMER.items() if key not in ('model_name', 'img_size')}
    image = timm.create_model('uniformer_small', num_classes=1000, **args)
    weights = {key: value.clone() for key, value in image.state_dict().items()}
    model = timm.create_model(
        **UNIFORMER, num_classes=7, pretrained=True, pretrained_cfg_overlay=dict(state_dict=dict(weights)))
    assert not model.head_trained
    assert model.get_classifier().out_features == 7
    own = model.backbone.state_dict()
    assert all(torch.equal(own[key], value) for key, value in weights.items() if not key.startswith('head.'))


@pytest.mark.parametrize('name', flatzoo.list_models('flatten*'))
def test_frames_are_aligned_to_every_stride(name):
    """The default frame size is a multiple of 32, so that no feature straddles two frames."""
    model = timm.create_model(name, device='meta')
    assert all(side % 32 == 0 for side in model.img_size)
