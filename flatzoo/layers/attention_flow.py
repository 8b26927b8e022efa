"""The operators of AM Flow (https://arxiv.org/abs/2411.02065), which read motion from an image transformer's attention.

Both are column sums of a softmax over attention logits A_t = Q_t K_t^T * scale, with one value per key token and head:

- `attention_map_flow`, equation 3: of softmax(|A_t - A_{t+1}|) for every two consecutive frames.
- `attention_received`, the input of equation 4: of softmax(A_t) for every frame.

Each has three implementations with the same values and gradients. The device and the size choose between them:

- `reference` computes whole maps, as the equations do. Its memory grows with N^2. The others are tested against it.
- `chunked` works on a few rows of one head at a time, in buffers that are reused and stay in the cache. It walks along
  time, so a frame's logits are computed once although two pairs need them. Backward computes them again.
- `triton`, in `_attention_flow_triton.py`, does the same walk as CUDA kernels that hold only tiles.

All three add the deviations from a uniform softmax, sum_i (P_ij - 1/N), to 1. This keeps the digits of small motion,
and frames without motion give exactly 1.0. A plain sum of N times 1/N is rounded to 1 for some N only. (The exact 1.0
needs products that are bitwise equal for equal frames. The batched products of `reference` are not always so in maps of
fewer than 12 tokens.)
"""
import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Literal, get_args

import torch
from torch import Tensor

from ._operator import register_operator

__all__ = ['attention_columns', 'attention_map_flow', 'attention_received']

_logger = logging.getLogger(__name__)

Implementation = Literal['reference', 'chunked', 'triton']
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)
# Elements of a chunk of a map. On CPUs a chunk stays in the cache of a core (128 rows at N = 1024); elsewhere it fills
# the device.
CHUNK_ELEMENTS = {'cpu': 2 ** 17, 'other': 2 ** 21}
MAX_TRITON_HEAD_DIM = 128
_HAS_TRITON = find_spec('triton') is not None
_said = set()  # messages that have been logged, so that each is logged once


def attention_map_flow(
        q: Tensor,
        k: Tensor,
        scale: float | None = None,
        last: Literal['repeat', 'ones'] = 'repeat',
        implementation: Implementation | None = None,
) -> Tensor:
    """AM flow, equation 3: column sums of softmax(|A_t - A_{t+1}|) for every pair of consecutive frames.

    The flow is a relative saliency: its mean over tokens is always 1. Tokens to which the change of attention points
    lie above 1. Frames without motion give exactly 1 everywhere. Differences of 0 have gradient 0.

    Logits, softmax and sums are float32 for half-precision inputs, also under autocast, and float64 for float64. Pass
    float32 if small motion matters: the rounding of bfloat16 queries, keys and results is larger than its signal.

    Args:
        q: Queries of the frames, `[B, T, heads, N, d]`, as the attention uses them (after norms and rotary embedding).
        k: Keys, the same shape, dtype and device.
        scale: Factor of the logits. `d ** -0.5` by default.
        last: The flow of the last frame, which has no next frame. `repeat` repeats the last pair. `ones` is the flow of
            a clip that stands still after its end. The paper does not state it.
        implementation: `reference`, `chunked` or `triton`. None takes `triton` on CUDA if it is installed and accepts
            the inputs, and else `chunked`.

    Returns:
        `[B, T, N, heads]`, values from 0 to N, of the dtype of `q`.

    Raises:
        ValueError: If shapes, devices or arguments do not fit, or there is only one frame.
        TypeError: If q and k are not floating-point tensors of one dtype.
        RuntimeError: If `triton` is asked for and cannot run.
    """
    if last not in ('repeat', 'ones'):
        raise ValueError(f"last={last!r} is neither 'repeat' (the last pair) nor 'ones' (no motion after the end).")
    _check(q, k)
    if q.shape[1] < 2:
        raise ValueError(f'Attention-map flow compares frames: it takes at least 2, got T={q.shape[1]}.')
    flow = _columns(q, k, scale, True, implementation)  # [B, T - 1, heads, N]
    end = flow[:, -1:] if last == 'repeat' else torch.ones_like(flow[:, -1:])
    return torch.cat((flow, end), dim=1).transpose(2, 3)


def attention_received(
        q: Tensor,
        k: Tensor,
        scale: float | None = None,
        implementation: Implementation | None = None,
) -> Tensor:
    """Attention that each token receives: column sums of softmax(A_t), the input of the aligning encoder (equation 4).

    Its mean over tokens is 1. The precision is that of `attention_map_flow`.

    Args:
        q: Queries of the frames, `[B, T, heads, N, d]`; one frame is enough.
        k: Keys, the same shape, dtype and device.
        scale: Factor of the logits. `d ** -0.5` by default.
        implementation: As for `attention_map_flow`.

    Returns:
        `[B, T, N, heads]`, values from 0 to N, of the dtype of `q`.

    Raises:
        ValueError: If shapes, devices or the implementation do not fit.
        TypeError: If q and k are not floating-point tensors of one dtype.
        RuntimeError: If `triton` is asked for and cannot run.
    """
    _check(q, k)
    return _columns(q, k, scale, False, implementation).transpose(2, 3)


def _check(q: Tensor, k: Tensor) -> None:
    """Raises the errors that the public functions document."""
    for name, x in (('q', q), ('k', k)):
        if x.ndim != 5:
            raise ValueError(
                f'{name} has shape {list(x.shape)}; queries and keys must have the shape (B, T, heads, N, d).')
        if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise TypeError(f'{name} is {x.dtype}; queries and keys must be float16, bfloat16, float32 or float64.')
    if q.shape != k.shape:
        raise ValueError(
            f'q of shape {list(q.shape)} and k of shape {list(k.shape)} differ; every token has a query and a key '
            '(repeat the heads of grouped keys; pooled queries are not supported).')
    if q.dtype != k.dtype:
        raise TypeError(f'q is {q.dtype} and k {k.dtype}; cast them to one dtype.')
    if q.device != k.device:
        raise ValueError(f'q is on {q.device} and k on {k.device}; move them to one device.')
    if min(q.shape[1:]) == 0:
        raise ValueError(f'q and k of shape {list(q.shape)}: T, heads, N and d must be at least 1.')


def _choose(q: Tensor, implementation: str | None) -> str:
    """Returns the implementation for these inputs. Raises if the given one is unknown or cannot run."""
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(f"implementation={implementation!r} must be one of {', '.join(IMPLEMENTATIONS)}.")
    if implementation == 'triton':
        if not _HAS_TRITON:
            raise RuntimeError("implementation='triton' needs the package triton: install it or use 'chunked'.")
        if not _triton_takes(q):
            raise RuntimeError(
                f"implementation='triton' takes float16, bfloat16 and float32 with d <= {MAX_TRITON_HEAD_DIM}, got "
                f"{q.dtype} with d={q.shape[-1]}: use 'chunked'.")
    if implementation is not None:
        return implementation
    if q.device.type != 'cuda' or not _triton_takes(q):
        return 'chunked'
    if _HAS_TRITON:
        return 'triton'
    if not torch.compiler.is_compiling() and 'triton' not in _said:
        _said.add('triton')
        _logger.warning('triton is not installed: AM flow runs chunked on CUDA, which is slower.')
    return 'chunked'


def _triton_takes(q: Tensor) -> bool:
    return q.dtype != torch.float64 and q.shape[-1] <= MAX_TRITON_HEAD_DIM


def _columns(q: Tensor, k: Tensor, scale: float | None, flow: bool, implementation: str | None) -> Tensor:
    """Column sums, `[B, T - 1 if flow else T, heads, N]`, of the dtype of q."""
    implementation = _choose(q, implementation)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if implementation == 'reference':
        columns = attention_columns(q, k, scale, flow)
    elif implementation == 'chunked':
        columns = torch.ops.flatzoo.attention_columns(q, k, scale, flow)
    else:
        columns = torch.ops.flatzoo.attention_columns_triton(q, k, scale, flow)[0]
    return columns.to(q.dtype)


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of logits and sums. It is never of half precision, whose rounding exceeds the signal of small motion."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _without_autocast(device: torch.device):
    """A context in which matrix products keep the precision of their arguments."""
    # torch.compile of torch 2.11 cannot trace is_autocast_available. The devices that it compiles for have autocast.
    available = device.type != 'meta' and (
        torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type))
    if available and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _columns_shape(q: Tensor, flow: bool) -> tuple[int, int, int, int]:
    """Shape of the columns, `(B, T - 1 if flow else T, heads, N)`. torch 2.11 cannot subtract a bool from a symbol."""
    batch, frames, heads, tokens, _ = q.shape
    return batch, frames - int(flow), heads, tokens


def attention_columns(q: Tensor, k: Tensor, scale: float, flow: bool) -> Tensor:
    """The equations as they stand, for export and as reference: `[B, T, heads, N, d]` -> `[B, T, heads, N]`."""
    dtype = _sum_dtype(q.dtype)
    with _without_autocast(q.device):
        scores = scale * (q.to(dtype) @ k.to(dtype).mT)  # [B, T, heads, N, N]
        if flow:
            scores = (scores[:, :-1] - scores[:, 1:]).abs()
        return 1 + (scores.softmax(-1) - 1 / q.shape[3]).sum(-2)


# Chunked


def _head_groups(q: Tensor) -> Iterator[tuple[int, slice]]:
    """Clips and heads to work on together: one head, or as many small ones as fit into a chunk."""
    batch, _, heads, tokens, _ = q.shape
    size = max(1, _chunk_elements(q) // tokens ** 2)
    for b in range(batch):
        for first in range(0, heads, size):
            yield b, slice(first, min(first + size, heads))


def _chunk_elements(x: Tensor) -> int:
    if x.device.type != 'cpu':
        return CHUNK_ELEMENTS['other']
    return min(CHUNK_ELEMENTS['cpu'] * torch.get_num_threads(), CHUNK_ELEMENTS['other'])  # threads divide it


def _rows(x: Tensor) -> int:
    """Rows of the maps of a group of heads `[T, H, N, d]` that make a chunk."""
    return min(x.shape[2], max(1, _chunk_elements(x) // (x.shape[1] * x.shape[2])))


def _buffers(x: Tensor, count: int) -> Tensor:
    """Memory for `count` chunks of the maps of a group of heads `[T, H, N, d]`."""
    return x.new_empty(count, _aligned(x.shape[1] * _rows(x) * x.shape[2]))


def _working_copy(x: Tensor, b: int, heads: slice, scale: float = 1.) -> Tensor:
    """One group of heads, `[T, H, N, d]`, in the dtype of the sums, times scale."""
    x = x[b, :, heads]
    copy = x.new_empty((*x.shape[:3], _aligned(x.shape[3])), dtype=_sum_dtype(x.dtype))[..., :x.shape[3]]
    copy.copy_(x)
    return copy if scale == 1 else copy.mul_(scale)


def _aligned(elements: int) -> int:
    """Rounds up to 64 bytes. The address of an argument can change the order of sums in a product, hence its bits."""
    return math.ceil(elements / 16) * 16


def _walk(q: Tensor, k: Tensor, flow: bool) -> Iterator[tuple[slice, int, Tensor, Tensor]]:
    """Yields the maps of a group of heads in chunks of rows, for each chunk along time.

    Args:
        q: Scaled queries, `[T, H, N, d]`.
        k: Keys, `[T, H, N, d]`.
        flow: Whether the maps are of pairs of frames.

    Yields:
        The rows, the index of the pair (or frame), its softmax and its signed scores, both `[H, rows, N]`. Both are
        buffers: the caller may overwrite them, and the next step does.
    """
    heads, tokens = q.shape[1:3]
    step = _rows(q)
    buffers = _buffers(q, 4)
    keys = k.mT.unbind()
    for first in range(0, tokens, step):
        rows = slice(first, min(first + step, tokens))
        shape = (heads, rows.stop - first, tokens)
        previous, current, scores, probs = (x[:math.prod(shape)].view(shape) for x in buffers)
        for t, queries in enumerate(q[:, :, rows].unbind()):
            torch.bmm(queries, keys[t], out=current)
            if not flow:
                yield rows, t, torch.softmax(current, -1, out=probs), current
            elif t > 0:
                # The difference of two products is exactly 0 for equal frames; one product of concatenations is not.
                torch.sub(previous, current, out=scores)
                yield rows, t - 1, torch.softmax(torch.abs(scores, out=previous), -1, out=probs), scores
            previous, current = current, previous


def _chunked(q: Tensor, k: Tensor, scale: float, flow: bool) -> Tensor:
    """Column sums, `[B, T - 1 if flow else T, heads, N]`, in float32 (float64 for float64)."""
    columns = q.new_ones(_columns_shape(q, flow), dtype=_sum_dtype(q.dtype))
    with _without_autocast(q.device):
        for b, group in _head_groups(q):
            sums = columns[b, :, group].unbind()
            for _, t, probs, _ in _walk(_working_copy(q, b, group, scale), _working_copy(k, b, group), flow):
                sums[t].add_(probs.sub_(1 / q.shape[3]).sum(1))
    return columns


def _chunked_backward(grad: Tensor, q: Tensor, k: Tensor, scale: float, flow: bool) -> tuple[Tensor, Tensor]:
    """Gradients of q and k from that of the columns."""
    dq, dk = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k))
    with _without_autocast(q.device):
        for b, group in _head_groups(q):
            dqs, dks = _group_gradients(
                grad[b, :, group], _working_copy(q, b, group, scale), _working_copy(k, b, group), flow)
            dq[b, :, group] = dqs.mul_(scale)
            dk[b, :, group] = dks
    return dq, dk


def _group_gradients(grad: Tensor, q: Tensor, k: Tensor, flow: bool) -> tuple[Tensor, Tensor]:
    """Gradients of the scaled queries and the keys of a group of heads, `[T, H, N, d]`.

    With g = grad and r_i = sum_j P_ij g_j: dD = P (g_j - r_i) and dS = sign(S) dD. Frame t is the first of pair t and
    the second of pair t - 1. Its gradients are dA_t = dS_t - dS_{t-1}, dQ_t = dA_t K_t and dK_t = dA_t^T Q_t.
    """
    dq, dk = torch.empty_like(q), torch.zeros_like(k)

    def add(t: int, rows: slice, da: Tensor, sign: float = 1.) -> None:
        dq[t, :, rows].baddbmm_(da, k[t], beta=0, alpha=sign)
        dk[t].baddbmm_(da.mT, q[t, :, rows], alpha=sign)

    grads = grad.to(q.dtype).unsqueeze(-2).unbind()  # T or T - 1 of [H, 1, N]
    spare = list(_buffers(q, 2))  # dS of this pair and of the previous one
    for rows, t, probs, scores in _walk(q, k, flow):
        ds, previous = (x[:probs.numel()].view_as(probs) for x in spare)
        torch.sub(grads[t], torch.bmm(probs, grads[t].mT), out=ds).mul_(probs)
        if not flow:
            add(t, rows, ds)
            continue
        ds.mul_(scores.sgn_())
        add(t, rows, torch.sub(ds, previous, out=probs) if t > 0 else ds)
        if t == len(grads) - 1:
            add(t + 1, rows, ds, -1.)
        spare.reverse()
    return dq, dk


def _chunked_fake(q: Tensor, k: Tensor, scale: float, flow: bool) -> Tensor:
    return q.new_empty(_columns_shape(q, flow), dtype=_sum_dtype(q.dtype))


def _gradients_fake(grad: Tensor, q: Tensor, k: Tensor, *_) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.scale, ctx.flow = inputs[2:]


def _chunked_gradients(ctx, grad: Tensor):
    return *torch.ops.flatzoo.attention_columns_backward(grad, *ctx.saved_tensors, ctx.scale, ctx.flow), None, None


# Triton


def _triton(q: Tensor, k: Tensor, scale: float, flow: bool) -> tuple[Tensor, Tensor]:
    """Column sums, `[B, T - 1 if flow else T, heads, N]`, and statistics of rows for the backward, float32."""
    from . import _attention_flow_triton
    return _attention_flow_triton.columns(q, k, scale, flow)


def _triton_backward(
        grad: Tensor, q: Tensor, k: Tensor, statistics: Tensor, scale: float, flow: bool) -> tuple[Tensor, Tensor]:
    """Gradients of q and k from that of the columns."""
    from . import _attention_flow_triton
    return _attention_flow_triton.gradients(grad, q, k, statistics, scale, flow)


def _triton_fake(q: Tensor, k: Tensor, scale: float, flow: bool) -> tuple[Tensor, Tensor]:
    shape = _columns_shape(q, flow)
    return q.new_empty(shape, dtype=torch.float32), q.new_empty((2, *shape), dtype=torch.float32)


def _save_with_statistics(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])
    ctx.scale, ctx.flow = inputs[2:]


def _triton_gradients(ctx, grad: Tensor, _):
    columns_backward = torch.ops.flatzoo.attention_columns_triton_backward
    return *columns_backward(grad, *ctx.saved_tensors, ctx.scale, ctx.flow), None, None


# Registration


register_operator(
    'attention_columns(Tensor q, Tensor k, float scale, bool flow) -> Tensor',
    _chunked, _chunked_fake, _chunked_gradients, _save)
register_operator(
    'attention_columns_backward(Tensor grad, Tensor q, Tensor k, float scale, bool flow) -> (Tensor, Tensor)',
    _chunked_backward, _gradients_fake)
register_operator(
    'attention_columns_triton(Tensor q, Tensor k, float scale, bool flow) -> (Tensor, Tensor)',
    _triton, _triton_fake, _triton_gradients, _save_with_statistics)
register_operator(
    'attention_columns_triton_backward(Tensor grad, Tensor q, Tensor k, Tensor statistics, float scale, bool flow) '
    '-> (Tensor, Tensor)',
    _triton_backward, _gradients_fake)
