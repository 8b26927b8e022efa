"""SIFAR: the windows of its Swin Transformers, the sizes that they fit, and the embedding of frames."""
import pytest
import timm
import torch
from timm.models import save_for_hf

import flatzoo  # noqa: F401 - registers the models

WHOLE = (None,) * 4  # windows of whole maps in every stage


def create(**kwargs):
    torch.manual_seed(0)
    args = dict(num_classes=5, embed_dim=16, depths=(1, 1, 2, 2), num_heads=(1, 2, 4, 8))
    return timm.create_model('sifar_swin_b12', **{**args, **kwargs}).eval()


def random_clip(model):
    return torch.randn(2, 3, model.num_frames, *model.img_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('rule, layout, expected', [
    # map, window and shift of every stage; frames of 32 pixels are 8x8 patches
    ('per_axis', '2x4', [((16, 32), (4, 4), (2, 2)), ((8, 16), (4, 4), (2, 2)), ((4, 8), (4, 4), (0, 2)), ((2, 4),
    (2, 4), (0, 0))]),
    ('short_side', '2x4', [((16, 32), (4, 4), (2, 2)), ((8, 16), (4, 4), (2, 2)), ((4, 8), (4, 4), (0, 0)), ((2, 4),
    (2, 2), (0, 0))]),
    ('per_axis', '4x4', [((32, 32), (4, 4), (2, 2)), ((16, 16), (4, 4), (2, 2)), ((8, 8), (4, 4), (2, 2)), ((4, 4),
    (4, 4), (0, 0))]),
    ('short_side', '4x4', [((32, 32), (4, 4), (2, 2)), ((16, 16), (4, 4), (2, 2)), ((8, 8), (4, 4), (2, 2)), ((4, 4),
    (4, 4), (0, 0))]),
])
def test_shift_rules(rule, layout, expected):
    model = create(layout=layout, shift_rule=rule, img_size=32, window_size=(4, 4, 4, None), depths=(2, 2, 2, 2))
    for stage, (size, window, shift) in zip(model.backbone.layers, expected, strict=True):
        first, second = stage.blocks
        assert first.input_resolution == second.input_resolution == size
        assert first.window_size == second.window_size == window
        assert first.shift_size == (0, 0) and second.shift_size == shift
        assert (second.attn_mask is None) == (shift == (0, 0))


def test_unknown_shift_rule():
    with pytest.raises(ValueError, match="'official' is neither 'per_axis' nor 'short_side'"):
        create(shift_rule='official')


@pytest.mark.parametrize('args, message', [
    (dict(img_size=32, window_size=(4, 4, 4, None)), 'stage 3 a map of 6x6, which windows of 4x4 do not divide'),
    (dict(img_size=100, window_size=(12, 12, 12, None)), 'stage 1 a map of 75x75, which windows of 12x12'),
    (dict(img_size=64, layout='2x4', window_size=7), 'stage 1 a map of 32x64, which windows of 7x7'),
    (dict(img_size=(40, 64), window_size=(6, 6, 6, None)), 'stage 2 a map of 15x24, which windows of 6x6'),
    (dict(img_size=60, layout='3x3,scale=cell', window_size=(3, 3, 3, None)), 'stage 2 a map of 8x8'),
    (dict(img_size=40, layout='3x3,scale=composite', window_size=(4, 4, 4, None)), 'stage 1 a map of 10x10'),
    (dict(img_size=224, window_size=(7, 7, 7, 6)), 'stage 4 a map of 21x21, which windows of 6x6'),
    (dict(img_size=32, window_size=(3, 3, 3, None), patch_size=2, num_frames=16),
    'stage 1 a map of 64x64, which windows of 3x3'),
])
def test_windows_that_do_not_divide(args, message):
    with pytest.raises(ValueError, match=message) as caught:
        create(**args)
    text = str(caught.value)
    assert 'Frame sizes that fit: ' in text
    sizes = [int(size) for size in text.split('Frame sizes that fit: ')[1].rstrip('.').split(', ')]
    assert sizes
    for size in sizes:
        model = create(**dict(args, img_size=size), device='meta')
        clip = torch.empty(1, 3, model.num_frames, size, size, device='meta')
        assert model(clip).shape == (1, 5)


@pytest.mark.parametrize('window_size, message', [
    ((4, 4, 4), 'has 3 entries, the backbone 4 stages'), ((4,) * 5, 'has 5 entries'),
    ((4, 4, 4, 5), 'which windows of 5x5 do not divide. Choose other windows'),
])
def test_wrong_windows(window_size, message):
    with pytest.raises(ValueError, match=message):
        create(img_size=64, window_size=window_size)


def test_frame_embedding_wants_whole_patches():
    with pytest.raises(ValueError, match='do not halve evenly.*Frame sizes that fit: 16, 32, 48, 64'):
        create(img_size=30, layout='2x2', num_frames=4, ape=True, window_size=WHOLE)


@pytest.mark.parametrize('layout, num_frames', [('2x4', 8), ('4x2', 8), ('3x3', 8)])
@torch.no_grad()
def test_frame_embedding_reaches_its_cell(layout, num_frames):
    """Cell i lies at (i // columns, i % columns), in grids that are not square, too."""
    model = create(layout=layout, num_frames=num_frames, img_size=32, window_size=WHOLE, ape=True)
    embed = model.backbone.patch_embed
    rows, cols = model.grid_size
    embed.frame_pos_embed.zero_()
    plain = embed(model.super_image(random_clip(model)))
    for cell in range(rows * cols):
        embed.frame_pos_embed.zero_()[0, cell] = 1
        changed = (embed(model.super_image(random_clip(model))) - plain).amax((0, 3))
        changed = changed.unflatten(0, (rows, 8)).unflatten(2, (cols, 8))
        expected = torch.zeros(rows, 8, cols, 8)
        expected[cell // cols, :, cell % cols] = 1
        torch.testing.assert_close(changed, expected)


@pytest.mark.parametrize('change', [
    dict(img_size=64, window_size=(4, 4, 4, None)), dict(img_size=(64, 128), window_size=(4, 4, 4, None)),
    dict(num_frames=16, window_size=(4, 4, 4, None)), dict(img_size=64, window_size=(4, 4, None, None)),
    dict(img_size=192), dict(layout='2x4', img_size=96), dict(layout='time:2'), dict(layout='2x4,scale=composite'),
    dict(patch_size=2),
], ids=str)
@pytest.mark.parametrize('rule', ['per_axis', 'short_side'])
@torch.no_grad()
def test_set_input_size(tmp_path, change, rule):
    args = dict(img_size=96, window_size=(3, 3, 3, None), shift_rule=rule)
    model = create(**args)
    model.set_input_size(**change)
    built = create(**{**args, **change})  # the same model built at once
    for name in ('img_size', 'num_frames', 'layout', 'image_size', 'num_images'):
        assert getattr(model, name) == getattr(built, name), name
    for stage, other in zip(model.backbone.layers, built.backbone.layers, strict=True):
        for block, twin in zip(stage.blocks, other.blocks, strict=True):
            assert (block.window_size, block.shift_size) == (twin.window_size, twin.shift_size)
    last = model.backbone.layers[-1].blocks[0]
    assert last.window_size == last.input_resolution or rule == 'short_side'  # None follows the map

    logits = model(random_clip(model))
    save_for_hf(model, tmp_path, safe_serialization=True)
    assert torch.equal(timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()(random_clip(model)), logits)


def test_set_input_size_refuses():
    model = create(img_size=96, window_size=(3, 3, 3, None), ape=True)
    logits = model(random_clip(model))
    with pytest.raises(ValueError, match='a vector for each of 3x3 cells, but the new layout has 4x4 cells'):
        model.set_input_size(num_frames=16)
    with pytest.raises(ValueError, match='do not divide. Frame sizes that fit'):
        model.set_input_size(img_size=100)
    with pytest.raises(TypeError, match='no_such'):
        model.set_input_size(no_such=1)
    assert torch.equal(model(random_clip(model)), logits)  # nothing changed


@pytest.mark.parametrize('args', [
    dict(img_size=33),  # a frame of 8.25 patches
    dict(img_size=40, window_size=(5, 5, None, None)),  # maps of 30, 15, 8, 4: merging would mix frames
])
def test_frames_that_do_not_halve_evenly_are_refused(args):
    with pytest.raises(ValueError, match='do not halve evenly'):
        timm.create_model('sifar_swin_tiny', device='meta', **args)


def test_errors_of_arguments_do_not_blame_the_size():
    with pytest.raises(ValueError, match='Invalid pool type: zzz') as caught:
        timm.create_model('sifar_swin_tiny', global_pool='zzz')
    assert 'img_size' not in str(caught.value)
    with pytest.raises(ValueError, match='must be positive'):
        timm.create_model('sifar_swin_tiny', window_size=0)
    with pytest.raises(ValueError, match='no ResNetV2'):
        timm.create_model('sifar_resnet50_c7', backbone='test_resnet')
