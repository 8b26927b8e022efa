"""SIFAR's layout as the official code has it."""
import torch
from einops import rearrange
from torch import Tensor

__all__ = ['official_layout']


def official_layout(clip: Tensor) -> Tensor:
    """Zero frames up to a square number are appended, then the frames are laid out row by row."""
    side = int((clip.shape[2] - 1) ** 0.5) + 1
    missing = side ** 2 - clip.shape[2]
    if missing:
        clip = torch.cat((clip, clip.new_zeros(*clip.shape[:2], missing, *clip.shape[3:])), 2)
    return rearrange(clip, 'b c (r s) h w -> b c (r h) (s w)', r=side)
