"""The blocks of UniFormer and its stages: convolution in the first two, self-attention in the others."""
from collections.abc import Sequence
from functools import partial
from typing import Final

import torch
import torch.nn as nn
import torch.nn.functional as F
from timm.layers import Attention, DropPath, LayerNorm, LayerNorm2d, LayerScale, Mlp, PatchEmbed
from timm.models import checkpoint_seq
from timm.models.swin_transformer import window_partition, window_reverse

__all__ = ['AttentionBlock', 'ConvBlock', 'UniFormerStage', 'create_downsample']


class ConvBlock(nn.Module):
    """Block of stages 1 and 2: DPE, local MHRA, FFN, with BatchNorm and 1x1 convolutions.

    The local aggregator has no nonlinearity. It is a 1x1 convolution (value), a depthwise 5x5 convolution (learned
    affinity of the neighbourhood) and a 1x1 convolution (output).

    Args:
        dim: Number of channels.
        mlp_ratio: Width of the hidden FFN layer divided by `dim`.
        proj_drop: Dropout rate in the FFN.
        drop_path: Stochastic depth rate of the two residual branches. The position encoding is never dropped.
        device: Device of the parameters.
        dtype: Data type of the parameters.
    """

    def __init__(
            self,
            dim: int,
            mlp_ratio: float = 4.,
            proj_drop: float = 0.,
            drop_path: float = 0.,
            device: torch.device | str | None = None,
            dtype: torch.dtype | None = None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.conv1 = nn.Conv2d(dim, dim, 1, **dd)
        self.attn = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, **dd)  # the checkpoints' name for the local affinity
        self.conv2 = nn.Conv2d(dim, dim, 1, **dd)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0. else nn.Identity()
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop, use_conv=True, **dd)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0. else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps features [B, C, H, W] to features of the same shape."""
        x = x + self.pos_embed(x)
        x = x + self.drop_path1(self.conv2(self.attn(self.conv1(self.norm1(x)))))
        x = x + self.drop_path2(self.mlp(self.norm2(x)))
        return x


class AttentionBlock(nn.Module):
    """Block of stages 3 and 4: DPE, global MHRA (self-attention), FFN, with LayerNorm of eps 1e-6.

    Args:
        dim: Number of channels.
        head_dim: Channels of one attention head, a divisor of `dim`.
        mlp_ratio: Width of the hidden FFN layer divided by `dim`.
        proj_drop: Dropout rate after the attention projection and in the FFN.
        attn_drop: Dropout rate of the attention weights.
        drop_path: Stochastic depth rate of the two residual branches. The position encoding is never dropped.
        init_values: Initial layer scale of both branches. None for no layer scale.
        window_size: (height, width) in tokens of the attention windows. None attends over the whole map.
        device: Device of the parameters.
        dtype: Data type of the parameters.
    """

    window_size: Final[tuple[int, int] | None]

    def __init__(
            self,
            dim: int,
            head_dim: int = 64,
            mlp_ratio: float = 4.,
            proj_drop: float = 0.,
            attn_drop: float = 0.,
            drop_path: float = 0.,
            init_values: float | None = None,
            window_size: tuple[int, int] | None = None,
            device: torch.device | str | None = None,
            dtype: torch.dtype | None = None,
    ) -> None:
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.window_size = window_size
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.norm1 = LayerNorm(dim, eps=1e-6, **dd)
        self.attn = Attention(
            dim,
            num_heads=dim // head_dim,
            qkv_bias=True,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            **dd,
        )
        self.ls1 = LayerScale(dim, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path1 = DropPath(drop_path) if drop_path > 0. else nn.Identity()
        self.norm2 = LayerNorm(dim, eps=1e-6, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop, **dd)
        self.ls2 = LayerScale(dim, init_values, **dd) if init_values is not None else nn.Identity()
        self.drop_path2 = DropPath(drop_path) if drop_path > 0. else nn.Identity()

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Attends over the whole map, or inside of windows that are padded with zeros on the right and bottom.

        As in the authors' code, the zeros are keys without a mask. Choose a window that divides the map.

        Args:
            x: Normalised tokens [B, H, W, C].

        Returns:
            Attended tokens [B, H, W, C].
        """
        B, H, W, C = x.shape
        if self.window_size is None:
            return self.attn(x.reshape(B, H * W, C)).reshape(B, H, W, C)

        wh, ww = self.window_size
        x = F.pad(x, (0, 0, 0, -W % ww, 0, -H % wh)).contiguous()
        padded_h, padded_w = x.shape[1], x.shape[2]
        x = window_partition(x, (wh, ww)).reshape(-1, wh * ww, C)  # [B * windows, wh * ww, C]
        x = self.attn(x).reshape(-1, wh, ww, C)
        x = window_reverse(x, (wh, ww), padded_h, padded_w)
        return x[:, :H, :W]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps features [B, C, H, W] to features of the same shape."""
        x = x + self.pos_embed(x)
        x = x.permute(0, 2, 3, 1)  # [B, H, W, C]
        x = x + self.drop_path1(self.ls1(self.attend(self.norm1(x))))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x.permute(0, 3, 1, 2)


def create_downsample(
        in_dim: int,
        dim: int,
        stride: int,
        conv_stem: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
) -> nn.Module:
    """Creates the first layer of a stage. Both kinds round an odd size up.

    Args:
        in_dim: Number of input channels.
        dim: Number of output channels.
        stride: 4 in the first stage, 2 in the others.
        conv_stem: Whether to use overlapping 3x3 convolutions of stride 2 with BatchNorm (UniFormer-S+), and not one
            non-overlapping convolution with LayerNorm.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Returns:
        A module that maps [B, in_dim, H, W] to [B, dim, ceil(H / stride), ceil(W / stride)].
    """
    dd = {'device': device, 'dtype': dtype}
    if not conv_stem:
        return PatchEmbed(
            img_size=None,
            patch_size=stride,
            in_chans=in_dim,
            embed_dim=dim,
            norm_layer=partial(LayerNorm2d, eps=1e-5),  # the weights need 1e-5 here and 1e-6 in the blocks
            output_fmt='NCHW',
            dynamic_img_pad=True,
            **dd,
        )
    layers = []
    if stride == 4:
        layers = [nn.Conv2d(in_dim, dim // 2, 3, stride=2, padding=1, **dd), nn.BatchNorm2d(dim // 2, **dd), nn.GELU()]
        in_dim = dim // 2
    return nn.Sequential(*layers, nn.Conv2d(in_dim, dim, 3, stride=2, padding=1, **dd), nn.BatchNorm2d(dim, **dd))


class UniFormerStage(nn.Module):
    """Downsampling followed by blocks of one kind.

    Args:
        downsample: Module that reduces the map and sets its channels.
        blocks: The blocks in order.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, in_dim, H, W] to [B, dim, ceil(H / stride), ceil(W / stride)]."""
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)
