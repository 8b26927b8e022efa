"""The temporal shift of TSM (Section 3 of the paper), and where it sits in an image network.

A part of the channels comes from the next frame, a part from the frame before, and the rest stays. A shift has no
parameters and no multiply-adds. Every convolution behind it sees three frames.
"""
import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.models import register_notrace_function
from torch import Tensor, nn

__all__ = ['TemporalShift', 'frames_are_clips', 'insert_shifts', 'temporal_shift']


@register_notrace_function  # fx: it looks at shapes
def temporal_shift(x: Tensor, num_frames: int, fold: int, causal: bool) -> Tensor:
    """Moves channels by one frame. Channels from outside of the clip are zero.

    Args:
        x: Maps of frames `[B * T, C, H, W]`. The frames of a clip follow one another.
        num_frames: Frames T per clip.
        fold: Channels that move in one direction.
        causal: Whether the first `fold` channels come from the frame before and all others stay. Otherwise the first
            `fold` channels come from the next frame and the second `fold` from the frame before.

    Returns:
        `[B * T, C, H, W]`.
    """
    x = x.unflatten(0, (-1, num_frames))
    if causal:
        past = F.pad(x[:, :-1, :fold], (0, 0, 0, 0, 0, 0, 1, 0))
        return torch.cat([past, x[:, :, fold:]], dim=2).flatten(0, 1)
    future = F.pad(x[:, 1:, :fold], (0, 0, 0, 0, 0, 0, 0, 1))
    past = F.pad(x[:, :-1, fold:2 * fold], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat([future, past, x[:, :, 2 * fold:]], dim=2).flatten(0, 1)


class TemporalShift(nn.Module):
    """A temporal shift in front of a module. The module is called `net`, as in the official code.

    Args:
        net: A convolution, or a whole block.
        num_frames: Frames T per clip.
        shift_div: 1 / `shift_div` of the channels, rounded down, move in one direction.
        causal: Whether channels come only from the frame before.

    Attributes:
        streams: Whether the batch has one frame of each clip. The channels of the frame before are then in `past`, and
            a call replaces them by those of this frame.
        past: The moving channels of the frame before, `[B, C // shift_div, H, W]`. None for the first frame.
    """

    def __init__(self, net: nn.Module, num_frames: int, shift_div: int = 8, causal: bool = False):
        super().__init__()
        self.net = net
        self.num_frames = num_frames
        self.shift_div = shift_div
        self.causal = causal
        self.streams = False
        self.past = None

    def forward(self, x: Tensor) -> Tensor:
        fold = x.shape[1] // self.shift_div
        if torch.jit.is_scripting():
            x = temporal_shift(x, self.num_frames, fold, self.causal)
        else:
            x = self._next(x, fold) if self.streams else temporal_shift(x, self.num_frames, fold, self.causal)
        return self.net(x)

    @torch.jit.unused
    def _next(self, x: Tensor, fold: int) -> Tensor:
        """The causal shift of one frame."""
        past, present = self.past, x[:, :fold].clone()  # a view would keep the whole map alive
        if past is None:
            past = torch.zeros_like(present)
        if past.shape != present.shape:
            raise ValueError(
                f'The state of this stream holds a map of {list(past.shape)} where the frame has one of '
                f'{list(present.shape)}: frames of a stream have one batch and image size. Start with state=None.')
        self.past = present
        return torch.cat([past, x[:, fold:]], dim=1)

    def extra_repr(self) -> str:
        return f'num_frames={self.num_frames}, shift_div={self.shift_div}, causal={self.causal}'


@contextlib.contextmanager
def frames_are_clips(network: nn.Module) -> Iterator[None]:
    """Context in which every image is a clip, so that a batch of any size can be tried."""
    shifts = [module for module in network.modules() if hasattr(module, 'num_frames')]
    kept = [shift.num_frames for shift in shifts]
    for shift in shifts:
        shift.num_frames = 1
    try:
        yield
    finally:
        for shift, num_frames in zip(shifts, kept, strict=True):
            shift.num_frames = num_frames


# class of a timm block -> names of its first convolution; the first existing one is taken
_FIRST_CONV = {
    'BasicBlock': ('conv1', 'conv1_kxk'), 'Bottleneck': ('conv1',), 'PreActBasic': ('conv1',),
    'PreActBottleneck': ('conv1',), 'Bottle2neck': ('conv1',), 'ResNestBottleneck': ('conv1',),
    'SelectiveKernelBasic': ('conv1',), 'SelectiveKernelBottleneck': ('conv1',), 'BottleneckBlock': ('conv1_1x1',),
    'DarkBlock': ('conv1_1x1',), 'EdgeBlock': ('conv1_kxk',), 'InvertedResidual': ('conv_pw',),
    'EdgeResidual': ('conv_exp',), 'DepthwiseSeparableConv': ('conv_dw',),
    'UniversalInvertedResidual': ('dw_start', 'pw_exp'), 'ConvNeXtBlock': ('conv_dw',),
}


def insert_shifts(backbone: nn.Module, name: str, num_frames: int, div: int, causal: bool, place: str) -> None:
    """Puts shifts into an image network, as the official code does with ResNets and MobileNetV2.

    A shift sits in front of the first convolution of a residual branch, so that the shortcut keeps the frame
    (`blockres`), or in front of the whole block (`block`). Inverted residuals without a shortcut have no shift. In
    ResNets with 23 blocks or more in stage 3 (ResNet-101) every other block of each stage has one. For all other
    networks we chose the rule: each block with a shortcut has one.

    Raises:
        ValueError: If the network has no such blocks.
    """
    every = 2 if place == 'blockres' and len(getattr(backbone, 'layer3', ())) >= 23 else 1
    args, found = dict(num_frames=num_frames, shift_div=div, causal=causal), False
    for path, block in list(backbone.named_modules()):
        names = [n for n in _FIRST_CONV.get(type(block).__name__, ()) if not isinstance(
            getattr(block, n, None), (type(None), nn.Identity))]
        parent, _, index = path.rpartition('.')
        if not names or not _has_shortcut(block) or every > 1 and int(index) % every:
            continue
        found = True
        if place == 'block':
            setattr(backbone.get_submodule(parent), index, TemporalShift(block, **args))
        else:
            setattr(block, names[0], TemporalShift(getattr(block, names[0]), **args))
    if not found:
        raise ValueError(
            f'backbone={name!r} ({type(backbone).__name__}) has no residual blocks of convolutions that TSM can shift. '
            'Accepted are ResNets, RegNets, EfficientNets, MobileNets, ConvNeXts and other CNNs of timm with blocks of '
            f'the classes {", ".join(_FIRST_CONV)}.')


def _has_shortcut(block: nn.Module) -> bool:
    if hasattr(block, 'has_skip'):  # inverted residuals
        return block.has_skip
    if hasattr(block, 'shortcut'):
        return block.shortcut is not None
    if type(block).__module__ == 'timm.models.regnet':  # a block without `downsample` has no shortcut there
        return block.downsample is not None
    return True
