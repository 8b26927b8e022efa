"""Temporal units: against plain loops and torch's own modules, the order of time, any number of frames."""
import pytest
import torch
from test_adapters import check_layer
from torch import nn

from flatzoo.models.amflow import LSTMUnit, TCNUnit, TransformerUnit

SMALL = {
    'tcn': lambda **dd: TCNUnit(16, 12, **dd),
    'tcn_k3': lambda **dd: TCNUnit(16, 12, 3, (2,), **dd),
    'lstm': lambda **dd: LSTMUnit(16, 12, **dd),
    'lstm_depth3': lambda **dd: LSTMUnit(16, 12, 3, **dd),
    'transformer': lambda **dd: TransformerUnit(16, 24, 2, 4, **dd),
}


@pytest.mark.parametrize('name', SMALL)
def test_layers(name):
    check_layer(SMALL[name], (2, 5, 16))


@pytest.mark.parametrize('unit, count', [(TCNUnit, 2_254_400), (LSTMUnit, 15_220_736), (TransformerUnit, 4_290_048)])
def test_parameter_counts(unit, count):
    assert sum(param.numel() for param in unit(640, device='meta').parameters()) == count


@pytest.mark.parametrize('frames', [1, 2, 8, 32])
@pytest.mark.parametrize('name', SMALL)
def test_any_number_of_frames(name, frames):
    torch.manual_seed(0)
    unit = SMALL[name]()
    y = unit(torch.randn(3, frames, 16))
    assert y.shape == (3, unit.out_dim) and y.isfinite().all()


@pytest.mark.parametrize('name', SMALL)
def test_order_of_time_counts_and_clips_are_apart(name):
    torch.manual_seed(0)
    unit = SMALL[name](dtype=torch.float64).eval()
    x = torch.randn(2, 6, 16, dtype=torch.float64)
    y = unit(x)
    assert not torch.allclose(unit(x.flip(1)), y)
    torch.testing.assert_close(unit(x[1:]), y[1:])


def test_tcn_frame_by_frame():
    """Convolutions look both ways, beyond the ends are zeros; the mean over time follows a linear layer as well."""
    torch.manual_seed(0)
    unit = TCNUnit(4, 3, 3, (1, 2), 'none', dtype=torch.float64)
    clip = torch.randn(5, 4, dtype=torch.float64)
    states = list(clip)
    for conv, dilation in zip(unit.convs, (1, 2), strict=True):
        new = []
        for t in range(5):
            state = conv.bias
            for tap in range(3):
                at = t + (tap - 1) * dilation
                if 0 <= at < 5:
                    state = state + conv.weight[:, :, tap] @ states[at]
            new.append(state.relu() + (states[t] if dilation > 1 else 0))
        states = new
    expected = torch.stack([unit.proj(state) for state in states]).mean(dim=0)
    torch.testing.assert_close(unit(clip[None])[0], expected)


@pytest.mark.parametrize('depth', [1, 2, 3])
def test_lstm_is_that_of_torch(depth):
    torch.manual_seed(0)
    unit = LSTMUnit(16, 12, depth, 'none', dtype=torch.float64)
    reference = nn.LSTM(16, 12, depth, batch_first=True, dtype=torch.float64)
    reference.load_state_dict({
        f'{name}_l{i}': value for i, cell in enumerate(unit.cells) for name, value in cell.state_dict().items()})
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(unit(x), reference(x)[0][:, -1])


def test_lstm_step_by_step():
    torch.manual_seed(0)
    unit = LSTMUnit(16, 12, norm='none', dtype=torch.float64)
    x = torch.randn(3, 4, 16, dtype=torch.float64)
    states = [None, None]
    for t in range(4):
        value = x[:, t]
        for i, cell in enumerate(unit.cells):
            states[i] = cell(value, states[i])
            value = states[i][0]
    torch.testing.assert_close(unit(x), value)


def test_transformer_is_that_of_torch():
    torch.manual_seed(0)
    unit = TransformerUnit(16, 24, 2, 4, 9, 'none', dtype=torch.float64)
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    tokens = torch.cat([unit.cls_token.expand(3, 1, 16), x + unit.pos_embed[:, :7]], dim=1)
    for block in unit.blocks:
        layer = nn.TransformerEncoderLayer(
            16, 4, 24, dropout=0., activation='gelu', batch_first=True, norm_first=True, dtype=torch.float64)
        layer.load_state_dict({
            'self_attn.in_proj_weight': block.attn.qkv.weight, 'self_attn.in_proj_bias': block.attn.qkv.bias,
            'self_attn.out_proj.weight': block.attn.proj.weight, 'self_attn.out_proj.bias': block.attn.proj.bias,
            'linear1.weight': block.mlp.fc1.weight, 'linear1.bias': block.mlp.fc1.bias,
            'linear2.weight': block.mlp.fc2.weight, 'linear2.bias': block.mlp.fc2.bias,
            'norm1.weight': block.norm1.weight, 'norm1.bias': block.norm1.bias,
            'norm2.weight': block.norm2.weight, 'norm2.bias': block.norm2.bias,
        })
        tokens = layer(tokens)
    torch.testing.assert_close(unit(x), unit.norm(tokens[:, 0]))


@pytest.mark.parametrize('name', SMALL)
def test_units_see_what_differs(name):
    """What all clips have in common is taken away: that of the batch in training, the running mean after it."""
    torch.manual_seed(0)
    unit = SMALL[name](dtype=torch.float64)
    small = 0.01 * torch.randn(6, 5, 16, dtype=torch.float64)
    common = torch.randn(16, dtype=torch.float64)
    torch.testing.assert_close(unit(small + 50 * common), unit(small))
    unit.input_norm.momentum = 1.0  # the statistics of the last batch
    large = unit(common + 100 * small)
    unit.eval()
    torch.testing.assert_close(unit(common + 100 * small), large, rtol=0.1, atol=0.1)  # variances of n and n - 1
    x = unit.input_norm(common + 100 * small).flatten(0, 1)
    torch.testing.assert_close(x.mean(0), torch.zeros_like(common), rtol=0, atol=1e-9)
    torch.testing.assert_close(x.std(0), torch.ones_like(common), rtol=0, atol=1e-3)


def test_unknown_norm():
    with pytest.raises(ValueError, match="norm='layer' is neither 'batch' nor 'none'"):
        TCNUnit(16, 12, norm='layer')


@pytest.mark.parametrize('dim', [7, 48, 49, 98, 640])
def test_mlp_is_as_wide_as_asked(dim):
    for mlp_dim in (1, dim - 1, dim, 2047, 2048):
        unit = TransformerUnit(dim, mlp_dim, num_heads=1, device='meta')
        assert unit.blocks[0].mlp.fc1.out_features == mlp_dim


def test_more_frames_than_positions():
    unit = TransformerUnit(16, 24, num_heads=4, max_frames=4)
    with pytest.raises(ValueError, match='max_frames=4 frames, got 5: build it with max_frames=5'):
        unit(torch.zeros(1, 5, 16))


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('shape', [(2, 0, 16), (2, 5, 8), (5, 16)])
def test_wrong_shapes(name, shape):
    with pytest.raises(ValueError, match=r'\(B, T, 16\) with at least one frame T, got \[' + f'{shape[0]}, '):
        SMALL[name]()(torch.zeros(shape))


@pytest.mark.parametrize('unit, arguments, message', [
    (TCNUnit, dict(kernel_size=4), 'kernel_size=4 must be odd'),
    (TCNUnit, dict(kernel_size=-1), 'kernel_size=-1 must be odd'),
    (TCNUnit, dict(dilations=()), 'dilations is empty'),
    (TransformerUnit, dict(num_heads=5), '5 heads do not divide the width of 16'),
])
def test_wrong_arguments(unit, arguments, message):
    with pytest.raises(ValueError, match=message):
        unit(16, **arguments)
