"""The non-local block of TSM's most accurate network: attention over all positions of all frames.

Paper: "Non-local Neural Networks", Wang et al., CVPR 2018, https://arxiv.org/abs/1711.07971. This is the embedded
Gaussian with keys and values at half the resolution, as in TSM's official code. The modules have its names.
"""
import torch.nn.functional as F
from timm.models import register_notrace_function
from torch import Tensor, nn

__all__ = ['WithNonLocal', 'insert_non_local']

_BLOCKS = {'layer2': (0, 2), 'layer3': (0, 2, 4)}  # behind which there is a non-local block


class NonLocal(nn.Module):
    """x + W(softmax(theta(x)^T phi(x)) g(x)); the softmax has no scale (equations 4 and 6 of its paper).

    Everything except attention works on one position at a time, so 1x1x1 convolutions are 1x1 convolutions of frames.
    The norm behind W starts at zero, so a new block changes nothing.

    Args:
        dim: Channels C. theta, phi and g have half of them.
        num_frames: Frames T per clip.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
    """

    def __init__(self, dim: int, num_frames: int, device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.num_frames = num_frames
        self.theta = nn.Conv2d(dim, dim // 2, 1, **dd)
        self.phi = nn.Sequential(nn.Conv2d(dim, dim // 2, 1, **dd), nn.MaxPool2d(2))
        self.g = nn.Sequential(nn.Conv2d(dim, dim // 2, 1, **dd), nn.MaxPool2d(2))
        self.W = nn.Sequential(nn.Conv2d(dim // 2, dim, 1, **dd), nn.BatchNorm2d(dim, **dd))
        nn.init.zeros_(self.W[1].weight)
        nn.init.zeros_(self.W[1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of frames `[B * T, C, H, W]` -> the same shape."""
        theta = self.theta(x)
        y = F.scaled_dot_product_attention(
            tokens_of_clips(theta, self.num_frames), tokens_of_clips(self.phi(x), self.num_frames),
            tokens_of_clips(self.g(x), self.num_frames), scale=1.)
        return x + self.W(maps_of_frames(y, theta))


@register_notrace_function  # fx: it looks at shapes
def tokens_of_clips(x: Tensor, num_frames: int) -> Tensor:
    """Maps of frames `[B * T, C, H, W]` -> tokens of clips `[B, 1, T * H * W, C]`."""
    return x.flatten(2).transpose(1, 2).unflatten(0, (-1, num_frames)).flatten(1, 2).unsqueeze(1)


@register_notrace_function
def maps_of_frames(x: Tensor, like: Tensor) -> Tensor:
    """Tokens of clips `[B, 1, T * H * W, C]` -> maps of frames of the shape `[B * T, C, H, W]` of another tensor."""
    return x.reshape(like.shape[0], -1, like.shape[1]).transpose(1, 2).reshape(like.shape)


class WithNonLocal(nn.Module):
    """A block of a ResNet and the non-local block behind it."""

    def __init__(self, block: nn.Module, dim: int, num_frames: int, device=None, dtype=None):
        super().__init__()
        self.block = block
        self.nl = NonLocal(dim, num_frames, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of frames `[B * T, C, H, W]` -> the same shape."""
        return self.nl(self.block(x))


def insert_non_local(backbone: nn.Module, name: str, num_frames: int, device=None, dtype=None) -> None:
    """Puts non-local blocks behind blocks 0 and 2 of stage 2 and 0, 2 and 4 of stage 3 of a ResNet.

    Raises:
        ValueError: If it is not a ResNet, or has fewer blocks.
    """
    if any(len(getattr(backbone, stage, ())) <= max(blocks) for stage, blocks in _BLOCKS.items()):
        raise ValueError(
            f'backbone={name!r} has no place for non_local=True, which needs a ResNet with 3 blocks in stage 2 and 5 '
            'in stage 3, such as resnet50.')
    channels = {info['module']: info['num_chs'] for info in backbone.feature_info}
    for stage, blocks in _BLOCKS.items():
        for index in blocks:
            layer = getattr(backbone, stage)
            layer[index] = WithNonLocal(layer[index], channels[stage], num_frames, device, dtype)
