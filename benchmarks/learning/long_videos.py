"""How well a model finds actions in long videos: segment F1, boundaries, and whether a stream answers like a file.

The videos are rendered with known times (`flatzoo.data.actions.write_spliced`), of scenes and textures that training
does not show. A model without a class `nothing` finds false events in the gaps: that is measured, too.

`--choose` compares options of `flatzoo.events` instead, on other videos than those that are reported: other seeds, and
so other scenes. It shows whether the defaults are good ones.

    python benchmarks/learning/long_videos.py
    python benchmarks/learning/long_videos.py --model sifar_resnet10t.actions49 --verbs --every 0.25
    python benchmarks/learning/long_videos.py --model sifar_resnet10t.actions49 --choose
    python benchmarks/learning/long_videos.py --model runs/mine --videos 10 --seconds 300 --camera-shake 0.05
"""
import argparse
import itertools
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import torch

import flatzoo
from benchmarks.common.files import write_file
from benchmarks.common.timing import cpu_name
from flatzoo.data.actions import VERBS, paint_verb, write_spliced
from flatzoo.data.decode import VideoReader
from flatzoo.evaluation.segments import SegmentScore, segment_score
from flatzoo.inference.events import events
from flatzoo.inference.load import load_model, model_name
from flatzoo.inference.windows import Record

HEADER = ('| every | smooth | F1 at {overlap:g} | precision | recall | boundary, median | within a step | '
          'stream = file |\n|---|---|---|---|---|---|---|---|\n')
CHOICE = '| smooth | high | low | min-seconds | F1 at {overlap:g} | within a step |\n|---|---|---|---|---|---|\n'
GRID = dict(smooth=(None, 1, 3, 5, 7, 9), high=(0.4, 0.5, 0.6), low=(0.2, 0.3, 0.4), min_seconds=(0.0, 0.5, 1.0))
SHOWN = 15  # rows of the table of a choice
SEEDS = 1000, 5000  # of the videos that are reported, and of those on which something is chosen

Answered = list[tuple[list[Record], list]]  # records and true segments of each video


def main() -> None:
    """Renders videos, answers them, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='sifar_resnet10t', help='name or folder (%(default)s)')
    parser.add_argument('--videos', type=int, default=12)
    parser.add_argument('--seconds', type=float, default=60, help='of a video (%(default)s)')
    parser.add_argument('--every', type=float, nargs='+', default=[0.25, 0.5], help='a row for each (0.25 0.5)')
    parser.add_argument('--window', type=float, default=None)
    parser.add_argument('--high', type=float, default=0.5)
    parser.add_argument('--low', type=float, default=0.3)
    parser.add_argument('--smooth', type=int, help='(the records that begin within a window)')
    parser.add_argument('--min-seconds', type=float, default=0.0)
    parser.add_argument('--overlap', type=float, default=0.5, help='least intersection over union (%(default)s)')
    parser.add_argument('--size', type=int, default=96)
    parser.add_argument('--fps', type=int, default=16)
    parser.add_argument('--camera-shake', type=float, default=0.0)
    parser.add_argument('--verbs', action='store_true', help='the 48 verbs in place of the sixteen actions')
    parser.add_argument('--choose', action='store_true', help='compare options on other videos, at the first --every')
    parser.add_argument('--seed', type=int, help=f'of the first video ({SEEDS[0]}; {SEEDS[1]} with --choose)')
    parser.add_argument('--stream-videos', type=int, default=1, help='videos that are pushed frame by frame, too')
    parser.add_argument('--out', type=Path, help='write the table there')
    args = parser.parse_args()
    if args.seed is None:
        args.seed = SEEDS[args.choose]

    model = load_model(model_name(args.model))
    with tempfile.TemporaryDirectory() as folder:
        videos = [(path, _render(path, args.seed + number, args))
                  for number, path in enumerate(Path(folder, f'{number}.mp4') for number in range(args.videos))]
        text = _choose(model, videos, args) if args.choose else _report(model, videos, args)
    text += (
        f'\n{args.model}; {sum(len(true) for _, true in videos)} actions in {args.videos} videos of '
        f'{args.seconds:g} seconds or a little more, seeds {args.seed} to {args.seed + args.videos - 1}.\n'
        f'{cpu_name()}; torch {torch.__version__}, flatzoo {flatzoo.__version__}.\n')
    print(text, end='')
    if args.out is not None:
        command = shlex.join(['python', 'benchmarks/learning/long_videos.py', *sys.argv[1:]])
        title = 'Options of events, compared' if args.choose else 'Actions in long videos'
        write_file(args.out, f'# {title}\n\n    {command}\n\n{text}'.encode())


def _render(path: Path, seed: int, args: argparse.Namespace) -> list:
    shown = dict(names=VERBS[:-1], paint=paint_verb) if args.verbs else {}
    return write_spliced(
        path, args.seconds, seed, args.size, args.fps, camera_shake=args.camera_shake, split='test', **shown)


def _answer(model: torch.nn.Module, videos: Sequence, every: float, window: float | None) -> Answered:
    return [(list(flatzoo.predict_windows(path, model, every, window, batch_size=1, note=lambda line: None)), true)
            for path, true in videos]


def _score(answered: Answered, every: float, overlap: float, **options) -> SegmentScore:
    return segment_score([(events(records, **options), true) for records, true in answered], every, overlap)


def _report(model: torch.nn.Module, videos: Sequence, args: argparse.Namespace) -> str:
    """A row for each step."""
    text = HEADER.format(overlap=args.overlap)
    options = dict(high=args.high, low=args.low, smooth=args.smooth, min_seconds=args.min_seconds)
    for every in args.every:
        answered = _answer(model, videos, every, args.window)
        score = _score(answered, every, args.overlap, **options)
        equal = all(
            _same(records, path, model, every, args)
            for (records, _), (path, _) in zip(answered[:args.stream_videos], videos, strict=False))
        text += (
            f'| {every:g} s | {"default" if args.smooth is None else args.smooth} | {100 * score.f1:.1f} % | '
            f'{100 * score.precision:.1f} % | {100 * score.recall:.1f} % | {score.boundary:.2f} s | '
            f'{100 * score.within:.1f} % | {"yes" if equal else "NO"} |\n')
    return text


def _choose(model: torch.nn.Module, videos: Sequence, args: argparse.Namespace) -> str:
    """The best options, and the defaults."""
    every = args.every[0]
    answered = _answer(model, videos, every, args.window)
    rows = []
    for values in itertools.product(*GRID.values()):
        options = dict(zip(GRID, values, strict=True))
        if options['low'] <= options['high']:
            score = _score(answered, every, args.overlap, **options)
            rows.append((score.f1, score.within, options))
    rows.sort(key=lambda row: -row[0])
    defaults = dict(smooth=None, high=0.5, low=0.3, min_seconds=0.0)
    place = next(place for place, row in enumerate(rows) if row[2] == defaults)
    text = CHOICE.format(overlap=args.overlap)
    for number, (f1, within, options) in enumerate(rows):
        if number < SHOWN or number == place:
            cells = ['default' if value is None else f'{value:g}' for value in options.values()]
            mark = '**' if number == place else ''
            text += f'| {" | ".join(cells)} | {mark}{100 * f1:.1f} %{mark} | {100 * within:.1f} % |\n'
    return text + f'\nAn answer every {every:g} s. The defaults, in bold, are number {place + 1} of {len(rows)}.\n'


def _same(records: list, path: Path, model: torch.nn.Module, every: float, args: argparse.Namespace) -> bool:
    """Whether the frames of a file, pushed one by one, get the same answers."""
    stream = flatzoo.Stream(model, fps=args.fps, every=every, window=args.window)
    pushed = []
    with VideoReader(path) as video:
        for index in range(len(video)):
            record = stream.push(video.get_frames([index])[0])
            pushed += [] if record is None else [record]
    pushed += stream.finish()
    return len(pushed) == len(records) and all(
        a.top == b.top and abs(a.start - b.start) < 1e-6 for a, b in zip(pushed, records, strict=True))


if __name__ == '__main__':
    main()
