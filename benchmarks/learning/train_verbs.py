"""Trains and measures a small video model on the 49 classes of `flatzoo.data.actions.VERBS`.

    python benchmarks/learning/train_verbs.py --out weights.safetensors --results results.json
    python benchmarks/learning/train_verbs.py --device cuda --threads 16 --model superimage --model-kwargs \
        backbone=resnet18 img_size=64 --scenes 200000 --steps 20000 --out large.safetensors   # 23 MB; not run yet

Scenes are rendered once, in parts, into a cache of frames at the size of training, from three sizes. Some clips show a
whole action; others are windows of a longer video, whose middle decides whether the label is the action or 'nothing',
with other scenes before and after a cut. In training each scene is in its batch forwards and backwards, so that
nothing but the order of frames tells the two classes of a pair apart. Clips are shifted, mirrored (with the label that
the mirror gives), recoloured, blurred and made noisy. Accuracy is measured on held-out textures and seeds with the
frames in order, reversed and shuffled, and on H.264 files that are written and decoded again. `--evaluate FILE`
measures existing weights and trains nothing.
"""
import argparse
import json
import math
import os
import platform
import random
import shlex
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import av
import numpy as np
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.utils import ParseKwargs
from torch import Tensor, nn

import flatzoo
from benchmarks.common.actions import predict, share
from benchmarks.common.files import write_file
from benchmarks.common.timing import cpu_name, cpu_seconds
from flatzoo.data.actions import NOTHING, VERBS, VerbClips, mirrored_verb, paint_verb, render_verb
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.transforms import resize

NONE = VERBS.index(NOTHING)
MIRROR = torch.tensor([label if mirrored_verb(label) is None else mirrored_verb(label) for label in range(len(VERBS))])
CAN_MIRROR = torch.tensor([mirrored_verb(label) is not None for label in range(len(VERBS))])
REVERSE = torch.tensor([label if label == NONE else label ^ 1 for label in range(len(VERBS))])
WINDOW = 1.5  # seconds, of a window of a longer video
FILES = ((128, 32, 16, 0.0), (96, 12, 8, 0.05))  # pixels, frames, frames per second, camera shake
PART = 2000  # scenes of a file of the cache


def training_scene(seed: int, index: int, size: int, frames: int) -> tuple[Tensor, int]:
    """A clip of an even verb or of nothing, uint8 `[T, 3, size, size]`, and its label."""
    rng = random.Random(f'scenes/{seed}/{index}')
    scene = (seed << 32) + index
    large = rng.choice((size, size, 3 * size // 2, 2 * size))
    shake = 0.0 if rng.random() < 0.4 else rng.uniform(0, 0.08)
    kind = rng.random()
    if kind < 0.06:
        clip, label = render_verb(NONE, scene, frames, large, camera_shake=shake), NONE
    elif kind < 0.55:
        label = 2 * rng.randrange(NONE // 2)
        ends = rng.uniform(-0.12, 0.08), 1 + rng.uniform(-0.08, 0.12)
        clip = render_verb(label, scene, frames, large, camera_shake=shake, stretch=ends)
    else:
        clip, label = window(rng, scene, frames, large, shake)
    return resize(clip, size), label


def window(rng: random.Random, scene: int, frames: int, size: int, shake: float) -> tuple[Tensor, int]:
    """A window of a longer video, in which an even verb has a still before and after, and cuts to other scenes."""
    pair, other = rng.randrange(NONE // 2), rng.randrange(NONE // 2)
    seconds, long = rng.uniform(1.5, 2.5), WINDOW * rng.uniform(0.85, 1.15)
    middle = rng.uniform(-0.2, 1.2)
    while min(abs(middle), abs(1 - middle)) < 0.04:
        middle = rng.uniform(-0.2, 1.2)
    times = [middle + ((i + 0.5) / frames - 0.5) * long / seconds for i in range(frames)]
    first, last = -rng.uniform(0.3, 2) / seconds, 1 + rng.uniform(0.3, 2) / seconds
    before, after = sum(t < first for t in times), sum(t > last for t in times)
    stop = frames - after
    parts = [paint_verb(pair, scene, times[before:stop], times[before:stop], size, shake, 'train')]
    for place, cut in ((0, times[:before]), (1, times[stop:])):
        if cut:
            drifts = rng.random() < 0.3
            moments = cut if drifts else [float(rng.random() < 0.5)] * len(cut)
            part = paint_verb(other, ~scene - place, moments, cut, size, shake, 'train', acting=not drifts)
            parts.insert(0 if place == 0 else len(parts), part)
    return torch.cat(parts), 2 * pair if 0 < middle < 1 else NONE


def render_cache(
        folder: Path, scenes: int, seed: int, size: int, frames: int, processes: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """All scenes, rendered where they are missing: uint8 `[N, T, 3, size, size]` and labels `[N]`."""
    folder.mkdir(parents=True, exist_ok=True)
    start, clips, labels = time.time(), [], []
    jobs = [(folder / f'{seed}-{size}-{frames}-{begin}.npz', begin, min(begin + PART, scenes), seed, size, frames)
            for begin in range(0, scenes, PART)]
    missing = [job for job in jobs if not job[0].exists()]
    with ProcessPoolExecutor(processes, get_context('spawn'), torch.set_num_threads, (1,)) as pool:
        for path in pool.map(_render_part, *zip(*missing)) if missing else ():
            print(f'{path}, {time.time() - start:.0f} s', flush=True)
    for path, *_ in jobs:
        with np.load(path) as part:
            clips.append(part['clips'])
            labels.append(part['labels'])
    return np.concatenate(clips), np.concatenate(labels)


def _render_part(path: Path, begin: int, end: int, seed: int, size: int, frames: int) -> Path:
    made = [training_scene(seed, index, size, frames) for index in range(begin, end)]
    partial = path.with_suffix('.partial.npz')
    np.savez(
        partial, clips=torch.stack([clip for clip, _ in made]).numpy(), labels=np.array([label for _, label in made]))
    os.replace(partial, path)
    return path


def augment(clips: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Changes clips uint8 `[B, T, 3, S, S]` in ways that keep what happens, or change its label."""
    count, frames, _, size, _ = clips.shape

    def chance(p: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) < p

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator) * (high - low) + low

    x = clips.float() / 255
    order = torch.arange(frames).repeat(count, 1)
    jitter = order + torch.randint(-1, 2, order.shape, generator=generator) * chance(0.3, frames)
    jitter = jitter.clamp(0, frames - 1).sort(1).values
    order = torch.where(chance(0.15, 1), jitter, order)  # a frame that is late, as in real files
    x = x[torch.arange(count)[:, None], order]
    mirrored = chance(0.5) & CAN_MIRROR[labels]
    x = torch.where(mirrored[:, None, None, None, None], x.flip(-1), x)
    labels = torch.where(mirrored, MIRROR[labels], labels)
    scale, shift = uniform(0.85, 1.15), uniform(-0.15, 0.15, 2)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    still = chance(0.3)
    theta[still] = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    grid = F.affine_grid(theta, (count, 1, size, size), align_corners=False)
    x = F.grid_sample(x.flatten(1, 2), grid, 'bilinear', 'border', False).unflatten(1, (frames, 3))
    grey = chance(0.15)[:, None, None, None, None]
    x = torch.where(grey, x.mean(2, keepdim=True), x)
    channels = torch.rand(count, 3, generator=generator).argsort(1)
    channels = torch.where(chance(0.3, 1), channels, torch.arange(3))
    x = x.gather(2, channels[:, None, :, None, None].expand_as(x))
    x = torch.where(chance(0.1)[:, None, None, None, None], 1 - x, x)
    mean = x.mean((1, 2, 3, 4), keepdim=True)
    x = (x - mean) * uniform(0.5, 1.3)[:, None, None, None, None] + mean + uniform(-0.15, 0.15)[
        :, None, None, None, None]
    blurred = F.avg_pool2d(x.flatten(0, 2)[:, None], 3, 1, 1, count_include_pad=False).view_as(x)
    x = torch.where(chance(0.15)[:, None, None, None, None], blurred, x)
    noise = torch.randn(x.shape, generator=generator)
    x = x + noise * (uniform(0, 0.05) * chance(0.3))[:, None, None, None, None]
    return (x.clamp(0, 1) * 255).round().to(torch.uint8), labels


def train(model: nn.Module, clips: np.ndarray, labels: np.ndarray, args: argparse.Namespace) -> None:
    """Trains over `args.steps` batches, with warm-up and cosine decay; resumes from the checkpoint if there is one."""
    device = torch.device(args.device)
    model.to(device)
    optimizer = create_optimizer_v2(model, opt=args.opt, lr=args.lr, weight_decay=args.weight_decay)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    model.train().to(memory_format=torch.channels_last)
    scenes, first = args.batch_size // 2, 0
    kept = args.work / 'last.pt'
    if args.resume and kept.exists():
        saved = torch.load(kept, map_location=device, weights_only=True)
        model.load_state_dict(saved['model'])
        optimizer.load_state_dict(saved['optimizer'])
        first = saved['step']
    per_epoch = len(labels) // scenes
    loss_of, right, start = 0.0, 0.0, time.time()
    for step in range(first, args.steps):
        epoch, place = divmod(step, per_epoch)
        order = np.random.Generator(np.random.PCG64([args.seed, epoch])).permutation(len(labels))
        picks = np.sort(order[place * scenes:(place + 1) * scenes])
        generator = torch.Generator().manual_seed((args.seed << 32) + step)
        x, y = augment(torch.from_numpy(clips[picks]), torch.from_numpy(labels[picks]), generator)
        x, y = torch.cat((x, x.flip(1))).transpose(1, 2).to(device), torch.cat((y, REVERSE[y])).to(device)
        warm = args.steps // 20
        rate = (step + 1) / warm if step < warm else 0.505 + 0.495 * math.cos(
            math.pi * (step - warm) / (args.steps - warm))
        for group in optimizer.param_groups:
            group['lr'] = args.lr * group.get('lr_scale', 1) * rate
        with torch.autocast(device.type, torch.bfloat16, enabled=not args.fp32):
            logits = model(x)  # uint8: the model normalises
        loss = criterion(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        share_right = (logits.argmax(1) == y).float().mean().item()
        part = 1 / min(step - first + 1, 100)
        loss_of, right = loss_of + (loss.item() - loss_of) * part, right + (share_right - right) * part
        if (step + 1) % 50 == 0 or step + 1 == args.steps:
            print(f'step {step + 1}/{args.steps}  loss {loss_of:.3f}  right {right:.3f}  {time.time() - start:.0f} s, '
                  f'{time.process_time():.0f} CPU s', flush=True)
        if (step + 1) % 250 == 0:
            partial = kept.with_suffix('.partial')
            torch.save(
                {'model': model.state_dict(), 'optimizer': optimizer.state_dict(), 'step': step + 1}, partial)
            os.replace(partial, kept)


def measure(model: nn.Module, num_clips: int, shake: float, seed: int) -> dict[str, object]:
    """Accuracy on held-out clips, at twice the size and scaled down, by order of the frames."""
    size = model.img_size[0]
    data = VerbClips(num_clips, model.num_frames, 2 * size, seed=seed, split='test', camera_shake=shake)
    items = [data[i] for i in range(num_clips)]
    clips = torch.stack([resize(clip.transpose(0, 1), size).transpose(0, 1) for clip, _ in items])
    labels = torch.tensor([label for _, label in items])
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack([clip[:, torch.randperm(model.num_frames, generator=generator)] for clip in clips])
    acts = labels != NONE
    normal, backwards, mixed = predict(model, clips), predict(model, clips.flip(2)), predict(model, shuffled)
    return {
        'clips': num_clips, 'normal': share(normal == labels), 'normal_without_nothing': share(
            normal[acts] == labels[acts]),
        'reversed': share(backwards[acts] == labels[acts]),
        'reversed_called_the_other_of_the_pair': share(backwards[acts] == labels[acts] ^ 1),
        'shuffled': share(mixed[acts] == labels[acts]),
        'first_sixteen': share(normal[labels < 16] == labels[labels < 16]),
        'per_class': {name: share(normal[labels == i] == i) for i, name in enumerate(VERBS)}}


def measure_files(
        model: nn.Module, num_clips: int, size: int, num_frames: int, fps: int, shake: float, seed: int,
) -> dict[str, float]:
    """Accuracy on held-out clips that are written as H.264 files and decoded again."""
    views = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'clip.mp4')
        for i in range(num_clips):
            clip = render_verb(
                i % len(VERBS), (seed << 32) + (1 << 31) + i, num_frames, size, camera_shake=shake, split='test')
            with av.open(str(path), 'w') as container:
                stream = container.add_stream('libx264', rate=fps, options={'crf': '23', 'threads': '1'})
                stream.width = stream.height = size
                stream.pix_fmt = 'yuv420p'
                for frame in clip.permute(0, 2, 3, 1).contiguous().numpy():
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
                container.mux(stream.encode())
            views.append(EvalProtocol().load_views(path, model.num_frames, model.img_size))
    hits = predict(model, torch.cat(views)) == torch.arange(num_clips) % len(VERBS)
    return {
        'size': size, 'frames': num_frames, 'fps': fps, 'camera_shake': shake, 'clips': num_clips,
        'accuracy': share(hits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='sifar_resnet10t', help='model name (%(default)s)')
    parser.add_argument(
        '--model-kwargs', nargs='*', default={}, action=ParseKwargs, help='its arguments, as NAME=VALUE')
    parser.add_argument('--device', default='cpu', help='of the training (%(default)s)')
    parser.add_argument('--scenes', type=int, default=36000, help='of the cache (%(default)s)')
    parser.add_argument('--steps', type=int, default=4000)
    parser.add_argument('--batch-size', type=int, default=64, help='clips, of half as many scenes (%(default)s)')
    parser.add_argument('--opt', default='muon', help='optimizer, by its name in timm (%(default)s)')
    parser.add_argument('--lr', type=float, default=4e-3)
    parser.add_argument('--weight-decay', type=float, default=0.05)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--fp32', action='store_true', help='train in float32, not in bfloat16')
    parser.add_argument('--eval-clips', type=int, default=1960)
    parser.add_argument('--eval-seed', type=int, default=1, help='of held-out clips; 0 is for choices (%(default)s)')
    parser.add_argument('--evaluate', type=Path, metavar='FILE', help='measure these weights, train nothing')
    parser.add_argument('--work', type=Path, default=Path('runs/verbs'), help='cache, checkpoint (%(default)s)')
    parser.add_argument('--resume', action='store_true', help='go on from the checkpoint in the work folder')
    parser.add_argument('--out', type=Path, help='safetensors file for the weights, in float16')
    parser.add_argument('--results', type=Path, help='JSON file for the measurements')
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = timm.create_model(args.model, num_classes=len(VERBS), pretrained=False, **args.model_kwargs)
    seconds = {}
    if args.evaluate:
        state = safetensors.torch.load_file(args.evaluate)
    else:
        clips, labels = render_cache(
            args.work, args.scenes, args.seed, model.img_size[0], model.num_frames, args.threads)
        seconds['render_cpu'], start = round(cpu_seconds()), time.time()
        train(model, clips, labels, args)
        seconds['train_seconds'] = round(time.time() - start)
        seconds['render_and_train_cpu'] = round(cpu_seconds())
        model.cpu()
        state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
        state = {key: value.contiguous() for key, value in state.items()}
        if args.out:
            metadata = {'trained_on': 'flatzoo actions', 'classes': json.dumps(VERBS)}
            write_file(args.out, safetensors.torch.save(state, metadata))
    model.load_state_dict(state)  # what is measured is what is shipped: weights rounded to float16
    model.to(memory_format=torch.channels_last)
    results = {
        'model': args.model, 'model_kwargs': args.model_kwargs,
        'command': shlex.join(['python', 'benchmarks/learning/train_verbs.py', *sys.argv[1:]]),
        'seed': args.seed, 'steps': None if args.evaluate else args.steps, **seconds,
        'eval': {
            **{name: measure(model, args.eval_clips, shake, args.eval_seed)
               for name, shake in (('still_camera', 0.0), ('shaking_camera', 0.05))},
            'files': [measure_files(model, args.eval_clips // 10, *kind, args.eval_seed) for kind in FILES]},
        'versions': {
            'python': platform.python_version(), 'flatzoo': flatzoo.__version__,
            'torch': torch.__version__, 'timm': timm.__version__},
        'hardware': f'{cpu_name()}, {os.cpu_count()} cores; {args.threads} threads'}
    print(json.dumps(results, indent=2))
    if args.results:
        write_file(args.results, (json.dumps(results, indent=2) + '\n').encode())


if __name__ == '__main__':
    main()
