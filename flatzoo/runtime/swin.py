"""Stages of Swin Transformers with their tokens in the order of the windows.

timm's block takes a map apart into windows and puts it together again, twice shifted, and masks attention between
pieces of a window that come from opposite borders. Here the tokens of a stage lie window behind window all the time,
reordered once per block; a shifted window that the mask cuts is taken as two or four windows of its own, each with its
part of the bias, so that there is no mask and no work on what it would hide. (The mask of timm adds -100 to hidden
scores: the weight of e^-100 that they keep is 0 here.) On a CPU, attention and MLP of a few windows follow each other
while these are in cache.
"""
import torch
from timm.models.swin_transformer import SwinTransformerBlock, SwinTransformerStage, WindowAttention
from torch import Tensor, nn

from flatzoo.layers import window_attention
from flatzoo.layers.window_attention import attend_fused, padded_bias, window_attention_forward

from .choice import faster
from .mlp import PackedMlp, chunk_rows
from .packed_linear import Prepared, is_linear, needs_parts, runs_fast

__all__ = ['FusedWindowAttention', 'WindowOrderStage']

Pair = tuple[int, int]
_SIZES = 4  # of maps, batch included
_SCORES = 2 ** 20  # of attention at a time where products are separate: 2 MB in bfloat16


class FusedWindowAttention(Prepared, WindowAttention):
    """`WindowAttention` that on CUDA runs PyTorch's fused kernel, with one mask for all images.

    It is what blocks call under torch.compile, which itself joins the ways into windows and back with their neighbours.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B * W, N, C]` and mask `[W, N, N]` -> `[B * W, N, C]`."""
        if not window_attention.on_gpu(x) or needs_parts(self):
            return super().forward(x, mask)
        return window_attention_forward(self, x, mask)


class WindowOrderStage(Prepared, SwinTransformerStage):
    """`SwinTransformerStage` in window order; maps that windows do not divide take the plain way."""

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Stages of timm's own blocks."""
        return all(
            type(block) is SwinTransformerBlock
            and type(block.attn) in (WindowAttention, FusedWindowAttention)
            and is_linear(block.attn.proj)
            and (type(block.mlp) is PackedMlp or PackedMlp.accepts(block.mlp))
            for block in module.blocks
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, H, W, C]` -> `[B, H', W', C']`."""
        if not runs_fast(x, self, ('cpu', 'cuda')) or needs_parts(self):
            return super().forward(x)
        x = self.downsample(x)
        B, H, W, C = x.shape
        if any(H % block.window_size[0] or W % block.window_size[1] for block in self.blocks):
            return self.blocks(x)
        x = x.reshape(-1, C)
        *steps, (back, _) = self._steps(B, H, W, x.device)
        for i, (block, (rows, pieces)) in enumerate(zip(self.blocks, steps)):
            x = self._run_block(i, block, x.index_select(0, rows), pieces)
        return x.index_select(0, back).view(B, H, W, C)

    def _steps(self, *size) -> list[tuple[Tensor, list]]:
        """`_window_orders` of the blocks for maps of this size; those of a few sizes are kept."""
        blocks = tuple((block.window_size, block.shift_size) for block in self.blocks)
        kept = self.__dict__.setdefault('_derived', {}).setdefault('steps', {})
        steps = kept.get((blocks, size))
        if steps is None:
            if len(kept) >= _SIZES:
                kept.clear()
            steps = kept[blocks, size] = _window_orders(blocks, *size)
        return steps

    def _run_block(self, index: int, block: SwinTransformerBlock, x: Tensor, pieces: list[tuple[Pair, int]]) -> Tensor:
        """Runs a block on tokens `[N, C]` in its order, on a CPU a few windows at a time, in place."""
        groups = [pieces] if window_attention.on_gpu(x) else _chunks(pieces, chunk_rows())
        if len(groups) == 1:
            return self._run_windows(index, block, x, pieces)
        start = 0
        for group in groups:
            chunk = x[start:start + sum(h * w * count for (h, w), count in group)]
            chunk.copy_(self._run_windows(index, block, chunk, group))
            start += len(chunk)
        return x

    def _run_windows(
            self, index: int, block: SwinTransformerBlock, x: Tensor, pieces: list[tuple[Pair, int]]) -> Tensor:
        """The block's answer to the tokens `[N, C]` of some windows."""
        qkv = block.attn.qkv(block.norm1(x))
        attended, first = [], 0
        for size, count in pieces:
            windows = qkv[first:first + size[0] * size[1] * count].unflatten(0, (count, -1))
            attended.append(_attend(block.attn, windows, self._bias(index, block.attn, size)))
            first += windows.shape[0] * windows.shape[1]
        attended = attended[0] if len(attended) == 1 else torch.cat(attended)
        y = block.attn.proj.add(attended, x)
        return block.mlp.add(block.norm2(y), y)

    def _bias(self, index: int, attn: WindowAttention, size: Pair) -> Tensor:
        """Relative position bias `[heads, N, N]` within a piece of a window."""
        def gather(table: Tensor) -> Tensor:
            height, width = attn.window_size
            y, x = (torch.arange(side, device=table.device) for side in size)
            rows = (y[:, None] - y + height - 1)[:, None, :, None]  # [h, 1, h, 1]
            cols = (x[:, None] - x + width - 1)[None, :, None, :]  # [1, w, 1, w]
            offset = (rows * (2 * width - 1) + cols).flatten(2).flatten(0, 1)
            return padded_bias(table[offset].permute(2, 0, 1).contiguous(), None, table.dtype)

        return self.derived((index, size), attn.relative_position_bias_table, gather)


def _attend(attn: WindowAttention, qkv: Tensor, bias: Tensor) -> Tensor:
    """Attention within windows, `[windows, N, 3 * heads * d]` -> `[windows * N, heads * d]`."""
    qkv = qkv.unflatten(-1, (3, attn.num_heads, -1))  # [windows, N, 3, heads, d]
    step = max(1, _SCORES // bias.numel())
    if window_attention.on_gpu(qkv) or not _products_are_faster(qkv[:step], bias, attn.scale):
        x = attend_fused(qkv, bias, attn.scale)
    else:
        x = torch.cat([_multiply(part, bias, attn.scale) for part in qkv.split(step)])
    return x.flatten(2).flatten(0, 1)


def _products_are_faster(qkv: Tensor, bias: Tensor, scale: float) -> bool:
    """Whether separate products beat PyTorch's fused kernel: in bfloat16 they do on some CPUs."""
    key = ('attention', *qkv.shape[1:], qkv.dtype)
    return faster(key, lambda: attend_fused(qkv, bias, scale), lambda: _multiply(qkv, bias, scale))


def _multiply(qkv: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention by separate products."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2)  # [windows * heads, N, d] each
    scores = bias.repeat(len(qkv), 1, 1)
    maps = scores.baddbmm_(q, k.transpose(1, 2), alpha=scale).softmax(-1)
    return torch.bmm(maps, v).unflatten(0, (len(qkv), -1)).transpose(1, 2)


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


def _window_orders(blocks: tuple[tuple[Pair, Pair], ...], batch: int, height: int, width: int, device) -> list:
    """How tokens get from the window order of one block to that of the next.

    Args:
        blocks: Window and shift of each.
        batch: Number of maps.
        height: Of a map.
        width: Of a map.
        device: Where the rows are needed.

    Returns:
        For each block the rows `[B * H * W]` that it takes of what the one before gave, and the sizes of the pieces of
        windows with their numbers; at the end the rows that give the map back.
    """
    place, steps = torch.arange(batch * height * width, device='cpu'), []  # of every row of the map
    for window, shift in blocks:
        order, pieces = _window_order(batch, height, width, window, shift)
        steps.append((place[order], pieces))
        place[order] = torch.arange(len(place), device='cpu')
    steps.append((place, []))
    return [(rows.to(device, torch.int32), pieces) for rows, pieces in steps]


def _window_order(batch: int, height: int, width: int, window: Pair, shift: Pair) -> tuple[Tensor, list]:
    """How the tokens of maps lie in window order.

    Returns:
        The rows `[B * H * W]` of the maps in that order, and the sizes of the pieces of windows with their numbers.
    """
    pieces = {}  # size -> rows of pieces of that size
    images, y, x = (torch.arange(count, device='cpu') for count in (batch, height, width))
    y, x = (y + shift[0]) % height, (x + shift[1]) % width
    rows = (images[:, None, None] * height + y[:, None]) * width + x  # [B, H, W]
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
