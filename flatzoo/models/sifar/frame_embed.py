"""Patch embedding of super images with a position embedding for each frame."""
from typing import Any

import torch
from timm.layers import Format, PatchEmbed, trunc_normal_
from torch import Tensor, nn

__all__ = ['FramePatchEmbed']


class FramePatchEmbed(PatchEmbed):
    """timm's patch embedding plus the absolute position embedding (APE) of SIFAR, one vector per frame cell.

    SIFAR, Table 8b. As in the official code, the vector of a cell is added to all of its patch tokens, after the norm
    of the embedding. Empty cells have their own vectors. Cells count row by row, so cell i lies at (i // columns, i %
    columns). (The official code divides by the number of rows, which is the same only in square grids.)

    Args:
        *args: As for `timm.layers.PatchEmbed`.
        frame_grid: Rows and columns of frame cells in the super image.
        **kwargs: As for `timm.layers.PatchEmbed`.

    Raises:
        ValueError: If a cell is not a whole number of patches.
    """

    def __init__(self, *args: Any, frame_grid: tuple[int, int], **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.output_fmt not in (Format.NHWC, Format.NLC) and not self.flatten:
            raise ValueError(f"output_fmt={self.output_fmt.value!r} is neither 'NHWC' nor 'NLC'.")
        self.frame_grid: tuple[int, int] = tuple(frame_grid)
        self._check_cells()
        rows, cols = self.frame_grid
        weight = self.proj.weight
        self.frame_pos_embed = nn.Parameter(
            torch.empty(1, rows * cols, weight.shape[0], device=weight.device, dtype=weight.dtype))
        trunc_normal_(self.frame_pos_embed, std=.02)

    def _check_cells(self) -> None:
        if any(tokens % cells for tokens, cells in zip(self.grid_size, self.frame_grid)):
            raise ValueError(
                f'A super image of {self.grid_size[0]}x{self.grid_size[1]} patches does not split into '
                f'{self.frame_grid[0]}x{self.frame_grid[1]} cells: the frame size must be a multiple of the patch size '
                f'{self.patch_size[0]}x{self.patch_size[1]}.'
            )

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        """As in timm. The number of cells stays."""
        super().set_input_size(img_size=img_size, patch_size=patch_size)
        self._check_cells()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H', W']` -> `[B, h, w, D]`, or `[B, h * w, D]` with `output_fmt='NLC'`."""
        x = self.norm(self.proj(x).permute(0, 2, 3, 1))  # [B, h, w, D]
        rows, cols = self.frame_grid
        height, width = self.grid_size[0] // rows, self.grid_size[1] // cols
        cells = self.frame_pos_embed.view(1, rows, 1, cols, 1, -1)
        x = x + cells.expand(1, rows, height, cols, width, -1).reshape(1, rows * height, cols * width, -1)
        return x if self.output_fmt == Format.NHWC else x.flatten(1, 2)
