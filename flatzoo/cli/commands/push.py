"""Push a trained model to the Hub.

CHECKPOINT is a folder that a training run, flatzoo.save_pretrained or timm's save_for_hf wrote, or a
weight file; of a file, --model says which model it belongs to. One commit brings model.safetensors,
config.json (with class names and evaluation protocol) and README.md, the model's card: that of the
folder, or else that of the repository, or else a short one. Repository and branch are made if they
are not there. Access is by the token of 'hf auth login' or HF_TOKEN.

    flatzoo push runs/mine org/name --private
    flatzoo push mine.safetensors org/name --model sifar_swin_b12 --labels classes.txt --tag v1
    flatzoo push runs/mine org/name --dry-run
"""
import argparse
import sys
from pathlib import Path

from .. import CommandError, write

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo push`."""
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='folder of a saved model, or a weight file')
    parser.add_argument('repository', metavar='ORG/NAME', help='repository on the Hub')
    parser.add_argument('--model', metavar='NAME', help="the model of a weight file, as 'flatzoo list' shows it")
    parser.add_argument(
        '--labels', metavar='FILE', help='text file with the names of the classes, one a line, in the order of logits')
    parser.add_argument(
        '--with-backbone', action='store_true',
        help='of a probe that borrows its backbone from another model, push that, too')
    parser.add_argument('--private', action='store_true', help='make a new repository private')
    parser.add_argument('--revision', metavar='BRANCH', help='branch to push to (default: main)')
    parser.add_argument('--tag', help='tag for the commit')
    parser.add_argument('--message', metavar='TEXT', help='message of the commit')
    parser.add_argument('--dry-run', action='store_true', help='show the files of the push without contacting the Hub')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo push`; prints the page of the commit, or what would go."""
    from flatzoo.hub.push import open_checkpoint, push_to_hub
    from flatzoo.inference.load import check_registered

    if args.model is not None:
        check_registered(args.model)
    labels = None if args.labels is None else _labels(args.labels)
    try:
        model, card = open_checkpoint(args.checkpoint, args.model)
        pushed = push_to_hub(
            model, args.repository, private=args.private, revision=args.revision, tag=args.tag,
            commit_message=args.message, dry_run=args.dry_run, label_names=labels, card=card,
            with_backbone=args.with_backbone)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(' '.join(str(error).split())) from error
    where = f'{pushed.repo_id}@{pushed.revision}' + (f', tag {pushed.tag}' if pushed.tag else '')
    rows = [f'{size:>13,} bytes  sha256 {digest}  {name}' for name, (size, digest) in pushed.files.items()]
    if args.dry_run:
        kind = ' (private if it is new)' if args.private else ''
        write('\n'.join([f'would go to {where}{kind} in one commit:', *rows]))
    else:
        write('\n'.join([f'pushed to {where} in one commit:', *rows]), sys.stderr)
        write(pushed.url)
    return 0


def _labels(path: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(
            f'--labels {path} cannot be read ({error}). Give a text file with one name a line.') from error
    return [line.strip() for line in lines if line.strip()]
