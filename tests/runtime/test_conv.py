"""Convolutions in bfloat16: right on every CPU, wherever torch's own are wrong."""
import pytest
import torch
from torch import nn

import flatzoo
from flatzoo.runtime import conv

SHAPES = {  # in, out, kernel, stride, padding, groups, side; wrong with torch 2.14.1 on CPUs with AMX, but for the last
    'tubelets': (6, 32, 16, 16, 0, 1, 32),
    'narrow patches': (16, 32, 4, 4, 0, 1, 16),
    'four channels': (4, 16, 16, 16, 0, 1, 32),
    'depthwise': (12, 12, 3, 1, 1, 12, 8),
    'padded': (3, 20, 3, 2, 1, 1, 9),
}


def layer_and_clip(args, dim=2):
    torch.manual_seed(0)
    in_chans, out, kernel, stride, padding, groups, side = args
    cls = nn.Conv2d if dim == 2 else nn.Conv3d
    layer = cls(in_chans, out, kernel, stride, padding, groups=groups)
    return nn.Sequential(layer).requires_grad_(False), torch.randn(2, in_chans, *[side] * dim).bfloat16()


@pytest.mark.parametrize('args', SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last], ids=['rows', 'channels last'])
def test_equals_float32(args, memory):
    model, x = layer_and_clip(args)
    fast = flatzoo.optimize(model, torch.bfloat16)
    true = nn.functional.conv2d(
        x.double(), fast[0].weight.double(), fast[0].bias.double(), fast[0].stride, fast[0].padding,
        groups=fast[0].groups)
    for _ in range(2):
        out = fast(x.to(memory_format=memory))
        assert out.dtype == torch.bfloat16
        assert (out - true).abs().max() < 0.02 * true.abs().max()


@pytest.mark.parametrize('dim, args', [(2, SHAPES['padded']), (2, (8, 16, 3, 1, 1, 4, 6)), (3, (3, 9, 2, 2, 0, 1, 4))])
def test_a_wrong_one_runs_in_float32(monkeypatch, dim, args):
    monkeypatch.setattr(conv, '_right', {})
    model, x = layer_and_clip(args, dim)
    true = model.bfloat16().float()(x.float())  # with the weights as bfloat16 has them
    cls, dtypes = type(model[0]), []
    convolve = cls._conv_forward

    def wrong(self, x, weight, bias):
        dtypes.append(x.dtype)
        out = convolve(self, x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
        return out.flip(1) if x.dtype == torch.bfloat16 else out

    monkeypatch.setattr(cls, '_conv_forward', wrong)
    fast = flatzoo.optimize(model, torch.bfloat16)
    for _ in range(2):
        assert (fast(x) - true).abs().max() < 0.02 * true.abs().max()
    assert dtypes == [torch.bfloat16, torch.float32, torch.float32]  # tried once
    assert torch.equal(fast(torch.full_like(x, torch.nan)).isnan(), true.isfinite())


@torch.no_grad()
def test_what_is_wrong_does_not_hide_behind_a_black_clip_or_a_layer_of_zeros(monkeypatch):
    monkeypatch.setattr(conv, '_right', {})
    convolve = nn.Conv2d._conv_forward

    def wrong(self, x, weight, bias):
        out = convolve(self, x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)
        return out.flip(1) if x.dtype == torch.bfloat16 else out

    monkeypatch.setattr(nn.Conv2d, '_conv_forward', wrong)
    model, x = layer_and_clip(SHAPES['padded'])
    zeros = nn.Sequential(nn.Conv2d(3, 20, 3, 2, 1))
    zeros[0].weight.zero_()
    state = torch.get_rng_state()
    flatzoo.optimize(zeros, torch.bfloat16)(x)
    fast = flatzoo.optimize(model, torch.bfloat16)
    fast(torch.zeros_like(x))
    assert list(conv._right.values()) == [False] and torch.equal(torch.get_rng_state(), state)


def test_a_right_one_is_checked_once(monkeypatch):
    monkeypatch.setattr(conv, '_right', {})
    model, x = layer_and_clip(SHAPES['padded'])
    fast, other = (flatzoo.optimize(model, torch.bfloat16) for _ in range(2))
    fast(x)
    checked = dict(conv._right)
    assert len(checked) == 1
    monkeypatch.setattr(conv.CheckedConv2d, '_is_right', None)  # would fail
    fast(x), other(x), flatzoo.optimize(model.float())(x.float())
    assert conv._right == checked


def gradients(model, x, low):
    x = x.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=low):
        out = model(x)
    out.float().square().sum().backward()
    return [out, x.grad, model[0].weight.grad, model[0].bias.grad]


@pytest.mark.parametrize('args', SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize('memory', [torch.contiguous_format, torch.channels_last], ids=['rows', 'channels last'])
def test_training_under_autocast_equals_float32(args, memory):
    model, x = layer_and_clip(args)
    x = x.float().to(memory_format=memory)
    model.requires_grad_().to(memory_format=memory)
    true = [tensor.detach().clone() for tensor in gradients(model, x, False)]
    model.zero_grad()
    conv.check_convolutions(model)
    for low, exact in zip(gradients(model, x, True), true):
        assert (low.float() - exact).abs().max() < 0.04 * exact.abs().max()


@pytest.mark.parametrize('what', ['forward', 'gradients'])
def test_what_is_wrong_trains_in_float32(monkeypatch, what):
    monkeypatch.setattr(conv, '_right', {})
    judge = '_is_right' if what == 'forward' else '_has_right_gradients'
    monkeypatch.setattr(conv.CheckedConv2d, judge, lambda *_: False)
    model, x = layer_and_clip(SHAPES['padded'])
    x = x.float()
    model.requires_grad_()
    true = [tensor.detach().clone() for tensor in gradients(model, x, False)]
    model.zero_grad()
    conv.check_convolutions(model)
    assert conv.wrong_convolutions(model) == []
    found = gradients(model, x, True)
    assert found[0].dtype == torch.float32 and all(map(torch.equal, found, true))
    assert conv.wrong_convolutions(model) == ['0']
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert (model(x).dtype == torch.float32) == (what == 'forward')  # an evaluation needs no gradients


def test_without_autocast_nothing_changes(monkeypatch):
    monkeypatch.setattr(conv, '_right', {})
    model, x = layer_and_clip(SHAPES['padded'])
    x, before = x.float(), model.state_dict()
    true = model(x)
    conv.check_convolutions(model)
    assert torch.equal(model(x), true) and model.state_dict().keys() == before.keys() and not conv._right
