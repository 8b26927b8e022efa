"""How fast clips come from H.264 files: the loader against plain decoding and against torchcodec's sampler.

Each way makes the same of a file of 250 frames: 8 frames over its whole length, cropped and resized to 224 x 224
(uint8). Cost is the CPU time of one process with one decoder thread, which other work on the machine disturbs little;
the ways take turns, and the median counts. `whole clip` decodes all frames with PyAV before it chooses, as short
scripts do; `torchcodec` is `clips_at_random_indices` on a decoder in its default, exact mode. With `--loop`, which
means something on an idle machine alone, a second table has the wall-clock speed of a `DataLoader`, and the share of
its time for which a training step waits for clips.

    python benchmarks/input_speed.py --repeats 5 --out benchmarks/results/input_speed
    python benchmarks/input_speed.py --loop --workers 8 --model sifar_swin_b12 --out speed

The footage is the real clip of the package, scaled up, with grain; torchcodec is left out where it is not installed.
"""
import argparse
import csv
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import timm
import torch
from torch.utils.data import DataLoader

import flatzoo  # noqa: F401 - registers the models
from flatzoo.data.clips import ClipDataset, collate_clips
from flatzoo.data.decode import VideoReader
from flatzoo.data.lists import Clip, VideoList
from flatzoo.data.sampling import uniform_indices
from flatzoo.data.transforms import TrainTransform, resize

ASSET = Path(__file__).parents[1] / 'flatzoo' / 'data' / 'assets' / 'carphone.mp4'
SIZES = {320: (240, 320), 1280: (720, 1280)}  # width: (height, width)
KEY_FRAMES = (12, 250)
LENGTH, NUM_FRAMES, IMG_SIZE = 250, 8, 224


def write_video(path: Path, size: tuple[int, int], key_frames: int) -> None:
    """The package's real clip, forwards and backwards until `LENGTH`, scaled up, with grain."""
    with VideoReader(ASSET) as video:
        there = list(range(len(video)))
        indices = list(itertools.islice(itertools.cycle(there + there[::-1]), LENGTH))
        frames = video.get_frames(there)
    grain = np.random.default_rng(0)
    with av.open(str(path), 'w') as container:
        options = {'g': str(key_frames), 'keyint_min': str(key_frames), 'sc_threshold': '0', 'threads': '1'}
        stream = container.add_stream('libx264', rate=25, options=options | {'preset': 'veryfast', 'crf': '20'})
        stream.height, stream.width, stream.pix_fmt = *size, 'yuv420p'
        for index in indices:
            pixels = resize(frames[index][None], size)[0].permute(1, 2, 0).numpy().astype(np.int16)
            pixels += grain.normal(0, 4, size).astype(np.int16)[..., None]
            frame = av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), format='rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


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


def loader_speed(path: Path, workers: int, clips: int) -> float:
    """Clips per second of a `DataLoader`, without its start."""
    videos = VideoList('speed', [Clip(str(path), 0)] * (clips + 4 * workers), ['any'])
    dataset = ClipDataset(videos, NUM_FRAMES, IMG_SIZE)
    batches = iter(DataLoader(dataset, 2, num_workers=workers, collate_fn=collate_clips))
    next(batches)
    start, seen = time.perf_counter(), 0
    for batch in itertools.islice(batches, clips // 2):
        seen += len(batch['label'])
    return seen / (time.perf_counter() - start)


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
    parser.add_argument('--out', type=Path, help='path of the tables without suffix: .csv and .md are added')
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
                    speed_of_loader=round(value / times['loader'], 2)))
                print(rows[-1], flush=True)
            if args.loop:
                share, speed = waiting_share(path, args.workers, args.steps, args.model, args.device)
                loops.append(dict(
                    width=width, key_frame_every=key_frames, workers=args.workers,
                    loader_clips_s=round(loader_speed(path, args.workers, 16), 1), step=f'{args.model}, {args.device}',
                    step_clips_s=round(speed, 1), waiting=f'{share:.0%}'))
                print(loops[-1], flush=True)
    if args.out:
        write_tables(args.out, rows, loops, args.repeats)


def write_tables(out: Path, rows: list[dict], loops: list[dict], repeats: int) -> None:
    """Writes the CSV file and the Markdown file."""
    partial = out.with_suffix('.partial')
    with partial.open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, out.with_suffix('.csv'))
    ways = list(dict.fromkeys(row['way'] for row in rows))
    lines = [
        '# Speed of the input', '',
        f'`python benchmarks/input_speed.py --repeats {repeats}`: {NUM_FRAMES} frames of {LENGTH}, '
        f'{IMG_SIZE} x {IMG_SIZE}; CPU time of one process, median, and in brackets how many times as long as the '
        'loader it takes.', '',
        '| H.264 width | key frame every | Mbit/s | ' + ' | '.join(f'{way}, ms per clip' for way in ways) + ' |',
        '|---' * (3 + len(ways)) + '|',
    ]
    for _, group in itertools.groupby(rows, key=lambda row: (row['width'], row['key_frame_every'])):
        group = list(group)
        cells = [f'{row["cpu_ms_per_clip"]:.0f} ({row["speed_of_loader"]:.2f})' for row in group]
        first = group[0]
        lines.append(f'| {first["width"]} | {first["key_frame_every"]} | {first["mbit_s"]} | {" | ".join(cells)} |')
    if loops:
        lines += [
            '', f'Wall clock, {os.cpu_count()} cores, load of {os.getloadavg()[2]:.0f} over the last 15 minutes: the '
            '`DataLoader` alone, and in front of training steps (batches of 8).', '',
            '| H.264 width | key frame every | workers | loader, clips/s | step | clips/s | waiting for clips |',
            '|---' * 7 + '|',
            *('| ' + ' | '.join(str(value) for value in row.values()) + ' |' for row in loops),
        ]
    partial.write_text('\n'.join(lines) + '\n')
    os.replace(partial, out.with_suffix('.md'))


if __name__ == '__main__':
    main()
