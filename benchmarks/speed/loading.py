"""How long it takes to get a model with its weights from a local safetensors file, against timm's default path.

Three pairs: timm's own Swin-B and DINOv2-B with `pretrained=True` (random weights are drawn, then overwritten) against
ours of the same backbone with weights of its own, by copy and mapped. Ways take turns in one process; cost is the
process time of one thread, the first round warms up, medians count. Weights are compared bit by bit in the same run.
`anonymous` is the peak of memory that is not the file's, beyond what was there before, sampled in a process of its own,
in units of the weights. `--imports N` also measures what `import flatzoo` adds to `import timm`, in N fresh processes.

    python benchmarks/speed/loading.py --rounds 7 --imports 15 --out benchmarks/results
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import flatzoo  # noqa: F401 - registers the models
from benchmarks.common.timing import markdown, save, setting

DINO = 'vit_base_patch14_dinov2'
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {  # name: timm's yardstick or '', model, arguments
    'Swin-B, timm': ('', 'swin_base_patch4_window7_224', {}),
    'sifar_swin_b12': ('Swin-B, timm', 'sifar_swin_b12', {}),
    'DINOv2-B, timm': ('', DINO, dict(num_classes=0)),
    'superimage, DINOv2-B': (
        'DINOv2-B, timm', 'superimage',
        dict(backbone=DINO, num_frames=8, layout='time:1', img_size=518, num_classes=0)),
    'amflow_dinov2_b_tcn_lite': ('DINOv2-B, timm', 'amflow_dinov2_b_tcn_lite', {}),
}


def make_files(folder: Path, names: list[str]) -> dict[str, Path]:
    """Random weights of models."""
    files = {}
    for name in names:
        _, model, args = MODELS[name]
        files[name] = folder / f'{len(files)}.safetensors'
        save_file(timm.create_model(model, **args).state_dict(), files[name])
    return files


def load(name: str, file: Path, mmap: bool = False) -> nn.Module:
    """The model with the weights of the file, as users get it."""
    yardstick, model, args = MODELS[name]
    overlay = dict(file=str(file)) | {key: value for key, value in args.items() if key == 'num_classes'}
    if yardstick:
        args = dict(args, mmap=mmap)
    return timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **args)


def milliseconds(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median process time of each way, in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            result = way()
            if turn:
                times[name].append(1000 * (time.process_time() - start))
            del result
    return {name: statistics.median(values) for name, values in times.items()}


def anonymous_bytes() -> int:
    """Memory of this process that no file stands behind (Linux)."""
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith('Anonymous:'))


def anonymous_peak(name: str, file: Path, mmap: bool) -> int:
    """Peak of anonymous memory during one load, beyond that before; to be called in a fresh process."""
    timm.create_model('superimage', backbone='test_vit', num_frames=2, layout='time:1', img_size=160)  # imports
    peak, done, before = 0, threading.Event(), anonymous_bytes()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    model = load(name, file, mmap)
    done.set()
    thread.join()
    peak = max(peak, anonymous_bytes())
    del model
    return peak - before


def import_times(count: int) -> tuple[float, float]:
    """Median process time in ms of `import timm`, and what `import flatzoo` adds to it, in fresh processes."""
    code = ('import time, timm; a = time.process_time(); import flatzoo; b = time.process_time(); '
            'print(1000 * a, 1000 * (b - a))')
    runs = [subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
            for _ in range(count + 1)][1:]
    return tuple(statistics.median(column) for column in zip(*(map(float, run.split()) for run in runs)))


def main() -> None:
    """Prints the rows and writes the page and its data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--models', nargs='+', default=list(MODELS), help='a model of ours needs its yardstick, too')
    parser.add_argument('--imports', type=int, default=0, help='fresh processes; 0: leave it out')
    parser.add_argument('--out', type=Path, default=None, help='folder')
    parser.add_argument('--peak', nargs=3, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        print(json.dumps(anonymous_peak(args.peak[0], Path(args.peak[1]), args.peak[2] == 'mmap')))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), args.models)
        kinds = {(name, kind) for name in files for kind in (('copy', 'mmap') if MODELS[name][0] else ('copy',))}
        kinds = sorted(kinds, key=lambda pair: (list(MODELS).index(pair[0]), pair[1]))
        for name, kind in kinds:
            state = load(name, files[name], kind == 'mmap').state_dict()
            assert all(torch.equal(state[key], value) for key, value in load_file(files[name]).items()), name
        medians = milliseconds(
            {pair: lambda pair=pair: load(pair[0], files[pair[0]], pair[1] == 'mmap') for pair in kinds}, args.rounds)
        rows = []
        for name, kind in kinds:
            size = files[name].stat().st_size
            peak = subprocess.run(
                [sys.executable, __file__, '--peak', name, str(files[name]), kind],
                capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            of = medians[MODELS[name][0] or name, 'copy']
            rows.append(dict(
                model=name, weights=kind, megabytes=round(size / 1e6, 1), ms=round(medians[name, kind], 1),
                faster=round(of / medians[name, kind], 1), anonymous=round(int(peak) / size, 2),
                **setting('cpu', 'float32'), timm=timm.__version__))
            print(rows[-1], flush=True)
    words = []
    if args.imports:
        base, ours = import_times(args.imports)
        words = [f'`import timm` takes {base:.0f} ms of process time, `import flatzoo` {ours:.0f} ms beyond it '
                 f'(medians of {args.imports} fresh processes).']
        print(*words)
    if args.out:
        rows = save(args.out / 'data/loading.csv', rows, ('model', 'weights'))
        markdown(args.out / 'loading.md', 'Loading weights', [
            f'`python benchmarks/speed/loading.py --rounds {args.rounds} --imports {args.imports}`. Median process '
            'time; weights were compared with the file bit by bit. `faster` is times as fast as timm; `anonymous` is '
            'the peak of memory that the file does not back, in units of the weights.', rows, *words])


if __name__ == '__main__':
    main()
