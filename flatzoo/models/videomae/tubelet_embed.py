"""Tubelet embedding of clips: patches that reach over several frames, with fixed positions in space and time."""
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, to_2tuple
from torch import Tensor

__all__ = ['TubeletEmbed', 'sinusoidal_positions']


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """The fixed position table of "Attention Is All You Need" (https://arxiv.org/abs/1706.03762, Section 3.5).

    Entry (p, 2i) is sin(p / 10000^(2i / dim)) and entry (p, 2i + 1) the cosine.

    Args:
        length: Number of positions.
        dim: Width of the table.

    Returns:
        `[length, dim]`, float64, because single precision is too coarse for the angles of long clips.
    """
    channel = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * 10000 ** (-2 * (channel // 2) / dim)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())


class TubeletEmbed(PatchEmbed):
    """Cuts clips into tubelets, patches of several frames, and embeds them as tokens with sinusoidal positions.

    The cube embedding of VideoMAE (https://arxiv.org/abs/2203.12602, Section 3.3) with its fixed positions. They count
    the T / t * h * w tokens of a clip frame by frame, row by row. As an `embed_layer` of timm's `VisionTransformer`
    (with `pos_embed='none'`) it replaces the patch embedding and the position embedding.

    If the stride of a convolution over space and time equals its kernel, it is a convolution over space with the t
    frames of a tubelet as channels. The layer `proj` describes it. The weight is `[D, t * C, p, p]` (frame by
    frame), a shape that backends, memory formats and timm's adaptation to other numbers of channels support. The frames
    are a view of the folded clip.

    Args:
        img_size: Size of a frame in pixels, a multiple of `patch_size`.
        patch_size: Side of a patch in pixels.
        in_chans: Channels C of a frame.
        embed_dim: Width D of a token.
        num_frames: Frames T per clip, a multiple of `tubelet_size`.
        tubelet_size: Frames t per tubelet.
        **kwargs: As for `timm.layers.PatchEmbed`.

    Attributes:
        grid_size: Tokens `(h, w)` of a frame.
        num_patches: Tokens T / t * h * w of a clip.

    Raises:
        ValueError: If a clip is not a whole number of tubelets.
    """

    def __init__(
            self,
            img_size: int | tuple[int, int] = 224,
            patch_size: int = 16,
            in_chans: int = 3,
            embed_dim: int = 768,
            num_frames: int = 16,
            tubelet_size: int = 2,
            device=None,
            dtype=None,
            **kwargs: Any,
    ):
        super().__init__(
            img_size, patch_size, tubelet_size * in_chans, embed_dim, device=device, dtype=dtype, **kwargs)
        self.num_frames = num_frames
        self.tubelet_size = tubelet_size
        self._check_size(self.img_size, self.patch_size, num_frames)
        self.num_patches *= num_frames // tubelet_size
        pos_embed = torch.empty(self.num_patches, embed_dim, device=device, dtype=dtype)
        self.register_buffer('pos_embed', pos_embed, persistent=False)
        self.init_non_persistent_buffers()

    @torch.jit.ignore
    def init_non_persistent_buffers(self) -> None:
        """Fills the position table. timm calls it after it has materialised a model from the meta device."""
        self.pos_embed.copy_(sinusoidal_positions(*self.pos_embed.shape))

    @torch.jit.ignore
    def _check_size(self, img_size: tuple[int, int], patch_size: tuple[int, int], num_frames: int) -> None:
        if num_frames < 1 or num_frames % self.tubelet_size:
            raise ValueError(
                f'A clip of {num_frames} frames is not a whole number of tubelets of {self.tubelet_size} frames: take '
                f'a multiple of {self.tubelet_size}.'
            )
        if any(size < patch or size % patch for size, patch in zip(img_size, patch_size, strict=True)):
            fits = [max(round(size / patch), 1) * patch for size, patch in zip(img_size, patch_size, strict=True)]
            raise ValueError(
                f'A frame of {img_size[0]}x{img_size[1]} pixels is not a whole number of patches of '
                f'{patch_size[0]}x{patch_size[1]}: use {fits[0]}x{fits[1]}.'
            )

    @torch.jit.ignore
    def set_input_size(self, img_size: Any = None, patch_size: Any = None, num_frames: int | None = None) -> None:
        """Changes frame size, patch size or number of frames. As in timm, None keeps a value.

        Raises:
            ValueError: A clip would not be a whole number of tubelets. Nothing is changed.
        """
        num_frames = num_frames or self.num_frames
        img_size, patch_size = to_2tuple(img_size or self.img_size), to_2tuple(patch_size or self.patch_size)
        self._check_size(img_size, patch_size, num_frames)
        super().set_input_size(img_size, patch_size)
        self.num_frames = num_frames
        self.num_patches = num_frames // self.tubelet_size * self.grid_size[0] * self.grid_size[1]
        self.pos_embed = self.pos_embed.new_empty(self.num_patches, self.pos_embed.shape[1])
        self.init_non_persistent_buffers()

    def forward(self, x: Tensor) -> Tensor:
        """Embeds clips.

        Args:
            x: Frames `[B * T, C, H, W]`. The frames of a clip follow one another, in order.

        Returns:
            Tokens `[B, T / t * h * w, D]`.

        Raises:
            ValueError: If the frames have another size, or are not a whole number of clips.
        """
        chans, height, width = self.proj.in_channels // self.tubelet_size, self.img_size[0], self.img_size[1]
        if list(x.shape[1:]) != [chans, height, width] or x.shape[0] % self.num_frames != 0:
            raise ValueError(
                f'Expected frames of shape (B * T, C={chans}, H={height}, W={width}) with T={self.num_frames}, '
                f'got {list(x.shape)}.'
            )
        x = x.reshape(
            -1, self.tubelet_size * chans, self.grid_size[0], self.patch_size[0], self.grid_size[1], self.patch_size[1])
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # [B * T / t, h * w, t * C * p * p]
        x = F.linear(x, self.proj.weight.flatten(1), self.proj.bias)
        x = x.reshape(-1, self.num_patches, x.shape[-1])  # [B, T / t * h * w, D]
        return self.norm(x) + self.pos_embed
