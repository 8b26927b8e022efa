"""Models of the zoo against what one would run in their place, at equal frames and precision, with random weights.

Yardstick of every ratio is SIFAR-B-12 as stock timm has it: the official code's numbers, at its speed. Ours are
measured plain, with attention switched (`fused` where timm leaves it eager, `eager` where it is fused), after
`flatzoo.optimize` (in training with `set_grad_checkpointing(selective=True)`), and with `--compile` under
torch.compile, as the peers are: torchvision's MViTv2, Video Swin, S3D and R(2+1)D, transformers' VideoMAE, TimeSformer,
ViViT and V-JEPA 2. `--official` adds the official code of SIFAR from a checkout. All stay in memory and take turns in
every round. Where two sides must agree, their logits are compared
before. Clips are as long as a name of ours says; peers are built for that length.

    python benchmarks/models.py --passes forward train               # all, on a CPU: about an hour
    python benchmarks/models.py --quick                              # seven minutes on one idle core
    python benchmarks/models.py --device cuda --dtype bfloat16 --batch 1 8 64 --compile --passes forward train --profile

writes `models_<hardware>_<precision>_<torch>.csv`, which `flatzoo compare --measured` reads, a table beside it, and
with `--profile` the kernels that bound our variants. Rows of other runs are kept. In bfloat16 weights are cast for
inference; training keeps them in float32 under autocast.
"""
import argparse
import contextlib
import copy
import functools
import gc
import os
import statistics
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from _peers import NUM_CLASSES, PEERS, Official, StockTimm, build_peer, printed_accuracy
from _timing import clock_name, hardware, in_turn, markdown, peak_bytes, ratio, save, stem
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch._dynamo.utils import counters

import flatzoo
from flatzoo.models.record import KINETICS_400, tag_record
from flatzoo.runtime.cost import count_forward

OURS = (
    'sifar_swin_b12', 'sifar_resnet50', 'flatten_uniformer_s', 'amflow_dinov2_b_tcn_lite', 'sifar_swin_b12_16f',
    'sifar_swin_b14_16f', 'flatten_uniformer_s_16f', 'videomae_vit_b', 'time_vit_b')
QUICK = (
    'sifar_swin_b12', 'flatten_uniformer_s', 'torchvision:swin3d_t', 'torchvision:mvit_v2_s',
    'torchvision:r2plus1d_18', 'transformers:videomae_b', 'transformers:timesformer_b',
    'sifar_swin_b12_16f', 'flatten_uniformer_s_16f', 'videomae_vit_b', 'torchvision:s3d')
STOCK_OF = 'sifar_swin_b12'  # and the same for more frames
STOCK, OFFICIAL = 'timm:sifar_swin_b12', 'official:sifar_swin_b12'
KEYS = ('model', 'variant', 'pass', 'frames', 'batch', 'threads')
COMPILED_FORMS = {'cpu': ('plain', 'fused'), 'cuda': ('plain', 'fused', 'optimized', 'selective')}


def switched(model: nn.Module) -> tuple[str, nn.Module] | None:
    """The model with the other form of attention, sharing its weights, and the name of that form."""
    states = {module.fused_attn for module in model.modules() if hasattr(module, 'fused_attn')}
    if not states:
        return None
    fused = not any(states)
    twin = sharing_tensors(model)
    for module in twin.modules():
        if hasattr(module, 'fused_attn'):
            module.fused_attn = fused
    return 'fused' if fused else 'eager', twin


def selective(name: str, model: nn.Module) -> dict[tuple[str, str], nn.Module]:
    """The model as it is trained in less memory, unless it cannot be."""
    twin = sharing_tensors(model)
    try:
        twin.set_grad_checkpointing(selective=True)
    except ValueError:
        return {}
    return {(name, 'selective'): twin}


def sharing_tensors(model: nn.Module) -> nn.Module:
    """A copy that has the very same parameters and buffers."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def backend(model: nn.Module, variant: str) -> str:
    """What computes products and attention of a variant."""
    states = {module.fused_attn for module in model.modules() if hasattr(module, 'fused_attn')}
    attention = getattr(model, 'attention', ('fused' if any(states) else 'eager') if states else '')
    weight = next(model.parameters())
    on_cpu = weight.device.type == 'cpu'
    if any(isinstance(module, WindowAttention) for module in model.modules()):
        if 'optimized' in variant:
            attention = 'eager' if on_cpu and weight.dtype == torch.bfloat16 else 'fused'
        elif 'selective' in variant:
            attention = 'chunked' if on_cpu else 'fused'
    plain = 'packed oneDNN' if variant == 'optimized' and on_cpu else 'torch'
    products = 'inductor' if 'compiled' in variant else plain
    return products + (f', {attention} attention' if attention else '')


def variants(name: str, frames: int, args: argparse.Namespace) -> dict[tuple[str, str], nn.Module]:
    """Models to measure for a name, by name and variant; the first one is plain."""
    device, dtype = args.device, torch.float32 if args.training else args.torch_dtype
    torch.manual_seed(0)
    if name in PEERS:
        model = build_peer(name, frames)
    else:
        model = timm.create_model(name, num_classes=NUM_CLASSES)
    models = {(name, 'plain'): model}
    if name.startswith(STOCK_OF):
        if args.official:
            official = Official(args.official, model)
            model.load_state_dict(model.filter_checkpoint(official.model.state_dict()))
            models[OFFICIAL, 'plain'] = official
        models[STOCK, 'plain'] = StockTimm(model)
    models = {key: value.eval().to(device, dtype) for key, value in models.items()}
    if name not in PEERS:
        other = switched(models[name, 'plain'])
        if other:
            models[name, other[0]] = other[1]
        if args.training:
            models |= selective(name, models[name, 'plain'])
        else:
            models[name, 'optimized'] = flatzoo.optimize(models[name, 'plain'])
    if args.compile:
        for (key, variant), value in list(models.items()):
            if key != OFFICIAL and variant in args.compiled_forms:
                models[key, f'compiled {variant}'.removesuffix(' plain')] = torch.compile(
                    value, **args.compile_options)
            if variant == 'optimized' and device == 'cuda':
                models[key, 'compiled optimized, CUDA graphs'] = torch.compile(value, mode='reduce-overhead')
    return models


def make_run(model: nn.Module, clip: Tensor, args: argparse.Namespace) -> Callable[[], Tensor]:
    """One pass: logits, or logits and all gradients."""
    if not args.training:
        def forward() -> Tensor:
            with torch.no_grad():
                return model(clip)

        return forward
    plain = getattr(model, '_orig_mod', model)
    if hasattr(plain, 'freeze_backbone'):
        plain.freeze_backbone()  # as it is trained
    model.train()
    precision = functools.partial(torch.autocast, args.device, args.torch_dtype)
    if args.torch_dtype == torch.float32:
        precision = contextlib.nullcontext

    def train() -> Tensor:
        with precision():
            logits = model(clip)
        logits.float().square().mean().backward()
        plain.zero_grad(set_to_none=True)
        return logits

    return train


def measure(
        names: list[str], frames: int, batch: int, args: argparse.Namespace,
        built: dict[tuple[str, str], nn.Module] | None = None) -> tuple[list[dict], list[str]]:
    """Rows of all models on clips of a length, and what could not run; models as `variants` built them, if given."""
    runs, facts, failed, answers, built = {}, {}, [], {}, dict(built or {})
    for name in names if not built else ():
        try:
            built |= variants(name, frames, args)
        except ValueError as error:
            failed.append(f'{name}, {frames} frames: {error}')
    for (name, variant), model in built.items():
        plain = getattr(model, '_orig_mod', model)
        generator = torch.Generator().manual_seed(1)
        clip = torch.randn(batch, 3, plain.num_frames, *plain.img_size, generator=generator)
        clip = clip.to(args.device, torch.float32 if args.training else args.torch_dtype)
        counters.clear()
        run = make_run(model, clip, args)
        try:
            answers[name, variant] = run().detach().float().clone()  # compiles and packs, too
            peak = None if 'graphs' in variant else peak_bytes(run, args.device)  # which have memory of their own
        except Exception as error:  # kernels and compilers raise what they like; the others are measured all the same
            traceback.print_exc()
            first = (str(error).splitlines() or [''])[0]
            failed.append(f'{name}, {variant}, batch {batch}: {type(error).__name__}: {first[:120]}')
            continue
        compiled = 'compiled' in variant
        if compiled and not counters['stats']['unique_graphs']:
            failed.append(f'{name}, {variant}: torch.compile gave up and runs it eagerly')
            continue
        source = next((key for key in answers if key[0] == _ours(name, names)), None)
        error = None
        if not args.training and source and (name, variant) != source:
            reference = answers[source]
            error = ((answers[name, variant] - reference).abs().max() / reference.abs().max()).item()
            if args.dtype == 'float32' and not error < 1e-4:
                failed.append(f'{name}, {variant} gives other logits than {source[0]} (difference {error:.1e})')
        facts[name, variant] = dict(
            frames=plain.num_frames, size=plain.img_size[0], backend=backend(plain, variant),
            error=None if error is None else f'{error:.1e}', peak_mb=None if peak is None else f'{peak / 1e6:.0f}',
            graphs=counters['stats']['unique_graphs'] if compiled else None,
            graph_breaks=sum(counters['graph_break'].values()) if compiled else None)
        runs[name, variant] = run
    times = in_turn(runs, args.rounds, args.device)
    costs: dict[str, Any] = {}
    rows = []
    for (name, variant), of in facts.items():
        model = built[name, 'plain']
        if name not in costs:
            costs[name] = count_forward(model).macs, sum(p.numel() for p in model.parameters())
        took = statistics.median(times[name, variant])
        rows.append({
            'model': name, 'variant': variant, 'pass': 'train' if args.training else 'forward',
            'clips_per_s': f'{batch / took:.4g}', 'hardware': hardware(args.device), 'precision': args.dtype,
            'batch': batch, 'threads': torch.get_num_threads(), 'ms': f'{1000 * took:.4g}',
            'of_stock_sifar': f'{ratio(times[STOCK, "plain"], times[name, variant]):.3f}'
            if (STOCK, 'plain') in times else None,
            'of_plain': f'{ratio(times[name, "plain"], times[name, variant]):.3f}'
            if (name, 'plain') in times else None,
            **of, 'gmacs': round(costs[name][0] / 1e9, 1), 'params_m': round(costs[name][1] / 1e6, 1),
            'rounds': args.rounds, 'clock': clock_name(args.device), 'torch': torch.__version__,
            'timm': timm.__version__, 'flatzoo': flatzoo.__version__})
        print({key: value for key, value in rows[-1].items() if key not in ('hardware', 'torch', 'timm')}, flush=True)
    if args.profile and not args.training:
        args.profiles += [profile(name, variant, run, args) for (name, variant), run in runs.items() if ':' not in name]
    return rows, failed


def _ours(name: str, names: list[str]) -> str:
    """The model whose plain logits a name must give."""
    if name in (STOCK, OFFICIAL):
        return next(key for key in names if key.startswith(STOCK_OF))
    return name


def profile(name: str, variant: str, run: Callable, args: argparse.Namespace) -> str:
    """The kernels in which a variant spends its time, as text."""
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU, activity.CUDA] if args.device == 'cuda' else [activity.CPU]
    with torch.profiler.profile(activities=activities) as trace:
        run()
    order = 'self_device_time_total' if args.device == 'cuda' else 'self_cpu_time_total'
    events = trace.key_averages()
    total = sum(getattr(event, order) for event in events) or 1
    top = sorted(events, key=lambda event: -getattr(event, order))[:12]
    lines = [f'{getattr(event, order) / total:6.1%}  {event.count:5d} x  {event.key[:90]}' for event in top]
    return '\n'.join([f'## {name}, {variant}', '', '```', *lines, '```'])


def accuracy(name: str) -> str:
    """What is printed for a model on Kinetics-400, with the place."""
    if name in PEERS:
        return printed_accuracy(name)
    record = tag_record(name)
    for figure in record.figures:
        if figure.data == KINETICS_400.title and not figure.setting:
            return f'{figure.top1:.1f} ({record.paper.id}, {figure.where})'
    return ''


def table(rows: list[dict]) -> list[dict]:
    """The columns of the page."""
    return [{
        'model': row['model'], 'variant': row['variant'], 'frames': f'{row["frames"]} x {row["size"]}',
        'batch': row['batch'], 'M params': row['params_m'], 'G multiply-adds': row['gmacs'],
        'clips/s': row['clips_per_s'], 'ms': row['ms'], 'speed / stock SIFAR-B-12': row['of_stock_sifar'],
        'speed / plain': row['of_plain'], 'MB': row['peak_mb'], 'difference of logits': row['error'],
        'graphs, breaks': f'{row["graphs"]}, {row["graph_breaks"]}' if row['graphs'] else '',
        'backend': row['backend'], 'Kinetics-400, printed': accuracy(row['model'])} for row in rows]


def write_page(path: Path, rows: list[dict], failed: list[str], args: argparse.Namespace) -> None:
    """The table in Markdown, one part per number of frames and pass."""
    parts = [
        f'`python benchmarks/models.py` on {hardware(args.device)}, {args.dtype}, torch {torch.__version__}, timm '
        f'{timm.__version__}; {clock_name(args.device)}, medians; random weights. Columns: benchmarks/models.py.',
        'Speed is times as fast, in the same rounds. Stock SIFAR-B-12 (`timm:`) has as many frames as the rest of its '
        'table. MB is what a pass needs beside weights and clips. Differences are the largest ones, over the largest '
        'logit. Accuracies are printed by papers and publishers, with other frames and views; none was measured here.']
    for key in sorted({(row['pass'], int(row['group'])) for row in rows}):
        parts.append(f'## {key[1]} frames, {"inference" if key[0] == "forward" else "forward and backward"}')
        parts.append(table([row for row in rows if (row['pass'], int(row['group'])) == key]))
    if failed:
        parts.append('Beside these: ' + '; '.join(failed) + '.')
    markdown(path, 'Models side by side', parts)


def main(argv: list[str] | None = None) -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', help='names of ours and of peers; all by default')
    parser.add_argument('--frames', nargs='+', type=int, help='lengths of clips: 8 16 32; with --quick 8 16')
    parser.add_argument('--quick', action='store_true', help='what fits into minutes on a CPU')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--batch', nargs='+', type=int, default=[1])
    parser.add_argument('--rounds', type=int, default=None, help='5, or with --quick 3')
    parser.add_argument('--threads', type=int, default=1, help='of a CPU')
    parser.add_argument(
        '--passes', nargs='+', choices=['forward', 'train'], default=['forward'], help='train: forward and backward')
    parser.add_argument('--compile', action='store_true', help='torch.compile, too; it takes minutes per model')
    parser.add_argument('--profile', action='store_true', help='write which kernels bound our variants')
    parser.add_argument('--official', type=Path, help='folder of a checkout of IBM/sifar-pytorch')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent / 'results', help='folder')
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (3 if args.quick else 5)
    args.frames = args.frames or ((8, 16) if args.quick else (8, 16, 32))
    args.torch_dtype, args.profiles = getattr(torch, args.dtype), []
    args.compiled_forms, args.compile_options = COMPILED_FORMS[args.device], {}
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 256  # video models share a forward, of which it compiles 8 by default
    names = args.models or (QUICK if args.quick else (*OURS, *PEERS))
    rows, failed = [], []
    for kind in args.passes:
        args.training = kind == 'train'
        for frames in args.frames:
            ours = [name for name in names if name not in PEERS and _frames(name) == frames]
            group = ours + [name for name in names if name in PEERS]
            if not ours:  # peers alone have nothing to be compared with
                continue
            for batch in args.batch:
                new, bad = measure(group, frames, batch, args)
                rows += [{**row, 'group': frames} for row in new]
                failed += bad
                torch.compiler.reset()
                gc.collect()
    path = args.out / f'{stem("models", args.device, args.dtype)}.csv'
    write_page(path.with_suffix('.md'), save(path, rows, KEYS), failed, args)
    if args.profiles:
        markdown(path.with_name(path.stem + '_profile.md'), 'Which kernels bound the models', args.profiles)


@functools.cache
def _frames(name: str) -> int:
    return timm.create_model(name, device='meta').num_frames


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
