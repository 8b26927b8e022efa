"""Export a model to a file that runs without flatzoo.

The file takes clips (B, C, T, H, W) of any batch size B and gives logits (B, classes). Layout and, for
uint8 clips, normalisation are inside; class names, evaluation protocol, mean, standard deviation and
layout come along as JSON. Before the file gets its name its logits are compared with the model's, on
noise and on two real videos, in batches of 1, 2 and 3: a file that differs by more than 1e-4 of the
largest logit is refused (0.1 with --quantize int8). Its size and its speed beside the model are printed.

    flatzoo export sifar_resnet10t --format onnx
    flatzoo export runs/mine --format onnx --quantize int8
    flatzoo export runs/mine --format torch-export --input float --out mine.pt2
    flatzoo export hf-hub:org/name --format aoti --device cuda

torch-export  .pt2       torch.export.load(FILE).module()(clip)
onnx          .onnx      any ONNX runtime; writing it needs pip install 'flatzoo[onnx]'
torchscript   .pt        torch.jit.load(FILE)(clip), and C++
aoti          .aoti.pt2  torch._inductor.aoti_load_package(FILE)(clip), and C++: machine code for the kind
                         of processor it is made on; needs a C++ compiler and minutes
"""
import argparse
import re
from pathlib import Path

from flatzoo.inference.load import load_model

from .. import CommandError, write
from ..arguments import add_model_arguments

FORMATS = ('torch-export', 'onnx', 'torchscript', 'aoti')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo export`."""
    parser.add_argument(
        'model', metavar='NAME', help="a name that 'flatzoo list' shows, hf-hub:ORG/NAME or the FOLDER of a run")
    parser.add_argument('--format', required=True, choices=FORMATS, help='what to write')
    parser.add_argument(
        '--input', choices=('uint8', 'float'), default='uint8',
        help='clips that the file takes: uint8 0...255, or float that is normalised already (default: %(default)s)')
    parser.add_argument(
        '--quantize', choices=('int8',),
        help='8-bit weights and integer products in linear layers: a quarter of the size; onnx only')
    parser.add_argument(
        '--out', type=Path, metavar='FILE', help="file to write (default: the model's name in the current folder)")
    add_model_arguments(parser)
    parser.add_argument(
        '--allow-untrained', action='store_true', help='export with random weights if the classifier was never trained')
    parser.add_argument(
        '--device', default='cpu', help='where the file will run; onnx runs anywhere (default: cpu)')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo export`."""
    from flatzoo.export import ExportError, export
    from flatzoo.export.formats import FORMATS as SUFFIXES

    kwargs = dict(args.model_kwargs)
    model = load_model(
        args.model, args.checkpoint, allow_untrained=args.allow_untrained, device=args.device,
        in_chans=kwargs.pop('in_chans', 3), **{'num_classes': args.num_classes, 'use_ema': args.use_ema, **kwargs})
    name = re.sub(r'.*[:/]', '', args.model.rstrip('/'))
    path = args.out or Path(name + SUFFIXES[args.format])
    try:
        report = export(model, path, args.format, args.input, quantize=args.quantize)
    except OSError as error:
        raise CommandError(f'{path} cannot be written ({error.strerror or error}). Choose another --out.') from error
    except (ExportError, ModuleNotFoundError, ValueError) as error:
        raise CommandError(f'{args.model}: {error}') from error
    write(str(report))
    return 0
