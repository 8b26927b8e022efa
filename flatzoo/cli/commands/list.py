"""List the video models and their weights.

PATTERN picks names, with wildcards: 'sifar*', '*16f*', 'sifar_swin_b14.*'. Every set of weights
is one line; its name is what --model and timm.create_model take, and the part after the dot says
who trained it on what data. 'size' is that of a frame in pixels. 'classes' counts those of the
trained head; '-' means that the head starts fresh: fine-tune the model before it can name actions.
With --pretrained the lines say what the weights were trained to do on what data, and where they
come from; 'MB' is the size of the download as its publisher states it, '-' where none is stated.

    flatzoo list 'sifar*'
    flatzoo list --pretrained --json
    flatzoo list --licence permissive
"""
import argparse
import json

from flatzoo.zoo.catalogue import catalogue

from .. import CommandError, write
from ..table import Columns, size_text, table_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo list`."""
    parser.add_argument('pattern', nargs='?', default='', metavar='PATTERN', help='names to list (default: all)')
    parser.add_argument('--pretrained', action='store_true', help='only models with weights')
    parser.add_argument(
        '--licence', default='', metavar='NAME',
        help="only weights under this licence, such as mit; 'permissive' for all that a company may use freely")
    parser.add_argument('--json', action='store_true', help='print a JSON list of objects')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo list`: 0, or a `CommandError` if nothing matches."""
    rows = catalogue(args.pattern, args.pretrained, args.licence)
    if not rows:
        raise CommandError(
            f"no model{' with weights' if args.pretrained else ''} matches {args.pattern!r}"
            f"{f' and has the licence {args.licence}' if args.licence else ''}. "
            "Put wildcards around a part of a name ('*swin*'); 'flatzoo list' shows all.")
    if args.json:
        write(json.dumps(rows, indent=2))
    else:
        write(table_text(rows, _WEIGHT_COLUMNS if args.pretrained else _MODEL_COLUMNS))
    return 0


_SHAPE: Columns = {
    'name': (lambda row: row['name'], False),
    'frames': (lambda row: row['num_frames'], True),
    'size': (lambda row: size_text(row['img_size']), True),
}
_MODEL_COLUMNS: Columns = _SHAPE | {
    'layout': (lambda row: row['layout'], False),
    'params (M)': (lambda row: f'{row["params"] / 1e6:.1f}', True),
    'classes': (lambda row: row['classes'], True),
    'licence': (lambda row: row['licence'], False),
    'weights': (lambda row: _short(row['source']), False),
}
_WEIGHT_COLUMNS: Columns = _SHAPE | {
    'classes': (lambda row: row['classes'], True),
    'task': (lambda row: row['task'], False),
    'data': (lambda row: row['data'], False),
    'licence': (lambda row: row['licence'], False),
    'MB': (lambda row: row['bytes'] and f'{row["bytes"] / 1e6:.3g}', True),
    'source': (lambda row: _short(row['source']), False),
}


def _short(source: str | None) -> str | None:
    """A repository in place of the address of a file in it."""
    return source and source.removeprefix('https://').partition('/releases/')[0]
