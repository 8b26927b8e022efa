"""Trains and measures a small video model on the procedural actions (`flatzoo.data.actions`).

    python benchmarks/learning/train_actions.py --model sifar_resnet10t --out weights.safetensors --results results.json

Training clips are rendered while training, each scene forwards and backwards in the same batch, so that nothing but
the order of frames tells the two classes of a pair apart. They are degraded as files are: other sizes, frame counts,
blur, contrast, noise, an unsteady camera. Accuracy is measured on the held-out split (textures that training never
shows): with the frames in order, reversed and shuffled (as in SIFAR's Table 9), from a still and from a shaking camera,
and on H.264 files that are written and decoded again. `--evaluate FILE` measures existing weights and trains nothing.
"""
import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import safetensors.torch
import timm
import torch
from torch import nn

import flatzoo
from benchmarks.common.actions import measure_orders, predict, share, train
from benchmarks.common.files import write_file
from benchmarks.common.timing import cpu_name
from flatzoo.data.actions import ACTIONS, write_action
from flatzoo.data.protocol import EvalProtocol

# The files of the last measurement, all unlike the training clips: pixels, frames, frames per second, camera shake.
FILES = ((128, 32, 16, 0.0), (96, 12, 8, 0.0), (160, 48, 30, 0.0), (128, 32, 16, 0.05))


def measure_files(
        model: nn.Module,
        num_clips: int,
        size: int,
        num_frames: int,
        fps: int,
        camera_shake: float,
) -> dict[str, float]:
    """Accuracy on held-out clips that are written as H.264 files and decoded again."""
    views = []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(num_clips):
            path = write_action(
                Path(folder) / 'clip.mp4', i % len(ACTIONS), (1 << 40) + i, size, num_frames, fps,
                camera_shake=camera_shake, split='test')
            views.append(EvalProtocol().load_views(path, model.num_frames, model.img_size))
    hits = predict(model, torch.cat(views)) == torch.arange(num_clips) % len(ACTIONS)
    return {
        'size': size, 'frames': num_frames, 'fps': fps, 'camera_shake': camera_shake, 'clips': num_clips,
        'accuracy': share(hits),
    }


def evaluate(model: nn.Module, num_clips: int) -> dict[str, object]:
    """All the measurements, on the split that training does not show."""
    model.to(memory_format=torch.channels_last)
    return {
        'still_camera': measure_orders(model, num_clips, 0.0),
        'shaking_camera': measure_orders(model, num_clips, 0.05),
        'files': [measure_files(model, num_clips // 5, *kind) for kind in FILES],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='sifar_resnet10t', help='model name (%(default)s)')
    parser.add_argument('--model-args', type=json.loads, default={}, metavar='JSON', help='its further arguments')
    parser.add_argument('--steps', type=int, default=2200)
    parser.add_argument('--batch-size', type=int, default=32, help='clips, of half as many scenes (%(default)s)')
    parser.add_argument('--opt', default='muon', help='optimizer, by its name in timm (%(default)s)')
    parser.add_argument('--lr', type=float, default=4e-3)
    parser.add_argument('--weight-decay', type=float, default=0.05)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=1, help='threads beside the one that renders (%(default)s)')
    parser.add_argument('--fp32', action='store_true', help='train in float32, not in bfloat16')
    parser.add_argument('--eval-clips', type=int, default=1600)
    parser.add_argument('--evaluate', type=Path, metavar='FILE', help='measure these weights, train nothing')
    parser.add_argument('--out', type=Path, help='safetensors file for the weights, in float16')
    parser.add_argument('--results', type=Path, help='JSON file for the measurements')
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = timm.create_model(args.model, num_classes=len(ACTIONS), **args.model_args)
    print(f'{args.model}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters')
    start = time.time()
    if args.evaluate:
        state = safetensors.torch.load_file(args.evaluate)
    else:
        train(model, args)
        state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
        state = {key: value.contiguous() for key, value in state.items()}
        if args.out:
            metadata = {'trained_on': 'flatzoo actions', 'classes': json.dumps(ACTIONS)}
            write_file(args.out, safetensors.torch.save(state, metadata))
    trained = time.time()
    model.load_state_dict(state)  # what is measured is what is shipped: weights rounded to float16
    results = {
        'model': args.model,
        'model_args': args.model_args,
        'command': shlex.join(['python', *sys.argv]),
        'seed': args.seed,
        'steps': None if args.evaluate else args.steps,
        'train_seconds': None if args.evaluate else round(trained - start),
        'eval': evaluate(model, args.eval_clips),
        'versions': {
            'python': platform.python_version(), 'flatzoo': flatzoo.__version__,
            'torch': torch.__version__, 'timm': timm.__version__,
        },
        'hardware': f'{cpu_name()}, {os.cpu_count()} cores; {args.threads} threads, one process renders',
    }
    print(json.dumps(results['eval'], indent=2))
    if args.results:
        write_file(args.results, (json.dumps(results, indent=2) + '\n').encode())


if __name__ == '__main__':
    main()
