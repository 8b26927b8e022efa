"""How fast clips come from H.264 files: the loader against plain decoding and against torchcodec's sampler.

Each way makes the same of a file of 250 frames: 8 frames over its whole length, cropped and resized to 224 x 224
(uint8). Cost is the CPU time of one process with one decoder thread, which other work on the machine disturbs little;
the ways take turns, and the median counts. `whole clip` decodes all frames with PyAV before it chooses, as short
scripts do; `torchcodec` is `clips_at_random_indices` on a decoder in its default, exact mode. With `--loop`, which
means something on an idle machine alone, a second table has the wall-clock speed of a `DataLoader`, and the share of
its time for which a training step waits for clips.

    python benchmarks/speed/input_speed.py --repeats 5 --out benchmarks/results
    python benchmarks/speed/input_speed.py --loop --workers 8 --model sifar_swin_b12 --out speed

The footage is the real clip of the package, scaled up, with grain; torchcodec is left out where it is not installed.
"""
import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import av
import numpy as np
import timm
import torch
from torch.utils.data import DataLoader

import flatzoo  # noqa: F401 - registers the models
from benchmarks.common.timing import markdown, save, setting
from benchmarks.common.videos import IMG_SIZE, LENGTH, NUM_FRAMES, loader_speed, write_video
from flatzoo.data.clips import ClipDataset, collate_clips
from flatzoo.data.lists import Clip, VideoList
from flatzoo.data.sampling import uniform_indices
from flatzoo.data.transforms import TrainTransform

SIZES = {320: (240, 320), 1280: (720, 1280)}  # width: (height, width)
KEY_FRAMES = (12, 250)


def make_ways(path: Path) -> dict[str, Callable[[], torch.Tensor]]:
    """Name and function of each way from the file to a clip `[C, T, H, W]`."""
    transform = TrainTransform(IMG_SIZE)
    dataset = ClipDataset(VideoList('speed', [Clip(str(path), 0)], ['any']), NUM_FRAMES, IMG_SIZE)

    def loader() -> torch.Tensor:
        return dataset[0]['clip']

    def whole_clip() -> torch.Tensor:
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])
        chosen = torch.from_numpy(frames)[uniform_indices(len(frames), NUM_FRAMES, training=True)[0]]
        return transform(chosen.permute(0, 3, 1, 2)).transpose(0, 1).contiguous()

    ways = {'loader': loader, 'whole clip': whole_clip}
    try:
        from torchcodec.decoders import VideoDecoder
        from torchcodec.samplers import clips_at_random_indices
    except (ImportError, OSError, RuntimeError):
        return ways

    def torchcodec() -> torch.Tensor:
        decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order='NHWC')
        clip = clips_at_random_indices(
            decoder, num_clips=1, num_frames_per_clip=NUM_FRAMES, num_indices_between_frames=LENGTH // NUM_FRAMES)
        return transform(clip.data[0].permute(0, 3, 1, 2)).transpose(0, 1).contiguous()

    return ways | {'torchcodec': torchcodec}


def cpu_times(ways: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of each way, which take turns."""
    times = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            clip = way()
            if repeat:  # the first one warms up
                times[name].append(1000 * (time.process_time() - start))
            assert clip.shape == (3, NUM_FRAMES, IMG_SIZE, IMG_SIZE)
    return {name: statistics.median(values) for name, values in times.items()}


def waiting_share(path: Path, workers: int, steps: int, model_name: str, device: str) -> tuple[float, float]:
    """Share of the time that training steps wait for clips, and clips per second."""
    batch_size = 8
    model = timm.create_model(model_name, num_classes=10, img_size=IMG_SIZE).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters())
    videos = VideoList('speed', [Clip(str(path), 0)] * (batch_size * (steps + 1)), ['any'])
    dataset = ClipDataset(videos, model.num_frames, IMG_SIZE)
    batches = iter(DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate_clips))
    waited = began = 0.0
    for step in range(steps + 1):
        asked = time.perf_counter()
        if step == 1:
            waited, began = 0.0, asked
        batch = next(batches)
        waited += time.perf_counter() - asked
        loss = torch.nn.functional.cross_entropy(model(batch['clip'].to(device)), batch['label'].to(device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
    took = time.perf_counter() - began
    return waited / took, batch_size * steps / took


def main() -> None:
    """Measures and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='folder')
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--loop', action='store_true', help='measure a DataLoader and training steps, too')
    parser.add_argument('--workers', type=int, default=1)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--model', default='sifar_resnet10t')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, loops = [], []
    with tempfile.TemporaryDirectory() as folder:
        for width, key_frames in itertools.product(SIZES, KEY_FRAMES):
            path = Path(folder) / f'{width}_{key_frames}.mp4'
            write_video(path, SIZES[width], key_frames)
            times = cpu_times(make_ways(path), args.repeats)
            for name, value in times.items():
                rows.append(dict(
                    width=width, key_frame_every=key_frames,
                    mbit_s=round(path.stat().st_size * 8 * 25 / LENGTH / 1e6, 2),
                    way=name, cpu_ms_per_clip=round(value, 1), clips_per_cpu_s=round(1000 / value, 1),
                    speed_of_loader=round(value / times['loader'], 2), **setting('cpu', 'uint8')))
                print(rows[-1], flush=True)
            if args.loop:
                share, speed = waiting_share(path, args.workers, args.steps, args.model, args.device)
                loops.append(dict(
                    width=width, key_frame_every=key_frames, workers=args.workers,
                    loader_clips_s=round(loader_speed(path, args.workers, 16), 1), step=f'{args.model}, {args.device}',
                    step_clips_s=round(speed, 1), waiting=f'{share:.0%}', **setting('cpu', 'float32')))
                print(loops[-1], flush=True)
    if args.out:
        write_pages(args.out, rows, loops, args)


def write_pages(out: Path, rows: list[dict], loops: list[dict], args: argparse.Namespace) -> None:
    """Writes the pages and their data."""
    rows = save(out / 'data/input_speed.csv', rows, ('width', 'key_frame_every', 'way'))
    markdown(out / 'input_speed.md', 'Speed of the input', [
        f'`python benchmarks/speed/input_speed.py --repeats {args.repeats}`: {NUM_FRAMES} frames of {LENGTH}, '
        f'{IMG_SIZE} x {IMG_SIZE}; CPU time of one process, median; `speed_of_loader` is how many times as long as the '
        'loader a way takes.', rows])
    if loops:
        loops = save(out / 'data/input_speed_loop.csv', loops, ('width', 'key_frame_every', 'workers', 'step'))
        markdown(out / 'input_speed_loop.md', 'How long a training step waits for clips', [
            f'`python benchmarks/speed/input_speed.py --loop --repeats {args.repeats} --steps {args.steps}`. Wall '
            f'clock, {os.cpu_count()} cores, load of {os.getloadavg()[2]:.0f} over the last 15 minutes: the '
            '`DataLoader` alone, and in front of training steps (batches of 8).', loops])


if __name__ == '__main__':
    main()
