"""Time and memory of the operators of AM Flow against attention on the same queries and keys, and a whole ViT-B block.

12 heads of 64 channels, one clip; 257 tokens are 224 pixels in patches of 14, 1370 are 518 pixels. Variants take turns
in every round and medians are given, as ratios to attention. On one CPU thread time is that of the process, which other
programs disturb less than the clock's, and memory is the peak of all allocations, as the profiler records them. On CUDA
devices time is between events and memory that of the allocator. Memory counts what lives beside q, k, v, the
output and their gradients.

    python benchmarks/attention_flow.py --out benchmarks/results/attention_flow_cpu.md
    python benchmarks/attention_flow.py --device cuda --dtype bfloat16 --rounds 20 --out attention_flow_cuda.md

On a CUDA device it compares the naive form, the same compiled, flex_attention, the chunked form and the Triton kernels.
Those figures are not in `results/`: no GPU was at hand, and that part of the script has not been run.
"""
import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from _timing import clock_name, seconds
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from flatzoo.layers.attention_flow import attention_map_flow, attention_received

HEADS, DIM = 12, 64
BLOCK = 'block of ViT-B'


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
        'attention (SDPA)': sdpa,
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
) -> list[dict]:
    """Rows of one size: median seconds and peak bytes of every variant, forward and with backward."""
    inputs = [  # as backbones cut them out of one tensor
        x.unflatten(0, (1, frames)) for x in
        torch.randn(frames, tokens, 3, HEADS, DIM, device=device, dtype=dtype).permute(2, 0, 3, 1, 4).unbind()]
    of, rows = variants(device, dtype), []
    for backward in (False, True) if with_backward else (False,):
        runs, sizes, times, peaks = {}, {}, {}, {}
        for name, function in of.items():
            try:
                runs[name], sizes[name] = prepare(function, inputs, backward)
                peaks[name] = peak_bytes(runs[name], device) - sizes[name]
                times[name] = []
            except (RuntimeError, NotImplementedError) as error:
                if device == 'cpu':
                    raise
                print(f'{name} cannot run: {str(error).splitlines()[0]}')
                runs.pop(name, None)
        for _ in range(rounds):
            for name, run in runs.items():
                times[name].append(seconds(run, device))
        medians = {name: statistics.median(x) for name, x in times.items()}
        for name, median in medians.items():
            rows.append(dict(
                tokens=tokens, frames=frames, backward=backward, name=name, seconds=median,
                ratio=median / next(iter(medians.values())), of_block=median / medians[BLOCK],
                extra_mib=peaks[name] / 2 ** 20,
                of_naive=peaks[name] / peaks[f"{name.split(',')[0]}, naive"] if ',' in name else None))
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict]) -> list[str]:
    """Lines of the table, one per size and variant."""
    lines = [
        '| tokens | frames | | forward, ms | / attention | / block | extra MiB | of naive | forward + backward, ms '
        '| / attention | / block | extra MiB | of naive |',
        '|---|---|---|---|---|---|---|---|---|---|---|---|---|']
    keys = list(dict.fromkeys((row['tokens'], row['frames'], row['name']) for row in rows))
    for key in keys:
        cells = []
        for backward in (False, True):
            found = [r for r in rows if (r['tokens'], r['frames'], r['name'], r['backward']) == (*key, backward)]
            if found:
                row = found[0]
                share = f"1/{1 / row['of_naive']:.0f}" if row['of_naive'] and row['of_naive'] < 0.5 else ''
                cells += [f"{1000 * row['seconds']:.1f}", f"{row['ratio']:.2f}", f"{row['of_block']:.1%}",
                          f"{row['extra_mib']:.1f}", share]
            else:
                cells += [''] * 5
        lines.append(f"| {' | '.join(map(str, key))} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Prints the rows and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    parser.add_argument('--tokens', type=int, nargs='+', default=[257, 1370])
    parser.add_argument('--frames', type=int, nargs='+', default=[8, 24])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--forward', action='store_true', help='no backward')
    parser.add_argument('--threads', type=int, default=1, help='of the CPU')
    parser.add_argument('--out', type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []
    for tokens in args.tokens:
        for frames in args.frames:
            rows += measure(
                tokens, frames, args.rounds, args.device, getattr(torch, args.dtype), not args.forward)
    cuda = args.device == 'cuda'
    lines = [
        '# Cost of the operators of AM Flow', '',
        f'`python benchmarks/attention_flow.py --device {args.device} --dtype {args.dtype} --rounds {args.rounds}`: '
        f"{torch.cuda.get_device_name() if cuda else f'CPU, threads: {args.threads}'}, torch {torch.__version__}, "
        f'{HEADS} heads of {DIM} channels, one clip.',
        f"Medians of {args.rounds} rounds in which the variants took turns, {clock_name(args.device)}. "
        'Extra memory is the exact peak of',
        'allocations beside q, k, v, the output and their gradients.', '',
        *table(rows)]
    if not cuda:
        lines += ['', 'The Triton kernels, the compiled naive form and flex_attention have not been measured on a GPU; '
                  '`--device cuda` does that.']
    text = '\n'.join(lines) + '\n'
    print(text)
    if args.out is not None:
        partial = args.out.with_suffix('.partial')
        partial.write_text(text)
        os.replace(partial, args.out)


if __name__ == '__main__':
    main()
