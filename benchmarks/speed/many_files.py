"""Whether decoding and the model overlap when `flatzoo predict FOLDER` answers many files.

Three parts take turns in one run: decoding alone in one thread, the model alone in one thread, and both together, one
thread each, by the function behind the command (`classify_files`; the command decodes in as many threads as there are
cores). Rates are files per second by the clock. From the time of a thread the time is taken off in which it could have
run and had no core, because other programs had them: Linux counts it (`schedstat`). Of both together that is the time
of the thread that is slower alone; while it waits for the other thread, its time goes on.

    python benchmarks/speed/many_files.py                    # three minutes on two cores
    python benchmarks/speed/many_files.py --files 500 --rounds 3

writes `many_files.csv` and a page.
"""
import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch
from torch import Tensor

import flatzoo
from benchmarks.common.timing import markdown, save, setting
from flatzoo.data.protocol import EvalProtocol
from flatzoo.inference.classifier import answer_views, classify_files
from flatzoo.models import VideoModel, eval_protocol

ASSETS = Path(flatzoo.__file__).parent / 'data' / 'assets'
CASES = [  # what is copied, and what answers
    ('is_picked_up.mp4', 'sifar_resnet10t', dict(pretrained=True)),
    ('carphone.mp4', 'sifar_resnet10t', dict(pretrained=True)),
    ('carphone.mp4', 'superimage', dict(backbone='resnet18', img_size=64, num_classes=400)),
]


def without_core() -> float:
    """Seconds in which this thread could have run and had no core."""
    return int(Path('/proc/thread-self/schedstat').read_text().split()[1]) / 1e9


class _Timed:
    """A protocol that notes how long the thread that decodes had no core."""

    def __init__(self, protocol: EvalProtocol):
        self.protocol, self.waited = protocol, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)

    def load_views(self, *args: Any) -> Tensor:
        """As of the protocol."""
        before = without_core()
        views = self.protocol.load_views(*args)
        self.waited += without_core() - before
        return views


def measure(video: str, name: str, options: dict, folder: Path, args: argparse.Namespace) -> dict:
    """The row of a case."""
    torch.manual_seed(0)
    model: VideoModel = flatzoo.optimize(timm.create_model(name, **options).eval())
    protocol = eval_protocol(model)
    files = [str(folder / f'{number}-{video}') for number in range(args.files)]
    for file in files:
        shutil.copyfile(ASSETS / video, file)
    views = protocol.load_views(files[0], model.num_frames, model.img_size)
    timed = _Timed(protocol)

    def decode() -> None:
        for file in files:
            protocol.load_views(file, model.num_frames, model.img_size)

    def answer() -> None:
        several = torch.cat([views] * 8)  # batches as the command makes them: eight views at least
        for _ in range(0, len(files), 8):
            answer_views(model, several, 5)

    def together() -> None:
        answers = classify_files(model, files, timed, workers=1)
        assert sum(not isinstance(top, Exception) for _, top in answers) == len(files)

    rates = {part: [] for part in ('decode', 'model', 'together')}
    shares, share_of_cores = [], []
    for number in range(args.rounds + 1):
        used = {}
        for part, run in (('decode', decode), ('model', answer), ('together', together)):
            start, waited, timed.waited = time.perf_counter(), without_core(), 0.0
            run()
            wall = time.perf_counter() - start
            waited = without_core() - waited
            if part == 'together' and used['decode'] > used['model']:
                waited = timed.waited
            used[part] = wall - waited
        if number:  # the first one warms up
            for part, seconds in used.items():
                rates[part].append(len(files) / seconds)
            shares.append(max(used['decode'], used['model']) / used['together'])
            share_of_cores.append(used['together'] / wall)
    return {
        'video': video, 'model': ' '.join([name, *(str(value) for key, value in options.items() if key == 'backbone')]),
        'files': args.files, **{f'{part}_files_per_s': f'{statistics.median(r):.0f}' for part, r in rates.items()},
        'of_slower': f'{statistics.median(shares):.2f}', 'lowest': f'{min(shares):.2f}',
        'had_a_core': f'{statistics.median(share_of_cores):.0%}', **setting('cpu', 'float32')}


def main(argv: list[str] | None = None) -> list[dict]:
    """Measures, writes, and returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--files', type=int, default=100, help='in a part of a round (%(default)s)')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder of the results')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(*case, Path(folder), args))
            print(rows[-1], flush=True)
    rows = save(args.out / 'data' / 'many_files.csv', rows, ['video', 'model', 'files'])
    markdown(args.out / 'many_files.md', 'Many files', [
        '`python benchmarks/speed/many_files.py`: files per second, medians of rounds, of decoding alone and of the '
        'model alone, each in one thread, and of both together, one thread each. `of_slower` is the rate together over '
        'the slower of the two alone, the median and the lowest of the rounds. The machine had other work at the same '
        'time: what a thread waited for a core is taken off, and `had_a_core` says which share of the time was left.',
        rows])
    return rows


if __name__ == '__main__':
    main()
