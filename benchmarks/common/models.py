"""Speed of whole models: their forms take turns, and their logits are compared before."""
import argparse
import contextlib
import copy
import functools
import statistics
import traceback
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch._dynamo.utils import counters

import flatzoo
from benchmarks.common.peers import NUM_CLASSES, PEERS, Official, StockTimm, build_peer
from benchmarks.common.stated import MOST
from benchmarks.common.timing import clock_name, in_turn, peak_bytes, ratio, setting
from flatzoo.runtime.cost import count_forward

STOCK_OF = 'sifar_swin_b12'  # and the same for more frames
STOCK, OFFICIAL = 'timm:sifar_swin_b12', 'official:sifar_swin_b12'
OPTIMIZED_COMPILED = 'optimized, compiled'  # `flatzoo.optimize(model, compile=True)`
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
            eager = on_cpu and weight.dtype == torch.bfloat16 and variant != OPTIMIZED_COMPILED
            attention = 'eager' if eager else 'fused'
        elif 'selective' in variant:
            attention = 'chunked' if on_cpu else 'fused'
    plain = 'packed oneDNN' if variant == 'optimized' and on_cpu else 'torch'
    products = 'inductor' if 'compiled' in variant else plain
    return products + (f', {attention} attention' if attention else '')


def variants(name: str, frames: int | None, args: argparse.Namespace) -> dict[tuple[str, str], nn.Module]:
    """Models to measure for a name, by name and variant, plain first.

    Without `frames` a peer has the length that its accuracy is stated for, and forms that only explain are left out.
    """
    device, dtype = args.device, torch.float32 if args.training else args.torch_dtype
    torch.manual_seed(0)
    if name in PEERS:
        model = build_peer(name, frames)
    else:
        model = timm.create_model(name, num_classes=NUM_CLASSES)
    models = {(name, 'plain'): model}
    if name.startswith(STOCK_OF) and frames:
        if args.official:
            official = Official(args.official, model)
            model.load_state_dict(model.filter_checkpoint(official.model.state_dict()))
            models[OFFICIAL, 'plain'] = official
        models[STOCK, 'plain'] = StockTimm(model)
    models = {key: value.eval().to(device, dtype) for key, value in models.items()}
    if name not in PEERS:
        other = switched(models[name, 'plain']) if frames else None
        if other:
            models[name, other[0]] = other[1]
        if args.training:
            models |= selective(name, models[name, 'plain'])
        else:
            models[name, 'optimized'] = flatzoo.optimize(models[name, 'plain'])
    if args.compile:
        for (key, variant), value in list(models.items()):
            if key != OFFICIAL and variant in args.compiled_forms and (args.compile is True or key in args.compile):
                models[key, f'compiled {variant}'.removesuffix(' plain')] = torch.compile(
                    value, **args.compile_options)
            if variant == 'optimized' and device == 'cuda':
                models[key, 'compiled optimized, CUDA graphs'] = torch.compile(value, mode='reduce-overhead')
            elif variant == 'optimized' and (args.compile is True or key in args.compile):
                models[key, OPTIMIZED_COMPILED] = flatzoo.optimize(models[key, 'plain'], compile=True)
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
        names: list[str], frames: int | None, batch: int, args: argparse.Namespace,
        built: dict[tuple[str, str], nn.Module] | None = None) -> tuple[list[dict], list[str]]:
    """Rows of all models on clips of a length, and what could not run; models as `variants` built them, if given.

    In bfloat16 logits are compared with those of the same weights in float32: some CPUs get products wrong in it,
    without an error.
    """
    runs, facts, failed, answers, built = {}, {}, [], {}, dict(built or {})
    for name in names if not built else ():
        try:
            built |= variants(name, frames, args)
        except ValueError as error:
            failed.append(f'{name}{frames and f", {frames} frames" or ""}: {error}')
    for (name, variant), model in built.items():
        plain = getattr(model, '_orig_mod', model)
        generator = torch.Generator().manual_seed(1)
        clip = torch.randn(batch, 3, plain.num_frames, *plain.img_size, generator=generator)
        clip = clip.to(args.device, torch.float32 if args.training else args.torch_dtype)
        counters.clear()
        run = make_run(model, clip, args)
        low = not args.training and args.torch_dtype != torch.float32
        try:
            if low and variant == 'plain' and _ours(name, names) == name:
                answers[name, 'float32'] = _in_float32(plain, clip)
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
            error = ((answers[name, variant][:len(reference)] - reference).abs().max() / reference.abs().max()).item()
            if args.dtype == 'float32' and not error < 1e-4:
                failed.append(f'{name}, {variant} gives other logits than {source[0]} (difference {error:.1e})')
            if low and not error < MOST:
                failed.append(f'{name}, {variant} is wrong in {args.dtype} (difference {error:.1e} from float32)')
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
            'clips_per_s': f'{batch / took:.4g}', **setting(args.device, args.dtype), 'batch': batch,
            'ms': f'{1000 * took:.4g}',
            'of_stock_sifar': f'{ratio(times[STOCK, "plain"], times[name, variant]):.3f}'
            if (STOCK, 'plain') in times else None,
            'of_plain': f'{ratio(times[name, "plain"], times[name, variant]):.3f}'
            if (name, 'plain') in times else None,
            **of, 'gmacs': round(costs[name][0] / 1e9, 1), 'params_m': round(costs[name][1] / 1e6, 1),
            'rounds': args.rounds, 'clock': clock_name(args.device),
            'timm': timm.__version__, 'flatzoo': flatzoo.__version__})
        print({key: value for key, value in rows[-1].items() if key not in ('hardware', 'torch', 'timm')}, flush=True)
    if args.profile and not args.training:
        args.profiles += [profile(name, variant, run, args) for (name, variant), run in runs.items() if ':' not in name]
    return rows, failed


def _in_float32(model: nn.Module, clip: Tensor) -> Tensor:
    """Logits of the first clip, computed in float32 with the weights as they are."""
    with torch.no_grad():
        return copy.deepcopy(model).float()(clip[:1].float())


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
