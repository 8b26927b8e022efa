"""The aligning encoder: linear attention against its formula and its cost, the flow against a loop over frames."""
import pytest
import torch
import torch.nn.functional as F
from test_adapters import check_layer
from torch.utils._python_dispatch import TorchDispatchMode

from flatzoo.models.amflow import AligningEncoder
from flatzoo.models.amflow.aligning_encoder import LinearAttention
from flatzoo.runtime.cost import MultiplyAdds

SMALL = dict(num_heads_in=4, dim=24, depth=2, mlp_dim=32, num_heads=3)


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that any operation returned."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def macs(layer, *shape):
    with MultiplyAdds() as counter:
        layer(torch.randn(shape))
    return counter.macs


def test_layer():
    check_layer(lambda **dd: AligningEncoder(**SMALL, **dd), (2, 3, 5, 4), without_gradient=['proj_out.bias'])


def test_parameter_count():
    encoder = AligningEncoder(12, device='meta')
    assert sum(param.numel() for param in encoder.parameters()) == 3_755_468


@pytest.mark.parametrize('batch, tokens', [(2, 7), (1, 1)])
def test_linear_attention_equals_its_formula(batch, tokens):
    torch.manual_seed(0)
    layer = LinearAttention(24, 3, dtype=torch.float64)
    x = torch.randn(batch, tokens, 24, dtype=torch.float64)
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    expected = torch.empty_like(x)
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        weights = (F.elu(q[..., part]) + 1) @ (F.elu(k[..., part]) + 1).mT  # [B, N, N]
        expected[..., part] = weights / weights.sum(dim=-1, keepdim=True) @ v[..., part]
    torch.testing.assert_close(layer(x), layer.proj(expected))


def test_linear_attention_is_linear_in_tokens():
    layer = LinearAttention(24, 3)
    assert macs(layer, 2, 2000, 24) == 2 * macs(layer, 2, 1000, 24)
    with LargestTensor() as largest:
        layer(torch.randn(1, 2000, 24, requires_grad=True)).sum().backward()
    assert largest.numel == 2000 * 3 * 24  # q, k and v; an attention map would be 2000 x 2000


def test_linear_attention_of_extreme_features():
    """elu(x) + 1 of single precision is 0 below -17, and the quotient 0 / 0; sums of many tokens overflow half."""
    x = torch.tensor([-80., -20., -1., 0.5, 3.], requires_grad=True)
    y = LinearAttention.feature_map(x)
    y.sum().backward()
    torch.testing.assert_close(y, torch.cat([x[:3].exp(), x[3:] + 1]), atol=0, rtol=1e-6)
    torch.testing.assert_close(x.grad, torch.cat([x[:3].exp(), torch.ones(2)]), atol=0, rtol=1e-6)
    layer = LinearAttention(24, 3, dtype=torch.float16)
    assert layer(10 * torch.randn(1, 3000, 24, dtype=torch.float16)).isfinite().all()


def test_flow_frame_by_frame():
    """Equations 4 and 5: |E(x_t) - E(x_{t+1})|, the last frame as the one before it."""
    torch.manual_seed(0)
    encoder = AligningEncoder(**SMALL, dtype=torch.float64)
    received = torch.rand(2, 4, 5, 4, dtype=torch.float64) * 3
    flow = encoder(received)
    for b in range(2):
        frames = [encoder.encode(received[b:b + 1, t:t + 1])[0, 0] for t in range(4)]
        pairs = [(frames[t] - frames[t + 1]).abs() for t in range(3)]
        torch.testing.assert_close(flow[b], torch.stack([*pairs, pairs[-1]]))
    assert flow.std() > 0


def test_frames_are_encoded_once():
    encoder = AligningEncoder(**SMALL)
    seen = []
    encoder.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    assert macs(encoder, 3, 8, 5, 4) == 24 * macs(encoder.layers, 1, 5, 24) + 24 * (2 * 5 * 4 * 24)
    assert seen[0] == (24, 5, 24)


def test_still_clips_do_not_flow():
    torch.manual_seed(0)
    encoder = AligningEncoder(**SMALL)
    frame = torch.rand(2, 1, 5, 4) * 10
    assert encoder(frame.expand(2, 4, 5, 4)).max() < 1e-5


def test_tokens_may_be_permuted():
    torch.manual_seed(0)
    encoder = AligningEncoder(**SMALL)
    received = torch.rand(2, 3, 7, 4)
    order = torch.randperm(7)
    torch.testing.assert_close(encoder(received[:, :, order]), encoder(received)[:, :, order])


@pytest.mark.parametrize('shape', [(2, 1, 5, 4), (2, 3, 5, 6), (3, 5, 4)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match=r'\(B, T, N, 4\) with at least 2 frames T, got \[' + f'{shape[0]}, '):
        AligningEncoder(**SMALL)(torch.zeros(shape))


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match='5 heads do not divide the width of 24'):
        AligningEncoder(12, dim=24, num_heads=5)
