"""Trains a small ViT as an image classifier on single frames of the procedural actions (`flatzoo.data.actions`).

    python benchmarks/learning/train_frames_vit.py --results benchmarks/results/data/frames_vit.json

One linear head tells the shape and the texture of the acting object and the texture of the place, as three groups of
logits, and no action: what a frame shows is learned here, so that adapters on the frozen model have the motion left to
learn (`amflow_on_actions.py`). Frames come from still and shaking cameras, one of each scene, whole or closer to the
object (whole frames alone teach the place only), rendered once and shown with random flips, shifts and contrast.
Accuracy is measured on the held-out split, which shows other textures of the same kinds; its two further kinds are left
out, since no class stands for them.
"""
import argparse
import json
import platform
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.models import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.utils.data import DataLoader

import flatzoo
from benchmarks.common.actions import share
from benchmarks.common.files import write_file
from benchmarks.common.frames_vit import ARCHITECTURE, WEIGHTS
from benchmarks.common.timing import cpu_name
from flatzoo.data.actions import ActionFrames

GROUPS = {name: len(names) for name, names in ActionFrames.classes.items()}
ZOOM = 3.0  # greatest magnification in training
UNSEEN = ('marble', 'waves')  # kinds of texture that only the held-out split has
MEAN, STD = ((0.5,) * 3,) * 2  # timm's normalisation of this architecture


def build(num_classes: int = sum(GROUPS.values()), **kwargs: object) -> VisionTransformer:
    """The ViT, with random weights."""
    return timm.create_model('vit_tiny_patch16_224', num_classes=num_classes, **{**ARCHITECTURE, **kwargs})


def frames(count: int, seed: int, split: str, zoom: float) -> tuple[Tensor, Tensor]:
    """Frames uint8 `[N, 3, S, S]` and their labels `[N, 3]`, half of them from a shaking camera."""
    parts = [
        ActionFrames(count // 2, ARCHITECTURE['img_size'], seed=seed + 2 * shaking, split=split,
                     camera_shake=0.05 * shaking, zoom=zoom)
        for shaking in range(2)]
    items = [item for data in parts for item in data]
    return torch.stack([frame for frame, _ in items]), torch.tensor([list(labels.values()) for _, labels in items])


def normalise(x: Tensor) -> Tensor:
    """uint8 -> float as the model takes it."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (x.float() / 255 - mean) / std


def augment(x: Tensor, generator: torch.Generator, shift: int = 2) -> Tensor:
    """Frames of a batch flipped, moved and with another contrast and brightness, each by itself."""
    count, _, height, width = x.shape
    flips = torch.rand(2, count, generator=generator) < 0.5
    x = torch.where(flips[0, :, None, None, None], x.flip(-1), x)
    x = torch.where(flips[1, :, None, None, None], x.flip(-2), x)
    x = F.pad(x, (shift,) * 4, mode='reflect')
    down, right = torch.randint(2 * shift + 1, (2, count, 1, 1), generator=generator)
    rows, columns = torch.arange(height)[None, :, None] + down, torch.arange(width)[None, None] + right
    x = x[torch.arange(count)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)  # [N, 3, H, W]
    gain, offset = torch.rand(2, count, 1, 1, 1, generator=generator)
    return x * (0.7 + 0.6 * gain) + (offset - 0.5) * 0.4


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the groups of logits."""
    parts = logits.split(list(GROUPS.values()), 1)
    return sum(F.cross_entropy(part, labels[:, i], label_smoothing=0.05) for i, part in enumerate(parts)) / len(parts)


def train(model: VisionTransformer, data: tuple[Tensor, Tensor], args: argparse.Namespace) -> None:
    """Trains over `args.steps` batches, with warm-up and cosine decay."""
    optimizer = create_optimizer_v2(model, opt=args.opt, lr=args.lr, weight_decay=args.weight_decay)
    scheduler = CosineLRScheduler(
        optimizer, args.steps, lr_min=args.lr / 100, warmup_t=args.steps // 20, warmup_lr_init=args.lr / 50,
        t_in_epochs=False)
    generator = torch.Generator().manual_seed(args.seed)
    loader = DataLoader(
        list(zip(*data, strict=True)), args.batch_size, shuffle=True, drop_last=True, generator=generator)
    model.train()
    average, step, start = 0.0, 0, time.time()
    while step < args.steps:
        for images, labels in loader:
            loss = loss_of(model(augment(normalise(images), generator)), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            scheduler.step_update(step)
            average += (loss.item() - average) / min(step, 100)
            if step % 200 == 0 or step == args.steps:
                print(f'step {step}/{args.steps}  loss {average:.3f}  {time.time() - start:.0f} s', flush=True)
            if step == args.steps:
                break


@torch.inference_mode()
def measure(model: VisionTransformer, data: tuple[Tensor, Tensor]) -> dict[str, dict[str, float]]:
    """Accuracy per label, and that of always naming the most frequent class."""
    model.eval()
    logits = torch.cat([model(normalise(part)) for part in data[0].split(256)])
    out = {}
    for i, (name, part) in enumerate(zip(GROUPS, logits.split(list(GROUPS.values()), 1), strict=True)):
        names = ActionFrames.classes[name]
        known = torch.tensor([kind not in UNSEEN for kind in names])[data[1][:, i]]
        labels = data[1][known, i]
        out[name] = {
            'accuracy': share(part[known].argmax(1) == labels),
            'most_frequent_class': share(labels == labels.mode().values),
            'frames': int(known.sum()),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=4000)
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--opt', default='muon', help='optimizer, by its name in timm (%(default)s)')
    parser.add_argument('--lr', type=float, default=1e-2)
    parser.add_argument('--weight-decay', type=float, default=0.05)
    parser.add_argument('--train-frames', type=int, default=40_000)
    parser.add_argument('--eval-frames', type=int, default=4000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', type=Path, default=WEIGHTS, help='safetensors file (%(default)s)')
    parser.add_argument('--results', type=Path, help='JSON file for the measurements')
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = build()
    start = time.time()
    data = frames(args.train_frames, args.seed, 'train', ZOOM)
    rendered = time.time()
    print(f'{sum(p.numel() for p in model.parameters())} parameters; rendered in {rendered - start:.0f} s', flush=True)
    train(model, data, args)
    trained = time.time()
    measured = {
        kind: measure(model, frames(args.eval_frames, args.seed + 1, 'test', zoom))
        for kind, zoom in (('whole_frames', 1.0), ('frames_as_in_training', ZOOM))}
    print(json.dumps(measured, indent=2))
    metadata = {'trained_on': 'single frames of the flatzoo actions', 'architecture': json.dumps(ARCHITECTURE)}
    write_file(args.out, safetensors.torch.save(model.state_dict(), metadata))
    results = {
        'architecture': ARCHITECTURE,
        'classes': ActionFrames.classes,
        'command': shlex.join(['python', *sys.argv]),
        'seconds': {'rendering': round(rendered - start), 'training': round(trained - rendered)},
        'held_out': measured,
        'versions': {
            'python': platform.python_version(), 'flatzoo': flatzoo.__version__,
            'torch': torch.__version__, 'timm': timm.__version__,
        },
        'hardware': f'{cpu_name()}, {args.threads} threads',
    }
    if args.results:
        write_file(args.results, (json.dumps(results, indent=2) + '\n').encode())


if __name__ == '__main__':
    main()
