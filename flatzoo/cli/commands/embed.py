"""Keep the features of clips as files.

SOURCE is the layout of a data set and its folder (SPEC ROOT, see 'flatzoo data --help'), or files, folders
and patterns. --model is any model of flatzoo, or any image model of timm. An image model looks at the frames
one by one, or with --layout at all of them as one super image.

The folder holds safetensors files and index.parquet, which names the clip of each feature, its class and
group, and a digest of the weights. Start the command again to go on: what is there is not computed again.
In Python flatzoo.load_features('features/') reads the folder. Needs pip install 'flatzoo[probe]'.

    flatzoo embed folder videos/ --model vit_small_patch14_dinov2.lvd142m --num-frames 4 --out features/
    flatzoo embed clips/ --model sifar_resnet10t --out features/
    flatzoo embed ucf101:fold=1 UCF101/ --model probe_dinov2_s --tokens --out tokens/
"""
import argparse
import os
import sys
from typing import Any

from .. import CommandError, write, write_error
from ..arguments import KeyValues, add_ema_arguments, count
from ..sources import lists_or_files, one_line, plain_kwargs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo embed`."""
    parser.add_argument('sources', nargs='+', metavar='SOURCE', help='SPEC ROOT of a data set, or files and folders')
    parser.add_argument('--out', required=True, metavar='FOLDER', help='where the features go, or are already')
    parser.add_argument(
        '--split', nargs='+', default=[], metavar='NAME', help='splits of the data set (default: all that it has)')

    add_embedding_arguments(parser)
    parser.add_argument(
        '--per', choices=('clip', 'frame', 'window'), default='clip',
        help='a feature of each clip, of each frame, or of each window of --window seconds (default: %(default)s)')
    parser.add_argument('--window', type=float, metavar='SECONDS', help='length of a window')
    parser.add_argument('--tokens', action='store_true', help='keep all tokens, which attentive probes are trained on')


def add_embedding_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The arguments that say which network makes features and how; `flatzoo probe` has them, too."""
    model = parser.add_argument_group('model')
    model.add_argument(
        '--model', required=required, metavar='NAME',
        help="a name that 'flatzoo list' shows, an image model of timm, hf-hub:ORG/NAME or the FOLDER of a model")
    model.add_argument(
        '--layout', default='time:1', metavar='LAYOUT',
        help='of an image model: grid, ... for a super image (default: time:1, frame by frame)')
    model.add_argument(
        '--num-frames', type=count, metavar='N', help='frames of a clip (default: as the model; 8 of an image model)')
    model.add_argument('--checkpoint', metavar='FILE', help='weights to load in place of those of the name')
    add_ema_arguments(model)
    model.add_argument(
        '--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE',
        help='further arguments of the model, such as img_size=112')
    model.add_argument('--allow-untrained', action='store_true', help='take random weights where there are none')
    model.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    model.add_argument(
        '--dtype', choices=('float32', 'bfloat16'), default='float32',
        help='numbers to compute in and to keep (default: %(default)s)')

    views = parser.add_argument_group('views', 'What a model sees of a clip. Features are averaged over the views.')
    views.add_argument('--num-clips', type=count, default=1, metavar='N', help='clips per video (default: %(default)s)')
    views.add_argument(
        '--num-crops', type=int, choices=(1, 3), default=1, help='crops per clip (default: %(default)s)')

    work = parser.add_argument_group('work')
    work.add_argument(
        '--batch-size', type=count, default=8, metavar='N', help='views at a time (default: %(default)s)')
    work.add_argument(
        '--workers', type=count, default=min(8, os.cpu_count() or 1), metavar='N',
        help='files that are decoded at the same time, in each process (default: %(default)s)')
    work.add_argument(
        '--processes', type=count, default=1, metavar='N',
        help="more than one are spread by Ray over this machine, or over the cluster of RAY_ADDRESS; needs pip install "
        "'flatzoo[ray]' (default: %(default)s)")


def embedding_given(args: argparse.Namespace) -> list[str]:
    """Those of these arguments that have another value than by default, as they are written."""
    parser = argparse.ArgumentParser()
    add_embedding_arguments(parser, required=False)
    return [
        ' or '.join(action.option_strings[-1] for action in parser._actions if action.dest == name)
        for name, default in vars(parser.parse_args([])).items() if getattr(args, name) != default]


def embedding_kwargs(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `flatzoo.embed` that the arguments of the command describe."""
    from flatzoo.data.protocol import EvalProtocol

    kwargs = plain_kwargs(
        args.model_kwargs, num_frames=args.num_frames, use_ema=args.use_ema,
        checkpoint=None if args.checkpoint is None else os.path.abspath(args.checkpoint))
    return dict(
        layout=args.layout, dtype=args.dtype, device=args.device, allow_untrained=args.allow_untrained,
        protocol=EvalProtocol(num_clips=args.num_clips, num_crops=args.num_crops), batch_size=args.batch_size,
        workers=args.workers, progress=True, processes=args.processes,
        note=lambda text: write(f'note: {text}.', sys.stderr), **kwargs)


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo embed`: 0 if all clips have a feature, 1 if not."""
    from flatzoo.inference.embed import embed

    if (args.per == 'window') != (args.window is not None):
        raise CommandError('--per window and --window SECONDS go together, such as: --per window --window 2.')
    sources = lists_or_files(args.sources, args.split)
    try:
        features = embed(
            sources, args.model, args.out, per=args.per, window=args.window, tokens=args.tokens,
            **embedding_kwargs(args))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise CommandError(one_line(error)) from error
    for row in features.errors:
        write_error(row.error)
    shape = ' x '.join(map(str, features.values.shape[1:]))
    write(f'{len(features)} clips have a feature of {shape} numbers, {len(features.errors)} have none', sys.stderr)
    write(args.out)
    return int(bool(features.errors))
