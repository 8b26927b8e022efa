"""The pictures that the backbone really gets."""
import torch
from torch import Tensor

from flatzoo.models.base import VideoModel, channel_stats

from .model import one_by_one, resting

__all__ = ['super_images']


@torch.no_grad()
def super_images(model: VideoModel, clip: Tensor) -> Tensor:
    """The images that the backbone gets of clips, as pictures.

    Args:
        model: A video model.
        clip: `[B, C, T, H, W]`, float normalised or uint8.

    Returns:
        uint8 `[B, K, C, H', W']`: the K images of each clip, normalisation taken back. Empty cells hold what the model
        fills them with, by default the mean colour of its weights.
    """
    mean, std = (
        torch.tensor(values).view(-1, 1, 1) for values in channel_stats(model.pretrained_cfg, model.in_chans))
    with resting(model):
        images = torch.stack([model.super_image(one).float().cpu() for one in one_by_one(model, clip)])
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
