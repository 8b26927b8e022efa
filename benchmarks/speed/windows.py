"""How much model time windows that overlap take if their frames are encoded once (`VideoModel.encodes_frames`).

Windows of 8 frames at 75 % overlap come from a rendered video; frames are decoded, cropped and scaled before the clock
starts. Both ways answer the same windows, in turn: the frames of the window alone as a clip, as every other model does
it, and frames encoded once. The time is that of a long video's middle: what the windows before it encoded is there.
Weights are random, models are prepared by `flatzoo.optimize`, and logits are compared.

    python benchmarks/speed/windows.py                       # six minutes on one core
    python benchmarks/speed/windows.py --only 'probe*step*'

writes `windows.csv` and a page.
"""
import argparse
import fnmatch
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch
from torch import Tensor

import flatzoo
from benchmarks.common.timing import clock_name, in_turn, markdown, ratio, save, setting
from flatzoo.data.actions import write_spliced
from flatzoo.data.decode.stream import read_stream
from flatzoo.inference.window_frames import Window
from flatzoo.inference.window_model import WindowModel
from flatzoo.inference.windows import cut_windows, plan_windows
from flatzoo.models import VideoModel

DINO = 'vit_small_patch14_dinov2'
MODELS = {  # name of a row -> entry point and arguments
    'probe, linear': ('probe_dinov2_s', dict(probe='linear')),
    'probe, step': ('probe_dinov2_s', dict(probe='step')),
    'probe, attentive, depth 1': ('probe_dinov2_s', dict(probe='attentive', probe_depth=1)),
    'probe, attentive, depth 4': ('probe_dinov2_s', dict(probe='attentive', probe_depth=4)),
    'superimage, time:1, mean of frames': ('superimage', dict(backbone='convnext_tiny', layout='time:1')),
    'AM Flow, no flow, TCN': ('amflow_dinov2_s_tcn_lite', dict(flow='none')),
    'AM Flow, no flow, transformer': ('amflow_dinov2_s_transformer_lite', dict(flow='none')),
}
EVERY, WINDOW, BEFORE = 0.5, 2.0, 8  # seconds, and windows that are answered before the clock starts


class _Ways:
    """Answers windows both ways."""

    def __init__(self, model: VideoModel, windows: list[Window], batch_size: int):
        self.answer, self.windows = WindowModel(model, batch_size), windows
        self.parts = [windows[start:start + batch_size] for start in range(BEFORE, len(windows), batch_size)]
        self.logits: dict[str, Tensor] = {}
        self.frames: dict[str, int] = {}

    def forget(self) -> None:
        """As if only the windows before those that are timed had been answered."""
        known = {id(frame) for window in self.windows[:BEFORE] for row in window.rows for frame in row}
        for window in self.windows:
            for row in window.rows:
                for frame in row:
                    if id(frame) not in known:
                        frame.features = None

    def run(self, name: str, answer: Callable[[list[Window]], Tensor]) -> None:
        """Answers the windows that are timed."""
        before = self.answer.encoded
        with torch.inference_mode():
            self.logits[name] = torch.cat([answer(part) for part in self.parts])
        self.frames[name] = self.answer.encoded - before


def measure(name: str, path: Path, args: argparse.Namespace) -> dict:
    """The row of a model."""
    torch.manual_seed(0)
    entry, options = MODELS[name]
    model = timm.create_model(entry, num_frames=8, num_classes=174, img_size=args.img_size, **options).eval()
    model = flatzoo.optimize(model)
    assert model.encodes_frames
    plan = plan_windows(model, EVERY, WINDOW)
    windows = list(cut_windows(read_stream(path), plan, model, 'rendered'))[:BEFORE + args.windows]
    ways = _Ways(model, windows, args.batch_size)
    ways.answer(windows[:BEFORE])
    runs = {
        'alone': lambda: ways.run('alone', ways.answer._by_clips),
        'shared': lambda: (ways.forget(), ways.run('shared', ways.answer._by_frames))}
    for run in runs.values():  # warms up
        run()
    times = in_turn(runs, args.rounds, 'cpu')
    apart = (ways.logits['alone'] - ways.logits['shared']).abs().max().item()
    alone, shared = (1000 * statistics.median(times[way]) / args.windows for way in ('alone', 'shared'))
    return {
        'model': name, 'entry': entry, 'img_size': args.img_size, 'windows': args.windows,
        'frames_alone': ways.frames['alone'], 'frames_shared': ways.frames['shared'],
        'alone_ms_per_window': f'{alone:.1f}', 'shared_ms_per_window': f'{shared:.1f}',
        'times_less': f'{ratio(times["alone"], times["shared"]):.2f}', 'logits_apart': f'{apart:.1e}',
        'clock': clock_name('cpu'), **setting('cpu', 'float32')}


def main(argv: list[str] | None = None) -> list[dict]:
    """Measures, writes, and returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', default='*', help='pattern of rows (%(default)s)')
    parser.add_argument('--img-size', type=int, default=112, help='pixels of a frame (%(default)s)')
    parser.add_argument('--windows', type=int, default=16, help='that are timed (%(default)s)')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder of the results')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'rendered.mp4')
        write_spliced(path, (BEFORE + args.windows) * EVERY + 2 * WINDOW, seed=1)
        for name in MODELS:
            if fnmatch.fnmatch(name, args.only):
                rows.append(measure(name, path, args))
                print(rows[-1], flush=True)
    rows = save(args.out / 'data' / 'windows.csv', rows, ['model', 'img_size', 'windows'])
    markdown(args.out / 'windows.md', 'Windows that share frames', [
        '`python benchmarks/speed/windows.py`: windows of 8 frames at 75 % overlap, so that each has two frames that '
        'no window before it had; medians of paired rounds, process time of one thread. Decoding is left out. `alone` '
        'gives the model the clip of every window, `shared` encodes each frame once. An attentive probe of depth 4 has '
        'three layers over all tokens of the clip, which no window can share.', rows])
    return rows


if __name__ == '__main__':
    main()
