"""Clips per second and memory of whole models, in inference and training, by `models.py`, a model after the other."""
import argparse
import gc
import os
import statistics
from collections.abc import Sequence

import torch

from .context import Context

__all__ = ['COMPILED', 'compiled', 'inference', 'layout', 'sifar', 'training', 'warm_up']

MODELS, LAYOUT = 'models.csv', 'layout.csv'
SIFAR = ('sifar_swin_b12', 8)
OURS = (('amflow_dinov2_b_tcn_lite', 8), ('flatten_uniformer_s', 8), ('videomae_vit_b', 16), ('sifar_swin_b14', 8))
PEERS = (
    ('torchvision:mvit_v2_s', 16), ('transformers:videomae_b', 16), ('torchvision:swin3d_b', 8),
    ('torchvision:s3d', 16), ('transformers:timesformer_b', 8), ('torchvision:swin3d_t', 8),
    ('transformers:vjepa2_l', 16), ('torchvision:r2plus1d_18', 8), ('transformers:vivit_b', 8))
COMPILED = (
    ('videomae_vit_b', 16), ('torchvision:mvit_v2_s', 16), ('flatten_uniformer_s', 8), ('amflow_dinov2_b_tcn_lite', 8),
    ('transformers:videomae_b', 16), ('torchvision:swin3d_b', 8), ('sifar_swin_b14', 8),
    ('transformers:timesformer_b', 8), ('torchvision:s3d', 16))
BATCHES, TRAINING_BATCHES = (64, 1, 8), (8, 32)
REHEARSED, REHEARSED_PEER = ('sifar_resnet10t', 8), ('torchvision:r2plus1d_18', 2)
ROWS = ('model', 'variant', 'pass', 'frames', 'batch', 'threads')

Names = Sequence[tuple[str, int]]


def sifar(context: Context) -> None:
    """SIFAR-B-12 in all forms, the goal of the whole: eager first, then compiled, the largest batch first."""
    names = (SIFAR,) if not context.rehearse else (REHEARSED,)
    measure(context, names, BATCHES)
    if not context.rehearse:
        measure(context, names, BATCHES, forms=('plain', 'optimized'))


def inference(context: Context) -> None:
    """The other models in eager mode."""
    measure(context, (*OURS, *PEERS) if not context.rehearse else (REHEARSED_PEER,), BATCHES)


def training(context: Context) -> None:
    """Forward and backward under autocast: eager, SIFAR compiled, too."""
    names = (SIFAR, *OURS, *PEERS[:3]) if not context.rehearse else (REHEARSED,)
    measure(context, names, TRAINING_BATCHES, train=True)
    if not context.rehearse:
        measure(context, names[:1], TRAINING_BATCHES[:1], forms=('plain', 'selective'), train=True)


def compiled(context: Context) -> None:
    """The other models under torch.compile; every model at the batches that tell most before the next one."""
    names, forms = ((REHEARSED,), ('plain',)) if context.rehearse else (COMPILED, ('plain', 'optimized'))
    measure(context, names, (64, 1), forms=forms)


def arguments(context: Context, forms: Sequence[str], train: bool, batch: int) -> argparse.Namespace:
    """What `models.measure` takes."""
    rounds = 20 if batch == 1 else 7
    return argparse.Namespace(
        device=context.device, dtype='bfloat16', torch_dtype=torch.bfloat16, training=train, official=None,
        rounds=1 if context.rehearse else rounds, profile=False, profiles=[], compile=bool(forms), compiled_forms=forms,
        compile_options={'backend': 'eager'} if context.rehearse else {})


def measure(
        context: Context, names: Names, batches: Sequence[int], forms: Sequence[str] = (), train: bool = False) -> None:
    """Measures models one after the other and writes their rows after each batch."""
    from benchmarks.common import models

    torch._dynamo.config.recompile_limit = 256  # video models share a forward, of which it compiles 8 by default
    if context.rehearse:
        batches = (1,)
        models.PEERS['torchvision:r2plus1d_18'] = (16, *models.PEERS['torchvision:r2plus1d_18'][1:])
    mode = f'{"compiled" if forms else "eager"} {"training" if train else "inference"}'
    for name, frames in names:
        if context.late(f'{mode} of {name}', 0 if context.rehearse else 5 if not forms else 12):
            continue
        built = {}
        with context.attempt(f'building {name}'):
            built = models.variants(name, frames, arguments(context, forms, train, 1))
        for batch in batches:
            what = f'{mode} of {name}, batch {batch}'
            if not built or context.late(what, 0 if context.rehearse else 2 if not forms else 8):
                break
            with context.attempt(what):
                rows, failed = models.measure([name], frames, batch, arguments(context, forms, train, batch), built)
                context.save(MODELS, [row | {'of_matrix_rate': _share(context, row)} for row in rows], ROWS)
                for text in failed:
                    context.note('failed', f'{mode}: {text}')
            torch.compiler.reset()
            _free()
        built = None
        _free()


def _share(context: Context, row: dict) -> str | None:
    """Multiply-adds per second over the card's own rate; training counts three times those of a forward."""
    rate = context.card().get('matrix_tflops')
    if not rate or row['pass'] == 'train' and row['model'].startswith('amflow'):  # whose backbone is frozen
        return None
    times = 3 if row['pass'] == 'train' else 1
    return f'{times * 2 * float(row["gmacs"]) * 1e9 * float(row["clips_per_s"]) / rate / 1e12:.4f}'


def _free() -> None:
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def warm_up(context: Context, name: str, frames: int, batch: int, share: float) -> None:
    """Compiles a model into the caches on disk, beside other work; a share of the card's memory is its own."""
    from benchmarks.common import models

    os.environ['TORCHINDUCTOR_COMPILE_THREADS'] = '2'
    if context.device == 'cuda':
        torch.cuda.set_per_process_memory_fraction(share)
    args = arguments(context, ('plain',) if context.rehearse else ('plain', 'optimized'), False, batch)
    for (_, variant), model in models.variants(name, frames, args).items():
        if 'compiled' in variant:
            with context.attempt(f'warming up {name}, {variant}'):
                plain = getattr(model, '_orig_mod', model)
                clip = torch.randn(batch, 3, plain.num_frames, *plain.img_size)
                models.make_run(model, clip.to(context.device, torch.bfloat16), args)()


@torch.no_grad()
def layout(context: Context) -> None:
    """The layout alone, as a share of the forward pass of SIFAR-B-12, and against a copy and the official form."""
    import timm

    import flatzoo
    from benchmarks.common.official import official_layout
    from benchmarks.common.timing import in_turn, setting

    name, device = (SIFAR if not context.rehearse else REHEARSED)[0], context.device
    model = timm.create_model(name).to(device, torch.bfloat16).eval()
    fast = flatzoo.optimize(model)
    size = model.img_size[0]
    floats = flatzoo.SuperImage(model.num_frames, 'grid', size)
    bytes_ = flatzoo.SuperImage(model.num_frames, 'grid', size, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).to(device)
    for batch in BATCHES if not context.rehearse else (1,):
        if context.late(f'layout, batch {batch}'):
            break
        clip = torch.randn(batch, 3, model.num_frames, size, size, device=device).bfloat16()
        frames = torch.randint(0, 256, clip.shape, dtype=torch.uint8, device=device)
        copy, rows = torch.empty_like(clip), []
        runs = {
            'copy': lambda clip=clip, copy=copy: copy.copy_(clip), 'layout': lambda clip=clip: floats(clip),
            'layout of uint8, normalised': lambda frames=frames: bytes_(frames),
            'official layout': lambda clip=clip: official_layout(clip)}
        with context.attempt(f'layout, batch {batch}'):
            whole = {'model': lambda clip=clip: model(clip), 'model, optimized': lambda clip=clip: fast(clip)}
            for run in (*runs.values(), *whole.values()):
                run()
            rounds = 2 if context.rehearse else 9
            times = in_turn(runs, rounds, device, queued=20) | in_turn(whole, rounds, device)
            medians = {key: statistics.median(values) for key, values in times.items()}
            for key, took in medians.items():
                rows.append({
                    'what': key, 'model': name, 'batch': batch, 'ms': f'{1000 * took:.4g}',
                    'of_copy': f'{took / medians["copy"]:.2f}',
                    'of_optimized': f'{took / medians["model, optimized"]:.3%}',
                    **setting(device, 'bfloat16')})
            context.save(LAYOUT, rows, ('what', 'batch'))
            print(rows, flush=True)
