"""What `flatzoo train` reaches without options, on few clips: real ones and rendered ones.

Each set is trained on its split train and measured once, after the last epoch, on the people or textures of its split
val, which no run has seen and by which nothing is chosen. The recipe itself was searched on the training people alone
(`--inner` makes that division: two of them are held out, all others train), and on other rendered scenes. Arms:

    tag      --recipe auto, from the weights in the package (the default command)
    scratch  --recipe auto --no-pretrained
    unmixed  tag without RandAugment, Mixup and CutMix, whichever of them auto takes (unmixed_scratch likewise)
    sifar    --recipe sifar --pretrained, the default before: SIFAR's recipe for Kinetics
    fixed    --recipe sifar and the options of learning.py, 16 epochs: what auto is an extension of

    python benchmarks/learning/recipe.py --set msr_action3d --data FOLDER --arms tag scratch --seeds 42
    python benchmarks/learning/recipe.py --set rendered300 --arms tag sifar
    python benchmarks/learning/recipe.py --report

The two real sets are for research and are not part of flatzoo: FOLDER has train/CLASS and val/CLASS, and groups.csv
with the person of every clip (columns path and group). A run is kept in the work folder and not done again. CPU
seconds are those of all processes of a run: reading, training and the evaluations.
"""
import argparse
import csv
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch

import flatzoo
from benchmarks.common.files import write_file
from benchmarks.common.timing import cpu_name, cpu_seconds
from flatzoo.data.actions import ACTIONS, VERBS, write_action

RESULTS = Path(__file__).parents[1] / 'results'
DATA = RESULTS / 'data' / 'recipe.json'
ARMS = {
    'tag': (),
    'scratch': ('--no-pretrained',),
    'unmixed': ('--mixup', '0', '--cutmix', '0', '--aa', 'none'),
    'unmixed_scratch': ('--mixup', '0', '--cutmix', '0', '--aa', 'none', '--no-pretrained'),
    'sifar': ('--recipe', 'sifar', '--model', 'sifar_resnet10t', '--pretrained'),
    'fixed': (
        '--recipe', 'sifar', '--mixup', '0', '--cutmix', '0', '--hflip', '0', '--smoothing', '0.05', '--drop-path', '0',
        '--opt', 'muon', '--clip-grad', '5', '--warmup-epochs', '1', '--model', 'sifar_resnet10t', '--pretrained',
        '--lr', '4e-3', '--min-lr', '4e-5', '--epochs', '16', '--batch-size', '32'),
}
REAL = {
    'msr_action3d': 'MSR Action3D (depth as grey video, 20 actions; the published cross-subject split)',
    'avletters': 'AVLetters (mouths, 26 letters; unseen speakers)',
}
INNER = {'msr_action3d': ('s03', 's07'), 'avletters': ('Bill', 'Verity')}  # the people of train that a search holds out
KEY = ('set', 'arm', 'seed')  # of a result
SEARCH_KEY = ('set', 'start', 'recipe', 'held_out', 'seed')
CHEAP = ('--workers', '0', '--tracker', 'none')  # of a search: the same training in less CPU time
NEW = VERBS[16:32]  # verbs of figures, hands and things that the weights in the package have not seen
RENDERED = {  # classes, clips of train per class, shake of the camera; val has 25 of textures that train does not have
    'rendered300': (ACTIONS, 19, 0.0), 'rendered300_shake': (ACTIONS, 19, 0.05), 'rendered3000': (ACTIONS, 188, 0.0),
    'rendered3000_shake': (ACTIONS, 188, 0.05), 'rendered12000': (ACTIONS, 750, 0.0),
    'verbs300': (NEW, 19, 0.0), 'verbs3000': (NEW, 188, 0.0)}


def render(name: str, work: Path, inner: bool = False) -> Path:
    """Renders the files of a set that are not there; its folder. Val shows textures that train does not have.

    Those of a search (`inner`) are other scenes, of both splits, than those of the results.
    """
    classes, count, shake = RENDERED[name]
    folder = work / (f'{name}-inner' if inner else f'{name}-data')
    parts = [(folder, split, classes, label, clips, shake, 2 * inner + (split == 'val'))
             for split, clips in (('train', count), ('val', 25)) for label in range(len(classes))]
    with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(_render_class, *zip(*parts)))
    return folder


def _render_class(
        folder: Path, split: str, classes: Sequence[str], label: int, clips: int, shake: float, scenes: int) -> None:
    name, kind = classes[label], 'actions' if classes == ACTIONS else 'verbs'
    place = folder / split / name.replace(' ', '_')
    place.mkdir(parents=True, exist_ok=True)
    for i in range(clips):
        path = place / f'{i:05d}.mp4'
        if not path.exists():
            # one scene for both of a pair, forwards and backwards, and no scene in two splits
            seed = (scenes << 32) + i * len(classes) // 2 + label // 2
            write_action(
                path, name, seed, 40, 12, 12, kind=kind, camera_shake=shake,
                split='train' if split == 'train' else 'test')


def inner_split(name: str, data: Path, work: Path, people: Sequence[str]) -> Path:
    """Links the training clips of a real set into a folder whose val has some of the training people."""
    folder = work / '-'.join((name, 'inner', *people))
    with open(data / 'groups.csv', newline='') as file:
        rows = [row for row in csv.DictReader(file) if row['path'].startswith('train/')]
    for row in rows:
        split = 'val' if row['group'] in people else 'train'
        place = folder / split / Path(row['path']).relative_to('train')
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to((data / row['path']).resolve())
    return folder


def run(name: str, data: Path, arm: str, seed: int, work: Path, options: tuple[str, ...] = ()) -> dict:
    """Trains one run unless it is there; its row."""
    output = work / '-'.join([name, arm, str(seed), *(text.strip('-') for text in options)])
    kept = output / 'row.json'
    if not kept.exists():
        command = ['train', 'folder', str(data), *ARMS[arm], '--seed', str(seed), *options, '--output', str(output)]
        print(shlex.join(['flatzoo', *command]), flush=True)
        before, start = cpu_seconds(), time.monotonic()
        subprocess.run([sys.executable, '-m', 'flatzoo', *command], check=True)
        write_file(kept, json.dumps(row_of(
            name, arm, seed, output, cpu_seconds() - before, time.monotonic() - start, options)).encode())
    return json.loads(kept.read_text())


def row_of(
        name: str, arm: str, seed: int, output: Path, cpu: float, seconds: float, options: tuple[str, ...] = (),
) -> dict:
    """What is kept of a run: accuracy after the last epoch, curve, options and time."""
    import yaml

    recipe = yaml.safe_load((output / 'args.yaml').read_text())
    with open(output / 'summary.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    command = shlex.join([
        'flatzoo', 'train', 'folder', name, *ARMS[arm], '--seed', str(seed), *options])
    return {
        'set': name, 'arm': arm, 'seed': seed, 'command': command, 'top1': round(float(rows[-1]['eval_top1']), 3),
        'train_top1': round(float(rows[-1]['train_top1']), 2), 'epochs': len(rows),
        'curve': [[int(row['epoch']), round(float(row['eval_top1']), 2)] for row in rows if row['eval_top1']],
        'cpu_seconds': round(cpu), 'seconds': round(seconds), 'threads': torch.get_num_threads(),
        'chosen': recipe.get('reasons'), 'machine': f'{cpu_name()}, {os.cpu_count()} cores',
        'versions': {'flatzoo': flatzoo.__version__, 'torch': torch.__version__, 'timm': timm.__version__}}


def keep(rows: list[dict]) -> dict:
    """Adds rows to the file of results; a run that is there is replaced."""
    results = json.loads(DATA.read_text()) if DATA.exists() else {'runs': [], 'search': []}
    for row in rows:
        kind, parts = ('search', SEARCH_KEY) if 'held_out' in row else ('runs', KEY)
        key = [row[part] for part in parts]
        results[kind] = [old for old in results[kind] if [old[part] for part in parts] != key] + [row]
    write_file(DATA, (json.dumps(results, indent=1) + '\n').encode())
    return results


def search_row(row: dict, name: str, data: Path, people: Sequence[str], options: list[str]) -> dict:
    """What is kept of a run on an inner split."""
    told = ' '.join(row['chosen'].values())  # as `auto` says it, for `--few-shot` leaves clips out
    train, updates = (int(re.search(text, told)[1]) for text in (r'(\d+) clips of \d+ classes', r'(\d+) updates of'))
    measured = sum(1 for _ in (data / 'val').glob('*/*'))
    return {
        'set': name, 'start': row['arm'], 'recipe': shlex.join(['--recipe', 'auto', *options]), 'seed': row['seed'],
        'updates': updates, 'clips': [train, measured],
        'held_out': list(people), **{
            part: row[part] for part in ('top1', 'train_top1', 'curve', 'cpu_seconds', 'machine', 'versions')}}


def report(results: dict) -> str:
    """The page of the results: tables of the runs and of the search, for each machine its own."""
    lines = [
        '# What `flatzoo train` reaches without options', '',
        'Made by `benchmarks/learning/recipe.py`, which says what each arm is; the raw rows are in '
        '[recipe.json](data/recipe.json).', 'Read with [what was found](recipe_findings.md).', '',
        'Top-1 in % after the last epoch, on people or textures that training does not have. Nothing is chosen on '
        'them.']
    for machine, runs in _by_machine(results['runs']):
        lines += ['', machine, '', '| set | arm | top-1 | mean | seeds | epochs | CPU minutes of a run |',
                  '|---|---|---|---|---|---|---|']
        for name, arm in ((name, arm) for name in [*REAL, *RENDERED] for arm in ARMS):
            rows = [row for row in runs if (row['set'], row['arm']) == (name, arm)]
            if rows:
                found, seeds, minutes = (', '.join(texts) for texts in (
                    [f'{row["top1"]:.1f}' for row in rows], [str(row['seed']) for row in rows],
                    [f'{row["cpu_seconds"] / 60:.1f}' for row in rows]))
                mean = f'{statistics.fmean(row["top1"] for row in rows):.1f}' if len(rows) > 1 else ''
                lines.append(f'| {name} | {arm} | {found} | {mean} | {seeds} | {rows[0]["epochs"]} | {minutes} |')
    lines += ['', '## The search, on the people of train', '', (
        'Two people of train are held out, the others train; of rendered actions, both splits are other scenes than '
        'above. The rows compare recipes; their figures are no result. '
        f'Those of `--recipe auto` had `{" ".join(CHEAP)}`, too, which changes no clip; `auto` is that of its day, as '
        'the findings tell.')]
    for machine, rows in _by_machine(results['search']):
        lines += ['', machine, '', '| set | held out | start | recipe | updates | top-1 at the end | CPU seconds |',
                  '|---|---|---|---|---|---|---|']
        lines += [
            f'| {row["set"]} | {", ".join(row["held_out"])} | {row["start"]} | {row["recipe"]} | {row["updates"]} | '
            f'{row["top1"]:.1f} | {row["cpu_seconds"]} |' for row in rows]
    lines += ['', '## Commands', '', '```text', *dict.fromkeys(row['command'] for row in results['runs']), '```']
    return '\n'.join(lines) + '\n'


def _by_machine(rows: list[dict]) -> list[tuple[str, list[dict]]]:
    """Rows by the machine that they were made on, whose CPU seconds are not those of another one."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        versions = ', '.join(f'{key} {value}' for key, value in row['versions'].items())
        groups.setdefault(f'{row["machine"]}, shared with other work, one thread; {versions}.', []).append(row)
    return list(groups.items())


def main() -> None:
    """Runs what is missing, keeps the rows and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--set', choices=[*REAL, *RENDERED], help='the clips')
    parser.add_argument('--data', type=Path, help='folder of a real set')
    parser.add_argument('--arms', nargs='+', choices=ARMS, default=['tag'])
    parser.add_argument('--seeds', nargs='+', type=int, default=[42])
    parser.add_argument(
        '--inner', action='store_true',
        help='hold out people of train, or render other scenes: a row of the search, no result')
    parser.add_argument('--people', nargs='+', default=[], help='those that --inner holds out, others than usual')
    parser.add_argument('--options', nargs=argparse.REMAINDER, default=[], help='of flatzoo train, with --inner')
    parser.add_argument('--work', type=Path, default=Path('runs/recipe'), help='clips and runs (%(default)s)')
    parser.add_argument('--report', action='store_true', help='only write the page')
    args = parser.parse_args()

    if args.report:
        results = keep([])
    else:
        if args.set is None or (args.set in REAL) != (args.data is not None):
            parser.error('name a --set; the real ones need --data, the rendered ones have none')
        if args.options and not args.inner:
            parser.error('--options is for --inner: a result is that of an arm alone')
        args.work.mkdir(parents=True, exist_ok=True)
        data = args.data or render(args.set, args.work, args.inner)
        if args.inner:
            people = (args.people or INNER[args.set]) if args.set in REAL else ['other scenes']
            data = inner_split(args.set, data, args.work, people) if args.set in REAL else data
        name = data.name if args.inner else args.set
        options = (*(CHEAP if args.inner else ()), *args.options)
        rows = [run(name, data, arm, seed, args.work, options) for arm in args.arms for seed in args.seeds]
        if args.inner:
            rows = [search_row(row, args.set, data, people, args.options) for row in rows]
        results = keep(rows)
    write_file(RESULTS / 'recipe.md', report(results).encode())
    print(RESULTS / 'recipe.md')


if __name__ == '__main__':
    main()
