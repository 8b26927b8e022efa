"""Convert official weight files into flatzoo's, and back.

IN is a SIFAR release file, a UniFormer image checkpoint, a VideoMAE checkpoint (of transformers or of
the official code), weights of an image backbone, or a checkpoint of flatzoo: a safetensors or PyTorch
file, read without running code from it, or a folder with model.safetensors. OUT is the safetensors
file to write. Every key is accounted for: what was dropped, resized or made new is listed.

--to official writes the names of the official code, of the models that have one (sifar_swin_*,
uniformer_*, flatten_uniformer_*, videomae_*): load that file with safetensors and strict=False.

    flatzoo convert sifar_base_patch4_window14_224_3x3-kinetics400_f8_pe_aug.pth sifar.safetensors \\
        --model sifar_swin_b14.ibm_k400
    flatzoo convert swin_base_patch4_window7_224_22k.pth b7.safetensors --model sifar_swin_b7 --num-classes 0
    flatzoo convert sifar.safetensors official.safetensors --model sifar_swin_b14.ibm_k400 --to official
"""
import argparse

from .. import CommandError, write
from ..arguments import KeyValues, add_ema_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo convert`."""
    parser.add_argument('source', metavar='IN', help='weight file, or folder with model.safetensors')
    parser.add_argument('target', metavar='OUT', help='safetensors file to write')
    parser.add_argument('--model', required=True, metavar='NAME', help='model that the weights are for')
    parser.add_argument(
        '--to', choices=('flatzoo', 'official'), default='flatzoo', help='whose names to write (default: flatzoo)')
    add_ema_arguments(parser)
    parser.add_argument(
        '--num-classes', type=int, metavar='N',
        help='classes of the classifier in IN, 0 to leave it out (default: as the model has)')
    parser.add_argument(
        '--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE',
        help='arguments of the model, such as ape=True')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo convert`: 0, or a `CommandError` if a key is not accounted for or a file cannot be used."""
    from flatzoo.hub.convert import convert

    try:
        conversion = convert(
            args.source, args.target, args.model, args.to, args.num_classes,
            **{'use_ema': args.use_ema, **args.model_kwargs})
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(' '.join(str(error).split())) from error
    write(f'{conversion.report()}\n{args.target}: {len(conversion.state_dict)} tensors for {args.model}')
    return 0
