"""MLPs of transformers and ConvNeXts: GELU inside the first product, hidden activations that stay in cache.

Where taking the tokens in chunks is not faster on this machine, the plain forward runs.
"""
import math

import torch
from timm.layers import GELU, GELUTanh, Mlp
from torch import Tensor, nn

from .choice import faster, size_class
from .packed_linear import PackedLinear, Prepared, needs_parts, runs_fast

__all__ = ['PackedMlp', 'chunk_rows']

_ROWS_PER_THREAD = 1296


def chunk_rows() -> int:
    """Tokens to take through a layer at once, so that what lies between two products stays in cache."""
    return _ROWS_PER_THREAD * torch.get_num_threads()


class PackedMlp(Prepared, Mlp):
    """timm's `Mlp` over the last dimension, in chunks of tokens."""

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """MLPs of linear layers with GELU and nothing between."""
        return (
            all(type(layer) in (nn.Linear, PackedLinear) for layer in (module.fc1, module.fc2))
            and type(module.act) in (nn.GELU, GELU, GELUTanh)
            and type(module.norm) is nn.Identity
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` -> `[..., out_features]`."""
        if not runs_fast(x, self) or needs_parts(self):
            return super().forward(x)
        step, count = chunk_rows(), x.numel() // x.shape[-1]
        if count <= step:
            return self.fc2(self._hidden(x))
        key = ('mlp', size_class(count), *self.fc1.weight.shape, x.dtype)
        if not faster(key, lambda: super(PackedMlp, self).forward(x), lambda: self._in_chunks(x, step)):
            return super().forward(x)
        return self._in_chunks(x, step)

    def _in_chunks(self, x: Tensor, step: int) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out = rows.new_empty(len(rows), self.fc2.out_features)
        step = math.ceil(len(rows) / math.ceil(len(rows) / step))  # equal chunks
        for start in range(0, len(rows), step):
            out[start:start + step] = self.fc2(self._hidden(rows[start:start + step]))
        return out.view(*x.shape[:-1], -1)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The MLP of `[N, in_features]` plus a tensor `[N, out_features]`, in one chunk."""
        return self.fc2.add(self._hidden(x), residual)

    def _hidden(self, x: Tensor) -> Tensor:
        tanh = type(self.act) is GELUTanh or getattr(self.act, 'approximate', 'none') == 'tanh'
        return self.fc1.gelu(x, 'tanh' if tanh else 'none')
