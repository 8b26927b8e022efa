"""CPU seconds of `flatzoo predict CLIP` beyond `import torch, timm`: one short clip, the model that comes with flatzoo.

Every run is a process of its own. Its process time, threads of the decoder included, is taken apart into the imports of
torch and timm, the import of the command, and the command itself: its arguments, flatzoo's models, the weights, what is
measured on the machine, decoding, and the answer. Precisions take turns, the first round writes byte code and is left
out, medians count.

    python benchmarks/speed/start.py                     # a minute

writes `start.md` and `data/start.csv`.
"""
import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIP = ROOT / 'flatzoo' / 'data' / 'assets' / 'is_picked_up.mp4'
PRECISIONS = ('auto', 'fp32', 'bf16', 'int8')
PARTS = ('torch_timm_s', 'import_s', 'predict_s')


def one(precision: str) -> dict[str, float | str]:
    """The parts of this process's time."""
    import timm  # noqa: F401
    import torch

    torch.set_num_threads(1)
    times = [time.process_time()]
    from flatzoo.cli import main as command

    times.append(time.process_time())
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()) as answer, contextlib.redirect_stderr(said):
        code = command(['predict', str(CLIP), '--precision', precision])
    times.append(time.process_time())
    assert code == 0 and 'is picked up' in answer.getvalue().splitlines()[1], answer.getvalue()
    taken = 'bf16' if 'bf16' in said.getvalue() else 'int8' if 'int8' in said.getvalue() else 'fp32'
    return dict(zip(PARTS, (times[0], times[1] - times[0], times[2] - times[1]))) | {'took': taken}


def main(argv: list[str] | None = None) -> list[dict]:
    """Measures, writes, and returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--precision', nargs='+', default=['auto', 'fp32'], choices=PRECISIONS)
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder of the results')
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(one(args.one)))
        return []
    runs = {precision: [] for precision in args.precision}
    with tempfile.TemporaryDirectory() as folder:
        environ = dict(os.environ, PYTHONPYCACHEPREFIX=folder, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT))
        for name in ('PYTHONDONTWRITEBYTECODE', 'FLATZOO_PRECISION'):
            environ.pop(name, None)
        for number in range(args.rounds + 1):
            for precision, kept in runs.items():
                line = subprocess.run(
                    [sys.executable, __file__, '--one', precision], env=environ, capture_output=True, text=True,
                    check=True).stdout.splitlines()[-1]
                if number:
                    kept.append(json.loads(line))
    from benchmarks.common.timing import markdown, save, setting

    rows = []
    for precision, kept in runs.items():
        beyond = [run['import_s'] + run['predict_s'] for run in kept]
        rows.append({
            'asked': precision, 'rounds': args.rounds,
            **{part: f'{statistics.median(run[part] for run in kept):.2f}' for part in PARTS},
            'beyond_s': f'{statistics.median(beyond):.2f}', 'most_s': f'{max(beyond):.2f}',
            **setting('cpu', '/'.join(sorted({run['took'] for run in kept})))})
        print(rows[-1], flush=True)
    rows = save(args.out / 'data' / 'start.csv', rows, ['asked'])
    markdown(args.out / 'start.md', 'From the command to the answer', [
        '`python benchmarks/speed/start.py`: CPU seconds of `flatzoo predict` of one short clip with the model that '
        'comes with flatzoo, medians of fresh processes. `beyond_s` is all that comes after `import torch, timm`: '
        '`import_s` and `predict_s`, with what is measured on the machine; `most_s` the slowest of the rounds.', rows])
    return rows


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))  # the repository: benchmarks.common, flatzoo
    main()
