"""Stages of Swin Transformers with their tokens in the order of the windows.

timm's block takes a map apart into windows and puts it together again, twice shifted, and masks attention between
pieces of a window that come from opposite borders. Here the tokens of a stage lie window behind window all the time,
reordered once per block; a shifted window that the mask cuts is taken as two or four windows of its own, each with its
part of the bias, so that there is no mask and no work on what it would hide. (The mask of timm adds -100 to hidden
scores: the weight of e^-100 that they keep is 0 here.) Attention and MLP of a few windows follow each other while these
are in cache.
"""
from functools import lru_cache

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformerBlock, SwinTransformerStage, WindowAttention
from torch import Tensor, nn

from .mlp import PackedMlp, chunk_rows
from .packed_linear import PackedLinear, Prepared, needs_parts, runs_fast

__all__ = ['WindowOrderStage']

Pair = tuple[int, int]
_SCORES = 2 ** 20  # of attention at a time in bfloat16: 2 MB


class WindowOrderStage(Prepared, SwinTransformerStage):
    """`SwinTransformerStage` in window order; maps that windows do not divide take the plain way."""

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Stages of timm's own blocks."""
        return all(
            type(block) is SwinTransformerBlock
            and type(block.attn) is WindowAttention
            and type(block.attn.proj) in (nn.Linear, PackedLinear)
            and (type(block.mlp) is PackedMlp or PackedMlp.accepts(block.mlp))
            for block in module.blocks
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, C]` -> `[B, H', W', C']`."""
        if not runs_fast(x, self) or needs_parts(self):
            return super().forward(x)
        x = self.downsample(x)
        B, H, W, C = x.shape
        if any(H % block.window_size[0] or W % block.window_size[1] for block in self.blocks):
            return self.blocks(x)
        x = x.reshape(-1, C)
        place = torch.arange(len(x), device=x.device)  # of every row of the map in x
        for i, block in enumerate(self.blocks):
            order, pieces = _window_order(B, H, W, block.window_size, block.shift_size)
            x = x[place[order]]
            place[order] = torch.arange(len(x), device=x.device)
            self._run_block(i, block, x, pieces)
        return x[place].view(B, H, W, C)

    def _run_block(self, index: int, block: SwinTransformerBlock, x: Tensor, pieces: list[tuple[Pair, int]]) -> None:
        """Runs a block in place on tokens `[N, C]` in its order, a few windows at a time."""
        start = 0
        for group in _chunks(pieces, chunk_rows()):
            chunk = x[start:start + sum(h * w * count for (h, w), count in group)]
            qkv = block.attn.qkv(block.norm1(chunk))
            attended, first = [], 0
            for size, count in group:
                windows = qkv[first:first + size[0] * size[1] * count].unflatten(0, (count, -1))
                attended.append(_attend(block.attn, windows, self._bias(index, block.attn, size)))
                first += windows.shape[0] * windows.shape[1]
            y = block.attn.proj.add(attended[0] if len(attended) == 1 else torch.cat(attended), chunk)
            chunk.copy_(block.mlp.add(block.norm2(y), y))
            start += len(chunk)

    def _bias(self, index: int, attn: WindowAttention, size: Pair) -> Tensor:
        """Relative position bias `[1, heads, N, N]` within a piece of a window."""
        def gather(table: Tensor) -> Tensor:
            height, width = attn.window_size
            y, x = (torch.arange(side, device=table.device) for side in size)
            rows = (y[:, None] - y + height - 1)[:, None, :, None]  # [h, 1, h, 1]
            cols = (x[:, None] - x + width - 1)[None, :, None, :]  # [1, w, 1, w]
            offset = (rows * (2 * width - 1) + cols).flatten(2).flatten(0, 1)
            return table[offset].permute(2, 0, 1).contiguous().unsqueeze(0)

        return self.derived((index, size), attn.relative_position_bias_table, gather)


def _attend(attn: WindowAttention, qkv: Tensor, bias: Tensor) -> Tensor:
    """Attention within windows, `[windows, N, 3 * heads * d]` -> `[windows * N, heads * d]`."""
    qkv = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [3, windows, heads, N, d]
    if qkv.dtype == torch.bfloat16:
        step = max(1, _SCORES // bias.numel())
        x = torch.cat([_multiply(qkv[:, i:i + step], bias, attn.scale) for i in range(0, qkv.shape[1], step)])
    else:
        x = F.scaled_dot_product_attention(*qkv, attn_mask=bias, scale=attn.scale)
    return x.transpose(1, 2).flatten(2).flatten(0, 1)


def _multiply(qkv: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention by separate products: PyTorch's fused kernel is slower on CPUs, whose products in bfloat16 are fast."""
    q, k, v = qkv.contiguous().flatten(1, 2)  # [windows * heads, N, d] each
    scores = bias.repeat(qkv.shape[1], 1, 1, 1).flatten(0, 1)
    maps = scores.baddbmm_(q, k.transpose(1, 2), alpha=scale).softmax(-1)
    return torch.bmm(maps, v).view(qkv.shape[1:])


def _chunks(pieces: list[tuple[Pair, int]], limit: int) -> list[list[tuple[Pair, int]]]:
    """Splits windows into groups of at most `limit` tokens, but at least one window, keeping their order."""
    groups, free = [], 0
    for size, count in pieces:
        area = size[0] * size[1]
        while count:
            if free < area:
                groups.append([])
                free = max(limit, area)
            taken = min(count, free // area)
            groups[-1].append((size, taken))
            free -= taken * area
            count -= taken
    return groups


@lru_cache(maxsize=64)
def _window_order(batch: int, height: int, width: int, window: Pair, shift: Pair) -> tuple[Tensor, list]:
    """How the tokens of maps lie in window order.

    Returns:
        The rows `[B * H * W]` of the maps in that order, and the sizes of the pieces of windows with their numbers.
    """
    pieces = {}  # size -> rows of pieces of that size
    rows = torch.arange(batch * height * width, device='cpu').view(batch, height, width)
    rows = rows.roll((-shift[0], -shift[1]), (1, 2))
    for top, bottom in _spans(height, window[0], shift[0]):
        for left, right in _spans(width, window[1], shift[1]):
            piece = rows[:, top:bottom, left:right]
            pieces.setdefault((bottom - top, right - left), []).append(piece.reshape(-1))
    order = torch.cat([row for group in pieces.values() for row in group])
    return order, [(size, batch * len(group)) for size, group in pieces.items()]


def _spans(length: int, window: int, shift: int) -> list[Pair]:
    """Where windows begin and end on an axis that is rolled by `shift`; the last one is cut where the border lies."""
    starts = list(range(0, length, window)) + ([length - shift] if shift else [])
    return list(zip(starts, [*starts[1:], length]))
