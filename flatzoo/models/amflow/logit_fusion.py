"""The classifiers of AM Flow's temporal units, and the fusion of their logits."""
import math

import torch
from torch import Tensor, nn

__all__ = ['HeadBank', 'LogitFusion']


class HeadBank(nn.Module):
    """A linear classifier per temporal unit, all in one module.

    AM Flow (https://arxiv.org/abs/2411.02065, Figure 2) ends every temporal unit with a linear layer to the classes.
    The layers are kept together, with classes first. Code that knows a classifier by its weight and bias, such as the
    adaptation of weights to other classes, therefore works for all of them at once.

    Args:
        num_units: Number S of units.
        dim: Width D of a unit's vector.
        num_classes: Number K of classes.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Attributes:
        weight: `[K, S, D]`, initialised as in `torch.nn.Linear`.
        bias: `[K, S]`, initialised as in `torch.nn.Linear`.
    """

    def __init__(self, num_units: int, dim: int, num_classes: int, device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, num_units, dim, **dd))
        self.bias = nn.Parameter(torch.empty(num_classes, num_units, **dd))
        bound = 1 / math.sqrt(dim)
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Scores clips.

        Args:
            x: Vectors of the units, `[B, S, D]`.

        Returns:
            Logits `[B, S, K]`.

        Raises:
            ValueError: If the vectors have another shape.
        """
        if x.ndim != 3 or x.shape[1:] != self.weight.shape[1:]:
            raise ValueError(
                f'The heads take vectors of shape (B, {self.weight.shape[1]}, {self.weight.shape[2]}), got '
                f'{list(x.shape)}.'
            )
        return torch.einsum('bsd,ksd->bsk', x, self.weight) + self.bias.mT

    def extra_repr(self) -> str:
        classes, units, dim = self.weight.shape
        return f'num_units={units}, dim={dim}, num_classes={classes}'


class LogitFusion(nn.Module):
    """Fuses the logits of several classifiers by a weighted sum that is the same for all classes.

    AM Flow (https://arxiv.org/abs/2411.02065) has a classifier for each of two temporal units per block and one for the
    backbone: 2 * 12 + 1 = 25 for a ViT-B. (The paper writes "25 outputs (for ViT-L)", but ViT-L has 49.) It takes the
    plain mean. It reports that a learned voting layer was unstable and that a frozen random one also works. It does not
    state their shapes; here each has one weight per classifier. A bias would change all classes equally.

    Args:
        num_logits: Number S of classifiers.
        kind: `mean`, `linear` (learned weights that start as the mean) or `random` (weights of both signs that are
            drawn once, as in `torch.nn.Linear`, saved, and never trained).
        device: Device of the weights.
        dtype: Dtype of the weights.

    Attributes:
        weight: `[S]`, a parameter or a buffer; None for the mean.

    Raises:
        ValueError: If the kind is unknown, or there is nothing to fuse.
    """

    def __init__(self, num_logits: int, kind: str = 'mean', device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if kind not in ('mean', 'linear', 'random'):
            raise ValueError(f"kind={kind!r} is none of 'mean', 'linear' and 'random'.")
        if num_logits < 1:
            raise ValueError(f'num_logits={num_logits}: at least the logits of one classifier are needed.')
        self.num_logits = num_logits
        self.kind = kind
        weight = None if kind == 'mean' else torch.empty(num_logits, **dd)
        if kind == 'linear':
            self.weight = nn.Parameter(weight)
            nn.init.constant_(self.weight, 1 / num_logits)
        else:
            self.register_buffer('weight', weight)
        if kind == 'random':
            bound = 1 / math.sqrt(num_logits)
            nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, logits: Tensor) -> Tensor:
        """`[B, S, K]` -> `[B, K]`.

        Raises:
            ValueError: If the logits have another shape.
        """
        if logits.ndim != 3 or logits.shape[1] != self.num_logits:
            raise ValueError(f'The fusion takes logits of shape (B, {self.num_logits}, K), got {list(logits.shape)}.')
        return logits.mean(dim=1) if self.weight is None else self.weight @ logits

    def extra_repr(self) -> str:
        return f'num_logits={self.num_logits}, kind={self.kind!r}'
