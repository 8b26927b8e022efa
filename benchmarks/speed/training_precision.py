"""Time of a training step on a CPU in bf16 (autocast) against fp32, with the weights in fp32 in both.

A step is what `flatzoo train` does with a batch: forward, loss, backward, update of the weights. Convolutional models
lie in memory as `train` lays them, channels last; methods with a frozen backbone train beside it. Both precisions take
turns, each on weights of its own that were equal at first; with one thread time is that of the process. `ratio` is the
median over the rounds of fp32 over bf16, beside it the lower end of its 95 % interval: more than 1 means that bf16 is
faster. `wrong convolutions` are those that this CPU and torch compute wrong in bf16, which train in fp32.

    python benchmarks/speed/training_precision.py                     # some minutes
    python benchmarks/speed/training_precision.py sifar_resnet10t --rounds 9

writes `training_precision.md` and `data/training_precision.csv`.
"""
import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import flatzoo  # noqa: F401 - registers the models
from benchmarks.common.timing import in_turn, least, markdown, ratio, save, setting
from flatzoo.runtime.conv import check_convolutions, wrong_convolutions
from flatzoo.train.build import order_channels_last

CASES: dict[str, tuple[str, dict[str, Any], int]] = {  # name: model, arguments, clips of a batch
    'sifar_resnet10t': ('sifar_resnet10t', {}, 32),
    'superimage, EfficientNet-Lite0': (
        'superimage', dict(backbone='efficientnet_lite0', num_frames=8, img_size=64), 8),
    'superimage, ResNet-18': ('superimage', dict(backbone='resnet18', num_frames=8, img_size=64), 8),
    'amflow_dinov2_s_tcn_lite': ('amflow_dinov2_s_tcn_lite', dict(num_frames=4, img_size=98), 4),
    'sifar_swin_tiny': ('sifar_swin_tiny', {}, 1),
    'videomae_vit_s': ('videomae_vit_s', dict(num_frames=8, img_size=112), 2),
}


def make_step(model: nn.Module, clips: Tensor, labels: Tensor, low: bool) -> Callable[[], float]:
    """One step of training; it returns the loss."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> float:
        with torch.autocast('cpu', torch.bfloat16, enabled=low):
            loss = F.cross_entropy(model(clips), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def build(name: str, args: dict[str, Any], low: bool) -> nn.Module:
    """A model as `flatzoo train` has it, with random weights."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=20, **args).train()
    if hasattr(model, 'freeze_backbone'):
        model.freeze_backbone()
    order_channels_last(model)
    if low:
        check_convolutions(model)
    return model


def measure(name: str, rounds: int) -> dict:
    """The row of a case."""
    model_name, kwargs, batch = CASES[name]
    models = {low: build(model_name, kwargs, low) for low in (False, True)}
    model = models[True]
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(
        0, 256, (batch, 3, model.num_frames, *model.img_size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 20, (batch,), generator=generator)
    steps = {'bf16' if low else 'fp32': make_step(models[low], clips, labels, low) for low in models}
    first = {way: step() for way, step in steps.items()}  # loads kernels, checks convolutions
    times = in_turn(steps, rounds, 'cpu')
    shown = ratio(times['fp32'], times['bf16'])
    return {
        'model': name, 'clips': batch, 'frames': f'{model.num_frames} x {model.img_size[0]}',
        **{f'{way}, ms': f'{1000 * statistics.median(seconds):.0f}' for way, seconds in times.items()},
        'ratio': f'{shown:.2f}', 'at least': f'{least(times["fp32"], times["bf16"]):.2f}',
        'wrong convolutions': len(wrong_convolutions(model)),
        'losses of the first step': ' / '.join(f'{loss:.3f}' for loss in first.values()), 'rounds': rounds,
        **setting('cpu', 'float32 and bfloat16')}


def main(argv: list[str] | None = None) -> list[dict]:
    """Measures, writes, and returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='*', default=list(CASES), help='(default: all)')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder of the results')
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for name in args.models:
        rows.append(measure(name, args.rounds))
        print(rows[-1], flush=True)
    rows = save(args.out / 'data' / 'training_precision.csv', rows, ('model', 'clips', 'frames'))
    markdown(args.out / 'training_precision.md', 'Training in bf16 on a CPU', [
        '`python benchmarks/speed/training_precision.py`: median time of a training step in fp32 and under bf16 '
        'autocast, in turn in one run; `ratio` above 1 means that bf16 is faster. The script says what the columns '
        'are.', rows])
    return rows


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
