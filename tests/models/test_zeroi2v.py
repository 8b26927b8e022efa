"""ZeroI2V: the official code's numbers, timm's contract, merging, the sizes of its table, and its files."""
import sys
import types

import pytest
import timm
import torch
from adapter_cases import BACKBONES, assert_golden, golden, load, sizes, without_adapters
from base import NUM_CLASSES, AdapterTester, assert_close, build, perturb, random_clip
from timm.models import save_for_hf

import flatzoo
from flatzoo.hub.convert import convert
from flatzoo.layers.frame_shift import shift_frames
from flatzoo.models.zeroi2v import ZeroI2V

SHIFTS = dict(frame_shifts=((-1, 6), (1, 6), (-2, 3)))
TINY = dict(BACKBONES['clip'], model_name='zeroi2v_clip_b', **SHIFTS)
THREE = dict(BACKBONES['dinov2_reg'], model_name='zeroi2v_dinov2_b', places=('attn_in', 'attn_out', 'mlp_in'))
MERGED = dict(TINY, merged=True)
CASES = {
    'zeroi2v_base_k400': dict(shift_div=4),
    'zeroi2v_three_adapters_2f': dict(
        shift_div=6, frame_shifts=(-1, 1, -2), adapter_scale=1., places=('attn_in', 'attn_out', 'mlp_in')),
}


class TestZeroI2V(AdapterTester):
    cases = {'clip': TINY, 'dinov2_three': THREE, 'merged': MERGED}


@pytest.mark.parametrize('name', CASES)
def test_is_the_official_network_before_and_after_merging(name):
    tensors, weights, twin = golden(name)
    model = load('zeroi2v_clip_b', weights, **twin, **CASES[name])
    block = 'backbone.transformer.resblocks'
    assert_golden(model, tensors, {} if 'three' in name else {
        f'{block}.0.T_Adapter_in.D_fc1.weight': 'adapters.0.attn_in.down.weight',
        f'{block}.1.S_Adapter.D_fc2.weight': 'adapters.1.attn_out.up.weight',
        'backbone.temporal_embedding': 'temporal_embed'})
    official = {**weights, **{key.removeprefix('merged.'): t for key, t in tensors.items() if 'merged.' in key}}
    official = {key: tensor for key, tensor in official.items() if '_Adapter' not in key}
    expected = load('zeroi2v_clip_b', official, merged=True, **twin, **CASES[name])
    assert model.merge_adapters() is model and not list(model.adapters.parameters())
    for key, tensor in expected.state_dict().items():
        assert_close(model.state_dict()[key], tensor, atol=1e-6)
    with torch.no_grad():
        assert_close(model(tensors['input']), tensors['logits_merged'], atol=2e-5)


def test_shifted_channels():
    """Groups follow one another over the heads; frames without a partner keep their own, also in short clips."""
    x = torch.arange(3.).view(3, 1, 1, 1).expand(3, 2, 5, 4)
    out = shift_frames(x, 3, [(-1, 3), (1, 2), (-2, 1), (5, 1)]).transpose(1, 2).flatten(2)[:, 0]
    assert out.T.tolist() == 3 * [[0, 0, 1]] + 2 * [[1, 2, 2]] + [[0, 1, 0]] + 2 * [[0, 1, 2]]


@pytest.mark.parametrize('args', BACKBONES.values(), ids=list(BACKBONES))
@torch.no_grad()
def test_without_adapters_and_shifts_it_is_the_backbone(args):
    model = without_adapters(perturb(build(dict(TINY, **{**args, 'frame_shifts': ()}))))
    model.temporal_embed.zero_()
    clip = random_clip(model)
    expected = model.backbone.forward_features(model.super_image(clip))
    assert_close(model.forward_features(clip).flatten(0, 1), expected)
    assert model(clip).shape == (2, NUM_CLASSES)


@pytest.mark.parametrize('args', BACKBONES.values(), ids=list(BACKBONES))
@torch.no_grad()
def test_merging(args):
    model = perturb(build(dict(TINY, **args)))
    clip = random_clip(model)
    logits, weights = model(clip), {key: t.clone() for key, t in model.state_dict().items()}
    if any(name in args['backbone'] for name in ('dinov3', 'eva02')):
        with pytest.raises(ValueError, match='no bias'):
            model.merge_adapters()
        assert all(torch.equal(t, weights[key]) for key, t in model.state_dict().items())
        return
    assert_close(model.merge_adapters()(clip), logits)


@torch.no_grad()
def test_merged_models_are_saved_exported_and_optimised(tmp_path):
    model = perturb(build(TINY)).merge_adapters()
    clip = random_clip(model)
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert loaded.merged and torch.equal(loaded(clip), model(clip))
    program = torch.export.export(model, (clip,))
    assert_close(program.module()(clip), model(clip))
    assert_close(flatzoo.optimize(loaded)(clip), model(clip), atol=1e-4)
    for merged in (model, loaded):
        with pytest.raises(ValueError, match='merged into the backbone'):
            merged.save_adapters(tmp_path / 'adapters.safetensors')


def test_merging_in_half_precision_is_refused():
    model = build(TINY, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match='takes weights of float32, got torch.bfloat16'):
        model.merge_adapters()


@pytest.mark.parametrize('name, expected', [
    ('zeroi2v_clip_b', (14.202, 14.517, 100.315)), ('zeroi2v_clip_l', (50.455, 50.875, 354.052)),
    ('zeroi2v_clip_l_ssv2', (50.455, 50.668, 353.845)),
])
def test_sizes(name, expected):
    assert sizes(name) == pytest.approx(expected, abs=1e-3)
    assert sizes(name, merged=True)[2] == pytest.approx(
        {'b': 86.113, 'l': 303.598, '2': 303.391}[name[-1]], abs=1e-3)


def test_heads_of_the_entry_points():
    def shifts(name):
        return timm.create_model(name, device='meta').frame_shifts

    assert shifts('zeroi2v_clip_b') == [(-1, 64), (1, 64)]
    assert shifts('zeroi2v_clip_b_ssv2') == [(-1, 64), (1, 64), (-2, 64), (2, 64)]
    assert shifts('zeroi2v_clip_l') == [(-1, 128), (1, 128)]
    assert shifts('zeroi2v_clip_l_32f') == [(-1, 128), (1, 128), (-2, 128)]
    assert shifts('zeroi2v_clip_l_ssv2') == [(-1, 128), (1, 128), (-2, 64), (2, 64), (-3, 64)]


@pytest.mark.parametrize('args, message', [
    (dict(frame_shifts=((-1, 20), (1, 20))), '32 channels in all'), (dict(frame_shifts=((1, 2, 3),)), 'pairs of an'),
    (dict(frame_shifts=((-1, 0),)), 'pairs of an offset'), (dict(places=('mlp',)), "accepted are 'attn_in'"),
    (dict(adapter_scale=0), 'adapter_scale=0'), (dict(shift_div=0), 'shift_div=0'),
    (dict(backbone='hiera_tiny_224'), 'ZeroI2V cannot run a Hiera'),
])
def test_refuses(args, message):
    args = {**TINY, **args}
    if not args['backbone'].startswith('vit'):
        args = {key: args[key] for key in ('model_name', 'backbone')}
    with pytest.raises(ValueError, match=message):
        build(args)


# Files


@pytest.fixture
def release(tmp_path, monkeypatch):
    """A file as mmengine writes it, by a class that is gone when it is read."""
    numpy = pytest.importorskip('numpy')
    _, weights, twin = golden('zeroi2v_base_k400')
    module = types.ModuleType('mmengine.logging.history_buffer')

    class HistoryBuffer:
        def __init__(self):
            self.__dict__.update(_log_history=numpy.arange(3.), last=numpy.float64(1), count=numpy.int64(2))

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, 'HistoryBuffer'
    module.HistoryBuffer = HistoryBuffer
    with monkeypatch.context() as patch:
        for name in ('mmengine', 'mmengine.logging'):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        patch.setitem(sys.modules, module.__name__, module)
        hub = dict(log_scalars={'train/loss': HistoryBuffer()}, runtime_info={'epoch': 40})
        torch.save(dict(meta={'epoch': 40}, state_dict=weights, message_hub=hub), tmp_path / 'official.pth')
    return tmp_path / 'official.pth', weights, twin


def test_official_files(release, tmp_path):
    path, weights, twin = release
    conversion = convert(path, tmp_path / 'ours.safetensors', 'zeroi2v_clip_b', shift_div=4, **twin)
    assert sorted(conversion.taken) == sorted(weights)
    assert not conversion.dropped and not conversion.new and conversion.beside == ['meta', 'message_hub']
    file = dict(file=str(tmp_path / 'ours.safetensors'))
    model = timm.create_model('zeroi2v_clip_b', pretrained=True, pretrained_cfg_overlay=file, shift_div=4, **twin)
    tensors = golden('zeroi2v_base_k400')[0]
    with torch.no_grad():
        assert_close(model.eval()(tensors['input']), tensors['logits'], atol=2e-5)
    assert isinstance(model, ZeroI2V) and model.head_trained
    with pytest.raises(ValueError, match='has 5 classes.* num_classes=5'):
        convert(path, tmp_path / 'other.safetensors', 'zeroi2v_clip_b', shift_div=4, **{**twin, 'num_classes': 7})
