"""Speed of `flatzoo.optimize` on a CPU, against what one would run instead, with the parity of the logits.

Variants take turns in every round, each round in another order, in one process, and ratios are taken round by round;
medians are given, and beside the one that counts the lower end of its 95 % interval. With one thread time is CPU time
of the process, which other programs disturb less than the clock's; with several it is the clock's. Backends: `stock`
is timm's default (attention of Swin Transformers by separate products, linear layers by the BLAS that torch was built
with), `sdpa` the same with scaled_dot_product_attention, `compile` torch.compile of stock,
`optimized` flatzoo.optimize (linear layers by oneDNN, attention by scaled_dot_product_attention), `int8` the same with
`quantize='int8'`. ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI in the environment has a CPU with AMX multiply integers as one
without it does; the column of the hardware says so.

The floor is the time in which this machine does the model's multiply-adds at the rate of packed oneDNN products of the
shapes of its linear layers, measured in the same rounds: nothing but matrix products, at no cost between them.

    python benchmarks/speed/cpu_inference.py --dtype float32 bfloat16
    python benchmarks/speed/cpu_inference.py sifar_swin_b12 --compile --threads 2 --rounds 9

writes `benchmarks/results/data/cpu_inference.csv`, one row per model, variant and setting, and from it
`benchmarks/results/cpu_inference.md`. Rows of other runs and machines are kept.
"""
import argparse
import copy
import gc
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch
from torch import Tensor, nn

import flatzoo
from benchmarks.common.timing import SETTING, cpu_seconds, least, markdown, save, setting
from flatzoo.runtime.cost import MultiplyAdds

MODELS = (
    'sifar_swin_b12', 'sifar_swin_b7', 'flatten_swinv2_b', 'flatten_uniformer_s', 'amflow_dinov2_b_tcn_lite',
    'time_vit_b', 'videomae_vit_b', 'superimage:convnext_tiny')


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
    if args.int8:
        variants['int8'] = flatzoo.optimize(model, quantize='int8')
    if args.compile:  # kernels that both have in common count for the first one
        variants['compiled'] = flatzoo.optimize(model, compile=True)
        variants['compile'] = torch.compile(copy.deepcopy(model))
    variants = {key: variant for key, variant in variants.items() if variant is not None}
    answers, prepared_in = {}, {}
    for key, variant in variants.items():
        start = cpu_seconds()
        answers[key] = variant(clip).float()  # also packs and compiles
        prepared_in[key] = cpu_seconds() - start
    scale = answers['stock'].abs().max()
    errors = {key: ((answer - answers['stock']).abs().max() / scale).item() for key, answer in answers.items()}

    run_floor = floor(linear_shapes(model, clip), flops, dtype, clock)
    times = {key: [] for key in (*variants, 'floor')}
    run_floor()
    shuffle = random.Random(0)
    for _ in range(args.rounds):
        for key, variant in shuffle.sample(list(variants.items()), len(variants)):
            start = clock()
            variant(clip)
            times[key].append(clock() - start)
        times['floor'].append(run_floor())

    def ratio(over: str, under: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[over], times[under])), 3)

    return [dict(
        model=name, variant=key, ms=round(1000 * statistics.median(times[key]), 1), speedup=ratio('stock', key),
        speedup_least=round(least(times['stock'], times[key]), 3), over_floor=ratio(key, 'floor'),
        error=f'{errors[key]:.1e}' if key in errors else '',
        compile_seconds=f'{prepared_in[key]:.0f}' if key == 'compiled' else '',
        gmacs=round(flops / 2e9, 1), batch=args.batch, rounds=args.rounds, clock=clock.__name__,
        **setting('cpu', str(dtype).removeprefix('torch.')), timm=timm.__version__, flatzoo=flatzoo.__version__,
    ) for key in times]


def table(rows: list[dict]) -> list[dict]:
    """The rows of the page, one for each model and setting."""
    groups: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        groups.setdefault((row['model'], row['batch'], *(row[key] for key in SETTING)), {})[row['variant']] = row
    lines = []
    for by in groups.values():
        ours = by['optimized']

        def against(key: str, by=by, ours=ours) -> str:
            return f'{float(ours["speedup"]) / float(by[key]["speedup"]):.2f}' if key in by else '-'

        lines.append({
            'model': ours['model'], 'G multiply-adds': ours['gmacs'], 'stock, ms': f'{float(by["stock"]["ms"]):.0f}',
            'optimized against stock': f'**{float(ours["speedup"]):.2f}**', 'at least': ours['speedup_least'],
            'against SDPA': against('sdpa'),
            'against torch.compile': against('compile'), 'optimized over floor': f'{float(ours["over_floor"]):.2f}',
            'stock over floor': f'{float(by["stock"]["over_floor"]):.2f}', 'difference of logits': ours['error'],
            **{f'compiled {column}': value for column, value in compiled(by).items()},
            'int8 against stock': f'{float(by["int8"]["speedup"]):.2f}' if 'int8' in by else '-',
            'batch': ours['batch'], 'rounds': ours['rounds'], 'clock': ours['clock'],
            **{key: ours[key] for key in SETTING}})
    return lines


def compiled(by: dict[str, dict]) -> dict[str, str]:
    """The columns of `compile=True` in the page."""
    row = by.get('compiled')
    return {
        'against stock': f'**{float(row["speedup"]):.2f}**' if row else '-',
        'at least': row['speedup_least'] if row else '-',
        'against torch.compile':
            f'{float(row["speedup"]) / float(by["compile"]["speedup"]):.2f}' if row and 'compile' in by else '-',
        'over floor': f'{float(row["over_floor"]):.2f}' if row else '-',
        'seconds': row['compile_seconds'] if row else '-',
    }


def write_page(path: Path, rows: list[dict]) -> None:
    """Writes the page from all rows of the data."""
    markdown(path, 'Inference on a CPU', [
        '`python benchmarks/speed/cpu_inference.py --compile`, which says what the columns are; medians, fast is > 1.',
        table(rows)])


def main(argv: list[str] | None = None) -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='*', default=MODELS, help='names, or superimage:BACKBONE')
    parser.add_argument('--dtype', nargs='+', default=['float32'], choices=['float32', 'bfloat16'])
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--int8', action='store_true', help='measure integers, too; for float32')
    parser.add_argument('--compile', action='store_true', help='measure torch.compile, too; it takes minutes')
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    for dtype in args.dtype:
        for name in args.models:
            with torch.no_grad():
                rows = measure(name, getattr(torch, dtype), args)
            for row in rows:
                print(row, flush=True)
            rows = save(args.out / 'data/cpu_inference.csv', rows, ('model', 'variant', 'batch'))
            write_page(args.out / 'cpu_inference.md', rows)
            torch.compiler.reset()
            gc.collect()


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
