"""The pictures that the backbone gets."""
import torch
from torch import Tensor

from flatzoo.models.base import VideoModel, channel_stats

from .model import one_by_one, resting

__all__ = ['super_images']


@torch.no_grad()
def super_images(model: VideoModel, clip: Tensor) -> Tensor:
    """Converts clips to the images that the backbone gets, as pictures.

    Args:
        model: A video model.
        clip: `[B, C, T, H, W]`, float normalised or uint8.

    Returns:
        uint8 `[B, K, C, H', W']`: the K images of each clip, without normalisation. Empty cells hold the filling of the
        model, by default the mean colour of its weights.
    """
    mean, std = (
        torch.tensor(values).view(-1, 1, 1) for values in channel_stats(model.pretrained_cfg, model.in_chans))
    with resting(model):
        images = torch.stack([model.super_image(one).float().cpu() for one in one_by_one(model, clip)])
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
