"""Convolutions in bfloat16 that are checked once, since some CPUs get them wrong.

On CPUs with AMX the convolutions of some torch releases give wrong numbers, without an error, for some shapes in
bfloat16: with 2.14.1 for patches of 16 x 16 pixels and six channels, among others (reports of the kind:
https://github.com/pytorch/pytorch/issues/169688, https://github.com/uxlfoundation/oneDNN/pull/5568). So the first
forward of each shape convolves random numbers, and some channels of one image in float32, too. If they differ by more
than rounding, this shape is computed in float32 from then on.
"""
from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packed_linear import Prepared, runs_fast

__all__ = ['CheckedConv2d', 'CheckedConv3d', 'check_convolutions', 'wrong_convolutions']

_CHANNELS = 8  # of the output that are computed twice
_MOST = 0.05  # of the largest number: ten times what rounding to bfloat16 changes

_right: dict[Hashable, bool] = {}


class _Checked(Prepared):
    wrong = False  # some shape was found wrong: what a compiled graph has to know beforehand

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Convolutions that pad with zeros."""
        return module.padding_mode == 'zeros'

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, ...]` -> `[B, C', ...]`."""
        if torch.compiler.is_compiling() and self.wrong and x.dtype == torch.bfloat16:
            return self._convolve_in_float32(x, self.weight.float())
        if _autocasts(x):
            if self._known(x, torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)):
                return super().forward(x)
            with torch.autocast('cpu', enabled=False):
                return super().forward(x.float())
        if x.dtype != torch.bfloat16 or self.weight.dtype != x.dtype or not runs_fast(x, self) or self._known(x):
            return super().forward(x)
        return self._convolve_in_float32(x, self.derived('float weight', self.weight, Tensor.float))

    def _convolve_in_float32(self, x: Tensor, weight: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return self._conv_forward(x.float(), weight, bias).to(x.dtype)

    def _known(self, x: Tensor, trains: bool = False) -> bool:
        """Whether this shape is right in bfloat16."""
        seen = self.__dict__.setdefault('_derived', {}).setdefault('right', {})
        key = (x.shape, x.stride(), trains)
        if key not in seen:
            seen[key] = self._check(x, trains)
            self.wrong = not all(seen.values())
        return seen[key]

    def _check(self, x: Tensor, trains: bool) -> bool:
        """Whether this shape is right, found out once for all layers that are alike.

        It is tried on random numbers: a black clip or a layer of zeros would hide what is wrong.
        """
        key = (
            type(self), *self.weight.shape, self.stride, self.padding, self.dilation, self.groups, *x.shape,
            x.stride(1) == 1, self.weight.stride(1) == 1, trains, torch.get_num_threads())
        if key not in _right:
            generator = torch.Generator().manual_seed(0)
            x, weight = (
                torch.empty_like(tensor, dtype=torch.bfloat16, requires_grad=False).normal_(generator=generator)
                for tensor in (x.detach(), self.weight.detach()))
            with torch.autocast('cpu', enabled=False):
                right = self._is_right(x, weight, self._conv_forward(x, weight, None))
                _right[key] = right and (not trains or self._has_right_gradients(x, weight))
        return _right[key]

    def _has_right_gradients(self, x: Tensor, weight: Tensor) -> bool:
        """Whether the gradients of input and weight are those of float32, up to rounding."""
        gradients = []
        for dtype in (torch.bfloat16, torch.float32):
            inputs = [tensor.to(dtype).requires_grad_() for tensor in (x, weight)]
            out = self._conv_forward(*inputs, None)
            noise = torch.empty_like(out).normal_(generator=torch.Generator().manual_seed(1))
            gradients.append(torch.autograd.grad(out, inputs, noise.bfloat16().to(dtype)))
        return all(
            bool((low.float() - true).abs().max() <= _MOST * true.abs().max()) for low, true in zip(*gradients))

    def _is_right(self, x: Tensor, weight: Tensor, out: Tensor) -> bool:
        """Whether some output channels of the first image are those of float32, up to rounding."""
        groups, x, out = self.groups, x[:1], out[:1]
        if groups == 1:
            rows = _spread(len(weight))
        else:  # whole groups, with their input channels
            some = _spread(groups)
            rows = torch.arange(len(weight)).view(groups, -1)[some].flatten()
            x = x.unflatten(1, (groups, -1))[:, some].flatten(1, 2)
            groups = len(some)
        convolve = F.conv3d if weight.dim() == 5 else F.conv2d
        true = convolve(x.float(), weight[rows].float(), None, self.stride, self.padding, self.dilation, groups)
        return bool((out[:, rows].float() - true).abs().max() <= _MOST * true.abs().max())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != 'wrong'}


class CheckedConv2d(_Checked, nn.Conv2d):
    """`nn.Conv2d`, checked in bfloat16."""


class CheckedConv3d(_Checked, nn.Conv3d):
    """`nn.Conv3d`, checked in bfloat16."""


def check_convolutions(model: nn.Module) -> None:
    """Has the convolutions of a model checked under autocast to bfloat16 on a CPU, in training, too.

    There the gradients are checked as well. The model itself is changed; its state dict stays the same. Only torch's
    own `nn.Conv2d` and `nn.Conv3d` are looked at, no classes derived from them, and nothing under `torch.compile`.
    """
    for module in model.modules():
        kind = {nn.Conv2d: CheckedConv2d, nn.Conv3d: CheckedConv3d}.get(type(module))
        if kind is not None and kind.accepts(module):
            module.__class__ = kind


def wrong_convolutions(model: nn.Module) -> list[str]:
    """The names of the convolutions that were found wrong in bfloat16, and compute in float32."""
    return [name for name, module in model.named_modules() if isinstance(module, _Checked) and module.wrong]


def _autocasts(x: Tensor) -> bool:
    """Whether autocast would have a convolution on a CPU run in bfloat16."""
    return (
        x.device.type == 'cpu'
        and torch.is_autocast_enabled('cpu')
        and torch.get_autocast_dtype('cpu') == torch.bfloat16
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _spread(count: int) -> Tensor:
    """Up to `_CHANNELS` indices from all over the range."""
    return torch.linspace(0, count - 1, min(_CHANNELS, count)).long()
