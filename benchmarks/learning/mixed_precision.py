"""Whether `flatzoo train --amp` on a CPU, in bf16, learns as well as in fp32: both with the same seeds.

Runs are those of the default command, with `--amp` and `--no-amp`: trained on the split train and measured once, after
the last epoch, on the clips of val, which show other people. How long a step takes is in
`benchmarks/speed/training_precision.py`.

    python benchmarks/learning/mixed_precision.py --data msr_action3d/ --seeds 42 0

adds rows to `mixed_precision.md` and `data/mixed_precision.csv`. A run is kept in the work folder and not done again.
The clips are for research and are not part of flatzoo.
"""
import argparse
import csv
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

from benchmarks.common.timing import markdown, save, setting

WAYS = {'fp32': '--no-amp', 'bf16': '--amp'}


def run(data: Path, seed: int, way: str, work: Path) -> dict:
    """Trains one run unless it is there; its last epoch."""
    output = work / f'{data.name}-{seed}-{way}'
    if not (output / 'results.json').exists():
        subprocess.run([
            sys.executable, '-m', 'flatzoo', 'train', 'folder', str(data), '--seed', str(seed), WAYS[way], '--output',
            str(output)], check=True)
    with open(output / 'summary.csv', newline='') as file:
        *_, last = csv.DictReader(file)
    return last


def table(rows: list[dict]) -> list[dict]:
    """One line for each set and machine: both precisions over the seeds."""
    groups: dict[tuple, dict[str, list[dict]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ('set', 'hardware', 'threads', 'torch'))
        groups.setdefault(key, {way: [] for way in WAYS})[row['precision']].append(row)
    lines = []
    for (name, *machine), runs in groups.items():
        top1 = {way: {row['seed']: float(row['top1']) for row in runs[way]} for way in WAYS}
        seeds = sorted(top1['fp32'].keys() & top1['bf16'].keys(), key=int)
        if not seeds:
            continue
        apart = [top1['bf16'][seed] - top1['fp32'][seed] for seed in seeds]
        spread = [statistics.stdev(top1[way][seed] for seed in seeds) for way in WAYS] if len(seeds) > 1 else []
        lines.append({
            'set': name, 'seeds': ' '.join(seeds),
            **{f'{way}, top-1': ' '.join(f'{top1[way][seed]:.1f}' for seed in seeds) for way in WAYS},
            'points': f'{statistics.fmean(apart):+.2f}',
            'sd of the seeds': ' / '.join(f'{value:.2f}' for value in spread),
            **dict(zip(('hardware', 'threads', 'torch'), machine))})
    return lines


def main(argv: list[str] | None = None) -> list[dict]:
    """Trains what is missing, writes, and returns all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, metavar='FOLDER', help='clips in train/CLASS and val/CLASS')
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
            last = run(data, seed, way, args.work)
            rows.append({
                'set': data.name, 'seed': seed, 'top1': f'{float(last["eval_top1"]):.2f}', 'epochs': last['epoch'],
                **setting('cpu', way)})
            print(rows[-1], flush=True)
        kept = save(args.out / 'data' / 'mixed_precision.csv', rows, ('set', 'seed'))
        markdown(args.out / 'mixed_precision.md', 'Learning in bf16 on a CPU', [
            '`python benchmarks/learning/mixed_precision.py`, which says what is compared: `flatzoo train` with '
            '`--no-amp` (fp32) and `--amp` (bf16) from the same seeds. Top-1 in % after the last epoch, on clips that '
            'training does not have; `points` is the mean of bf16 less fp32.', table(kept)])
    return kept


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
