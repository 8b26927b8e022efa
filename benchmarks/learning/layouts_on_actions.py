"""Layout against accuracy: one small backbone, equal training, frames in order, reversed and shuffled.

Every layout trains the same slim ResNet from scratch on the procedural actions (`flatzoo.data.actions`) with the same
clips, steps and seeds, and is measured on held-out textures. The TIME layer shrinks frames, so that it sees a quarter
of the pixels; its rows "unshrunk" leave that out and show the arrangement alone. The recipe (optimizer, learning rate)
was chosen for the square grid, and 400 steps end before any layout has converged: the table says how fast a layout is
learned. Reversal and shuffling follow SIFAR's Table 9. A run that is in the results file already is not repeated, so
that seeds can be added later.

    pip install -e '.[bench]' && python benchmarks/learning/layouts_on_actions.py --seeds 0 1 2 --jobs 2
"""
import argparse
import json
import os
import shlex
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import matplotlib
import timm
import torch

import flatzoo
from benchmarks.common.actions import measure_orders, train
from benchmarks.common.files import beside_data, write_file
from flatzoo.data.actions import ACTIONS

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402

LAYOUTS = {
    'row strip': '1x8',
    'two rows': '2x4',
    'square': '3x3',
    'column strip': '8x1',
    'nested': 'nested:1x2/2x2',
    'random': 'random:2x4',
    'TIME spatial': 'time:2:spatial',
    'TIME temporal': 'time:2:temporal',
    'TIME spatial, unshrunk': 'time:2:spatial,scale=none',
    'TIME temporal, unshrunk': 'time:2:temporal,scale=none',
}
ORDERS = ('normal', 'reversed', 'shuffled')


def run(layout: str, seed: int, options: argparse.Namespace) -> dict:
    """Trains and measures one layout with one seed."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = timm.create_model(
        'superimage', backbone='resnet10t', channels=(32, 64, 128, 256), stem_width=16, num_frames=8, img_size=32,
        layout=layout, num_classes=len(ACTIONS))
    options = argparse.Namespace(**{**vars(options), 'seed': seed})
    train(model, options)
    measured = measure_orders(model, options.eval_clips, camera_shake=0.0)
    pixels = model.num_images * model.image_size[0] * model.image_size[1]
    versions = dict(torch=torch.__version__, timm=timm.__version__, flatzoo=flatzoo.__version__)
    return dict(layout=layout, seed=seed, pixels=pixels, versions=versions, **measured)


def table(runs: list[dict]) -> list[str]:
    """Rows of mean and spread per layout, the best first."""
    rows = []
    for name, layout in LAYOUTS.items():
        mine = [r for r in runs if r['layout'] == layout]
        if not mine:
            continue
        cells = []
        for order in ORDERS + ('reversed_called_the_other_of_the_pair',):
            values = [100 * r[order] for r in mine]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append((statistics.mean(values), spread))
        rows.append((name, layout, mine[0]['pixels'], len(mine), cells))
    rows.sort(key=lambda row: -row[4][0][0])
    lines = [
        '| layout | spec | pixels per clip | seeds | normal | reversed | shuffled | reversed, called the opposite |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for name, layout, pixels, seeds, cells in rows:
        values = ' | '.join(f'{mean:.1f} ± {spread:.1f}' for mean, spread in cells)
        lines.append(f'| {name} | `{layout}` | {pixels} | {seeds} | {values} |')
    return lines


def pairs(runs: list[dict], reference: str = '2x4') -> list[str]:
    """Rows of the differences in accuracy to a reference layout, run by run of the same seed."""
    base = {r['seed']: r['normal'] for r in runs if r['layout'] == reference}
    lines = ['| layout | difference of each seed | mean | same sign |', '|---|---|---|---|']
    for name, layout in LAYOUTS.items():
        differences = [
            100 * (r['normal'] - base[r['seed']]) for r in sorted(runs, key=lambda r: r['seed'])
            if r['layout'] == layout != reference and r['seed'] in base]
        if differences:
            same = 'yes' if all(d > 0 for d in differences) or all(d < 0 for d in differences) else 'no'
            each = ', '.join(f'{d:+.1f}' for d in differences)
            lines.append(f'| {name} | {each} | {statistics.mean(differences):+.1f} | {same} |')
    return lines


def plot(runs: list[dict], path: Path) -> None:
    """Bars of the three orders per layout, with every seed as a point."""
    names = [name for name, layout in LAYOUTS.items() if any(r['layout'] == layout for r in runs)]
    figure, axes = plt.subplots(figsize=(12, 4.4), constrained_layout=True)
    for i, order in enumerate(ORDERS):
        for j, name in enumerate(names):
            values = [100 * r[order] for r in runs if r['layout'] == LAYOUTS[name]]
            place = j + (i - 1) * 0.26
            axes.bar(place, statistics.mean(values), 0.24, color=f'C{i}', label=order if j == 0 else None, alpha=0.75)
            axes.plot([place] * len(values), values, 'k.', markersize=4)
    axes.axhline(100 / len(ACTIONS), color='gray', linestyle=':', label='chance')
    labels = [f'{name}\n{LAYOUTS[name]}'.replace(',', ',\n') for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=8)
    axes.set_ylim(0, 100)
    axes.set_ylabel('accuracy on held-out clips, %')
    axes.set_title('Layout against accuracy, 16 procedural actions, slim ResNet-10-T from scratch')
    axes.legend(loc='upper center', ncols=4)
    partial = path.with_name('partial.png')
    figure.savefig(partial, dpi=110)
    os.replace(partial, path)


def main() -> None:
    """Runs what is missing, then writes JSON, table and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=400)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--opt', default='muon')
    parser.add_argument('--lr', type=float, default=4e-3)
    parser.add_argument('--weight-decay', type=float, default=0.05)
    parser.add_argument('--fp32', action='store_true')
    parser.add_argument('--eval-clips', type=int, default=640)
    parser.add_argument('--jobs', type=int, default=1, help='runs side by side')
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/data/layouts_on_actions.json'))
    args = parser.parse_args()

    keys = ('steps', 'batch_size', 'opt', 'lr', 'weight_decay', 'fp32', 'eval_clips')
    recipe = {key: getattr(args, key) for key in keys}
    results = json.loads(args.out.read_text()) if args.out.exists() else dict(recipe=recipe, runs=[])
    if results['recipe'] != recipe:
        parser.error(f'{args.out} holds runs of another recipe, {results["recipe"]}: name another --out.')
    results.setdefault('commands', []).append(shlex.join(['python', *sys.argv]))
    done = {(r['layout'], r['seed']) for r in results['runs']}
    todo = [(layout, seed) for seed in args.seeds for layout in LAYOUTS.values() if (layout, seed) not in done]
    with ProcessPoolExecutor(args.jobs) as pool:
        for future in as_completed([pool.submit(run, layout, seed, args) for layout, seed in todo]):
            results['runs'].append(future.result())
            write_file(args.out, (json.dumps(results, indent=1) + '\n').encode())
            last = results['runs'][-1]
            print(f"{last['layout']} seed {last['seed']}: normal {last['normal']:.3f}", flush=True)
    versions = {' and '.join(f'{k} {v}' for k, v in r['versions'].items()) for r in results['runs']}
    lines = [
        '# Layout against accuracy on the procedural actions', '',
        f'`{results["commands"][-1]}`; {"; ".join(sorted(versions))}; CPU. {recipe}.',
        'Top-1 in %, mean ± standard deviation over the seeds; chance is 6.25 %, and 50 % for what ignores order.', '',
        *table(results['runs']), '',
        '## Against two rows, seed by seed', '',
        'A seed fixes the data and the initial weights, so that runs of one seed are pairs.', '',
        *pairs(results['runs']),
    ]
    write_file(beside_data(args.out, '.md'), ('\n'.join(lines) + '\n').encode())
    plot(results['runs'], beside_data(args.out, '.png'))
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
