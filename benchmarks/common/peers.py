"""Video models of torchvision and transformers, with random weights, behind our clips `[B, 3, T, H, W]`.

With them, what stands for the official code of SIFAR: the same backbone out of timm, or a checkout of that code.
"""
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import timm
import torch
from torch import Tensor, nn
from torchvision.models import video
from torchvision.models.video import mvit

from .official import official_layout
from .stated import stated_length

__all__ = ['PEERS', 'Official', 'Peer', 'StockTimm', 'build_peer']

NUM_CLASSES = 400


class Peer(nn.Module):
    """A model of another library, with our way of saying what it takes.

    Args:
        model: It.
        num_frames: Frames per clip.
        img_size: Frame size in pixels.
        attention: What computes its attention, '' if it has none.
        frames_first: Whether it wants `[B, T, 3, H, W]` and returns an object with `logits`, as in transformers.
    """

    def __init__(
            self, model: nn.Module, num_frames: int, img_size: int, attention: str = 'eager',
            frames_first: bool = False):
        super().__init__()
        self.model, self.num_frames, self.img_size, self.in_chans = model, num_frames, (img_size, img_size), 3
        self.attention, self.frames_first = attention, frames_first

    def forward(self, clip: Tensor) -> Tensor:
        """Logits of clips."""
        return self.model(clip.transpose(1, 2)).logits if self.frames_first else self.model(clip)


def _torchvision(builder: Callable, attention: str = '') -> Callable[[int, int], nn.Module]:
    return lambda frames, size: Peer(builder(num_classes=NUM_CLASSES), frames, size, attention)


def _mvit(frames: int, size: int) -> nn.Module:
    sizes, plain = dict(spatial_size=(size, size), temporal_size=frames), mvit.MViT
    with mock.patch.object(mvit, 'MViT', lambda **kwargs: plain(**(kwargs | sizes))):  # the builder fixes both
        return Peer(video.mvit_v2_s(num_classes=NUM_CLASSES), frames, size)


class _Float32Pool(nn.AvgPool3d):
    """On a CPU torch has no kernel for it in bfloat16; without this a model that ends in it would not run at all."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


def _s3d(frames: int, size: int) -> nn.Module:
    model = video.s3d(num_classes=NUM_CLASSES)
    model.avgpool = _Float32Pool(model.avgpool.kernel_size, model.avgpool.stride)
    return Peer(model, frames, size, '')


def _transformers(name: str, frames: str = 'num_frames', size: str = 'image_size') -> Callable[[int, int], nn.Module]:
    def build(num_frames: int, img_size: int) -> nn.Module:
        import transformers

        config = getattr(transformers, f'{name}Config')(
            num_labels=NUM_CLASSES, **{frames: num_frames, size: img_size})
        model = getattr(transformers, f'{name}ForVideoClassification')(config)
        return Peer(model, num_frames, img_size, config._attn_implementation, frames_first=True)

    return build


PEERS: dict[str, tuple[int, int, Callable[[int, int], nn.Module]]] = {  # name: frame size, fewest frames, builder
    'torchvision:mvit_v2_s': (224, 2, _mvit),
    'torchvision:swin3d_t': (224, 2, _torchvision(video.swin3d_t, 'eager')),
    'torchvision:swin3d_b': (224, 2, _torchvision(video.swin3d_b, 'eager')),
    'torchvision:s3d': (224, 14, _s3d),
    'torchvision:r2plus1d_18': (112, 2, _torchvision(video.r2plus1d_18)),
    'transformers:videomae_b': (224, 2, _transformers('VideoMAE')),
    'transformers:timesformer_b': (224, 1, _transformers('Timesformer')),
    'transformers:vivit_b': (224, 2, _transformers('Vivit')),
    'transformers:vjepa2_l': (256, 2, _transformers('VJEPA2', 'frames_per_clip', 'crop_size')),
}


def build_peer(name: str, num_frames: int | None = None, img_size: int | None = None, device: str = 'cpu') -> nn.Module:
    """A peer for clips of a length and frames of a size; by default those that its accuracy is stated for.

    Raises:
        ValueError: If clips are too short for it.
    """
    size, fewest, build = PEERS[name]
    num_frames = num_frames or stated_length(name)
    if num_frames < fewest:
        raise ValueError(f'{name} takes clips of at least {fewest} frames')
    with torch.device(device):
        return build(num_frames, img_size or size)


class StockTimm(nn.Module):
    """The backbone of a SIFAR model as timm has it, behind the official layout; weights are shared with the model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.num_frames, self.img_size, self.in_chans = model.num_frames, model.img_size, model.in_chans
        windows = [stage.blocks[0].window_size for stage in model.backbone.layers]
        self.model = timm.create_model(
            'swin_base_patch4_window7_224', img_size=model.image_size, window_size=windows,
            num_classes=model.num_classes, **_widths(model.backbone))
        self.model.load_state_dict(model.backbone.state_dict(), assign=True)

    def forward(self, clip: Tensor) -> Tensor:
        """Logits of clips."""
        return self.model(official_layout(clip))


def _widths(backbone: nn.Module) -> dict:
    """What makes a Swin Transformer larger or smaller."""
    return dict(
        embed_dim=backbone.embed_dim, depths=[len(stage.blocks) for stage in backbone.layers],
        num_heads=[stage.blocks[0].attn.num_heads for stage in backbone.layers])


class Official(nn.Module):
    """SIFAR as a checkout of https://github.com/IBM/sifar-pytorch has it, with its random weights.

    It moves padding to the first CUDA device by hand; here that goes to where, and to the precision in which, the clip
    is, so that it runs on CPUs and in bfloat16.

    Args:
        path: Folder of the checkout.
        model: The model of ours that it is to equal.
    """

    def __init__(self, path: Path, model: nn.Module):
        super().__init__()
        self.num_frames, self.img_size, self.in_chans = model.num_frames, model.img_size, model.in_chans
        self.attention = 'eager'
        sys.path.insert(0, str(path))
        try:
            code = importlib.import_module('my_models.sifar_swin')
        finally:
            sys.path.remove(str(path))
        self.model = code.SwinTransformer(
            duration=model.num_frames, img_size=model.img_size[0], num_classes=model.num_classes,
            window_size=[stage.blocks[0].window_size[0] for stage in model.backbone.layers],
            super_img_rows=model.grid_size[0], **_widths(model.backbone))

    def forward(self, clip: Tensor) -> Tensor:
        """Logits of clips."""
        with mock.patch.object(Tensor, 'cuda', lambda tensor: tensor.to(clip)):
            return self.model(clip.transpose(1, 2).flatten(1, 2))
