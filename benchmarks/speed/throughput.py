"""From a video file to logits: clips per second, where the time goes, and how many workers feed one accelerator.

The same 8 frames of H.264 files of 340 x 256 pixels go to the same SIFAR on three ways: flatzoo's decoder, transforms,
layout and `flatzoo.optimize` (on a GPU also torch.compile); transformers' decoding (of its pipeline) and
`VideoMAEImageProcessor`; and torchvision's preset of its video models behind PyAV's whole clip, since torchvision has
no decoder any more. The last two end in the official layout and stock timm. Their frames are compared with ours. Steps
take turns; on a CPU with one thread time is that of the process. `--pipeline` runs transformers' video-classification
pipeline, with its VideoMAE-B, against ours on the same first 16 frames.

The second table is the loader for training, on one core. What 16 cores would give is arithmetic: 16 times that.
`--workers` measures a `DataLoader` by the clock, which means something on an idle machine alone.

    python benchmarks/speed/throughput.py --pipeline                     # three minutes on one idle core
    python benchmarks/speed/throughput.py --device cuda --dtype bfloat16 --batch 32 --workers 16

writes `throughput_<hardware>_<precision>_<torch>.csv`, the same with `_loader`, and a page.
"""
import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import av
import numpy as np
import timm
import torch
from torch import Tensor
from torchvision.transforms._presets import VideoClassification
from transformers import VideoMAEImageProcessor, pipeline
from transformers.pipelines.video_classification import read_video_pyav

import flatzoo
from benchmarks.common.official import official_layout
from benchmarks.common.peers import StockTimm, build_peer
from benchmarks.common.timing import clock_name, in_turn, markdown, save, setting
from benchmarks.common.videos import LENGTH, loader_speed, write_video
from flatzoo.data.clips import ClipDataset
from flatzoo.data.decode import VideoReader
from flatzoo.data.lists import Clip, VideoList
from flatzoo.data.sampling import uniform_indices
from flatzoo.data.transforms import EvalTransform

SIZE = (256, 340)
OURS = 'flatzoo'
GOAL = 450  # clips/s that 16 cores should give on files with a key frame every 30 frames or fewer


def make_file(path: Path, key_frames: int, kbit: int) -> None:
    """A file of the package's real clip; at the bit rate of small copies of Kinetics unless `kbit` is 0."""
    write_video(path, SIZE, key_frames)
    if not kbit:
        return
    rich = path.rename(path.with_suffix('.rich.mp4'))
    options = {'g': str(key_frames), 'keyint_min': str(key_frames), 'sc_threshold': '0', 'threads': '1'}
    with av.open(str(rich)) as source, av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25, options=options | {'preset': 'veryfast'})
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *SIZE, 'yuv420p', 1000 * kbit
        for frame in source.decode(video=0):
            frame.pict_type = 0  # the encoder chooses
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


class Flatzoo:
    """What the zoo does itself; frames stay uint8 until the layout."""

    def __init__(self, model: torch.nn.Module):
        self.size, self.layout = model.img_size, model.super_image
        self.crops = EvalTransform(self.size)

    def decode(self, path: Path, indices: list[int]) -> Tensor:
        """Frames `[T, C, H, W]`."""
        with VideoReader(path) as video:
            return video.get_frames(indices)

    def pixels(self, frames: Tensor) -> Tensor:
        """A clip `[1, C, T, h, w]`."""
        return self.crops(frames).transpose(1, 2)


class Transformers:
    """Decoding of transformers' pipeline and the processor of VideoMAE."""

    def __init__(self, model: torch.nn.Module):
        height, width = model.img_size
        self.processor = VideoMAEImageProcessor(
            size={'shortest_edge': height}, crop_size={'height': height, 'width': width},
            image_mean=model.pretrained_cfg['mean'], image_std=model.pretrained_cfg['std'])
        self.layout = official_layout

    def decode(self, path: Path, indices: list[int]) -> list[np.ndarray]:
        """Frames `[H, W, C]`."""
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            return list(read_video_pyav(container, indices))

    def pixels(self, frames: list[np.ndarray]) -> Tensor:
        """A clip `[1, C, T, h, w]`, normalised."""
        return self.processor(frames, return_tensors='pt')['pixel_values'].transpose(1, 2)


class Torchvision:
    """The whole clip by PyAV, and the preset that torchvision's video models are evaluated with."""

    def __init__(self, model: torch.nn.Module):
        self.preset = VideoClassification(
            crop_size=model.img_size, resize_size=model.img_size[:1], mean=model.pretrained_cfg['mean'],
            std=model.pretrained_cfg['std'])
        self.layout = official_layout

    def decode(self, path: Path, indices: list[int]) -> Tensor:
        """Frames `[T, C, H, W]`."""
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            frames = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])
        return torch.from_numpy(frames[indices]).permute(0, 3, 1, 2)

    def pixels(self, frames: Tensor) -> Tensor:
        """A clip `[1, C, T, h, w]`, normalised."""
        return self.preset(frames.contiguous())[None]


def grey_levels(clip: Tensor, model: torch.nn.Module) -> Tensor:
    """Pixels 0...255 of a clip, uint8 or normalised."""
    if clip.dtype == torch.uint8:
        return clip.float()
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1, 1) for key in ('mean', 'std'))
    return 255 * (clip * std + mean)


def whole_path(files: dict[int, Path], args: argparse.Namespace) -> list[dict]:
    """The rows of the three ways, for each spacing of key frames."""
    torch.manual_seed(0)
    dtype = getattr(torch, args.dtype)
    model = timm.create_model(args.model, num_classes=400).eval()
    stock = StockTimm(model)
    ways = {OURS: Flatzoo(model), 'transformers': Transformers(model), 'torchvision': Torchvision(model)}
    model, stock = model.to(args.device, dtype), stock.eval().to(args.device, dtype)
    ours = flatzoo.optimize(model)
    ours = ours if args.device == 'cpu' else torch.compile(ours)
    size = model.img_size
    frames = torch.randint(256, (args.batch, model.num_frames, *size, 3), dtype=torch.uint8, device=args.device)
    uint8 = frames.permute(0, 4, 1, 2, 3)  # as decoders give them
    normal = torch.randn(uint8.shape, device=args.device, dtype=dtype)
    steps = {
        (OURS, 'layout'): lambda: model.super_image(uint8), ('official', 'layout'): lambda: official_layout(normal),
        (OURS, 'model'): lambda: ours(uint8), ('official', 'model'): lambda: stock(normal)}
    with torch.no_grad():
        for run in steps.values():
            run()
        times = in_turn(steps, args.rounds, args.device)
    networks = {key: 1000 * statistics.median(values) / args.batch for key, values in times.items()}
    rows = []
    for gop, path in files.items():
        with VideoReader(path) as video:
            indices = uniform_indices(len(video), model.num_frames)[0].tolist()
        frames = {name: way.decode(path, indices) for name, way in ways.items()}
        clips = {name: grey_levels(way.pixels(frames[name]), model) for name, way in ways.items()}
        runs = {}
        for name, way in ways.items():
            runs[name, 'decode'] = lambda way=way, path=path, indices=indices: way.decode(path, indices)
            runs[name, 'pixels'] = lambda way=way, name=name, frames=frames: way.pixels(frames[name])
        with torch.no_grad():
            times = in_turn(runs, 3 * args.rounds, 'cpu')
        totals = {}
        for name in ways:
            side = OURS if name == OURS else 'official'
            layout = networks[side, 'layout']
            parts = {step: 1000 * statistics.median(times[name, step]) for step in ('decode', 'pixels')}
            parts |= {'layout': layout, 'model': networks[side, 'model'] - layout}
            totals[name] = sum(parts.values())
            before = parts['decode'] + parts['pixels'] + parts['layout']
            rows.append({
                'tools': name, 'key_frame_every': gop, **{f'{step}_ms': f'{ms:.2f}' for step, ms in parts.items()},
                'total_ms': f'{totals[name]:.1f}', 'clips_per_s': f'{1000 / totals[name]:.3g}',
                'before_model_clips_per_s': f'{1000 / before:.3g}',
                'model_share': f'{parts["model"] / totals[name]:.1%}', 'of_ours': f'{totals[name] / totals[OURS]:.2f}',
                'grey_levels_apart': f'{(clips[name] - clips[OURS]).abs().mean():.2f}', 'model': args.model,
                'batch': args.batch, 'clock': clock_name(args.device), **setting(args.device, args.dtype)})
            print(rows[-1], flush=True)
    return rows


def loader(files: dict[int, Path], args: argparse.Namespace) -> list[dict]:
    """The rows of the loader for training: time per clip on one core, and what 16 cores would give."""
    model = timm.create_model(args.model, device='meta')
    runs = {}
    for gop, path in files.items():
        dataset = ClipDataset(VideoList('speed', [Clip(str(path), 0)], ['any']), model.num_frames, model.img_size)
        assert 'clip' in dataset[0]
        runs[gop] = lambda dataset=dataset: dataset[0]
    times = in_turn(runs, 5 * args.rounds, 'cpu')
    rows = []
    for gop, values in times.items():
        ms = 1000 * statistics.median(values)
        by_clock = loader_speed(files[gop], args.workers, 100 * args.workers) if args.workers else None
        rows.append({
            'key_frame_every': gop, 'kbit_per_s': round(files[gop].stat().st_size * 8 * 25 / LENGTH / 1000),
            'frames': model.num_frames, 'size': model.img_size[0], 'ms_per_clip': f'{ms:.1f}',
            'clips_per_s_and_core': f'{1000 / ms:.1f}', 'times_16': f'{16 * 1000 / ms:.0f}',
            'reaches_goal': '' if gop > 30 else 'yes' if 16 * 1000 / ms >= GOAL else 'no',
            'workers': args.workers or None, 'clips_per_s_by_the_clock': by_clock and f'{by_clock:.0f}',
            **setting('cpu', 'uint8')})
        print(rows[-1], flush=True)
    return rows


def pipelines(path: Path, args: argparse.Namespace) -> str:
    """One sentence: transformers' whole pipeline against ours, VideoMAE-B on the first 16 frames of a file."""
    theirs = build_peer('transformers:videomae_b', 16).model.eval()
    classify = pipeline('video-classification', model=theirs, image_processor=VideoMAEImageProcessor())
    model = flatzoo.optimize(timm.create_model('videomae_vit_b', num_classes=400))
    way = Flatzoo(model)

    def ours() -> list[tuple[float, int]]:
        with torch.inference_mode():
            top = model(way.pixels(way.decode(path, list(range(16))))).softmax(-1).topk(5)
        return list(zip(top.values[0].tolist(), top.indices[0].tolist(), strict=True))

    runs = {'theirs': lambda: classify(str(path)), 'ours': ours}
    for run in runs.values():
        run()
    times = in_turn(runs, args.rounds, 'cpu')
    ms = {name: 1000 * statistics.median(values) for name, values in times.items()}
    return (f"transformers' video-classification pipeline takes {ms['theirs']:.0f} ms for the first 16 frames of a "
            f"file with its VideoMAE-B, ours (`videomae_vit_b` after `flatzoo.optimize`) {ms['ours']:.0f} ms: "
            f"{ms['theirs'] / ms['ours']:.2f} times as fast (float32, {clock_name('cpu')}).")


def main(argv: list[str] | None = None) -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='sifar_swin_b12', help='a SIFAR on a Swin Transformer')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='of the model')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16'], default='float32')
    parser.add_argument('--batch', type=int, default=1, help='clips that the model sees at a time')
    parser.add_argument('--key-frames', type=int, nargs='+', default=[12, 30, 250], help='their spacings in the files')
    parser.add_argument('--kbit', type=int, default=400, help='per second, of the files; 0: grainy, over 2000')
    parser.add_argument('--rounds', type=int, default=3, help='of models; faster steps have more')
    parser.add_argument('--threads', type=int, default=1, help='of a CPU')
    parser.add_argument('--workers', type=int, default=0, help='of a DataLoader that is measured by the clock')
    parser.add_argument('--pipeline', action='store_true', help="run transformers' pipeline, too")
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder')
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        files = {gop: Path(folder) / f'{gop}.mp4' for gop in args.key_frames}
        for gop, file in files.items():
            make_file(file, gop, args.kbit)
        rows, feed = whole_path(files, args), loader(files, args)
        words = [pipelines(next(iter(files.values())), args)] if args.pipeline else []
    rows = save(args.out / 'data/throughput.csv', rows, ('tools', 'key_frame_every', 'model', 'batch'))
    feed = save(args.out / 'data/throughput_loader.csv', feed, ('key_frame_every', 'kbit_per_s', 'frames', 'size'))
    short = ('model', 'batch', 'clock')
    markdown(args.out / 'throughput.md', 'From a file to logits', [
        f'`python benchmarks/speed/throughput.py`: {args.model}, batch {args.batch}; {clock_name(args.device)}, '
        f'medians. H.264 files of 340 x 256 pixels, {LENGTH} frames, about {args.kbit} kbit/s. '
        'Backends: ours `flatzoo.optimize` (packed oneDNN on CPUs, compiled on GPUs), the others stock timm. '
        '`before_model` is decode, pixels and layout; `of_ours` is time over ours; grey levels are mean differences '
        'from our frames (torchvision resizes without antialias, and crops may lie a pixel apart).',
        [{key: value for key, value in row.items() if key not in short} for row in rows],
        '## Feeding an accelerator',
        f'Clips for training out of `ClipDataset`, one core, {clock_name("cpu")}. `times_16` is arithmetic, 16 times a '
        f'core, and was not measured; the goal is {GOAL} clips/s where key frames are at most 30 frames apart.',
        [{key: value for key, value in row.items() if key not in short} for row in feed], *words])


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
