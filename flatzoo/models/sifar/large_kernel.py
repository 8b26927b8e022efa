"""Residual blocks whose convolution spans several frames of a super image."""
from collections.abc import Callable

from timm.layers import GroupNormAct, StdConv2d
from torch import Tensor, nn

__all__ = ['LargeKernelBottleneck']


class LargeKernelBottleneck(nn.Module):
    """Bottleneck 1x1 -> k x k -> 1x1 that sees k x k positions of a feature map at once.

    SIFAR, Table 7: one or two more residual blocks at the end of a ResNet. The kernel of their second convolution is so
    large that it sees several frames. With 3x3 frames of 224 pixels the last map is 21x21, and a kernel of 21 reaches
    from any frame to all others. The paper does not state whether the convolution is grouped; dense is the literal
    reading and the default. The block is pre-activated, like those of the BiT ResNets before it.

    Args:
        chs: Channels D of input and output.
        kernel_size: Side k of the kernel, odd.
        groups: Groups of the large convolution; `chs // 4` for a depthwise one.
        norm_layer: Norm with activation, called with the number of channels.
        conv_layer: Convolution.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: If the kernel size is even, or the groups do not divide the inner channels.
    """

    def __init__(
            self,
            chs: int,
            kernel_size: int,
            groups: int = 1,
            norm_layer: Callable = GroupNormAct,
            conv_layer: Callable = StdConv2d,
            device=None,
            dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        mid_chs = chs // 4
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f'kernel_size={kernel_size} must be odd, so that a position is its own centre.')
        if mid_chs % groups:
            raise ValueError(f'groups={groups} must divide the {mid_chs} inner channels.')
        self.norm1 = norm_layer(chs, **dd)
        self.conv1 = conv_layer(chs, mid_chs, 1, bias=False, **dd)
        self.norm2 = norm_layer(mid_chs, **dd)
        self.conv2 = conv_layer(
            mid_chs, mid_chs, kernel_size, padding=kernel_size // 2, groups=groups, bias=False, **dd)
        self.norm3 = norm_layer(mid_chs, **dd)
        self.conv3 = conv_layer(mid_chs, chs, 1, bias=False, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D, h, w]` -> `[B, D, h, w]`."""
        shortcut = x
        x = self.conv1(self.norm1(x))
        x = self.conv2(self.norm2(x))
        x = self.conv3(self.norm3(x))
        return x + shortcut
