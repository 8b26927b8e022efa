"""Triton kernels of the operators of AM Flow, forward and backward. No attention map is kept in memory.

The module is imported only where the kernels run. A program holds a tile of the maps of one clip and head. It walks
with the tile along a group of consecutive frames. The logits of a frame thus serve both pairs that the frame belongs
to; they are computed twice only where two groups meet. A column sum needs the softmax of whole rows first, so there are
several passes over the tiles:

    forward   1. statistics of rows: their maxima m_i and w_i = 1 / sum_j exp(D_ij - m_i)
              2. columns, c_j = 1 + sum_i (P_ij - 1/N) with P_ij = exp(D_ij - m_i) w_i
    backward  3. rows, r_i = sum_j P_ij g_j
              4. dQ and 5. dK, of dS_ij = sign(S_ij) P_ij (g_j - r_i)

with D = |S| and S = A_t - A_{t+1} for the flow, and D = S = A_t for the attention received. One side of a tile, rows or
columns, is resident; the other side is streamed. The resident side is always the first axis of the tile, and sums go
along the second axis. Passes over columns (`COLUMNS`) therefore see the tile transposed. There are no atomic
operations, so results are deterministic.

Sums are float32. Products of float32 inputs are float32 (`ieee`); products of half-precision inputs accumulate in
float32. S is the difference of two products and not one product of concatenated inputs. Equal frames therefore give
exactly 0.

On the CPU the kernels run in Triton's interpreter (`TRITON_INTERPRET=1` before the first import), and are tested that
way. They compile for compute capability 8.0 and 9.0. Their results and speed on a GPU have not been measured.
"""
import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ['columns', 'gradients']


@triton.jit
def _tokens_of(frame, frames, tokens):
    """Number of tokens of a frame: 0 for frames outside of the clip."""
    return tl.where((frame >= 0) & (frame < frames), tokens, 0)


@triton.jit
def _tile(
        x, frame, block, frames, heads, tokens, sb, st, sh, sn, SIZE: tl.constexpr, D: tl.constexpr,
        PAD_D: tl.constexpr):
    """Tokens of one block and frame of q or k with strides sb, st, sh, sn, `[SIZE, PAD_D]`; 0 outside."""
    clip, head = tl.program_id(2).to(tl.int64) // heads, tl.program_id(2).to(tl.int64) % heads
    n, d = block * SIZE + tl.arange(0, SIZE), tl.arange(0, PAD_D)
    inside = (n[:, None] < _tokens_of(frame, frames, tokens)) & (d[None, :] < D)
    x += clip * sb + head * sh + frame.to(tl.int64) * st
    return tl.load(x + n[:, None].to(tl.int64) * sn + d[None, :], mask=inside, other=0.)


@triton.jit
def _place(pair, block, pairs, heads, tokens, SIZE: tl.constexpr):
    """Offsets of one block of `[B, pairs, heads, N]`, and which of them exist."""
    clip, head = tl.program_id(2).to(tl.int64) // heads, tl.program_id(2).to(tl.int64) % heads
    n = block * SIZE + tl.arange(0, SIZE)
    return ((clip * pairs + pair) * heads + head) * tokens + n, n < _tokens_of(pair, pairs, tokens)


@triton.jit
def _scores(before, logits, scale, FLOW: tl.constexpr):
    """S, times log2(e), because the kernels use powers of 2."""
    if FLOW:
        return (before - logits) * scale
    return logits * scale


@triton.jit
def _exponents(scores, block, tokens, SIZE: tl.constexpr, FLOW: tl.constexpr):
    """D, minus infinity at streamed tokens that do not exist."""
    if FLOW:
        scores = tl.abs(scores)
    return tl.where((block * SIZE + tl.arange(0, SIZE) < tokens)[None, :], scores, float('-inf'))


@triton.jit
def _row_vector(x, place, exists, other, COLUMNS: tl.constexpr):
    """Values of rows of the map, along the axis of the tile that stands for rows."""
    return tl.expand_dims(tl.load(x + place, mask=exists, other=other), 0 if COLUMNS else 1)


@triton.jit
def _statistics_kernel(
        q, k, maxima, weights, qb, qt, qh, qn, kb, kt, kh, kn, frames, heads, tokens, scale,
        FLOW: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, STREAM: tl.constexpr, D: tl.constexpr,
        PAD_D: tl.constexpr):
    """Pass 1, for a block of rows of GROUP pairs."""
    block, first = tl.program_id(0), tl.program_id(1) * GROUP
    queries, m, z = (), (), ()
    for g in tl.static_range(GROUP + FLOW):
        queries += (_tile(q, first + g, block, frames, heads, tokens, qb, qt, qh, qn, SIZE, D, PAD_D),)
    for _ in tl.static_range(GROUP):
        m += (tl.full([SIZE], float('-inf'), tl.float32),)
        z += (tl.zeros([SIZE], tl.float32),)
    for other in range(tl.cdiv(tokens, STREAM)):
        new_m, new_z, before = (), (), tl.zeros([SIZE, STREAM], tl.float32)
        for g in tl.static_range(GROUP + FLOW):
            keys = _tile(k, first + g, other, frames, heads, tokens, kb, kt, kh, kn, STREAM, D, PAD_D)
            logits = tl.dot(queries[g], tl.trans(keys), input_precision='ieee')
            if g >= FLOW:
                exponents = _exponents(_scores(before, logits, scale, FLOW), other, tokens, STREAM, FLOW)
                top = tl.maximum(m[g - FLOW], tl.max(exponents, 1))
                rescale = tl.exp2(m[g - FLOW] - top)
                new_z += (z[g - FLOW] * rescale + tl.sum(tl.exp2(exponents - top[:, None]), 1),)
                new_m += (top,)
            before = logits
        m, z = new_m, new_z
    for g in tl.static_range(GROUP):
        place, exists = _place(first + g, block, frames - FLOW, heads, tokens, SIZE)
        tl.store(maxima + place, m[g], mask=exists)
        # rounded as 1 / N is on the host; equal frames must give the same number there and here
        tl.store(weights + place, tl.div_rn(tl.full([SIZE], 1., tl.float32), z[g]), mask=exists)


@triton.jit
def _sums_kernel(
        x, y, maxima, weights, grad, out, xb, xt, xh, xn, yb, yt, yh, yn, frames, heads, tokens, scale, uniform,
        COLUMNS: tl.constexpr, FLOW: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr, STREAM: tl.constexpr,
        D: tl.constexpr, PAD_D: tl.constexpr):
    """Passes 2 (COLUMNS: x is k, y is q) and 3 (x is q, y is k), for a block of columns or rows of GROUP pairs."""
    block, first, pairs = tl.program_id(0), tl.program_id(1) * GROUP, frames - FLOW
    resident, sums = (), ()
    for g in tl.static_range(GROUP + FLOW):
        resident += (_tile(x, first + g, block, frames, heads, tokens, xb, xt, xh, xn, SIZE, D, PAD_D),)
    for _ in tl.static_range(GROUP):
        sums += (tl.zeros([SIZE], tl.float32),)
    for other in range(tl.cdiv(tokens, STREAM)):
        new_sums, before = (), tl.zeros([SIZE, STREAM], tl.float32)
        for g in tl.static_range(GROUP + FLOW):
            streamed = _tile(y, first + g, other, frames, heads, tokens, yb, yt, yh, yn, STREAM, D, PAD_D)
            logits = tl.dot(resident[g], tl.trans(streamed), input_precision='ieee')
            if g >= FLOW:
                exponents = _exponents(_scores(before, logits, scale, FLOW), other, tokens, STREAM, FLOW)
                here, here_exists = _place(first + g - FLOW, block, pairs, heads, tokens, SIZE)
                there, there_exists = _place(first + g - FLOW, other, pairs, heads, tokens, STREAM)
                if COLUMNS:
                    m = _row_vector(maxima, there, there_exists, float('inf'), COLUMNS)
                    w = _row_vector(weights, there, there_exists, 0., COLUMNS)
                    terms = tl.exp2(exponents - m) * w - tl.where(there_exists, uniform, 0.)[None, :]
                else:
                    m = _row_vector(maxima, here, here_exists, float('inf'), COLUMNS)
                    w = _row_vector(weights, here, here_exists, 0., COLUMNS)
                    terms = tl.exp2(exponents - m) * w * tl.load(grad + there, mask=there_exists, other=0.)[None, :]
                new_sums += (sums[g - FLOW] + tl.sum(terms, 1),)
            before = logits
        sums = new_sums
    for g in tl.static_range(GROUP):
        place, exists = _place(first + g, block, pairs, heads, tokens, SIZE)
        tl.store(out + place, 1. + sums[g] if COLUMNS else sums[g], mask=exists)


@triton.jit
def _gradient_kernel(
        x, y, maxima, weights, grad, rows, out, xb, xt, xh, xn, yb, yt, yh, yn, ob, ot, oh, on, frames, heads, tokens,
        scale, out_scale, COLUMNS: tl.constexpr, FLOW: tl.constexpr, GROUP: tl.constexpr, SIZE: tl.constexpr,
        STREAM: tl.constexpr, D: tl.constexpr, PAD_D: tl.constexpr):
    """Passes 4 (dQ: x is q, y is k) and 5 (COLUMNS, dK: x is k, y is q), for a block of tokens of GROUP frames.

    A frame is the first of one pair and the second of the one before: dA_t = dS_t - dS_{t-1}.
    """
    block, first, pairs = tl.program_id(0), tl.program_id(1) * GROUP, frames - FLOW
    resident, sums = (), ()
    for g in tl.static_range(GROUP + 2 * FLOW):
        resident += (_tile(x, first - FLOW + g, block, frames, heads, tokens, xb, xt, xh, xn, SIZE, D, PAD_D),)
    for _ in tl.static_range(GROUP):
        sums += (tl.zeros([SIZE, PAD_D], tl.float32),)
    for other in range(tl.cdiv(tokens, STREAM)):
        new_sums = ()
        before, before_ds = tl.zeros([SIZE, STREAM], tl.float32), tl.zeros([SIZE, STREAM], tl.float32)
        streamed_before = tl.zeros([STREAM, PAD_D], y.dtype.element_ty)
        for g in tl.static_range(GROUP + 2 * FLOW):
            streamed = _tile(y, first - FLOW + g, other, frames, heads, tokens, yb, yt, yh, yn, STREAM, D, PAD_D)
            logits = tl.dot(resident[g], tl.trans(streamed), input_precision='ieee')
            if g >= FLOW:
                pair = first + g - 2 * FLOW
                scores = _scores(before, logits, scale, FLOW)
                exponents = _exponents(scores, other, tokens, STREAM, FLOW)
                here, here_exists = _place(pair, block, pairs, heads, tokens, SIZE)
                there, there_exists = _place(pair, other, pairs, heads, tokens, STREAM)
                if COLUMNS:
                    of_rows, rows_exist = there, there_exists
                    c = tl.load(grad + here, mask=here_exists, other=0.)[:, None]
                else:
                    of_rows, rows_exist = here, here_exists
                    c = tl.load(grad + there, mask=there_exists, other=0.)[None, :]
                m = _row_vector(maxima, of_rows, rows_exist, float('inf'), COLUMNS)
                w = _row_vector(weights, of_rows, rows_exist, 0., COLUMNS)
                r = _row_vector(rows, of_rows, rows_exist, 0., COLUMNS)
                ds = tl.exp2(exponents - m) * w * (c - r)
                if FLOW:
                    ds = tl.where(scores > 0, ds, tl.where(scores < 0, -ds, 0.))
                    if g >= 2:
                        da = (ds - before_ds).to(y.dtype.element_ty)
                        new_sums += (tl.dot(da, streamed_before, sums[g - 2], input_precision='ieee'),)
                    before_ds = ds
                else:
                    da = ds.to(y.dtype.element_ty)
                    new_sums += (tl.dot(da, streamed, sums[g], input_precision='ieee'),)
            before, streamed_before = logits, streamed
        sums = new_sums
    clip, head = tl.program_id(2).to(tl.int64) // heads, tl.program_id(2).to(tl.int64) % heads
    n, d = block * SIZE + tl.arange(0, SIZE), tl.arange(0, PAD_D)
    for g in tl.static_range(GROUP):
        inside = (n[:, None] < _tokens_of(first + g, frames, tokens)) & (d[None, :] < D)
        place = out + clip * ob + head * oh + (first + g).to(tl.int64) * ot
        tl.store(place + n[:, None].to(tl.int64) * on + d[None, :], sums[g] * out_scale, mask=inside)


def _options(x: Tensor, group: int) -> dict[str, int]:
    """Tile sizes and warps. With these, compiled kernels spill few registers and fit into the shared memory.

    The shared memory is at least 99 KiB from compute capability 8.0 on. At 9.0 it is 227 KiB, and tiles take up to
    121 KiB.
    """
    pad_d = max(16, triton.next_power_of_2(x.shape[-1]))
    if x.dtype != torch.float32:
        size, num_warps = (64, 8) if pad_d <= 64 else (32, 4)
    elif pad_d <= 64:
        size, num_warps = 32, 4
    else:
        size, num_warps, group = 16, 4, group // 2
    return dict(
        GROUP=group, SIZE=size, STREAM=size, D=x.shape[-1], PAD_D=pad_d, num_warps=num_warps, num_stages=2)


def _prepare(x: Tensor) -> Tensor:
    if not x.is_cuda and x.dtype == torch.bfloat16:
        x = x.float()  # the interpreter cannot multiply bfloat16
    return x if x.stride(-1) == 1 else x.contiguous()


def _device(x: Tensor):
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _grid(count: int, x: Tensor, options: dict[str, int]) -> tuple[int, int, int]:
    """Blocks of tokens, groups of `count` frames or pairs, clips times heads."""
    batch, _, heads, tokens, _ = x.shape
    return triton.cdiv(tokens, options['SIZE']), triton.cdiv(count, options['GROUP']), batch * heads


def columns(q: Tensor, k: Tensor, scale: float, flow: bool) -> tuple[Tensor, Tensor]:
    """Forward.

    Args:
        q: Queries, `[B, T, heads, N, d]`, of float16, bfloat16 or float32.
        k: Keys, of the same shape and dtype.
        scale: Factor of the logits.
        flow: Whether the maps are of pairs of frames.

    Returns:
        Column sums, `[B, pairs, heads, N]`, with T - 1 pairs (T single frames without flow), and the statistics that
        backward needs, `[2, B, pairs, heads, N]`. Both are float32.

    Raises:
        RuntimeError: If q is not on a CUDA device and Triton does not interpret.
    """
    if not q.is_cuda and isinstance(_sums_kernel, triton.JITFunction):
        raise RuntimeError(
            f"implementation='triton' runs on CUDA devices, got tensors on {q.device}: use 'chunked' (or, for tests, "
            'set TRITON_INTERPRET=1 before Triton is imported).')
    batch, frames, heads, tokens, _ = q.shape
    q, k = _prepare(q), _prepare(k)
    pairs, options = frames - flow, _options(q, 4)
    out = q.new_empty((batch, pairs, heads, tokens), dtype=torch.float32)
    statistics = q.new_empty((2, *out.shape), dtype=torch.float32)
    if out.numel() == 0:
        return out, statistics
    sizes, grid = (frames, heads, tokens, scale * math.log2(math.e)), _grid(pairs, q, options)
    with _device(q):
        _statistics_kernel[grid](
            q, k, *statistics, *q.stride()[:4], *k.stride()[:4], *sizes, FLOW=int(flow), **options)
        _sums_kernel[grid](
            k, q, *statistics, out, out, *k.stride()[:4], *q.stride()[:4], *sizes, 1 / tokens,
            COLUMNS=True, FLOW=int(flow), **options)
    return out, statistics


def gradients(
        grad: Tensor, q: Tensor, k: Tensor, statistics: Tensor, scale: float, flow: bool) -> tuple[Tensor, Tensor]:
    """Backward.

    Args:
        grad: Gradient of the column sums, `[B, pairs, heads, N]`.
        q: Queries of the forward.
        k: Keys of the forward.
        statistics: What the forward returned.
        scale: As in the forward.
        flow: As in the forward.

    Returns:
        Gradients of q and k, contiguous, of their dtype.
    """
    frames, heads, tokens = q.shape[1:4]
    dq, dk = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k))
    q, k, grad = _prepare(q), _prepare(k), grad.float().contiguous()
    rows = torch.empty_like(grad)
    if q.numel() == 0:
        return dq, dk
    sizes = frames, heads, tokens, scale * math.log2(math.e)
    with _device(q):
        options = _options(q, 4)
        _sums_kernel[_grid(frames - flow, q, options)](
            q, k, *statistics, grad, rows, *q.stride()[:4], *k.stride()[:4], *sizes, 0.,
            COLUMNS=False, FLOW=int(flow), **options)
        options = _options(q, 2)
        for x, y, out, of_columns in ((q, k, dq, False), (k, q, dk, True)):
            _gradient_kernel[_grid(frames, q, options)](
                x, y, *statistics, grad, rows, out, *x.stride()[:4], *y.stride()[:4], *out.stride()[:4], *sizes, scale,
                COLUMNS=of_columns, FLOW=int(flow), **options)
    return dq, dk
