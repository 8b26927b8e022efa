"""Speed of every way to make an image model see video: clips per second, forward alone and forward with backward.

The rows are those of `flatzoo compare --family image-to-video`, with random weights and one clip of noise. Models run
one after the other, `--rounds` times each pass; medians count. Runs of less than two seconds are warmed up by one
that does not count. On one thread of a CPU time is that of the process, so that other programs disturb it little.
Methods with adapters and probes freeze their backbone for the backward pass, as they are trained; there is no
optimizer. Rows are saved as they come, so that a run can be stopped; rows of other machines are kept.

    nice python benchmarks/speed/image_to_video.py  # those of base size, on one core about half an hour
    python benchmarks/speed/image_to_video.py 'tsm*' --rounds 5
    python benchmarks/speed/image_to_video.py --device cuda --dtype bfloat16
    flatzoo compare --family image-to-video --measured benchmarks/results/data/image_to_video.csv \
        --page docs/image_to_video  # writes the page from it, as `regenerate.py --all` does
"""
import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch

import flatzoo
from benchmarks.common.models import make_run
from benchmarks.common.timing import clock_name, in_turn, save, seconds, setting
from flatzoo.zoo.image_to_video import Member, matching_members

LONG = 2.  # seconds of a run beside which a warm-up does not matter
# by default left out: tens of seconds for each clip, or twins of other rows
LARGE = (
    '*_clip_l*', '*_dinov2_l*', '*_16f', 'sifar_swin_b14', '*_ssv2', 'amflow_dinov2_b_tcn', '*_transformer', '*_lstm')


def measure(member: Member, args: argparse.Namespace) -> list[dict]:
    """The rows of one model, a pass each."""
    torch.manual_seed(0)
    model = timm.create_model(member.model, **member.args).to(args.device)
    merged = getattr(model, 'merged', False)
    clip = torch.randn(args.batch, model.in_chans, model.num_frames, *model.img_size, device=args.device)
    rows = []
    for kind in ('forward',) if merged else ('forward', 'train'):
        args.training = kind == 'train'
        model = model.float() if args.training else model.to(args.torch_dtype)  # weights are trained in float32
        run = make_run(model.eval(), clip if args.training else clip.to(args.torch_dtype), args)
        took = [seconds(run, args.device)]
        if took[0] < LONG:
            took = []  # it was the warm-up
        took += in_turn({kind: run}, args.rounds - len(took), args.device)[kind]
        rows.append({
            'model': member.name, 'pass': kind, 'clips_per_s': f'{args.batch / statistics.median(took):.4g}',
            **setting(args.device, args.dtype), 'batch': args.batch,
            'seconds': ' '.join(f'{each:.4g}' for each in took), 'clock': clock_name(args.device),
            'timm': timm.__version__, 'flatzoo': flatzoo.__version__})
        print(rows[-1], flush=True)
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measures the models one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('patterns', nargs='*', help='names of rows, with wildcards; those of base size by default')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--threads', type=int, default=1, help='of a CPU')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument(
        '--out', type=Path, default=Path(__file__).parents[1] / 'results/data/image_to_video.csv', help='CSV file')
    args = parser.parse_args(argv)
    args.torch_dtype = getattr(torch, args.dtype)
    torch.set_num_threads(args.threads)
    large = () if args.patterns else {member.name for member in matching_members(LARGE)}
    for member in matching_members(args.patterns):
        if member.name not in large:
            save(args.out, measure(member, args), ('model', 'pass', 'batch'))


if __name__ == '__main__':
    main()
