"""Speed of `flatzoo.optimize` on a CPU, against what one would run instead, with the parity of the logits.

Variants take turns in every round, in one process, and ratios are taken round by round; medians are given. With one
thread time is CPU time of the process, which other programs disturb less than the clock's; with several it is the
clock's. Backends: `stock` is timm's default (attention of Swin Transformers by separate products, linear layers by the
BLAS that torch was built with), `sdpa` the same with scaled_dot_product_attention, `compile` torch.compile of stock,
`optimized` flatzoo.optimize (linear layers by oneDNN, attention by scaled_dot_product_attention).

The floor is the time in which this machine does the model's multiply-adds at the rate of packed oneDNN products of the
shapes of its linear layers, measured in the same rounds: nothing but matrix products, at no cost between them.

    python benchmarks/cpu_inference.py --dtype float32 bfloat16
    python benchmarks/cpu_inference.py sifar_swin_b12 --compile --threads 2 --rounds 9

writes `benchmarks/results/cpu_inference_<cpu>_<precision>_<threads>t.csv`, one row per model and variant, and a table
of the same name in Markdown. Rows of another run are kept where this one has none.
"""
import argparse
import copy
import csv
import gc
import os
import platform
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import flatzoo
from flatzoo.runtime.cost import MultiplyAdds

MODELS = (
    'sifar_swin_b12', 'sifar_swin_b7', 'flatten_swinv2_b', 'flatten_uniformer_s', 'amflow_dinov2_b_tcn_lite',
    'time_vit_b', 'videomae_vit_b', 'superimage:convnext_tiny')
FIELDS = (
    'model', 'dtype', 'variant', 'ms', 'speedup', 'over_floor', 'error', 'gmacs', 'batch', 'threads', 'rounds', 'clock',
    'cpu', 'torch', 'timm', 'flatzoo')


def build(name: str, dtype: torch.dtype) -> nn.Module:
    """A model with random weights; `superimage:BACKBONE` is any backbone of timm on 8 frames of 112 pixels."""
    name, _, backbone = name.partition(':')
    args = dict(backbone=backbone, num_frames=8, img_size=112) if backbone else {}
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=400, **args).eval().to(dtype)


def with_sdpa(model: nn.Module) -> nn.Module | None:
    """The model with fused attention wherever it is off, or None where it is on already."""
    model, changed = copy.deepcopy(model), False
    for module in model.modules():
        if getattr(module, 'fused_attn', True) is False:
            module.fused_attn = changed = True
    return model if changed else None


def linear_shapes(model: nn.Module, clip: Tensor) -> Counter:
    """How often the linear layers multiply what: (rows, in, out) -> count."""
    shapes = Counter()

    def note(layer: nn.Linear, args: tuple[Tensor], out: Tensor) -> None:
        shapes[args[0].numel() // layer.in_features, layer.in_features, layer.out_features] += 1

    handles = [m.register_forward_hook(note) for m in model.modules() if type(m) is nn.Linear]
    model(clip)
    for handle in handles:
        handle.remove()
    return shapes


def floor(shapes: Counter, flops: int, dtype: torch.dtype, clock: Callable[[], float]) -> Callable[[], float]:
    """A measurement of the time that all operations take at the rate of packed products of these shapes."""
    products = []
    for (rows, width, out), count in shapes.items():
        x, weight = torch.randn(rows, width).to(dtype), torch.randn(out, width).to(dtype)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        products.append((count, 2 * rows * width * out, x, packed))

    def run() -> float:
        spent = done = 0
        for count, operations, x, packed in products:
            start = clock()
            torch.ops.mkldnn._linear_pointwise(x, packed, None, 'none', [], '')
            spent += count * (clock() - start)
            done += count * operations
        return flops * spent / done

    return run


def measure(name: str, dtype: torch.dtype, args: argparse.Namespace) -> list[dict]:
    """The rows of one model."""
    clock = time.process_time if args.threads == 1 else time.perf_counter
    model = build(name, dtype)
    size = model.super_image.img_size if hasattr(model, 'super_image') else model.pretrained_cfg['input_size'][1:]
    clip = torch.randn(args.batch, 3, model.num_frames, *size).to(dtype)
    with MultiplyAdds() as counter:
        model(clip)
    flops = 2 * counter.macs
    variants = {'stock': model, 'sdpa': with_sdpa(model), 'optimized': flatzoo.optimize(model)}
    if args.compile:
        variants['compile'] = torch.compile(copy.deepcopy(model))
    variants = {key: variant for key, variant in variants.items() if variant is not None}
    answers = {key: variant(clip).float() for key, variant in variants.items()}  # also packs and compiles
    scale = answers['stock'].abs().max()
    errors = {key: ((answer - answers['stock']).abs().max() / scale).item() for key, answer in answers.items()}

    run_floor = floor(linear_shapes(model, clip), flops, dtype, clock)
    times = {key: [] for key in (*variants, 'floor')}
    run_floor()
    for _ in range(args.rounds):
        for key, variant in variants.items():
            start = clock()
            variant(clip)
            times[key].append(clock() - start)
        times['floor'].append(run_floor())

    def ratio(over: str, under: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[over], times[under])), 3)

    return [dict(
        model=name, dtype=str(dtype).removeprefix('torch.'), variant=key,
        ms=round(1000 * statistics.median(times[key]), 1), speedup=ratio('stock', key), over_floor=ratio(key, 'floor'),
        error=f'{errors[key]:.1e}' if key in errors else '', gmacs=round(flops / 2e9, 1), batch=args.batch,
        threads=args.threads, rounds=args.rounds, clock=clock.__name__, cpu=cpu_name(), torch=torch.__version__,
        timm=timm.__version__, flatzoo=flatzoo.__version__) for key in times]


def cpu_name() -> str:
    """Model of the processor, with what tells apart those that call themselves alike."""
    try:
        info = dict(re.findall(r'^([\w ]+?)\s*: (.+)$', Path('/proc/cpuinfo').read_text().split('\n\n')[0], re.M))
    except OSError:
        return platform.processor() or platform.machine()
    return f'{info.get("model name", platform.machine())} family {info.get("cpu family")} model {info.get("model")}'


def table(rows: list[dict]) -> str:
    """The rows in Markdown, one line per model and precision."""
    first = rows[0]
    lines = [
        f'{first["cpu"]}, {first["threads"]} thread(s), batch {first["batch"]}, torch {first["torch"]}, timm '
        f'{first["timm"]}; {first["clock"]}, medians of {first["rounds"]} rounds. Made by '
        '`benchmarks/cpu_inference.py`, which says what the columns are; fast is > 1.', '',
        '| model | precision | G multiply-adds | stock, ms | optimized against stock | against SDPA | against '
        'torch.compile | optimized over floor | stock over floor | difference of logits |',
        '|---|---|---|---|---|---|---|---|---|---|']
    groups = {}
    for row in rows:
        groups.setdefault((row['model'], row['dtype']), {})[row['variant']] = row
    for (model, dtype), by in groups.items():
        ours = by['optimized']

        def against(key: str, by=by, ours=ours) -> str:
            return f'{float(ours["speedup"]) / float(by[key]["speedup"]):.2f}' if key in by else '-'

        lines.append(
            f'| {model} | {dtype} | {ours["gmacs"]} | {float(by["stock"]["ms"]):.0f} '
            f'| **{float(ours["speedup"]):.2f}** | {against("sdpa")} | {against("compile")} '
            f'| {float(ours["over_floor"]):.2f} | {float(by["stock"]["over_floor"]):.2f} | {ours["error"]} |')
    return '\n'.join(lines) + '\n'


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(text)
    temporary.replace(path)


def save(path: Path, new: list[dict]) -> None:
    """Writes table and CSV, with the older rows of models and precisions that were not measured again."""
    measured = {(row['model'], row['dtype']) for row in new}
    old = list(csv.DictReader(path.open())) if path.exists() else []
    rows = [row for row in old if (row['model'], row['dtype']) not in measured] + new
    lines = [FIELDS, *([f'{row[field]}' for field in FIELDS] for row in rows)]
    write(path, ''.join(','.join(line) + '\n' for line in lines))
    write(path.with_suffix('.md'), table(rows))


def main(argv: list[str] | None = None) -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='*', default=MODELS, help='names, or superimage:BACKBONE')
    parser.add_argument('--dtype', nargs='+', default=['float32'], choices=['float32', 'bfloat16'])
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--compile', action='store_true', help='measure torch.compile, too; it takes minutes')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results', help='folder')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    slug = re.sub(r'\W+', '-', cpu_name().lower()).strip('-')
    for dtype in args.dtype:
        for name in args.models:
            with torch.no_grad():
                rows = measure(name, getattr(torch, dtype), args)
            save(args.out / f'cpu_inference_{slug}_{dtype}_{args.threads}t.csv', rows)
            for row in rows:
                print(*(f'{key}={row[key]}' for key in FIELDS[:7]), flush=True)
            torch.compiler.reset()
            gc.collect()


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
