"""How well a model finds actions in long videos: segment F1, boundaries, and whether a stream answers like a file.

The videos are rendered with known times (`flatzoo.data.actions.write_spliced`), of scenes and textures that training
does not show. A model without a class `nothing` finds false events in the gaps: that is measured, too.

    python benchmarks/learning/long_videos.py
    python benchmarks/learning/long_videos.py --model sifar_resnet10t.actions49 --verbs
    python benchmarks/learning/long_videos.py --model runs/mine --videos 10 --seconds 300 --camera-shake 0.05
"""
import argparse
import shlex
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import torch

import flatzoo
from benchmarks.common.files import write_file
from benchmarks.common.timing import cpu_name
from flatzoo.data.actions import VERBS, paint_verb, write_spliced
from flatzoo.data.decode import VideoReader
from flatzoo.evaluation.segments import segment_score
from flatzoo.inference.load import load_model, model_name

HEADER = ('| model | F1 at {overlap:g} | precision | recall | boundary, median | within a step | stream = file |\n'
          '|---|---|---|---|---|---|---|\n')


def main() -> None:
    """Renders videos, answers them, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='sifar_resnet10t', help='name or folder (%(default)s)')
    parser.add_argument('--videos', type=int, default=4)
    parser.add_argument('--seconds', type=float, default=60, help='of a video (%(default)s)')
    parser.add_argument('--every', type=float, default=0.25)
    parser.add_argument('--window', type=float, default=None)
    parser.add_argument('--high', type=float, default=0.5)
    parser.add_argument('--low', type=float, default=0.3)
    parser.add_argument('--smooth', type=int, default=3)
    parser.add_argument('--min-seconds', type=float, default=0.0)
    parser.add_argument('--overlap', type=float, default=0.5, help='least intersection over union (%(default)s)')
    parser.add_argument('--size', type=int, default=96)
    parser.add_argument('--fps', type=int, default=16)
    parser.add_argument('--camera-shake', type=float, default=0.0)
    parser.add_argument('--verbs', action='store_true', help='the 48 verbs in place of the sixteen actions')
    parser.add_argument('--seed', type=int, default=1000, help='of the held-out videos (%(default)s)')
    parser.add_argument('--stream-videos', type=int, default=1, help='videos that are pushed frame by frame, too')
    parser.add_argument('--out', type=Path, help='write the table there')
    args = parser.parse_args()

    model = load_model(model_name(args.model))
    options = dict(high=args.high, low=args.low, smooth=args.smooth, min_seconds=args.min_seconds)
    shown = dict(names=VERBS[:-1], paint=paint_verb) if args.verbs else {}
    found, equal, passed, length = [], True, 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.videos):
            path = Path(folder, f'{number}.mp4')
            true = write_spliced(
                path, args.seconds, args.seed + number, args.size, args.fps, camera_shake=args.camera_shake,
                split='test', **shown)
            start = time.perf_counter()
            records = list(flatzoo.predict_windows(
                path, model, args.every, args.window, batch_size=1, note=lambda line: None))
            passed, length = passed + time.perf_counter() - start, length + records[-1].end
            events = flatzoo.events(records, **options)
            found.append((events, true))
            if number < args.stream_videos:
                equal &= _same(records, path, model, args)
    score = segment_score(found, args.every, args.overlap)
    table = HEADER.format(overlap=args.overlap) + (
        f'| {args.model} | {100 * score.f1:.1f} % | {100 * score.precision:.1f} % | {100 * score.recall:.1f} % | '
        f'{score.boundary:.2f} s | {100 * score.within:.1f} % | {"yes" if equal else "NO"} |\n')
    text = (
        f'{table}\n{sum(len(true) for _, true in found)} actions in {length / 60:.1f} minutes of video; '
        f'{length / passed:.1f} times as fast as they play, on {torch.get_num_threads()} threads.\n'
        f'{cpu_name()}; torch {torch.__version__}, flatzoo {flatzoo.__version__}.\n')
    print(text, end='')
    if args.out is not None:
        command = shlex.join(['python', 'benchmarks/learning/long_videos.py', *sys.argv[1:]])
        write_file(args.out, f'# Actions in long videos\n\n    {command}\n\n{text}'.encode())


def _same(records: list, path: Path, model: torch.nn.Module, args: argparse.Namespace) -> bool:
    """Whether the frames of a file, pushed one by one, get the same answers."""
    stream = flatzoo.Stream(model, fps=args.fps, every=args.every, window=args.window)
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
