"""The heads of the temporal units, and the fusion of their logits."""
import pytest
import torch
from test_adapters import check_layer
from torch import nn

from flatzoo.models.amflow import HeadBank, LogitFusion


@pytest.mark.parametrize('build, shape', [
    (lambda **dd: HeadBank(5, 16, 7, **dd), (2, 5, 16)),
    (lambda **dd: LogitFusion(5, **dd), (2, 5, 7)),
    (lambda **dd: LogitFusion(5, 'linear', **dd), (2, 5, 7)),
    (lambda **dd: LogitFusion(5, 'random', **dd), (2, 5, 7)),
], ids=['heads', 'mean', 'linear', 'random'])
def test_layers(build, shape):
    check_layer(build, shape)


def test_every_unit_has_a_linear_head():
    torch.manual_seed(0)
    heads = HeadBank(3, 8, 5)
    x = torch.randn(4, 3, 8)
    logits = heads(x)
    assert logits.shape == (4, 3, 5)
    for unit in range(3):
        expected = nn.functional.linear(x[:, unit], heads.weight[:, unit], heads.bias[:, unit])
        torch.testing.assert_close(logits[:, unit], expected)


def test_heads_start_as_linear_layers():
    torch.manual_seed(0)
    heads, linear = HeadBank(6, 64, 50), nn.Linear(64, 300)
    for actual, wanted in ((heads.weight, linear.weight), (heads.bias, linear.bias)):
        torch.testing.assert_close(actual.std(), wanted.std(), rtol=0.1, atol=0)
        assert actual.abs().max() <= 64 ** -0.5


def test_parameter_count_of_the_paper_size():
    """24 heads of width 640 on Something-Something V2; the backbone's own head is apart."""
    heads = HeadBank(24, 640, 174, device='meta')
    assert sum(param.numel() for param in heads.parameters()) == 24 * 641 * 174


@pytest.mark.parametrize('kind', ['mean', 'linear', 'random'])
def test_fusion_is_a_weighted_sum(kind):
    torch.manual_seed(0)
    fusion = LogitFusion(4, kind)
    logits = torch.randn(3, 4, 5)
    weights = [0.25] * 4 if fusion.weight is None else fusion.weight.tolist()
    expected = sum(weight * logits[:, i] for i, weight in enumerate(weights))
    torch.testing.assert_close(fusion(logits), expected)
    if kind != 'random':
        torch.testing.assert_close(fusion(logits), logits.mean(dim=1))


def test_what_is_trained_and_what_is_saved():
    mean, linear, random = (LogitFusion(4, kind) for kind in ('mean', 'linear', 'random'))
    assert not mean.state_dict() and not list(mean.parameters())
    assert [name for name, _ in linear.named_parameters()] == list(linear.state_dict()) == ['weight']
    assert not list(random.parameters()) and list(random.state_dict()) == ['weight']
    assert not random.weight.requires_grad and random.weight.std() > 0
    other = LogitFusion(4, 'random')
    assert not torch.equal(other.weight, random.weight)
    other.load_state_dict(random.state_dict())
    assert torch.equal(other.weight, random.weight)


@pytest.mark.parametrize('arguments, message', [
    (dict(num_logits=0), 'num_logits=0: at least the logits of one classifier'),
    (dict(num_logits=4, kind='vote'), "kind='vote' is none of 'mean', 'linear' and 'random'"),
])
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LogitFusion(**arguments)


@pytest.mark.parametrize('shape', [(2, 3, 7), (5, 7)])
@pytest.mark.parametrize('kind', ['mean', 'linear', 'random'])
def test_wrong_logits(kind, shape):
    with pytest.raises(ValueError, match=r'logits of shape \(B, 5, K\), got \['):
        LogitFusion(5, kind)(torch.zeros(shape))


@pytest.mark.parametrize('shape', [(2, 4, 16), (2, 5, 8), (5, 16)])
def test_wrong_vectors(shape):
    with pytest.raises(ValueError, match=r'vectors of shape \(B, 5, 16\), got \['):
        HeadBank(5, 16, 7)(torch.zeros(shape))
