"""Whether decoding and the model overlap when `flatzoo predict FOLDER` answers many files.

Three parts take turns in one run: decoding alone in one thread, the model alone in one thread, and both together, one
thread each, by the function behind the command (`classify_files`; the command decodes in as many threads as there are
cores). While a part is alone, another process keeps the other core busy, so that each has in both cases the same cores,
and other programs take as much of them. Rates are files per second by the clock.

    python benchmarks/speed/many_files.py                    # three minutes on two cores
    python benchmarks/speed/many_files.py --files 500 --rounds 3

writes `many_files.csv` and a page.
"""
import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch

import flatzoo
from benchmarks.common.timing import markdown, save, setting
from flatzoo.inference.classifier import answer_views, classify_files
from flatzoo.models import VideoModel, eval_protocol

ASSETS = Path(flatzoo.__file__).parent / 'data' / 'assets'
CASES = [  # what is copied, and what answers
    ('is_picked_up.mp4', 'sifar_resnet10t', dict(pretrained=True)),
    ('carphone.mp4', 'sifar_resnet10t', dict(pretrained=True)),
    ('carphone.mp4', 'superimage', dict(backbone='resnet18', img_size=64, num_classes=400)),
]


@contextlib.contextmanager
def on_two_cores(busy: int) -> Iterator[None]:
    """This thread, and those that it starts, on two cores, with so many other processes that only compute."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:2])
    others = [subprocess.Popen([sys.executable, '-Sc', 'while True: pass']) for _ in range(busy)]
    try:
        time.sleep(0.2 * busy)  # they have started
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
        os.sched_setaffinity(0, cores)


def measure(video: str, name: str, options: dict, folder: Path, args: argparse.Namespace) -> dict:
    """The row of a case."""
    torch.manual_seed(0)
    model: VideoModel = flatzoo.optimize(timm.create_model(name, **options).eval())
    protocol = eval_protocol(model)
    files = [str(folder / f'{number}-{video}') for number in range(args.files)]
    for file in files:
        shutil.copyfile(ASSETS / video, file)
    views = protocol.load_views(files[0], model.num_frames, model.img_size)

    def decode() -> None:
        for file in files:
            protocol.load_views(file, model.num_frames, model.img_size)

    def answer() -> None:
        several = torch.cat([views] * 8)  # batches as the command makes them: eight views at least
        for _ in range(0, len(files), 8):
            answer_views(model, several, 5)

    def together() -> None:
        assert sum(not isinstance(top, Exception) for _, top in classify_files(
            model, files, protocol, workers=1)) == len(files)

    parts: dict[str, tuple[Callable[[], None], int]] = {
        'decode': (decode, 1), 'model': (answer, 1), 'together': (together, 0)}
    rates = {part: [] for part in parts}
    for number in range(args.rounds + 1):
        for part, (run, busy) in parts.items():
            with on_two_cores(busy):
                start = time.perf_counter()
                run()
                if number:  # the first one warms up
                    rates[part].append(len(files) / (time.perf_counter() - start))
    shares = [both / min(a, b) for a, b, both in zip(rates['decode'], rates['model'], rates['together'], strict=True)]
    best = {part: max(values) for part, values in rates.items()}
    return {
        'video': video, 'model': ' '.join([name, *(str(value) for key, value in options.items() if key == 'backbone')]),
        'files': args.files, 'cores': 2,
        **{f'{part}_files_per_s': f'{rate:.0f}' for part, rate in best.items()},
        'of_slower_best': f'{best["together"] / min(best["decode"], best["model"]):.2f}',
        'of_slower_median': f'{statistics.median(shares):.2f}', **setting('cpu', 'float32')}


def main(argv: list[str] | None = None) -> list[dict]:
    """Measures, writes, and returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--files', type=int, default=100, help='in a part of a round (%(default)s)')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder of the results')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(*case, Path(folder), args))
            print(rows[-1], flush=True)
    rows = save(args.out / 'data' / 'many_files.csv', rows, ['video', 'model', 'files', 'cores'])
    markdown(args.out / 'many_files.md', 'Many files', [
        '`python benchmarks/speed/many_files.py`: files per second by the clock, the best of the rounds, of decoding '
        'alone and of the model alone, each in one thread beside a process that keeps the other core busy, and of both '
        'together, one thread each. `of_slower` is the rate together over the slower of the two alone: by these best '
        'rates, and as the median of the rounds. Other programs ran on the machine at the same time; they disturb all '
        'three parts alike.', rows])
    return rows


if __name__ == '__main__':
    main()
