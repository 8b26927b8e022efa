"""The bottlenecks that adapters of transformers are made of."""
from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

__all__ = ['Bottleneck', 'ConvBottleneck']


class Bottleneck(nn.Module):
    """s W_up f(W_down z), with `skip` added to z. W_up starts at zero.

    Args:
        dim: Width D of a token.
        hidden: Width of the bottleneck.
        act: Whether f is the exact GELU. Otherwise f is the identity, and the adapter is a linear map.
        skip: Whether the input z is added.
        scale: The constant s.
        drop: Dropout between the two matrices.
        kaiming: Whether W_down starts as in `torch.nn.Linear`. Otherwise it is normal with a deviation of 0.02.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(
            self,
            dim: int,
            hidden: int,
            act: bool = True,
            skip: bool = False,
            scale: float = 1.,
            drop: float = 0.,
            kaiming: bool = False,
            device=None,
            dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.act, self.skip, self.scale = act, skip, scale
        self.down = nn.Linear(dim, hidden, **dd)
        self.drop = nn.Dropout(drop)
        self.up = nn.Linear(hidden, dim, **dd)
        if not kaiming:
            trunc_normal_(self.down.weight, std=0.02)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        hidden = self.down(z)
        change = self.up(self.drop(F.gelu(hidden) if self.act else hidden))
        if self.scale != 1:
            change = self.scale * change
        return z + change if self.skip else change

    def extra_repr(self) -> str:
        return f'act={self.act}, skip={self.skip}, scale={self.scale}'


class _Conv3d(nn.Conv3d):
    """A convolution that `model.to(memory_format=torch.channels_last)` accepts, although its weight has 5 axes."""

    def _apply(self, fn, recurse=True):
        return super()._apply(lambda t: fn(t.squeeze(1)).unsqueeze(1) if t.ndim == 5 else fn(t), recurse)


class ConvBottleneck(nn.Module):
    """W_up DWConv3D(W_down p). The depth-wise convolution runs over a clip and starts at zero.

    Args:
        dim: Width D of a token.
        bottleneck: Channels of the convolution.
        kernel_size: Its frames, rows and columns, all odd.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(self, dim: int, bottleneck: int, kernel_size: Sequence[int] = (3, 1, 1), device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.down = nn.Linear(dim, bottleneck, **dd)
        padding = tuple(size // 2 for size in kernel_size)
        self.conv = _Conv3d(bottleneck, bottleneck, tuple(kernel_size), padding=padding, groups=bottleneck, **dd)
        self.up = nn.Linear(bottleneck, dim, **dd)
        for parameter in (self.down.bias, self.conv.weight, self.conv.bias, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Patches of clips, row by row, `[B, T, h * w, D]` and their grid `(h, w)` -> their change, same shape."""
        x = self.down(x).permute(0, 3, 1, 2)  # [B, C, T, h * w]
        if self.conv.kernel_size[1:] == (1, 1):  # over time alone: a convolution of images, which is faster
            x = F.conv2d(
                x, self.conv.weight.squeeze(-1), self.conv.bias, padding=self.conv.padding[:2], groups=x.shape[1])
        else:
            x = self.conv(x.unflatten(3, grid)).flatten(3)
        return self.up(x.permute(0, 2, 3, 1))
