"""What a start is worth: `flatzoo train` from each of the shipped weights and from random ones, on few real clips.

    python benchmarks/learning/transfer.py --set msr_action3d --data FOLDER --starts actions16 actions49 --seeds 42
    python benchmarks/learning/transfer.py --set msr_action3d --data FOLDER --clips 5
    python benchmarks/learning/transfer.py --report

Every run is `flatzoo train folder` with no options but the start, so that the recipe fits itself (`--recipe auto`).
People of val are measured after three epochs and after the last one; they choose nothing. `--clips` keeps so many clips
of a class in train, drawn with the seed of the run. The start `imagenet_lite0` is another network: super images on an
EfficientNet-Lite0 with the weights that `python -m benchmarks.common.lite0` makes (`--lite0`). It sees frames of 64
pixels: eight of them are an image of 192, near the 224 that it was trained on. Eight frames of 224 have twelve times as
many pixels, hours on a CPU. The sets are for research and are not part of flatzoo: FOLDER has train/CLASS and
val/CLASS. A run is kept in the work folder and not done again.
"""
import argparse
import csv
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch

import flatzoo
from benchmarks.common.files import write_file
from benchmarks.common.timing import cpu_name, cpu_seconds

RESULTS = Path(__file__).parents[1] / 'results'
DATA = RESULTS / 'data' / 'transfer.json'
MODEL = 'sifar_resnet10t'
STARTS = {
    'scratch': ('--model', MODEL, '--no-pretrained'),
    'actions16': ('--model', f'{MODEL}.actions16'),
    'actions49': ('--model', f'{MODEL}.actions49'),
    'imagenet_lite0': ('--model', 'superimage', '--model-kwargs', 'backbone=tf_efficientnet_lite0', '--img-size', '64')}
EARLY = 3  # epochs
KEY = ('set', 'clips', 'start', 'seed')


def subset(data: Path, clips: int, seed: int, folder: Path) -> Path:
    """Links some clips of each class of train, and all of val."""
    for place in sorted(path for split in ('train', 'val') for path in (data / split).iterdir()):
        files = sorted(place.iterdir())
        if place.parent.name == 'train':
            files = random.Random(f'{seed}/{place.name}').sample(files, min(clips, len(files)))
        target = folder / place.relative_to(data)
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            if not (target / file.name).exists():
                (target / file.name).symlink_to(file.resolve())
    return folder


def run(name: str, data: Path, clips: int, start: str, seed: int, work: Path, lite0: Path | None = None) -> dict:
    """Trains one run unless it is there; its row."""
    output = work / f'{name}-{clips or "all"}-{start}-{seed}'
    kept = output / 'row.json'
    if kept.exists():
        return json.loads(kept.read_text())
    if clips:
        data = subset(data, clips, seed, work / f'{name}-{clips}-{seed}-data')
    weights = ('--initial-checkpoint', str(lite0)) if start == 'imagenet_lite0' else ()
    options = ('--seed', str(seed), '--val-interval', str(EARLY))
    shown = (weights[0], lite0.name) if weights else ()  # without the folders of this machine
    before = cpu_seconds()
    command = ['train', 'folder', str(data), *STARTS[start], *weights, *options, '--output', str(output)]
    subprocess.run([sys.executable, '-m', 'flatzoo', *command], check=True)
    with open(output / 'summary.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    curve = {int(row['epoch']): round(float(row['eval_top1']), 2) for row in rows if row['eval_top1']}
    row = {
        'set': name, 'clips': clips, 'start': start, 'seed': seed, 'early': curve[EARLY], 'last': curve[len(rows)],
        'epochs': len(rows), 'curve': list(curve.items()), 'cpu_seconds': round(cpu_seconds() - before),
        'command': shlex.join(['flatzoo', 'train', 'folder', name, *STARTS[start], *shown, *options]),
        'machine': f'{cpu_name()}, {os.cpu_count()} cores', 'versions': {
            'flatzoo': flatzoo.__version__, 'torch': torch.__version__, 'timm': timm.__version__}}
    write_file(kept, json.dumps(row).encode())
    return row


def keep(rows: list[dict]) -> list[dict]:
    """Adds rows to the file of results; a run that is there is replaced."""
    known = {tuple(row[part] for part in KEY): row for row in (json.loads(DATA.read_text()) if DATA.exists() else [])}
    known.update({tuple(row[part] for part in KEY): row for row in rows})
    rows = [known[key] for key in sorted(known)]
    write_file(DATA, (json.dumps(rows, indent=1) + '\n').encode())
    return rows


def report(rows: list[dict]) -> str:
    """The page of the results."""
    lines = [
        '# What a start is worth on few real clips', '',
        'Made by `benchmarks/learning/transfer.py`, which says what was done; raw rows are in '
        '[transfer.json](data/transfer.json). Read with [what was found](transfer_findings.md).', '',
        f'Top-1 in % on unseen people. `{MODEL}`; scratch are random weights; actions16 and actions49 the tags in the '
        'package; imagenet_lite0 is a super image on EfficientNet-Lite0 with weights of ImageNet, of frames of 64 '
        'pixels. Nothing is chosen on these people.', '',
        '| set | clips of a class | start | after 3 epochs | at the end | mean of the end | seeds | epochs '
        '| CPU minutes |',
        '|---|---|---|---|---|---|---|---|---|']
    machines = list(dict.fromkeys(row['machine'] for row in rows))
    for key in dict.fromkeys((row['set'], row['clips'], row['start'], row['machine']) for row in rows):
        mine = [row for row in rows if (row['set'], row['clips'], row['start'], row['machine']) == key]
        early, last = (', '.join(f'{row[part]:.1f}' for row in mine) for part in ('early', 'last'))
        minutes = statistics.fmean(row['cpu_seconds'] for row in mine) / 60
        lines.append(
            f'| {key[0]} | {key[1] or "all"} | {key[2]} | {early} | {last} | '
            f'{statistics.fmean(row["last"] for row in mine):.1f} | {", ".join(str(row["seed"]) for row in mine)} | '
            f'{mine[0]["epochs"]} | {minutes:.1f} [{machines.index(key[3]) + 1}] |')
    versions = ', '.join(f'{key} {value}' for key, value in rows[0]['versions'].items())
    for number, machine in enumerate(machines, 1):
        lines += ['', f'[{number}]: {machine}, shared with other work, one thread; {versions}.']
    lines += ['', '## Commands', '', '```text', *dict.fromkeys(row['command'] for row in rows), '```']
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Runs what is missing, keeps the rows and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--set', help='name of the clips')
    parser.add_argument('--data', type=Path, help='their folder')
    parser.add_argument('--clips', type=int, default=0, help='training clips of a class; 0 for all (%(default)s)')
    parser.add_argument('--starts', nargs='+', choices=STARTS, default=['scratch', 'actions16', 'actions49'])
    parser.add_argument('--lite0', type=Path, help='state dict of tf_efficientnet_lite0, for imagenet_lite0')
    parser.add_argument('--seeds', nargs='+', type=int, default=[42])
    parser.add_argument('--work', type=Path, default=Path('runs/transfer'), help='runs (%(default)s)')
    parser.add_argument('--report', action='store_true', help='only write the page')
    args = parser.parse_args()

    rows = []
    if not args.report:
        if args.set is None or args.data is None:
            parser.error('name a --set and its --data')
        if 'imagenet_lite0' in args.starts and args.lite0 is None:
            parser.error('imagenet_lite0 takes its weights from --lite0 FILE')
        args.work.mkdir(parents=True, exist_ok=True)
        for seed in args.seeds:
            for start in args.starts:
                rows = keep([run(args.set, args.data, args.clips, start, seed, args.work, args.lite0)])
    write_file(RESULTS / 'transfer.md', report(rows or keep([])).encode())


if __name__ == '__main__':
    main()
