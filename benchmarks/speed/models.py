r"""Models of the zoo against what one would run in their place, at equal frames and precision, with random weights.

Yardstick of every ratio is SIFAR-B-12 as stock timm has it: the official code's numbers, at its speed. Ours are
measured plain, with attention switched (`fused` where timm leaves it eager, `eager` where it is fused), after
`flatzoo.optimize` (in training with `set_grad_checkpointing(selective=True)`), and with `--compile` under
torch.compile and on a CPU by `flatzoo.optimize(compile=True)`. The peers are measured plain and under torch.compile:
torchvision's MViTv2, Video Swin, S3D and R(2+1)D, transformers' VideoMAE, TimeSformer, ViViT and V-JEPA 2.
`--official` adds the official code of SIFAR from a checkout. All stay in memory and take turns in every round.
Where two sides must agree, their logits are compared before.
Clips are as long as a name of ours says; peers are built for that length. With `--stated` every model has clips of
the length that its accuracy is stated for, and all take turns together: the rows beside which that accuracy may stand.

    python benchmarks/speed/models.py --passes forward train  # all, on a CPU: about an hour
    python benchmarks/speed/models.py --stated --dtype bfloat16 --rounds 9 --compile sifar_swin_b12 sifar_swin_b14 \
        flatten_uniformer_s videomae_vit_b amflow_dinov2_b_tcn_lite tsm_resnet50 tsm_mobilenetv2_100 \
        torchvision:r2plus1d_18 transformers:timesformer_b  # only these: others take long to compile
    python benchmarks/speed/models.py --quick  # seven minutes on one idle core
    python benchmarks/speed/models.py --device cuda --dtype bfloat16 --batch 1 8 64 --compile \
        --passes forward train --profile

writes `models.md`, below it `data/models.csv`, which `flatzoo compare --measured` reads, from its rows
`stated_speed.md`, and with `--profile` the kernels that bound our variants. Rows of other runs and machines are kept.
In bfloat16 weights are cast for inference; training keeps them in float32 under autocast.
"""
import argparse
import functools
import gc
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import timm
import torch

from benchmarks.common.models import COMPILED_FORMS, measure
from benchmarks.common.peers import PEERS
from benchmarks.common.stated import stated, write_stated
from benchmarks.common.timing import SETTING, clock_name, markdown, save

OURS = (
    'sifar_swin_b12', 'sifar_resnet50', 'flatten_uniformer_s', 'amflow_dinov2_b_tcn_lite', 'sifar_swin_b12_16f',
    'sifar_swin_b14_16f', 'flatten_uniformer_s_16f', 'videomae_vit_b', 'time_vit_b')
QUICK = (
    'sifar_swin_b12', 'flatten_uniformer_s', 'torchvision:swin3d_t', 'torchvision:mvit_v2_s',
    'torchvision:r2plus1d_18', 'transformers:videomae_b', 'transformers:timesformer_b',
    'sifar_swin_b12_16f', 'flatten_uniformer_s_16f', 'videomae_vit_b', 'torchvision:s3d')
STATED = (  # S3D is left out, whose accuracy is stated for 128 frames, 9 s on one core with AMX, and so is ViViT
    'sifar_swin_b12', 'sifar_swin_b14', 'flatten_uniformer_s', 'videomae_vit_b', 'amflow_dinov2_b_tcn_lite',
    'tsm_resnet50', 'tsm_mobilenetv2_100', 'torchvision:r2plus1d_18', 'torchvision:mvit_v2_s', 'torchvision:swin3d_t',
    'transformers:videomae_b', 'transformers:timesformer_b')
EACH = 'stated'  # in place of a length: each model has its own
KEYS = ('model', 'variant', 'pass', 'frames', 'batch', 'threads', 'group')


def table(rows: list[dict]) -> list[dict]:
    """The columns of the page."""
    return [{
        'model': row['model'], 'variant': row['variant'], 'frames': f'{row["frames"]} x {row["size"]}',
        'batch': row['batch'], 'M params': row['params_m'], 'G multiply-adds': row['gmacs'],
        'clips/s': row['clips_per_s'], 'ms': row['ms'], 'speed / stock SIFAR-B-12': row['of_stock_sifar'],
        'speed / plain': row['of_plain'], 'MB': row['peak_mb'], 'difference of logits': row['error'],
        'graphs, breaks': f'{row["graphs"]}, {row["graph_breaks"]}' if row['graphs'] else '',
        'backend': row['backend'], 'Kinetics-400, stated': found.text if (found := stated(row['model'])) else '',
        **{key: row[key] for key in SETTING}} for row in rows]


def write_page(path: Path, rows: list[dict], failed: list[str], args: argparse.Namespace) -> None:
    """The table in Markdown, one part per number of frames and pass."""
    parts = [
        f'`python benchmarks/speed/models.py`; {clock_name(args.device)}, medians; random weights. The script '
        'says what the columns are.',
        'Speed is times as fast, in the same rounds. Stock SIFAR-B-12 (`timm:`) has as many frames as the rest of its '
        'table. MB is what a pass needs beside weights and clips. Differences are the largest ones, over the largest '
        'logit. Accuracies are printed by papers and publishers, with other frames and views; none was measured here.']
    groups = {(row['pass'], row['group']) for row in rows}
    for kind, group in sorted(groups, key=lambda key: (key[0], len(key[1]), key[1])):  # 8 before 16, then `stated`
        length = 'Frames of the stated accuracy' if group == EACH else f'{group} frames'
        parts.append(f'## {length}, {"inference" if kind == "forward" else "forward and backward"}')
        parts.append(table([row for row in rows if (row['pass'], row['group']) == (kind, group)]))
    if failed:
        parts.append('Beside these: ' + '; '.join(failed) + '.')
    markdown(path, 'Models side by side', parts)


def main(argv: list[str] | None = None) -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', help='names of ours and of peers; all by default')
    parser.add_argument('--frames', nargs='+', type=int, help='lengths of clips: 8 16 32; with --quick 8 16')
    parser.add_argument('--stated', action='store_true', help='each at the length of its stated accuracy, all in turns')
    parser.add_argument('--quick', action='store_true', help='what fits into minutes on a CPU')
    parser.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    parser.add_argument('--dtype', default='float32', choices=['float32', 'bfloat16'])
    parser.add_argument('--batch', nargs='+', type=int, default=[1])
    parser.add_argument('--rounds', type=int, default=None, help='5, or with --quick 3')
    parser.add_argument('--threads', type=int, default=1, help='of a CPU')
    parser.add_argument(
        '--passes', nargs='+', choices=['forward', 'train'], default=['forward'], help='train: forward and backward')
    parser.add_argument(
        '--compile', nargs='*', metavar='NAME', help='torch.compile, too, of all or of these, and of ours on a '
        'CPU optimize(compile=True); minutes per model')
    parser.add_argument('--profile', action='store_true', help='write which kernels bound our variants')
    parser.add_argument('--official', type=Path, help='folder of a checkout of IBM/sifar-pytorch')
    parser.add_argument('--out', type=Path, default=Path(__file__).parents[1] / 'results', help='folder')
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (3 if args.quick else 5)
    args.frames = (EACH,) if args.stated else args.frames or ((8, 16) if args.quick else (8, 16, 32))
    args.compile = args.compile == [] or args.compile
    args.torch_dtype, args.profiles = getattr(torch, args.dtype), []
    args.compiled_forms, args.compile_options = COMPILED_FORMS[args.device], {}
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 256  # video models share a forward, of which it compiles 8 by default
    names = args.models or (STATED if args.stated else QUICK if args.quick else (*OURS, *PEERS))
    rows, failed = [], []
    for kind in args.passes:
        args.training = kind == 'train'
        for frames in args.frames:
            ours = [name for name in names if name not in PEERS and frames in (EACH, _frames(name))]
            group = ours + [name for name in names if name in PEERS]
            if not ours:  # peers alone have nothing to be compared with
                continue
            for batch in args.batch:
                new, bad = measure(group, None if frames == EACH else frames, batch, args)
                rows += [{**row, 'group': frames} for row in new]
                failed += bad
                torch.compiler.reset()
                gc.collect()
    rows = save(args.out / 'data/models.csv', rows, KEYS)
    write_page(args.out / 'models.md', rows, failed, args)
    write_stated(args.out / 'stated_speed.md', rows)
    if args.profiles:
        markdown(args.out / 'models_profile.md', 'Which kernels bound the models', args.profiles)


@functools.cache
def _frames(name: str) -> int:
    return timm.create_model(name, device='meta').num_frames


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
