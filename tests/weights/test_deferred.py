"""Random initialisation that waits for weights must leave nothing of a model other than it would have been."""
import math
import threading

import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flatzoo.weights.deferred import DeferredInit

MODELS = {
    'test_vit': {}, 'test_resnet': {}, 'test_convnext': {}, 'test_efficientnet': {}, 'test_vit_relpos': {},
    'test_maxvit': {}, 'test_nfnet': {}, 'test_mambaout': {}, 'sifar_swin_tiny': {},
    # read or scale parameters while they are built
    'beit_base_patch16_224': dict(depth=2, embed_dim=48, num_heads=4, img_size=32, head_init_scale=0.1),
    'convnext_atto': dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), head_init_scale=0.1),
    'swinv2_cr_tiny_224': dict(img_size=64, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
}


def build_deferred(build, state_dict=None):
    deferred = DeferredInit()
    with deferred:
        model = build()
    if state_dict is not None:
        model.load_state_dict(state_dict, strict=False)
    deferred.fill()
    return model


@pytest.mark.parametrize('name', MODELS)
def test_distributions(name):
    """What is missing in a file has the distribution that the model gives it."""
    def build():
        return timm.create_model(name, **dict(dict(num_classes=64), **MODELS[name]))

    torch.manual_seed(0)
    expected = build()
    torch.manual_seed(0)
    model = build_deferred(build)
    for (key, wanted), actual in zip(expected.named_parameters(), model.parameters(), strict=True):
        assert actual.shape == wanted.shape and actual.isfinite().all(), key
        if wanted.numel() < 256 or wanted.std() == 0:
            assert wanted.std(correction=0) > 0 or torch.equal(actual, wanted), key  # constants are bit-equal
            continue
        torch.testing.assert_close(actual.std(), wanted.std(), rtol=0.35, atol=0, msg=key)
        assert (actual.mean() - wanted.mean()).abs() < 6 * wanted.std() / math.sqrt(wanted.numel()), key
        assert abs(actual.abs().max() / wanted.abs().max() - 1) < 0.5, key  # truncated as it was
    for (key, wanted), actual in zip(expected.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(actual, wanted), key


@pytest.mark.parametrize('name', ['test_vit', 'test_resnet', 'sifar_swin_tiny', 'convnext_atto'])
def test_loaded_parameters_are_bit_equal(name):
    def build():
        return timm.create_model(name, **dict(dict(num_classes=64), **MODELS[name]))

    weights = {key: value for key, value in build().state_dict().items() if 'head' not in key and '.fc.' not in key}
    model = build_deferred(build, weights)
    for key, value in model.state_dict().items():
        if key in weights:
            assert torch.equal(value, weights[key]), key
        elif key.endswith('.weight') and value.ndim > 1:
            assert value.std() > 0, key


def test_nothing_is_drawn_for_loaded_parameters():
    source = timm.create_model('test_vit')
    torch.manual_seed(0)
    before = torch.get_rng_state()
    build_deferred(lambda: timm.create_model('test_vit'), source.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    timm.create_model('test_vit')
    assert not torch.equal(torch.get_rng_state(), before)


class Chain(nn.Module):
    """The ways in which models write their first values."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Parameter(torch.empty(64, 64))
        nn.init.normal_(self.plain, mean=1., std=2.)
        self.scaled = nn.Linear(64, 64)
        self.scaled.weight.data.mul_(1e-3)
        self.scaled.bias.data.copy_(self.scaled.weight.data.mean(1) + 5)  # reads a parameter
        self.detached = nn.Parameter(torch.empty(64, 64))
        nn.init.uniform_(self.detached.detach(), 3, 4)
        self.viewed = nn.Parameter(torch.empty(64, 64))
        nn.init.trunc_normal_(self.viewed, std=1.)
        with torch.no_grad():
            self.viewed[0] = 7.  # writes a part
            self.viewed[1].fill_(8.)
        self.derived = nn.Parameter(self.plain.data.clone() * 0 + 2)
        self.overwritten = nn.Parameter(torch.randn(64))
        nn.init.normal_(self.overwritten)
        nn.init.constant_(self.overwritten, 9.)
        self.register_buffer('mean', self.plain.mean().detach())
        self.assigned = nn.Linear(4, 4)
        self.assigned.weight.data = torch.full((4, 4), 6.)
        self.orthogonal = nn.Parameter(torch.empty(16, 16))
        nn.init.orthogonal_(self.orthogonal)
        self.tied = nn.Linear(64, 64, bias=False)
        self.tied.weight = self.plain


def test_models_that_read_their_parameters():
    torch.manual_seed(0)
    model = build_deferred(Chain)
    assert model.plain.mean().item() == pytest.approx(1, abs=0.2)
    assert model.plain.std().item() == pytest.approx(2, rel=0.1)
    assert model.mean == model.plain.mean()  # what was read is what stayed
    assert 0 < model.scaled.weight.abs().max() <= 1e-3 / 8
    torch.testing.assert_close(model.scaled.bias, model.scaled.weight.mean(1) + 5)
    assert 3 <= model.detached.min() and model.detached.max() <= 4
    assert (model.viewed[0] == 7).all() and (model.viewed[1] == 8).all() and 0.8 < model.viewed[2:].std() < 1.2
    assert (model.derived == 2).all() and (model.overwritten == 9).all() and (model.assigned.weight == 6).all()
    torch.testing.assert_close(model.orthogonal @ model.orthogonal.T, torch.eye(16), atol=1e-5, rtol=0)
    assert model.tied.weight is model.plain


def test_same_seed_same_weights_where_all_is_drawn():
    def build():
        return nn.Sequential(nn.Linear(8, 8), nn.Conv2d(8, 8, 3), nn.Embedding(5, 8), nn.BatchNorm1d(8))

    torch.manual_seed(0)
    expected = build().state_dict()
    torch.manual_seed(0)
    for key, value in build_deferred(build).state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_only_its_own_thread():
    results = {}
    deferred = DeferredInit()

    def other_thread():
        torch.manual_seed(0)
        results['other'] = nn.Linear(16, 16).weight.detach().clone()

    torch.manual_seed(0)
    expected = nn.Linear(16, 16).weight.detach().clone()
    with deferred:
        thread = threading.Thread(target=other_thread)
        thread.start()
        thread.join()
    assert torch.equal(results['other'], expected)
    torch.manual_seed(0)
    assert torch.equal(nn.Linear(16, 16).weight, expected)  # and not after it was left


def test_exceptions_leave_it():
    deferred = DeferredInit()
    with pytest.raises(KeyError, match='broken'), deferred:
        nn.Linear(4, 4)
        raise KeyError('broken')
    torch.manual_seed(0)
    first = nn.Linear(16, 16).weight
    torch.manual_seed(0)
    assert torch.equal(nn.Linear(16, 16).weight, first)
    deferred.fill()  # the parameter of the failed model is gone


class Drawn(TorchDispatchMode):
    """Counts random operations."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ in ('uniform_', 'normal_')
        return func(*args, **(kwargs or {}))


def test_models_on_meta_draw_nothing():
    with DeferredInit() as deferred:
        layer = nn.Linear(64, 64, device='meta')
        nn.init.trunc_normal_(layer.weight)
    with Drawn() as drawn:
        nn.Linear(8, 8, device='meta')
        assert drawn.count == 2
        deferred.fill()
        timm.create_model('sifar_swin_tiny', device='meta')
    assert drawn.count == 2 and layer.weight.is_meta


def test_nested_contexts_and_meta():
    outer = DeferredInit()
    with outer:
        model = build_deferred(lambda: nn.Linear(64, 64))
        meta = nn.Linear(64, 64, device='meta')
    outer.fill()
    assert meta.weight.is_meta
    assert 0.05 < model.weight.std() < 0.1


def test_parameters_written_by_hand_stay():
    deferred = DeferredInit()
    with deferred:
        model = nn.Linear(8, 8)
    with torch.no_grad():
        model.weight.fill_(3.)
    deferred.fill()
    assert (model.weight == 3).all()
    assert 0 < model.bias.abs().max() <= 1 / math.sqrt(8)
    deferred.fill()  # once is enough
    assert (model.weight == 3).all()


def test_pretrained_models_are_complete():
    """Through the registry: no parameter of a model whose weights were loaded is left without a value."""
    source = timm.create_model('sifar_swin_tiny', num_classes=5)
    junk = [torch.full((1 << 16,), float('nan')) for _ in range(64)]  # memory that a parameter left empty may inherit
    del junk
    model = timm.create_model(
        'sifar_swin_tiny', num_classes=9, ape=True, pretrained=True,
        pretrained_cfg_overlay=dict(state_dict=source.state_dict()))
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all() and parameter.abs().max() < 10, name
    assert 0.01 < model.get_classifier().weight.std() < 0.03
