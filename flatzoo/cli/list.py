"""List the video models and their weights.

PATTERN picks names, with wildcards: 'sifar*', '*16f*', 'sifar_swin_b14.*'. Every set of weights
is one line; its name is what --model and timm.create_model take, and the part after the dot says
who trained it on what data. 'size' is that of a frame in pixels. 'classes' counts those of the
trained head; '-' means that the head starts fresh: fine-tune the model before it can name actions.

    flatzoo list 'sifar*'
    flatzoo list --pretrained --json
"""
import argparse
import json
from typing import Any

from . import CommandError, write
from ._model import weights_name_classes

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
    write(json.dumps(rows, indent=2) if args.json else _table(rows))
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
        `classes` (of the trained head, None if there is none), `licence` and `source` (None if there are no weights).
    """
    import timm

    model = timm.create_model(name, device='meta')  # shapes alone: no memory, no initialisation
    cfg = timm.get_pretrained_cfg(name)
    return {
        'name': name,
        'num_frames': model.num_frames,
        'img_size': list(model.img_size),
        'layout': str(model.layout),
        'params': sum(parameter.numel() for parameter in model.parameters()),
        'classes': len(cfg.label_names) if weights_name_classes(cfg) else None,
        'licence': cfg.license if cfg.has_weights else None,
        'source': _source(cfg),
    }


def _source(cfg: Any) -> str | None:
    if cfg.hf_hub_id:
        return f'https://huggingface.co/{cfg.hf_hub_id}'
    return cfg.url or ('in the package' if cfg.file else None)


def _table(rows: list[dict[str, Any]]) -> str:
    header = ('name', 'frames', 'size', 'layout', 'params (M)', 'classes', 'licence', 'weights')
    lines = [header] + [
        (
            row['name'], str(row['num_frames']), _size(row['img_size']), row['layout'], f'{row["params"] / 1e6:.1f}',
            str(row['classes'] or '-'), row['licence'] or '-', _short(row['source'] or '-'),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    numbers = {1, 2, 4, 5}  # columns that are flush right
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _size(size: list[int]) -> str:
    height, width = size
    return str(height) if height == width else f'{height}x{width}'


def _short(source: str) -> str:
    """A repository in place of the address of a file in it."""
    return source.removeprefix('https://').partition('/releases/')[0]
