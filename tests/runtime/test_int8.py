"""Linear layers that multiply integers: near the float ones, or left as they are."""
import pytest
import timm
import torch
from torch import nn

import flatzoo
from flatzoo.runtime import choice, precision_of, prepare
from flatzoo.runtime.int8 import MOST_ERROR, Int8Linear, has_int8

pytestmark = pytest.mark.skipif(not has_int8(), reason='torch was built without integer products of oneDNN')


@pytest.fixture(autouse=True)
def always():
    """Integers are not faster at these sizes."""
    with choice.rule('always'), torch.no_grad():
        yield


def error(out, true):
    return ((out - true).norm() / true.norm()).item()


@pytest.mark.parametrize('function', ['none', 'none without bias', 'gelu', 'tanh', 'add'])
def test_products(function):
    torch.manual_seed(0)
    layer = nn.Linear(48, 40, bias='without' not in function)
    fast = flatzoo.optimize(nn.Sequential(layer), quantize='int8')[0]
    assert type(fast) is Int8Linear and fast.weight.data_ptr() == layer.weight.data_ptr()
    x = torch.randn(3, 7, 48) + 0.5
    true = layer(x)
    if function == 'add':
        residual = torch.randn_like(true)
        out, true = fast.add(x, residual), true + residual
    elif function in ('gelu', 'tanh'):
        approximate = 'tanh' if function == 'tanh' else 'none'
        out, true = fast.gelu(x, approximate), nn.functional.gelu(true, approximate=approximate)
    else:
        out = fast(x)
    assert 0 < error(out, true) < MOST_ERROR


def test_each_way_is_compared_with_float32(monkeypatch):
    """With a residual the float way once ran int8, too, which then was not faster than itself."""
    calls = []

    def faster(key, plain, other):
        before = len(calls)
        plain()
        assert len(calls) == before, 'the float way multiplied integers'
        other()
        assert key[0] != 'int8' or len(calls) > before
        return True

    def product(self, x, *args):
        calls.append(x)
        return kept(self, x, *args)

    kept = Int8Linear._product
    monkeypatch.setattr(Int8Linear, '_product', product)
    monkeypatch.setattr('flatzoo.runtime.int8.faster', faster)
    fast = flatzoo.optimize(nn.Sequential(nn.Linear(48, 40)), quantize='int8')[0]
    x = torch.randn(21, 48)
    for run in (lambda: fast(x), lambda: fast.gelu(x), lambda: fast.add(x, torch.randn(21, 40))):
        count = len(calls)
        run()
        assert len(calls) > count


def test_a_layer_that_does_not_bear_it_stays_in_float32():
    torch.manual_seed(0)
    layer = nn.Linear(64, 16)
    fast = flatzoo.optimize(nn.Sequential(layer), quantize='int8')
    x = torch.randn(50, 64)
    layer.weight[:, 0] = 0  # the largest input means nothing, and takes all steps of the scale
    x[:, 0] = 10_000
    assert error(fast(x), layer(x)) < 1e-5
    layer.weight.normal_()  # other weights are judged anew
    x = torch.randn(50, 64)
    assert 1e-4 < error(fast(x), layer(x)) < MOST_ERROR


@pytest.mark.parametrize(
    'low, high', [(-1.0, 1.0), (-254.5, 0.4), (-0.5, 254.4), (0.0, 7.0), (-3.0, 0.0), (1e-39, 2e-39)])
def test_the_ends_of_the_scale(low, high):
    layer = nn.Linear(64, 64, bias=False)
    layer.weight.copy_(torch.eye(64))
    fast = flatzoo.optimize(nn.Sequential(layer), quantize='int8')[0]
    x = torch.linspace(low, high, 50 * 64).view(50, 64)
    assert (fast._product(x) - x).abs().max() <= 0.02 * max(high - low, 1e-30)  # no largest number wraps to 0
    assert torch.equal(fast._product(torch.zeros(3, 64)), torch.zeros(3, 64))


def test_what_is_no_number_stays_visible():
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    fast = flatzoo.optimize(nn.Sequential(layer), quantize='int8')[0]
    fast(torch.randn(5, 8))
    x = torch.randn(5, 8)
    for value in (torch.nan, torch.inf):
        x[1, 2] = value
        for run, true in ((fast, layer(x)), (fast.gelu, nn.functional.gelu(layer(x)))):
            out = run(x)
            assert torch.equal(out.isfinite(), true.isfinite()) and not out[1].isfinite().all()


@pytest.mark.parametrize('name, args', [
    ('sifar_swin_tiny', dict(num_frames=4, img_size=48, window_size=(4, None), embed_dim=16, depths=(2, 2),
                             num_heads=(2, 4))),
    ('videomae_vit_s', dict(depth=2, embed_dim=32, num_heads=2, img_size=32, num_frames=4)),
])
def test_models(name, args):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=20, **args).eval()
    clip = torch.randn(2, 3, 4, *model.img_size)
    fast = prepare(model, 'int8')
    assert precision_of(fast) == 'int8' and precision_of(model) == 'fp32'
    assert 0 < error(fast(clip), model(clip)) < 0.1
    assert {key: value.dtype for key, value in fast.state_dict().items()} == {
        key: value.dtype for key, value in model.state_dict().items()}
    again = flatzoo.optimize(fast)
    assert precision_of(again) == 'fp32' and error(again(clip), model(clip)) < 1e-4


def test_a_classifier_says_it():
    model = timm.create_model('sifar_resnet10t', num_frames=4, img_size=32, num_classes=5)
    assert precision_of(flatzoo.Classifier(model, precision='int8').model) == 'int8'


def test_what_cannot_be_quantized():
    layer = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="quantize is 'int8' or None, got 'int4'"):
        flatzoo.optimize(layer, quantize='int4')
    with pytest.raises(ValueError, match='from weights in float32; this model has torch.bfloat16 on cpu'):
        flatzoo.optimize(layer, torch.bfloat16, quantize='int8')
    with pytest.raises(ValueError, match='on meta. Take bf16 on a GPU'):
        flatzoo.optimize(nn.Linear(4, 4, device='meta'), quantize='int8')
