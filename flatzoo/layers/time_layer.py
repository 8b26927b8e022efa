"""The TIME layer: fewer frames, each a grid of evolving frames."""
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .super_image import resize_images

__all__ = ['TimeLayer', 'check_time_grid']


def check_time_grid(n: Any, arrangement: Any) -> None:
    """Checks the two parameters of the TIME layer.

    Raises:
        ValueError: If `n` is not a whole number of at least 1, or `arrangement` is neither `spatial` nor `temporal`.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f'n={n!r}: the TIME layer makes grids of N x N frames, N a whole number of at least 1.')
    if arrangement not in ('spatial', 'temporal'):
        raise ValueError(f"arrangement={arrangement!r} is neither 'spatial' nor 'temporal'.")


class TimeLayer(nn.Module):
    """Temporal Integration and Motion Enhancement (https://arxiv.org/abs/2411.15284): T frames -> T / N^2 new frames.

    Every new frame is an N x N grid of N^2 frames of the clip, shrunk to the size of one frame. N balances space
    against
    time: N = 1 is the identity, and a larger N shows more of time and less detail. Both arrangements keep the order of
    time:

    - `spatial`: the clip is cut into N^2 blocks of T / N^2 consecutive frames, and cell j of the grid plays block j.
      Each new frame therefore spans the whole clip (the paper's spatial block arrangement).
    - `temporal`: new frame i holds the N^2 consecutive frames i * N^2, i * N^2 + 1, ... The paper's second arrangement
      is described only in contrast to the first; this definition is inferred.

    The layer has no parameters, takes any multiple of N^2 frames and can stand in front of any video model.
    `flatzoo.layers.SuperImage` with the layout `time:N:ARRANGEMENT` makes the same pictures for image models, from
    clips of a fixed length.

    Args:
        n: Rows and columns N of the grid, the paper's balance parameter.
        arrangement: `spatial` or `temporal`.
        resize: `cell` shrinks the frames, then tiles them. `composite` tiles, then shrinks, and fits any frame size.
            The two differ at the borders of cells. The paper does not state which one it uses.
        antialias: Whether shrinking filters first.

    Raises:
        ValueError: If N is not a whole number of at least 1, or arrangement or resize is unknown.
    """

    def __init__(
            self,
            n: int = 2,
            arrangement: Literal['spatial', 'temporal'] = 'spatial',
            resize: Literal['cell', 'composite'] = 'cell',
            antialias: bool = True,
    ):
        super().__init__()
        check_time_grid(n, arrangement)
        if resize not in ('cell', 'composite'):
            raise ValueError(f"resize={resize!r} is neither 'cell' nor 'composite'.")
        self.n = n
        self.arrangement = arrangement
        self.resize = resize
        self.antialias = antialias

    def forward(self, clip: Tensor) -> Tensor:
        """Rearranges clips.

        Args:
            clip: `[B, C, T, H, W]`, any number of channels (3 for RGB, 1 for depth), float or uint8.

        Returns:
            `[B, C, T / N^2, H, W]`.

        Raises:
            ValueError: If the clip has another shape or dtype, T is not a multiple of N^2, or cells are resized and H
                or W is not a multiple of N.
        """
        if clip.ndim != 5:
            raise ValueError(f'The TIME layer takes clips of shape (B, C, T, H, W), got {list(clip.shape)}.')
        if clip.dtype != torch.uint8 and not clip.is_floating_point():
            raise ValueError(f'The TIME layer takes floating-point or uint8 clips, got {clip.dtype}.')
        n, (batch, chans, frames, height, width) = self.n, clip.shape
        if frames == 0 or frames % (n * n) != 0:
            fewer = frames // (n * n) * n * n
            fits = f'{fewer} or {fewer + n * n}' if fewer > 0 else f'{n * n}'
            raise ValueError(
                f'The TIME layer with N={n} takes a multiple of {n * n} frames, got {frames}: use {fits} frames.')
        if n == 1:
            return clip
        if self.resize == 'cell':
            if height % n != 0 or width % n != 0:
                raise ValueError(
                    f"Frames of {height}x{width} pixels do not shrink to 1/{n} of their size in whole pixels: "
                    "use resize='composite'."
                )
            channels = resize_images(clip.flatten(1, 2), height // n, width // n, self.antialias)
            clip = channels.unflatten(1, (chans, frames))
        new = frames // (n * n)
        if self.arrangement == 'spatial':
            cells = clip.reshape(batch, chans, n, n, new, clip.shape[3], clip.shape[4]).permute(0, 1, 4, 2, 5, 3, 6)
        else:
            cells = clip.reshape(batch, chans, new, n, n, clip.shape[3], clip.shape[4]).permute(0, 1, 2, 3, 5, 4, 6)
        grids = cells.reshape(batch, chans, new, n * clip.shape[3], n * clip.shape[4])  # [B, C, T / N^2, N * h, N * w]
        if self.resize == 'composite':
            grids = resize_images(grids.flatten(1, 2), height, width, self.antialias).unflatten(1, (chans, new))
        return grids

    def extra_repr(self) -> str:
        return f'n={self.n}, arrangement={self.arrangement!r}, resize={self.resize!r}, antialias={self.antialias}'
