"""`optimize(model, compile=True)`: machine code that answers as the modules do, and follows their weights."""
import copy
import pickle
import shutil

import pytest
import timm
import torch
from torch import nn

import flatzoo
from flatzoo.runtime import conv

pytestmark = pytest.mark.skipif(not shutil.which('g++'), reason='there is no C++ compiler')


@pytest.fixture(scope='module', autouse=True)
def fresh():
    torch.compiler.reset()
    with torch._inductor.config.patch(cpp_cache_precompile_headers=False):  # pays for many kernels only
        yield
    torch.compiler.reset()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 32, 4, 4), nn.Flatten(2), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 24)).eval()


def clip(batch=2):
    return torch.randn(batch, 16, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def runs(monkeypatch):
    """Writes down the sizes for which the modules themselves ran."""
    sizes, run = [], nn.LayerNorm.forward

    def forward(self, x):
        if not torch.compiler.is_compiling():
            sizes.append(len(x))
        return run(self, x)

    monkeypatch.setattr(nn.LayerNorm, 'forward', forward)
    return sizes


@pytest.mark.slow
@torch.no_grad()
def test_follows_the_given_model(runs):
    model = network()
    fast = flatzoo.optimize(model, compile=True)
    assert fast.state_dict().keys() == model.state_dict().keys() and type(fast) is type(model)
    for batch in (1, 3, 2):
        torch.testing.assert_close(fast(clip(batch)), model(clip(batch)), rtol=1e-5, atol=1e-5)
    model[4].weight.mul_(2)
    torch.testing.assert_close(fast(clip()), model(clip()), rtol=1e-5, atol=1e-5)
    fast.load_state_dict({name: tensor / 3 for name, tensor in model.state_dict().items()})
    torch.testing.assert_close(fast(clip()), model(clip()), rtol=1e-5, atol=1e-5)
    assert runs == [1, 1, 3, 3, 2, 2, 2, 2]  # once for each size, and the given model


@torch.no_grad()
def test_two_models_of_a_kind_follow_their_own_weights(runs):
    models = [network(), network()]
    models[1][4].weight.neg_()
    fast = [flatzoo.optimize(model, compile=True) for model in models]
    for _ in range(2):
        for model, one in zip(models, fast):
            torch.testing.assert_close(one(clip()), model(clip()), rtol=1e-5, atol=1e-5)
    models[0][4].weight.mul_(2)
    torch.testing.assert_close(fast[0](clip()), models[0](clip()), rtol=1e-5, atol=1e-5)
    assert runs == [2] * 7  # once each, and the given models


def test_modules_run_where_machine_code_cannot(runs):
    fast = flatzoo.optimize(network(), compile=True)
    x = clip()
    x.requires_grad_()
    fast(x).sum().backward()
    assert x.grad.abs().sum() > 0 and runs == [2]
    with torch.autocast('cpu', torch.bfloat16):
        fast(clip(3))
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), flatzoo.optimize(fast)):
        twin(clip(4))
    fast.train()(clip(5))
    assert runs == [2, 3, 4, 4, 4, 5]


@pytest.mark.slow
@torch.no_grad()
def test_convolutions_in_bfloat16_are_right():
    """With torch 2.14.1 and AMX this one is wrong."""
    model, x = network()[:1], clip().bfloat16()
    fast = flatzoo.optimize(model, torch.bfloat16, compile=True)
    true = nn.functional.conv2d(x.double(), fast[0].weight.double(), fast[0].bias.double(), 4)
    assert (fast(x) - true).abs().max() < 0.02 * true.abs().max()


@torch.no_grad()
def test_a_wrong_convolution_is_compiled_in_float32(monkeypatch):
    monkeypatch.setattr(conv, '_right', {})
    monkeypatch.setattr(conv.CheckedConv2d, '_is_right', lambda *_: False)
    dtypes = []

    def backend(graph, inputs):
        def run(*args):
            with Convolutions(dtypes):
                return graph(*args)
        return run

    compiler = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda *args, **kwargs: compiler(*args, backend=backend, **kwargs))
    fast = flatzoo.optimize(network(), torch.bfloat16, compile=True)
    for _ in range(2):
        fast(clip().bfloat16())
    assert dtypes == [torch.float32] * 2
    assert conv.wrong_convolutions(fast) == ['0'] and conv.wrong_convolutions(copy.deepcopy(fast)) == []


class Convolutions(torch.utils._python_dispatch.TorchDispatchMode):
    """Writes down the dtypes of convolutions."""

    def __init__(self, dtypes):
        super().__init__()
        self.dtypes = dtypes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if 'convolution' in func.name():
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize('dtype, most', [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
@torch.no_grad()
def test_sifar(dtype, most):
    model = timm.create_model(
        'sifar_swin_tiny', num_frames=4, img_size=48, window_size=(4, None), embed_dim=16, depths=(2, 2),
        num_heads=(2, 4), num_classes=5).eval()
    x = torch.randn(2, 3, 4, 48, 48)
    true = model.double()(x.double())
    fast = flatzoo.optimize(model, dtype, compile=True)
    assert (fast(x.to(dtype)) - true).abs().max() < most * true.abs().max()


def test_refuses():
    with pytest.raises(ValueError, match="compile=True does not go together with quantize='int8'"):
        flatzoo.optimize(network(), quantize='int8', compile=True)


def test_says_what_is_missing(monkeypatch):
    def missing():
        raise RuntimeError('No working C++ compiler found')

    monkeypatch.setattr('torch._inductor.cpp_builder.get_cpp_compiler', missing)
    with pytest.raises(ValueError, match='needs a C.. compiler, and none was found. Install one'):
        flatzoo.optimize(network(), compile=True)


class Breaks(nn.Module):
    """Looks at its numbers."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x - 1


def test_the_model_itself_refuses_a_clip():
    fast = flatzoo.optimize(network(), compile=True)
    with pytest.raises(RuntimeError, match='to have 16 channels, but got 15 channels'):
        fast(clip()[:, 1:])


def test_says_what_cannot_be_compiled():
    with pytest.raises(ValueError, match='cannot make one graph of Breaks .*: prepare it without compile=True'):
        flatzoo.optimize(Breaks(), compile=True)(torch.ones(2))
