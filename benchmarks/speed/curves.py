"""What a forward pass costs over the number of frames, the size of a frame and the batch, and how steeply it grows.

One member of each family and its peers. Multiply-adds and the peak of live bytes are counted on the meta device for
every size (`flatzoo.runtime.cost`); time is measured where a pass has at most `--limit` billions of multiply-adds,
on a CPU with one thread as time of the process. Slopes are exponents, fitted to the logarithms: 1 is linear, 2
quadratic.
Frames grow at the usual size of a model, frames' sides at 8 frames, the batch at both.

    python benchmarks/speed/curves.py --limit 60             # five minutes on one idle core
    python benchmarks/speed/curves.py --counted              # a minute, no time is measured
    python benchmarks/speed/curves.py --device cuda --dtype bfloat16 --limit 100000

writes `curves_<hardware>_<precision>_<torch>.csv`, .md and .png. The paper's claim that super images are linear in the
frames is checked there, on SIFAR with its windows and on other backbones.
"""
import argparse
import functools
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import timm
import torch
from torch import nn

import flatzoo  # noqa: F401 - registers the models
from benchmarks.common.files import shrink_picture
from benchmarks.common.peers import build_peer
from benchmarks.common.timing import (
    clock_name,
    hardware,
    in_turn,
    markdown,
    peak_bytes,
    same_setting,
    save,
    setting,
    slope,
)
from flatzoo.runtime.cost import ForwardCost, count_forward

FRAMES = (4, 8, 16, 32, 64)
SIZES = (112, 128, 160, 192, 224, 256, 288, 320, 336, 384)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


def _zoo(name: str, **kwargs) -> Callable[[int, int, str], nn.Module]:
    return lambda frames, size, device: timm.create_model(
        name, num_frames=frames, img_size=size, num_classes=400, device=device, **kwargs)


def _time(frames: int, size: int, device: str) -> nn.Module:
    return timm.create_model(
        'time_vit_b', n=2, num_new_frames=frames // 4, img_size=size, num_classes=400, device=device)


def _peer(name: str) -> Callable[[int, int, str], nn.Module]:
    return lambda frames, size, device: build_peer(name, frames, size, device)


MODELS = {  # label: usual frame size, builder
    'sifar_swin_b12': (192, _zoo('sifar_swin_b12')),
    'sifar_swin_b12, windows of 12': (192, _zoo('sifar_swin_b12', window_size=12)),
    'superimage ConvNeXt-T': (128, _zoo('superimage', backbone='convnext_tiny', layout='grid')),
    'superimage ViT-B': (112, _zoo('superimage', backbone='vit_base_patch16_224', layout='grid')),
    'flatten_uniformer_s': (128, _zoo('flatten_uniformer_s', layout='grid')),
    'flatten_uniformer_s, hybrid': (128, _zoo('flatten_uniformer_s', layout='grid', attn='hybrid')),
    'time_vit_b': (224, _time),
    'amflow_dinov2_b_tcn_lite': (112, _zoo('amflow_dinov2_b_tcn_lite')),
    'videomae_vit_b': (112, _zoo('videomae_vit_b')),
    'transformers:videomae_b': (112, _peer('transformers:videomae_b')),
    'torchvision:swin3d_t': (112, _peer('torchvision:swin3d_t')),
    'torchvision:mvit_v2_s': (112, _peer('torchvision:mvit_v2_s')),
}
CLAIM = ('sifar_swin_b12', 'sifar_swin_b12, windows of 12', 'superimage ConvNeXt-T', 'superimage ViT-B',
         'flatten_uniformer_s', 'flatten_uniformer_s, hybrid')
WHAT = {'gmacs': 'G multiply-adds', 'peak_mb': 'MB at the peak', 'ms': 'ms'}
AXES = {'frames': 'frames', 'size': 'frame side, pixels', 'batch': 'clips in a batch'}


def points(label: str) -> list[tuple[str, int, int, int]]:
    """Axis, frames, size and batch of what is measured for a model."""
    size = MODELS[label][0]
    return [
        *(('frames', frames, size, 1) for frames in FRAMES), *(('size', 8, side, 1) for side in SIZES),
        *(('batch', 8, size, batch) for batch in BATCHES)]


def measure(label: str, args: argparse.Namespace) -> list[dict]:
    """The rows of one model; sizes that it does not take are left out."""
    rows, done = [], {}
    for axis, frames, size, batch in points(label):
        key = frames, size, batch
        if key not in done:
            try:
                done[key] = cost(label, *key, args)
            except ValueError:  # windows or patches do not fit
                done[key] = None
        if done[key]:
            rows.append({'model': label, 'axis': axis, **done[key]})
            print(rows[-1], flush=True)
    return rows


def cost(label: str, frames: int, size: int, batch: int, args: argparse.Namespace) -> dict:
    """Counted and, if it is small enough, measured cost of one size."""
    build = MODELS[label][1]
    dtype = getattr(torch, args.dtype)
    counted = count(label, frames, size, dtype)
    gmacs = batch * counted.macs / 1e9
    seconds = peak = None
    if not args.counted and gmacs <= args.limit:
        torch.manual_seed(0)
        model = build(frames, size, args.device).to(dtype).eval()
        clip = torch.randn(batch, 3, frames, size, size).to(args.device, dtype)

        def run() -> torch.Tensor:
            with torch.no_grad():
                return model(clip)

        try:
            peak = peak_bytes(run, args.device)  # warms up, too
            seconds = statistics.median(in_turn({'': run}, args.rounds, args.device)[''])
        except torch.OutOfMemoryError:
            pass
    if args.counted or args.device == 'cpu':
        peak = batch * counted.peak_bytes  # exact, and the same on every machine
    return dict(
        frames=frames, size=size, batch=batch, gmacs=f'{gmacs:.4g}',
        peak_mb=None if peak is None else f'{peak / 1e6:.4g}',
        ms=None if seconds is None else f'{1000 * seconds:.4g}',
        **setting(args.device, args.dtype), rounds=args.rounds, clock=clock_name(args.device), timm=timm.__version__)


@functools.cache
def count(label: str, frames: int, size: int, dtype: torch.dtype) -> ForwardCost:
    """Multiply-adds and peak of one clip."""
    return count_forward(MODELS[label][1](frames, size, 'meta').to(dtype))


def curve(rows: list[dict], label: str, axis: str, what: str) -> tuple[list[float], list[float]]:
    """Points of one line."""
    found = [(float(row[axis]), float(row[what])) for row in rows
             if row['model'] == label and row['axis'] == axis and row[what] not in (None, '')]
    return [x for x, _ in found], [y for _, y in found]


def slopes(rows: list[dict]) -> list[dict]:
    """The table of exponents, with the ranges that were measured."""
    table = []
    for label in dict.fromkeys(row['model'] for row in rows):
        line = {'model': label}
        for axis in AXES:
            for what in WHAT:
                if (axis, what) == ('batch', 'gmacs'):
                    continue  # linear by definition
                x, y = curve(rows, label, axis, what)
                value = slope(x, y)
                line[f'{axis}: {WHAT[what]}'] = '' if value is None else f'{value:.2f} ({x[0]:g}-{x[-1]:g})'
        table.append(line)
    return table


def claim(rows: list[dict]) -> list[str]:
    """What the counts say about super images being linear in the frames."""
    text = ['## Are super images linear in the frames?']
    for label in CLAIM:
        x, y = curve(rows, label, 'frames', 'gmacs')
        if len(x) < 3:
            continue
        growth = (y[-1] / y[0]) / (x[-1] / x[0])
        word = 'linear' if growth < 1.05 else 'nearly linear' if growth < 1.25 else 'more than linear'
        text.append(
            f'- **{label}** is {word}: a frame costs {y[0] / x[0]:.2f} G multiply-adds in clips of {x[0]:g} and '
            f'{y[-1] / x[-1]:.2f} in clips of {x[-1]:g}, {growth:.2f} times as much (slope {slope(x, y):.2f}).')
    text.append(
        'So the claim holds for all products of layers, and for attention as far as its windows keep their size. '
        "SIFAR's last stage attends over the whole map: that part is quadratic, and small. With global attention over "
        'the super image all attention is. A grid that frames do not fill is paid for in full: 8 frames cost what 9 '
        'do, and 32 what 36 do.')
    return ['\n'.join(text[:1]), '\n'.join(text[1:-1]), text[-1]]


def plot(path: Path, rows: list[dict]) -> None:
    """Lines over the three axes, in logarithmic scales."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(14, 11), layout='constrained')
    labels = list(dict.fromkeys(row['model'] for row in rows))
    for panel, (what, axis) in zip(
            figure.subplots(3, 3).flat, ((what, axis) for what in WHAT for axis in AXES), strict=True):
        for number, label in enumerate(labels):
            x, y = curve(rows, label, axis, what)
            panel.plot(
                x, y, '-' if ':' not in label else '--', marker='osD^vPX'[number % 7], markersize=4,
                color=f'C{number % 10}', label=label, alpha=0.85, linewidth=1.3)
        panel.set(xlabel=AXES[axis], ylabel=WHAT[what])
        if not any(len(line.get_xdata()) for line in panel.lines):
            panel.text(0.5, 0.5, 'not measured', ha='center', transform=panel.transAxes)
            continue
        panel.set(xscale='log', yscale='log')
        ticks = dict(frames=FRAMES, size=(112, 160, 224, 288, 384), batch=BATCHES)[axis]
        panel.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.25)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc='outside lower center', ncols=4, frameon=False)
    figure.savefig(path, dpi=58)
    shrink_picture(path)


def main(argv: list[str] | None = None) -> None:
    """Counts, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS))
    parser.add_argument('--limit', type=float, default=200, help='most G multiply-adds of a pass that is measured')
    parser.add_argument('--counted', action='store_true', help='measure no time')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--rounds', type=int, default=1, help='after one that warms up')
    parser.add_argument('--threads', type=int, default=1, help='of a CPU')
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    data = args.out / 'data/curves.csv'
    for label in args.models:
        rows = save(data, measure(label, args), ('model',))
    rows = same_setting(rows, args.device, args.dtype)  # the page is of one machine; the file keeps the others
    memory = 'allocated on the device' if args.device == 'cuda' and not args.counted else 'counted, weights left out'
    markdown(args.out / 'curves.md', 'Cost over frames, frame size and batch', [
        f'`python benchmarks/speed/curves.py`: {hardware(args.device)}, {args.dtype}, torch {torch.__version__}, timm '
        f'{timm.__version__}. Multiply-adds are counted; memory is {memory}; time is {clock_name(args.device)}, of the '
        'passes that were small enough (`--limit`). Frames and batch at the usual frame size or 112 pixels, frame size '
        'and batch at 8 frames. Exponents, with the range that was measured:',
        slopes(rows), *claim(rows), '![Curves](curves.png)'])
    plot(args.out / 'curves.png', rows)


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
