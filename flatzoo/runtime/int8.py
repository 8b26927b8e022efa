"""Linear layers that multiply 8-bit integers on a CPU.

The weight is rounded once, with a scale for each output channel. The input is rounded in every call, with one scale
for all of it, so what a clip gets depends a little on the other clips of its batch. Everything between the products
stays in float32. Processors with VNNI or AMX multiply integers several times as fast. Not every layer bears it: a few
large inputs leave all others a few steps of the scale. So the first forward compares each layer with float32 on its
own input, and leaves those in float32 that differ too much or gain no time.
"""
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .choice import faster, size_class
from .packed_linear import PackedLinear, runs_fast, some_rows

__all__ = ['Int8Linear', 'check_int8', 'has_int8']

_STEPS = 254.4  # of an input's scale: with both roundings the largest number is 255; 256 would wrap to 0
_ROUND = 1.5 * 2 ** 23  # added to a number, it leaves the rounded integer in the last bits of the sum
MOST_ERROR = 0.05  # of a layer's output, by the norm; rounding costs most layers 1 to 2 %


def _operator(name: str) -> Any:
    """An operator of torch's oneDNN, or None where torch was built without it."""
    return getattr(torch.ops.onednn, name, None)


_LINEAR, _pack = _operator('qlinear_pointwise'), _operator('qlinear_prepack')


def has_int8() -> bool:
    """Whether this torch multiplies integers by oneDNN."""
    return None not in (_LINEAR, _pack) and torch.backends.mkldnn.is_available()


def check_int8(model: nn.Module) -> None:
    """Refuses models that cannot run in int8.

    Raises:
        ValueError: The model is not on a CPU, not in float32, or this torch cannot do it.
    """
    for parameter in model.parameters():
        if parameter.device.type != 'cpu' or parameter.dtype != torch.float32:
            raise ValueError(
                f'int8 runs on CPUs, from weights in float32; this model has {parameter.dtype} on '
                f'{parameter.device.type}. Take bf16 on a GPU, or model.cpu().float().')
    if not has_int8():
        raise ValueError('this torch cannot multiply integers with oneDNN. Take fp32 or bf16.')


class Int8Linear(PackedLinear):
    """`nn.Linear` with products of integers where these are near enough and faster, else as `PackedLinear`."""

    def _run(self, x: Tensor, function: str, approximate: str, plain: Callable[[Tensor], Tensor]) -> Tensor:
        def float32(x: Tensor) -> Tensor:
            return super(Int8Linear, self)._run(x, function, approximate, plain)

        def int8(x: Tensor) -> Tensor:
            return self._product(x, function, approximate)

        return (int8 if self._takes_int8(x, function, float32, int8) else float32)(x)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The layer's output plus a tensor of its shape."""
        def float32(x: Tensor) -> Tensor:  # `super().forward` would come back to `_run` and compare int8 with itself
            return super(Int8Linear, self)._run(x, 'none', '', self._plain)

        if residual.dtype != x.dtype or not self._takes_int8(x, 'none', float32, self._product):
            return super().add(x, residual)
        return self._product(x).add_(residual)

    def _product(self, x: Tensor, function: str = 'none', approximate: str = '') -> Tensor:
        low, high = (value.item() for value in x.aminmax())
        low, high = min(low, 0.0), max(high, 0.0)
        if not math.isfinite(high - low):  # no scale holds them
            out = self._plain(x)
            return F.gelu(out, approximate=approximate) if function == 'gelu' else out
        scale = max((high - low) / _STEPS, torch.finfo(torch.float32).tiny)
        zero = math.ceil(-low / scale)
        # torch casts integers to bytes with vectors, and floats one by one
        integers = torch.add(x.new_tensor(_ROUND + zero), x, alpha=1 / scale).view(torch.int32).to(torch.uint8)
        weight, scales = self.derived('int8', self.weight, _quantized)
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        return _LINEAR(
            integers, scale, zero, weight, scales, zeros, self.bias, 1.0, 0, torch.float32, function, [], approximate)

    def _takes_int8(
            self, x: Tensor, function: str, float32: Callable[[Tensor], Tensor], int8: Callable[[Tensor], Tensor],
    ) -> bool:
        if x.dtype != torch.float32 or not runs_fast(x, self) or not torch.backends.mkldnn.enabled:
            return False
        rows = some_rows(x)
        if not self._is_near(rows):
            return False
        key = ('int8', function, size_class(x.numel() // x.shape[-1]), *self.weight.shape)
        return faster(key, lambda: float32(rows()), lambda: int8(rows()))

    def _is_near(self, rows: Callable[[], Tensor]) -> bool:
        """Whether int8 gives this layer's output, found out on the first input after each change of the weight."""
        def compare(weight: Tensor) -> bool:
            true = F.linear(rows(), weight)
            error = self._product(rows()) - true
            if self.bias is not None:
                error -= self.bias
            return bool(true.norm() > 0) and bool(error.norm() <= MOST_ERROR * true.norm())  # False for NaN

        return self.derived('near', self.weight, compare)


@functools.cache
def _largest_weight() -> int:
    """The largest integer of a weight that no product overflows: 127, or 63 on x86 processors without VNNI.

    Their instruction adds two products of 8 bits in 16, and cuts off what is too large.
    """
    x, weight = torch.full((1, 64), 255, dtype=torch.uint8), torch.full((16, 64), 127, dtype=torch.int8)
    scales, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int64)
    out = _LINEAR(x, 1.0, 0, _pack(weight, None), scales, zeros, None, 1.0, 0, torch.float32, 'none', [], '')
    return 127 if (out == 255 * 127 * 64).all() else 63


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The weight in integers, as oneDNN wants it, and the scale of each output channel."""
    scales = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / _largest_weight()
    integers = (weight / scales[:, None]).round().to(torch.int8)
    return _pack(integers, None), scales
