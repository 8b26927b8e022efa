"""The poolers that read the tokens of a frozen network: V-JEPA 2's attentive pooler and STEP's single attention.

Modules of the attentive pooler have the names of its official code, so that its weights load as they are.
"""
import math
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import Mlp, trunc_normal_
from timm.models import register_notrace_function
from timm.models.vision_transformer import Block
from torch import Tensor, nn

__all__ = ['AttentivePooler', 'StepPooler', 'add_positions', 'as_tokens', 'check_heads']


class CrossAttention(nn.Module):
    """Queries that attend to tokens. As in V-JEPA 2, no linear layer follows."""

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, device=device, dtype=dtype)
        self.kv = nn.Linear(dim, 2 * dim, device=device, dtype=dtype)

    def forward(self, q: Tensor, x: Tensor) -> Tensor:
        """Queries `[B, n, D]` and tokens `[B, N, D]` -> `[B, n, D]`."""
        q = self.q(q).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class CrossAttentionBlock(nn.Module):
    """Cross-attention and an MLP. The query is not normalised, and no norm follows."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4., device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.xattn = CrossAttention(dim, num_heads, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), **dd)

    def forward(self, q: Tensor, x: Tensor) -> Tensor:
        q = q + self.xattn(q, self.norm1(x))
        return q + self.mlp(self.norm2(q))


class AttentivePooler(nn.Module):
    """V-JEPA 2's pooler: blocks of self-attention over all tokens, then one learned query reads them.

    It has no positions, so the order of the tokens does not matter. The epsilon of its norms is always 1e-5.

    Args:
        dim: Channels D of the tokens.
        num_heads: Attention heads, a divisor of D.
        depth: Blocks; the last one is the cross-attention of the query.
        mlp_ratio: Hidden width of the MLPs over D.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
    """

    def __init__(self, dim: int, num_heads: int = 16, depth: int = 4, mlp_ratio: float = 4., device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.query_tokens = nn.Parameter(torch.empty(1, 1, dim, **dd))
        norm_layer = partial(nn.LayerNorm, eps=1e-5)
        self.blocks = nn.Sequential(*(
            Block(dim, num_heads, mlp_ratio, qkv_bias=True, norm_layer=norm_layer, **dd) for _ in range(depth - 1)))
        self.cross_attention_block = CrossAttentionBlock(dim, num_heads, mlp_ratio, **dd)
        self._init_weights(depth)

    @torch.no_grad()
    def _init_weights(self, depth: int) -> None:
        _init_linear(self)
        trunc_normal_(self.query_tokens, std=0.02)
        for i, block in enumerate(self.blocks, start=1):
            for weight in (block.attn.proj.weight, block.mlp.fc2.weight):
                weight.div_(math.sqrt(2 * i))
        # as in the official code, the factor of the last block of self-attention is used here, too
        self.cross_attention_block.mlp.fc2.weight.div_(math.sqrt(2 * max(depth - 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `[B, N, D]` -> `[B, D]`."""
        query = self.query_tokens.expand(x.shape[0], -1, -1)
        return self.cross_attention_block(query, self.blocks(x)).squeeze(1)


class StepPooler(nn.Module):
    """STEP's pooler: a class token of the clip attends once to all tokens. Tokens have an embedding of their frame.

    Only the class token is read, so the queries of all other tokens are left out. The result is that of self-attention,
    at a cost that is linear in the number of tokens. One norm in front, no shortcut and no MLP are inferred: this gives
    4 D^2 parameters, the third of a block that the paper states.

    Args:
        dim: Channels D of the tokens.
        num_frames: Frames T.
        num_heads: Attention heads, a divisor of D.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
    """

    def __init__(self, dim: int, num_frames: int, num_heads: int, device=None, dtype=None):
        super().__init__()
        dd = dict(device=device, dtype=dtype)
        self.frame_embed = nn.Parameter(torch.empty(num_frames, dim, **dd))
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim, **dd))
        self.norm = nn.LayerNorm(dim, **dd)
        self.attn = CrossAttention(dim, num_heads, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        _init_linear(self)
        trunc_normal_(self.frame_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `[B, T, N, D]` -> `[B, D]`."""
        x = (x + self.frame_embed.unsqueeze(1)).flatten(1, 2)
        x = self.norm(torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1))
        return self.proj(self.attn(x[:, :1], x)).squeeze(1)


def _init_linear(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Linear):
            trunc_normal_(part.weight, std=0.02)
            nn.init.zeros_(part.bias)


@register_notrace_function  # fx: it looks at the number of dimensions
def as_tokens(x: Tensor, num_frames: int, num_prefix_tokens: int, channels_first: bool) -> Tensor:
    """Features of frames in the backbone's shape -> tokens `[B, T, N, D]`.

    Args:
        x: Tokens `[B * T, P + N, D]`, or maps `[B * T, D, h, w]` or `[B * T, h, w, D]`.
        num_frames: Frames T per clip.
        num_prefix_tokens: Tokens P in front. They are left out.
        channels_first: Whether maps are `[B * T, D, h, w]`.
    """
    if x.ndim == 4:
        x = x.flatten(2).transpose(1, 2) if channels_first else x.flatten(1, 2)
    elif x.ndim == 3:
        x = x[:, num_prefix_tokens:]
    else:
        raise ValueError('A probe reads tokens [B, N, D] or maps [B, D, h, w] of frames; this backbone gives others.')
    return x.unflatten(0, (-1, num_frames))


@register_notrace_function  # fx: it looks at shapes
def add_positions(x: Tensor, frame_indices: Tensor | None) -> Tensor:
    """Adds V-JEPA 2's fixed sine-cosine position of its frame to each token (`use_pos_embed` of the official code).

    Args:
        x: Tokens `[B, T, N, D]`.
        frame_indices: Number of each frame in its video, `[T]` or `[B, T]`, below 128. None is 0...T-1.
    """
    indices = torch.arange(x.shape[1], device=x.device) if frame_indices is None else frame_indices.to(x.device)
    if frame_indices is not None and (int(indices.max()) >= 128 or int(indices.min()) < 0):
        raise ValueError('Frame indices must be 0 to 127, because only these have positions.')
    dim = x.shape[-1] // 2
    omega = torch.exp(-math.log(10000.) * torch.arange(dim, dtype=torch.float64, device=x.device) / dim)
    angle = indices.unsqueeze(-1).to(torch.float64) * omega
    return x + torch.cat([angle.sin(), angle.cos()], dim=-1).to(x.dtype).unsqueeze(-2)


def check_heads(dim: int, num_heads: int) -> None:
    """Refuses heads that do not divide the width."""
    if not isinstance(num_heads, int) or num_heads < 1 or dim % num_heads:
        fits = [n for n in range(1, 33) if dim % n == 0]
        raise ValueError(f'probe_heads={num_heads!r} does not divide the {dim} channels: {fits} do.')
