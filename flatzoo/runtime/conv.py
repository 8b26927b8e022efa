"""Convolutions in bfloat16 that are checked once, since some CPUs get them wrong.

On CPUs with AMX the convolutions of some torch releases give wrong numbers, without an error, for some shapes in
bfloat16: with 2.14.1 for patches of 16 x 16 pixels and six channels, among others (reports of the kind:
https://github.com/pytorch/pytorch/issues/169688, https://github.com/uxlfoundation/oneDNN/pull/5568). So the first
forward of each shape convolves random numbers, and some channels of one image in float32, too. If they differ by more
than rounding, this shape is computed in float32 from then on.
"""
from collections.abc import Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packed_linear import Prepared, runs_fast

__all__ = ['CheckedConv2d', 'CheckedConv3d']

_CHANNELS = 8  # of the output that are computed twice
_MOST = 0.05  # of the largest number: ten times what rounding to bfloat16 changes

_right: dict[Hashable, bool] = {}


class _Checked(Prepared):
    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Convolutions that pad with zeros."""
        return module.padding_mode == 'zeros'

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, ...]` -> `[B, C', ...]`."""
        if x.dtype != torch.bfloat16:
            return super().forward(x)
        seen = self.__dict__.setdefault('_derived', {}).setdefault('right', {})
        right = seen.get((x.shape, x.stride()))
        if right is None:
            if self.weight.dtype != x.dtype or not runs_fast(x, self):
                return super().forward(x)
            right = seen[x.shape, x.stride()] = self._check(x)
        if right or self.weight.dtype != x.dtype or not runs_fast(x, self):
            return super().forward(x)
        weight = self.derived('float weight', self.weight, Tensor.float)
        bias = None if self.bias is None else self.bias.float()
        return self._conv_forward(x.float(), weight, bias).to(x.dtype)

    def _check(self, x: Tensor) -> bool:
        """Whether this shape is right, found out once for all layers that are alike.

        It is tried on random numbers: a black clip or a layer of zeros would hide what is wrong.
        """
        key = (
            type(self), *self.weight.shape, self.stride, self.padding, self.dilation, self.groups, *x.shape,
            x.stride(1) == 1, torch.get_num_threads())
        if key not in _right:
            generator = torch.Generator().manual_seed(0)
            x, weight = (torch.empty_like(tensor).normal_(generator=generator) for tensor in (x, self.weight.detach()))
            _right[key] = self._is_right(x, weight, self._conv_forward(x, weight, None))
        return _right[key]

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


class CheckedConv2d(_Checked, nn.Conv2d):
    """`nn.Conv2d`, checked in bfloat16."""


class CheckedConv3d(_Checked, nn.Conv3d):
    """`nn.Conv3d`, checked in bfloat16."""


def _spread(count: int) -> Tensor:
    """Up to `_CHANNELS` indices from all over the range."""
    return torch.linspace(0, count - 1, min(_CHANNELS, count)).long()
