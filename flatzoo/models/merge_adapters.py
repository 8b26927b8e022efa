"""Merges linear adapters into the linear layers before or behind them.

With A = I + s W_up W_down and b = s (W_up b_down + b_up) an adapter is z -> A z + b. A layer W, c with an adapter in
front becomes W A, W b + c. A layer with an adapter behind it becomes A W, A c + b. All is computed in float64 and
rounded once.
"""
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ['merge_block']

_Changes = list[tuple[nn.Parameter, Tensor]]


def merge_block(block: nn.Module, adapters: Mapping[str, nn.Module]) -> _Changes:
    """The new values of the parameters of a block.

    Args:
        block: A block of timm's ViT or Eva.
        adapters: Linear adapters (`Bottleneck` without activation) by place: `attn_in`, `attn_out`, `mlp_in`,
            `mlp_out`.

    Returns:
        Pairs of a parameter and its new value.

    Raises:
        ValueError: If a layer cannot take its adapter, or weights are of half precision.
    """
    attn, mlp, changes = block.attn, block.mlp, []
    layers = {
        'attn_in': _there(attn, 'qkv', 'q_proj', 'k_proj', 'v_proj', 'gate'), 'attn_out': [attn.proj],
        'mlp_in': _there(mlp, 'fc1', 'fc1_g', 'fc1_x', 'w12'), 'mlp_out': _there(mlp, 'fc2', 'w3')}
    for place, adapter in adapters.items():
        for layer in layers[place]:
            changes += _merged(attn, layer, adapter, behind=place.endswith('_out'))
    return changes


def _there(module: nn.Module, *names: str) -> list[nn.Linear]:
    return [getattr(module, name) for name in names if isinstance(getattr(module, name, None), nn.Linear)]


@torch.no_grad()
def _merged(attn: nn.Module, layer: nn.Linear, adapter: nn.Module, behind: bool) -> _Changes:
    if layer.weight.dtype not in (torch.float32, torch.float64) or adapter.up.weight.dtype not in (
            torch.float32, torch.float64):
        raise ValueError(
            f'merge_adapters() takes weights of float32, got {layer.weight.dtype} and {adapter.up.weight.dtype}: half '
            'precision would blur the adapters. Load the model in float32, merge, then convert it.')
    if layer.bias is None:
        joined = getattr(attn, 'q_bias', None) is not None
        reason = 'its keys have no bias of their own' if joined else 'it has no bias'
        raise ValueError(
            f'merge_adapters() cannot merge an adapter into a layer of {layer.in_features} to {layer.out_features} '
            f'channels of {type(attn).__name__}: {reason}, which the adapter needs. Run this backbone unmerged.')
    down, up = adapter.down, adapter.up
    eye = torch.eye(up.out_features, dtype=torch.float64, device=up.weight.device)
    a = eye + adapter.scale * up.weight.double() @ down.weight.double()
    b = adapter.scale * (up.weight.double() @ down.bias.double() + up.bias.double())
    weight, bias = layer.weight.double(), layer.bias.double()
    weight, bias = (a @ weight, a @ bias + b) if behind else (weight @ a, weight @ b + bias)
    return [(layer.weight, weight), (layer.bias, bias)]
