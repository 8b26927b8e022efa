"""Is `flatzoo probe` as accurate as a short script with scikit-learn, and faster?

    python benchmarks/learning/probe_against_script.py --root videos/ --out benchmarks/results/probe_against_script.md

Both look at the same clips through the same network, and choose the penalty of a logistic regression among the same
values by cross-validation. Without --root, clips are rendered. Each is a process of its own, with one thread.
"""
import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

from benchmarks.common.timing import cpu_name
from flatzoo.data.actions import write_action_folder

MODEL = 'sifar_resnet10t'
SCRIPT = Path(__file__).with_name('plain_probe.py')


def main(argv: list[str] | None = None) -> list[tuple[str, str, float, float]]:
    """Runs both, and the command once more on the features that it has kept; prints and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--root', type=Path, help='train/CLASS/*.mp4 and val/CLASS/*.mp4')
    parser.add_argument('--data', default='rendered actions', help='what the page calls the clips')
    parser.add_argument('--out', type=Path, help='page')
    parser.add_argument('--clips', type=int, default=10, help='rendered clips of each action and split')
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = args.root
        if root is None:
            root = Path(folder, 'videos')
            for split, seed in (('train', 1), ('val', 2)):
                write_action_folder(root / split, args.clips, seed=seed, size=160, num_frames=60)
        command = ['-m', 'flatzoo', 'probe', 'folder', root, '--model', MODEL, '--features', Path(folder, 'features'),
                   '--out', Path(folder, 'probe'), '--json']
        text, *times = run([SCRIPT, root, MODEL], folder)
        rows = [('the script', f'{float(text.splitlines()[-1]):.1f} %', *times)]
        for name in ('`flatzoo probe`', '`flatzoo probe` again, with its features'):
            text, *times = run(command, folder)
            found = json.loads(text)
            low, high = found['interval']
            rows.append((name, f'{found["top1"]:.1f} % ({low:.1f} to {high:.1f})', *times))
    for row in rows:
        print(row)
    if args.out is not None:
        args.out.write_text(page(rows, args, found['clips']), encoding='utf-8')
    return rows


def run(arguments: list, folder: str) -> tuple[str, float, float]:
    """Standard output of a Python process, its seconds of CPU time, and those of the clock."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(Path(__file__).parents[2])}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f'{arguments[0]} failed')
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def page(rows: list[tuple[str, str, float, float]], args: argparse.Namespace, count: int) -> str:
    """The results as Markdown."""
    table = '\n'.join(f'| {name} | {right} | {cpu:.1f} | {wall:.1f} |' for name, right, cpu, wall in rows)
    given = '' if args.root is None else f'--root {args.root.name}/ '
    length = len(SCRIPT.read_text(encoding='utf-8').splitlines())
    return (
        '# `flatzoo probe` against a script\n\n'
        f'`python benchmarks/learning/probe_against_script.py {given}--out benchmarks/results/probe_against_script.md`'
        '\n\n'
        f'{args.data}, {count} clips of val; `{MODEL}`, logistic regression. The script, '
        f'`benchmarks/learning/{SCRIPT.name}`, has {length} lines. {cpu_name()}, shared with other work, one thread '
        'of torch.\n\n'
        f'| what | right (95 % interval) | CPU seconds | seconds |\n|---|---|---|---|\n{table}\n\n'
        'The seconds of the clock were measured beside other work. The command also gives an interval, names classes '
        'that it cannot tell, and saves a model that `predict` and `push` take; the script saves a pickle of its '
        'head.\n')


if __name__ == '__main__':
    main()
