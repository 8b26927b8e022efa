"""List the video models and their weights.

PATTERN picks names, with wildcards: 'sifar*', '*16f*', 'sifar_swin_b14.*'. Every set of weights
is one line; its name is what --model and timm.create_model take, and the part after the dot says
who trained it on what data. 'size' is that of a frame in pixels. 'classes' counts those of the
trained head; '-' means that the head starts fresh: fine-tune the model before it can name actions.
With --pretrained the lines say what the weights were trained to do on what data, and where they
come from; 'MB' is the size of the download as its publisher states it, '-' where none is stated.

    flatzoo list 'sifar*'
    flatzoo list --pretrained --json
"""
import argparse
import json
from typing import Any

from flatzoo.inference.load import weights_name_classes

from .. import CommandError, write
from ..table import Columns, size_text, table_text

__all__ = ['describe', 'list_names']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo list`."""
    parser.add_argument('pattern', nargs='?', default='', metavar='PATTERN', help='names to list (default: all)')
    parser.add_argument('--pretrained', action='store_true', help='only models with weights')
    parser.add_argument('--json', action='store_true', help='print a JSON list of objects')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo list`: 0, or a `CommandError` if nothing matches."""
    names = list_names(args.pattern, args.pretrained)
    if not names:
        raise CommandError(
            f"no model{' with weights' if args.pretrained else ''} matches {args.pattern!r}. "
            "Put wildcards around a part of a name ('*swin*'); 'flatzoo list' shows all.")
    rows = [describe(name) for name in names]
    if args.json:
        write(json.dumps(rows, indent=2))
    else:
        write(table_text(rows, _WEIGHT_COLUMNS if args.pretrained else _MODEL_COLUMNS))
    return 0


def list_names(pattern: str = '', pretrained: bool = False) -> list[str]:
    """Names of the video models that match a pattern, one for every set of weights.

    Args:
        pattern: Wildcard; empty for all.
        pretrained: Whether to leave out the models that have no weights.

    Returns:
        `architecture.tag`, and `architecture` alone for models without weights.
    """
    from flatzoo import list_models

    names = list_models(pattern, pretrained=True)
    with_weights = {name.partition('.')[0] for name in names}
    if not pretrained:
        names += [name for name in list_models(pattern) if name not in with_weights]
    order = {name: place for place, name in enumerate(list_models())}
    return sorted(names, key=lambda name: order[name.partition('.')[0]])


def describe(name: str) -> dict[str, Any]:
    """What is known of a model without loading it.

    Args:
        name: `architecture` or `architecture.tag`.

    Returns:
        `name`, `num_frames`, `img_size` (height and width of a frame in pixels), `layout`, `params` (how many),
        `classes` (of the trained head, None if there is none); and of the weights, None if there are none: `task`,
        `data`, `licence`, `source`, `origin`, `bytes` and `sha256` (None where not stated), see
        `flatzoo.zoo.sources.WeightSource`.
    """
    import timm

    from flatzoo.zoo.sources import weight_source

    model = timm.create_model(name, device='meta')  # shapes alone: no memory, no initialisation
    cfg = timm.get_pretrained_cfg(name)
    source = weight_source(name)
    return {
        'name': name,
        'num_frames': model.num_frames,
        'img_size': list(model.img_size),
        'layout': str(model.layout),
        'params': sum(parameter.numel() for parameter in model.parameters()),
        'classes': len(cfg.label_names) if weights_name_classes(cfg) else None,
        'task': source and source.task,
        'data': source and source.data,
        'licence': source and source.licence,
        'source': source and source.page,
        'origin': source and source.origin,
        'bytes': source and source.size,
        'sha256': source and source.sha256,
    }


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
