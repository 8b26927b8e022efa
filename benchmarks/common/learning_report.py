"""Table and curves of what `learning.py` has measured."""
import json
import os
import statistics
from pathlib import Path

from benchmarks.common.files import write_file

EXPERIMENTS = ('scratch', 'finetune', 'gpu')
ORDERS = ('normal', 'reverse', 'shuffle')


def write_report(folder: Path) -> str:
    """Writes `learning.md` and a picture per experiment from the JSON files of a folder, and returns the table."""
    lines = [
        '# Runs of `flatzoo train` on rendered video files', '',
        'Written by `benchmarks/learning/learning.py`; what the runs say stands in [findings](learning_findings.md). '
        'Top-1 in %, mean ± standard deviation over the seeds, each seed in brackets. Seeds change the initial '
        'weights, the order of the clips and their crops, not the files. Chance is 6.25 %, and 50 % for what tells '
        'the pairs apart and ignores the order of the frames.', '',
    ]
    for name in EXPERIMENTS:
        path = folder / f'data/learning_{name}.json'
        if path.exists():
            results = json.loads(path.read_text())
            lines += _section(name, results)
            _plot(results, folder / f'learning_{name}.png')
        else:
            lines += [f'## {name}', '', f'Has not been run yet: `python benchmarks/learning/learning.py {name}`.', '']
    text = '\n'.join(lines)
    write_file(folder / 'learning.md', text.encode())
    return text


def spread(values: list[float]) -> str:
    """Mean, standard deviation and the values themselves."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f'{statistics.mean(values):.1f} ± {deviation:.1f} ({", ".join(f"{value:.1f}" for value in values)})'


def by_arm(runs: list[dict]) -> dict[str, list[dict]]:
    """Runs by the name of the arm, by seed."""
    return {arm: [run for run in runs if run['arm'] == arm] for arm in dict.fromkeys(run['arm'] for run in runs)}


def _section(name: str, results: dict) -> list[str]:
    data, arms = results['data'], by_arm(results['runs'])
    scenes = ', '.join(f'{split} {count * results["classes"]}' for split, count in data['scenes'].items())
    versions = ', '.join(f'{key} {value}' for key, value in results['versions'].items())
    lines = [
        f'## {results["title"]}', '',
        f'`{results["command"]}`; {versions}; {results["hardware"]}. Files: {scenes} clips of {data["frames"]} '
        f'frames of {data["size"]} pixels, camera shift up to {data["shake"]:g}.', '',
        '| arm | ' + ' | '.join(f'test, {order}' for order in ORDERS) + ' | val, last epoch | train, last epoch |',
        '|---|---|---|---|---|---|',
    ]
    for arm, runs in arms.items():
        cells = [spread([run['test'][order] for run in runs]) for order in ORDERS]
        cells += [spread([run['curve'][-1][key] for run in runs]) for key in ('eval_top1', 'train_top1')]
        lines.append(f'| {arm} | {" | ".join(cells)} |')
    lines += ['', f'![curves](learning_{name}.png)', '']
    if results['choices']:
        lines += ['Learning rates, tried with a seed that is not in the table for half of the epochs:', '']
        lines += ['| arm | learning rate | val, last epoch |', '|---|---|---|']
        lines += [
            f'| {run["arm"]} | {run["rate"]} | {run["curve"][-1]["eval_top1"]:.1f} |'
            for run in results['choices']]
        lines.append('')
    lines += ['Commands of the first seed of each arm:', '', '```sh']
    for runs in arms.values():
        lines += [runs[0]['command'], runs[0]['test']['validate']]
    return [*lines, '```', '']


def _plot(results: dict, path: Path) -> None:
    """Accuracy on val and loss in training after each epoch, a line per run."""
    import matplotlib

    matplotlib.use('agg')
    import matplotlib.pyplot as plt

    figure, (accuracy, loss) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for i, (arm, runs) in enumerate(by_arm(results['runs']).items()):
        for j, run in enumerate(runs):
            epochs = range(1, len(run['curve']) + 1)
            for axes, key in ((accuracy, 'eval_top1'), (loss, 'train_loss')):
                values = [row[key] for row in run['curve']]
                axes.plot(epochs, values, color=f'C{i}', alpha=0.8, label=None if j else arm)
    accuracy.axhline(100 / results['classes'], color='gray', linestyle=':', label='chance')
    accuracy.set(ylim=(0, 100), xlabel='epoch', ylabel='val, top-1 in %', title=results['title'])
    loss.set(xlabel='epoch', ylabel='train, loss', title='one line per seed')
    accuracy.legend()
    partial = path.with_name('partial.png')
    figure.savefig(partial, dpi=110)
    plt.close(figure)
    os.replace(partial, path)
