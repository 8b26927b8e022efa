"""Get a model from the Hub, checked.

NAME is org/name, or org/name@revision with a branch, tag or commit. The files go into the cache of
huggingface_hub, where timm and flatzoo find them, or are copied to --out; the folder that has them is
printed. New files are compared with the digests that the Hub states; --verify also checks those that
were in the cache already, without a network, too.

    flatzoo pull org/name
    flatzoo pull org/name@v1 --out models/mine
    flatzoo predict clip.mp4 --model $(flatzoo pull org/name)
"""
import argparse
import sys

from .. import CommandError, write

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo pull`."""
    parser.add_argument('name', metavar='NAME', help='org/name or org/name@revision')
    parser.add_argument('--out', metavar='FOLDER', help='copy the files there')
    parser.add_argument('--verify', action='store_true', help='check the digests of files in the cache, too')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo pull`; prints the folder."""
    from flatzoo.hub.pull import download
    from flatzoo.weights.config import CONFIG_FILE, read_config

    try:
        folder = download(args.name, args.out, verify=args.verify)
        config = read_config(folder / CONFIG_FILE)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(' '.join(str(error).split())) from error
    verified = ', digests verified' if args.verify else ''
    write(f'{args.name}: {config["architecture"]}, {config.get("num_classes")} classes{verified}', sys.stderr)
    write(str(folder))
    return 0
