"""Adapters: equations against a plain loop, where they start, the shared hypernetwork; checks of any layer."""
import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from flatzoo.models.amflow import HyperAdapter, HyperNetwork, ParallelAdapter, SerialAdapter

TOKENS, FLOW = (2, 3, 5, 16), (2, 3, 5, 4)


def outputs(layer, inputs):
    """What a layer returns, always as a tuple."""
    result = layer(*inputs)
    return result if isinstance(result, tuple) else (result,)


def move_zeros(layer):
    """Gives all parameters that start as zeros other values, so that gradients and outputs pass through them."""
    with torch.no_grad():
        for param in layer.parameters():
            if not param.any():
                param.normal_(std=0.1)
    return layer


def check_layer(build, *shapes, without_gradient=()):
    """What every layer must do: dtypes, meta device, saving, gradients, compilation and export with a dynamic batch.

    Args:
        build: Called with `device` and `dtype`, or without.
        *shapes: Of the inputs.
        without_gradient: Names of parameters that cancel in the output.
    """
    torch.manual_seed(0)
    for dd in (dict(dtype=torch.float64), dict(dtype=torch.bfloat16), dict(device='meta')):
        for result in outputs(build(**dd), [torch.randn(shape, **dd) for shape in shapes]):
            assert (result.dtype, result.device.type) == (dd.get('dtype', torch.float32), dd.get('device', 'cpu'))
            assert result.is_meta or result.isfinite().all()

    layer = move_zeros(build())
    inputs = [torch.randn(shape) for shape in shapes]
    expected = outputs(layer, inputs)

    materialised = build(device='meta').to_empty(device='cpu')
    materialised.load_state_dict(load(save(layer.state_dict())))
    for actual, wanted in zip(outputs(materialised, inputs), expected, strict=True):
        assert torch.equal(actual, wanted)

    half = outputs(copy.deepcopy(layer).bfloat16(), [x.bfloat16() for x in inputs])
    for actual, wanted in zip(half, expected, strict=True):
        torch.testing.assert_close(actual.float(), wanted, atol=0.05 * wanted.abs().max().item(), rtol=0.05)
    with torch.autocast('cpu', torch.bfloat16):
        for actual, wanted in zip(outputs(layer, inputs), expected, strict=True):
            torch.testing.assert_close(actual.float(), wanted, atol=0.05 * wanted.abs().max().item(), rtol=0.05)

    if any(param.requires_grad for param in layer.parameters()):
        sum((result * torch.randn_like(result)).sum() for result in expected).backward()
    for name, param in layer.named_parameters():
        assert param.grad.isfinite().all(), name
        assert name in without_gradient or param.grad.any(), name

    compiled = torch.compile(layer, fullgraph=True, backend='eager')
    for actual, wanted in zip(outputs(compiled, inputs), expected, strict=True):
        assert torch.equal(actual, wanted)
    for training in (True, False):
        batch = torch.export.Dim('batch', min=1, max=64)
        exported = torch.export.export(
            layer.train(training), tuple(inputs), dynamic_shapes=[{0: batch}] * len(inputs)).module()
        others = [torch.randn(5, *shape[1:]) for shape in shapes]
        for actual, wanted in zip(outputs(exported, others), outputs(layer, others), strict=True):
            torch.testing.assert_close(actual, wanted)


class HyperAdapters(nn.Module):
    """A model's hypernetwork and two of its adapters."""

    def __init__(self, device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.hypernetwork = HyperNetwork(16, 6, 4, 3, **dd)
        self.attn = HyperAdapter(self.hypernetwork, 4, **dd)
        self.mlp = HyperAdapter(self.hypernetwork, **dd)

    def forward(self, x, flow):
        return self.attn(x, flow) + self.mlp(x)


@pytest.mark.parametrize('build, shapes', [
    (lambda **dd: ParallelAdapter(16, 6, 4, **dd), (TOKENS, FLOW)),
    (lambda **dd: ParallelAdapter(16, 6, **dd), (TOKENS,)),
    (lambda **dd: SerialAdapter(16, 6, 4, **dd), (TOKENS, FLOW)),
    (HyperAdapters, (TOKENS, FLOW)),
], ids=['parallel', 'parallel_without_flow', 'serial', 'hyper'])
def test_layers(build, shapes):
    check_layer(build, *shapes)


def hyper(dim, bottleneck, flow_dim=0, dtype=None):
    """An adapter that alone has a hypernetwork."""
    return HyperAdapter(HyperNetwork(dim, bottleneck, flow_dim, 3, dtype=dtype), flow_dim, dtype=dtype)


def weights(adapter):
    """W_down, its bias, W_up, its bias."""
    if isinstance(adapter, HyperAdapter):
        return adapter._unregistered[0](adapter.embedding)
    return adapter.down.weight, adapter.down.bias, adapter.up.weight, adapter.up.bias


@pytest.mark.parametrize('flow_dim', [0, 4])
@pytest.mark.parametrize('build', [ParallelAdapter, SerialAdapter, hyper])
def test_equation_token_by_token(build, flow_dim):
    """Equations 1 and 6: delta = s ReLU([x || flow] W_down) W_up, with biases."""
    torch.manual_seed(0)
    adapter = build(16, 6, flow_dim, dtype=torch.float64)
    move_zeros(adapter)
    move_zeros(adapter._unregistered[0] if build is hyper else adapter)
    nn.init.constant_(adapter.scale, -1.5)
    down, down_bias, up, up_bias = weights(adapter)
    x = torch.randn(TOKENS, dtype=torch.float64)
    flow = torch.rand(*TOKENS[:-1], flow_dim, dtype=torch.float64) if flow_dim else None
    delta, hidden = adapter(x, flow)
    assert hidden.shape == (*TOKENS[:-1], 6)
    for b in range(2):
        for t in range(3):
            for n in range(5):
                token = [*x[b, t, n], *(flow[b, t, n] if flow_dim else ())]
                active = [
                    max(sum(w * v for w, v in zip(down[i], token, strict=True)) + down_bias[i], 0.) for i in range(6)]
                changed = [
                    -1.5 * (sum(w * v for w, v in zip(up[c], active, strict=True)) + up_bias[c]) for c in range(16)]
                torch.testing.assert_close(hidden[b, t, n], torch.stack([torch.as_tensor(a) for a in active]).double())
                torch.testing.assert_close(delta[b, t, n], torch.stack(changed))


@pytest.mark.parametrize('build', [ParallelAdapter, SerialAdapter, hyper])
def test_untrained_adapter_changes_nothing_and_can_learn(build):
    adapter = build(16, 6, 4)
    delta, hidden = adapter(torch.randn(TOKENS), torch.rand(FLOW))
    assert torch.equal(delta, torch.zeros(TOKENS)) and hidden.any() and adapter.scale == 1
    delta.sum().backward()
    up = adapter._unregistered[0].up if build is hyper else adapter.up
    assert up.weight.grad.any()


@pytest.mark.parametrize('flow_dim, count', [(12, 992_129), (0, 984_449)])
def test_parameter_counts(flow_dim, count):
    adapter = ParallelAdapter(768, 640, flow_dim, device='meta')
    assert sum(param.numel() for param in adapter.parameters()) == count


def test_hypernetwork_is_shared_and_held_once():
    torch.manual_seed(0)
    model = move_zeros(HyperAdapters())
    assert set(model.state_dict()) == {
        'hypernetwork.down.weight', 'hypernetwork.up.weight', 'attn.embedding', 'attn.scale', 'mlp.embedding',
        'mlp.scale',
    }
    x, flow = torch.randn(TOKENS), torch.rand(FLOW)
    clone = copy.deepcopy(model)
    nn.init.zeros_(clone.hypernetwork.up.weight)
    assert not clone(x, flow)[0].any() and not clone(x, flow)[2].any()  # the clone's adapters use the clone's network
    assert model(x, flow)[0].any()

    plain = ParallelAdapter(16, 6)
    down, down_bias, up, up_bias = weights(model.mlp)
    with torch.no_grad():
        for param, value in zip(
                (plain.down.weight, plain.down.bias, plain.up.weight, plain.up.bias),
                (down[:, :16], down_bias, up, up_bias), strict=True):
            param.copy_(value)
    torch.testing.assert_close(model.mlp(x), plain(x))  # without flow, its columns are left out
    assert not torch.allclose(weights(model.attn)[0], down)


def test_generated_weights_start_like_those_of_linear_layers():
    torch.manual_seed(0)
    network = HyperNetwork(128, 96, 12)
    down = torch.stack([network(torch.randn(8))[0] for _ in range(50)])
    torch.testing.assert_close(down.std(), nn.Linear(140, 96).weight.std(), rtol=0.1, atol=0)


@pytest.mark.parametrize('flow_dim, shape, message', [
    (4, None, r'flow_dim=4 and takes a flow of shape \[2, 3, 5, 4\], got none'),
    (0, FLOW, r'flow_dim=0 and takes no flow with .* got one of shape \[2, 3, 5, 4\]'),
    (4, (2, 3, 5, 3), r'takes a flow of shape \[2, 3, 5, 4\] with .* \[2, 3, 5, 16\], got one of shape \[2, 3, 5, 3\]'),
    (4, (2, 3, 1, 4), r'got one of shape \[2, 3, 1, 4\]'),
])
@pytest.mark.parametrize('build', [ParallelAdapter, SerialAdapter, hyper])
def test_flow_that_does_not_fit(build, flow_dim, shape, message):
    with pytest.raises(ValueError, match=message):
        build(16, 6, flow_dim)(torch.zeros(TOKENS), None if shape is None else torch.zeros(shape))


def test_hypernetwork_of_another_flow():
    with pytest.raises(ValueError, match='flow_dim=4 is neither 0 nor the flow_dim=12'):
        HyperAdapter(HyperNetwork(16, 6, 12), 4)
