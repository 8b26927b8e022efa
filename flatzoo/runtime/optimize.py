"""`optimize`: a trained model, prepared to answer fast."""
import copy
from typing import Literal

import torch
from timm.layers import Mlp
from timm.models.swin_transformer import SwinTransformerStage, WindowAttention
from torch import nn

from .compiled import compile_calls
from .conv import CheckedConv2d, CheckedConv3d
from .int8 import Int8Linear, check_int8
from .mlp import PackedMlp
from .packed_linear import PackedLinear, Prepared
from .swin import FusedWindowAttention, WindowOrderStage

__all__ = ['optimize']

_PREPARED: dict[type[nn.Module], type[Prepared]] = {
    nn.Conv2d: CheckedConv2d,
    nn.Conv3d: CheckedConv3d,
    Mlp: PackedMlp,
    WindowAttention: FusedWindowAttention,
    SwinTransformerStage: WindowOrderStage,
}


def optimize(
        model: nn.Module,
        dtype: torch.dtype | None = None,
        quantize: Literal['int8'] | None = None,
        compile: bool = False,
) -> nn.Module:
    """Prepares a trained model for inference.

    On a CPU linear layers get packed weights, MLPs run in chunks with GELU fused into their first layer, and stages of
    a Swin Transformer keep their tokens in window order. On CUDA these stages do so, too, with PyTorch's fused
    attention; under `torch.compile`, which joins copies with their neighbours by itself, only attention is exchanged,
    with a mask of one image in place of the batch. Each module is chosen by its exact type, in any model of timm or
    flatzoo. Convolutions in bfloat16 are checked once per shape, since some CPUs get some wrong: these run in float32.
    All other modules stay as they are. The given model is not changed.

    Where two ways give the same answer, the first forward tries both and keeps the faster one for this machine and
    size. So two processes may differ by rounding; one prepared model always answers alike.

    The prepared model shares its tensors with the given one, and has the same state dict. Loading weights into either
        model changes both, and so does training the given model. Packed weights are updated automatically. There are
        two exceptions that torch does not report: writing through `parameter.data`, and writing to models made under
        `torch.inference_mode`. With a `dtype` that the given model does not have, the prepared model has its own
        tensors. Its parameters need no gradients. In fp32 the logits differ by rounding, 1e-6 of their scale.

    Modules run their plain forward where the fast way does not apply: in training mode (also of a part, such as
    dropout), where the input needs gradients, under autocast and tracing, under `torch.compile` on a CPU, on other
    devices and in other dtypes (fp32 and bf16; on CUDA fp16, too), without oneDNN, and where hooks wait for parts that
    would be skipped. Swin's attention on CUDA is exchanged under autocast and with gradients, too. For
    `torch.jit.script` take the given model.

    Packed weights are made in the first forward and held beside the plain ones: linear layers take twice their memory.
    Neither pickles nor copies hold them.

    Args:
        model: A model. A prepared model is accepted, too.
        dtype: `torch.bfloat16` or another dtype to cast to, None to keep the model's.
        quantize: `'int8'` multiplies integers of 8 bits in linear layers on a CPU, with weights and everything else in
            float32. The first forward leaves layers in float32 that would differ by more than 5 % or gain no time.
            Convolutions and attention stay in float32.
        compile: Calls of the model run as machine code that torch.compile makes in the first one: about a minute on a
            CPU, where a C++ compiler is needed. A second batch size compiles once more, for all sizes. On a CPU weights
            are part of the code, so a call after they changed compiles again: load weights first, and compile what
            answers often. Methods such as `forward_features` are not compiled, and neither are copies. Where the fast
            way does not apply, the plain modules run.

    Returns:
        The prepared model, in eval mode.

    Raises:
        TypeError: `model` is not a model.
        ValueError: `quantize` is not known, or the model is not in float32 on a CPU; or `compile` is given with
            `quantize`, or there is no C++ compiler.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f'optimize takes a model, got {model!r}: build it first, with timm.create_model(name).')
    if quantize not in (None, 'int8'):
        raise ValueError(f"quantize is 'int8' or None, got {quantize!r}")
    if compile and quantize is not None:
        raise ValueError(
            f'compile=True does not go together with quantize={quantize!r}: compiled, the products would be those of '
            'float32. Take one of them.')
    shared = {id(buffer): buffer for buffer in model.buffers()}
    shared |= {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    prepared = copy.deepcopy(model, shared).to(dtype=dtype)
    linear = PackedLinear
    if quantize is not None:
        check_int8(prepared)
        linear = Int8Linear
    kinds = {**_PREPARED, nn.Linear: linear, PackedLinear: linear, Int8Linear: linear}
    for module in prepared.modules():
        kind = kinds.get(type(module))
        if kind is not None and kind.accepts(module):
            module.__class__ = kind
        if hasattr(module, 'qkv_bias_separate'):  # Swin V2, EVA, BEiT: their joint bias would pass by the packed layer
            module.qkv_bias_separate = True
    prepared.eval()
    if compile:
        compile_calls(prepared)
    return prepared
