"""The TIME layer as a diagnostic: how accuracy moves with N, without training again.

The paper (arXiv:2411.15284) proposes to read from the accuracy over N whether a model uses space or time. The number T*
of new frames that the model sees is held fixed, and T* N^2 frames are drawn from the same clip. Measured on the
held-out procedural actions; without `--weights` a slim ResNet is first trained at `--train-n`. All values of N shrink
frames in the same way: one by one if every N divides the frame size, else the grids as a whole.

    python benchmarks/learning/time_diagnostic.py --train-n 2 --out benchmarks/results/time_diagnostic.md
    python benchmarks/learning/time_diagnostic.py --model time_resnet50 --weights mine.safetensors
"""
import argparse
import json
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import timm
import torch

from benchmarks.common.actions import measure_orders, train
from benchmarks.common.files import write_file
from flatzoo.data.actions import ACTIONS
from flatzoo.models.time_layer import time_layout
from flatzoo.weights.checkpoint import load_checkpoint

SLIM = dict(backbone='resnet10t', channels=(32, 64, 128, 256), stem_width=16, img_size=48)  # 48 = 4 * 12 = 3 * 16


def main() -> None:
    """Trains or loads a model, measures it over N and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='superimage', help='a model with a time:N layout (default: a slim ResNet)')
    parser.add_argument('--model-args', type=json.loads, default=None, metavar='JSON')
    parser.add_argument('--weights', type=Path, help='weights of the 16 procedural actions; trained if not given')
    parser.add_argument('--train-n', type=int, default=2, help='N to train with (%(default)s)')
    parser.add_argument('--new-frames', type=int, default=2, help='T*, new frames that the model sees (%(default)s)')
    parser.add_argument('--arrangement', choices=('spatial', 'temporal'), default='spatial')
    parser.add_argument('--n', type=int, nargs='+', default=[1, 2, 3, 4], help='values to measure')
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--opt', default='muon')
    parser.add_argument('--lr', type=float, default=4e-3)
    parser.add_argument('--weight-decay', type=float, default=0.05)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--fp32', action='store_true')
    parser.add_argument('--eval-clips', type=int, default=640)
    parser.add_argument('--out', type=Path)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model_args = (SLIM if args.model == 'superimage' else {}) if args.model_args is None else args.model_args
    model = timm.create_model(
        args.model, num_classes=len(ACTIONS), num_frames=args.new_frames, layout='time:1', **model_args)
    values = args.n if args.weights else [args.train_n, *args.n]

    def show(n: int) -> None:
        layout = time_layout(n, args.arrangement, model.img_size, among=values)
        model.set_input_size(num_frames=args.new_frames * n * n, layout=layout)

    show(values[0])
    if args.weights:
        model.load_state_dict(load_checkpoint(args.weights))
    else:
        train(model, args)

    lines = [
        '# Accuracy over N of the TIME layer', '',
        f'`{shlex.join(["python", *sys.argv])}`; held-out procedural actions, chance 6.25 %; '
        f'scale={model.layout.scale}.', '',
        '| N | frames | cell, pixels | accuracy | reversed | shuffled |', '|---|---|---|---|---|---|',
    ]
    for n in args.n:
        show(n)
        row = measure_orders(model, args.eval_clips, camera_shake=0.0)
        trained = ' (trained)' if n == args.train_n and not args.weights else ''
        lines.append(
            f'| {n}{trained} | {model.num_frames} | {model.img_size[0] / n:.4g} '
            + ''.join(f'| {100 * row[order]:.1f} % ' for order in ('normal', 'reversed', 'shuffled')) + '|')
        print(lines[-1], flush=True)
        if args.out:
            write_file(args.out, ('\n'.join(lines) + '\n').encode())


if __name__ == '__main__':
    main()
