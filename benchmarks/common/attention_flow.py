"""Time and memory of the operators of AM Flow, of attention and of a whole block, which take turns."""
import json
import statistics
import tempfile
import traceback
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.common.timing import clock_name, in_turn, ratio, setting
from flatzoo.layers.attention_flow import attention_map_flow, attention_received

HEADS, DIM = 12, 64
SHOWN = ('tokens', 'frames', 'pass', 'variant', 'ms', 'of_attention', 'of_block', 'extra_mib', 'of_naive_mib')
ATTENTION, BLOCK = 'attention (SDPA)', 'block of ViT-B'


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What the frozen block computes anyway."""
    return scaled_dot_product_attention(*(x.flatten(0, 1) for x in (q, k, v)))


def vit_block(device: str, dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A block of ViT-B, beside whose attention the flow is computed, on as many frames and tokens."""
    block = Block(HEADS * DIM, HEADS, qkv_bias=True, device=device, dtype=dtype).requires_grad_(False)
    return lambda q, k, v: block((q + k).flatten(0, 1).transpose(1, 2).flatten(2))


def flex_flow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Equation 3 by two calls of flex_attention: log-sum-exp of rows of |S|, then of columns of |S| - lse.

    S comes from one product of concatenated queries and keys, so that equal frames do not give exactly 0. Its products
    with values are wasted. `[B, T - 1, heads, N]`.
    """
    from torch.nn.attention.flex_attention import flex_attention
    first = torch.cat((q[:, :-1], -q[:, 1:]), -1).flatten(0, 1)  # [B * (T - 1), heads, N, 2 d]
    second = torch.cat((k[:, :-1], k[:, 1:]), -1).flatten(0, 1)
    options = dict(scale=q.shape[-1] ** -0.5, return_lse=True)
    lse = flex_attention(first, second, second, lambda score, b, h, i, j: score.abs(), **options)[1]
    columns = flex_attention(second, first, first, lambda score, b, h, j, i: score.abs() - lse[b, h, i], **options)[1]
    return columns.exp().unflatten(0, (q.shape[0], -1))


def variants(device: str, dtype: torch.dtype) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """What is compared, by name; the first is the yardstick."""
    def flow(implementation: str):
        return lambda q, k, v: attention_map_flow(q, k, implementation=implementation)

    def received(implementation: str):
        return lambda q, k, v: attention_received(q, k, implementation=implementation)

    of = {
        ATTENTION: sdpa,
        'flow, naive': flow('reference'),
        'flow, chunked': flow('chunked'),
        'received, naive': received('reference'),
        'received, chunked': received('chunked'),
        BLOCK: vit_block(device, dtype),
    }
    if device == 'cuda':
        of |= {
            'flow, naive compiled': torch.compile(flow('reference')),
            'flow, flex_attention': torch.compile(flex_flow),
            'flow, triton': flow('triton'),
            'received, triton': received('triton'),
        }
    return of


def prepare(
        function: Callable, inputs: list[Tensor], backward: bool) -> tuple[Callable[[], list[Tensor]], int]:
    """Returns one run of a function, which gives its results, and their bytes."""
    inputs = [x.detach().requires_grad_(backward) for x in inputs]
    with torch.no_grad():
        grad = torch.randn_like(function(*inputs))  # also compiles
    size = grad.nbytes + backward * sum(x.nbytes for x in (inputs if function is sdpa else inputs[:2]))

    def run() -> list[Tensor]:
        with torch.set_grad_enabled(backward):
            out = function(*inputs)
            used = inputs if function is sdpa else inputs[:2]
            return [out, *(torch.autograd.grad(out, used, grad) if backward else ())]

    return run, size


def peak_bytes(run: Callable, device: str) -> int:
    """Most memory allocated at once during a run, beyond what was before it."""
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.NamedTemporaryFile(suffix='.json') as file:
        profile.export_chrome_trace(file.name)
        trace = json.loads(Path(file.name).read_text())['traceEvents']
    events = sorted((event for event in trace if event.get('name') == '[memory]'), key=lambda event: event['ts'])
    before = events[0]['args']['Total Allocated'] - events[0]['args']['Bytes']
    return max(event['args']['Total Allocated'] for event in events) - before


def measure(
        tokens: int, frames: int, rounds: int, device: str, dtype: torch.dtype, with_backward: bool = True,
        clips: int = 1, without: Collection[str] = (),
) -> list[dict]:
    """Rows of one size: time and memory of every variant, forward and with backward.

    On CUDA runs are queued: a kernel of some microseconds is over before Python has launched the next one.
    """
    inputs = [  # as backbones cut them out of one tensor
        x.unflatten(0, (clips, frames)) for x in
        torch.randn(clips * frames, tokens, 3, HEADS, DIM, device=device, dtype=dtype).permute(2, 0, 3, 1, 4).unbind()]
    of, rows = {name: run for name, run in variants(device, dtype).items() if name not in without}, []
    for backward in (False, True) if with_backward else (False,):
        runs, peaks = {}, {}
        for name, function in of.items():
            try:
                run, size = prepare(function, inputs, backward)
                peaks[name] = peak_bytes(run, device) - size
                runs[name] = run
            except Exception as error:  # compilers raise what they like; the others are measured all the same
                if device == 'cpu':
                    raise
                traceback.print_exc()
                print(f'{name} cannot run: {type(error).__name__}')
        times = in_turn(runs, rounds, device, queued=5 if backward else 10)
        for name in runs:
            naive = peaks.get(f'{name.partition(",")[0]}, naive')
            rows.append({
                'tokens': tokens, 'frames': frames, 'pass': 'forward + backward' if backward else 'forward',
                'variant': name, 'ms': f'{1000 * statistics.median(times[name]):.4g}',
                'of_attention': f'{ratio(times[name], times[ATTENTION]):.2f}',
                'of_block': f'{ratio(times[name], times[BLOCK]):.1%}', 'extra_mib': f'{peaks[name] / 2 ** 20:.1f}',
                'of_naive_mib': f'1/{naive / peaks[name]:.0f}' if naive and 0 < 2 * peaks[name] < naive else None,
                'rounds': rounds, 'clock': clock_name(device), **setting(device, str(dtype).removeprefix('torch.'))})
            print({key: rows[-1][key] for key in SHOWN}, flush=True)
    return rows
