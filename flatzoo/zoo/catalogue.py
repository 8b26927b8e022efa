"""One row per model and set of weights: what `flatzoo list` shows.

`describe` finds the rows from the models. They are kept in `catalogue.json`, so that a list needs neither torch nor
timm, whose imports take seconds. A test compares the file with the models. `python benchmarks/regenerate.py` writes the
rows of new models; with `--all` it also rewrites known rows, which is needed after the code or the record of a model
has changed.
"""
import fnmatch
import json
from pathlib import Path
from typing import Any

__all__ = ['FILE', 'PERMISSIVE', 'catalogue', 'describe', 'list_names']

FILE = Path(__file__).with_name('catalogue.json')


# licences that allow any use of weights, also commercial use
PERMISSIVE = frozenset({'apache-2.0', 'bsd-2-clause', 'bsd-3-clause', 'cc-by-4.0', 'cc0-1.0', 'isc', 'mit'})


def catalogue(pattern: str = '', pretrained: bool = False, licence: str = '') -> list[dict[str, Any]]:
    """The rows of the models that match a pattern, see `describe`.

    Args:
        pattern: Wildcard as in `timm.list_models`, for an architecture or for `architecture.tag`. Empty for all.
        pretrained: Whether to leave out the models that have no weights.
        licence: Identifier of a licence such as `mit`, or `permissive` for those of `PERMISSIVE`. Empty for all. Models
            without weights have no licence.
    """
    wanted = PERMISSIVE if licence == 'permissive' else {licence}

    def matches(name: str) -> bool:
        return not pattern or any(fnmatch.fnmatch(part, pattern) for part in (name, name.partition('.')[0]))

    rows = json.loads(FILE.read_text(encoding='utf-8'))
    return [
        row for row in rows if matches(row['name']) and (row['source'] is not None or not pretrained)
        and (not licence or row['licence'] in wanted)]


def list_names(pattern: str = '', pretrained: bool = False) -> list[str]:
    """Names of the video models that match a pattern, one for every set of weights.

    Args:
        pattern: Wildcard; empty for all.
        pretrained: Whether to leave out the models that have no weights.

    Returns:
        `architecture.tag`, and `architecture` alone for models without weights.
    """
    from flatzoo.models import list_models

    names = list_models(pattern, pretrained=True)
    with_weights = {name.partition('.')[0] for name in names}
    if not pretrained:
        names += [name for name in list_models(pattern) if name not in with_weights]
    order = {name: place for place, name in enumerate(list_models())}
    return sorted(names, key=lambda name: order[name.partition('.')[0]])


def describe(name: str) -> dict[str, Any]:
    """The facts about a model. It is built without memory, and its weights are not loaded.

    Args:
        name: `architecture` or `architecture.tag`.

    Returns:
        `name`, `num_frames`, `img_size` (height and width of a frame in pixels), `layout`, `params` (their number) and
        `classes` (of the trained head, None without one). Facts about the weights: `task`, `data`, `licence`, `source`,
        `origin`, `bytes` and `sha256`, see `flatzoo.zoo.sources.WeightSource`. They are None if there are no weights or
        the publisher does not state them.
    """
    import timm

    from .sources import weight_source

    model = timm.create_model(name, device='meta')  # shapes alone: no memory, no initialisation
    cfg = timm.get_pretrained_cfg(name)
    source = weight_source(name)
    return {
        'name': name,
        'num_frames': model.num_frames,
        'img_size': list(model.img_size),
        'layout': str(model.layout),
        'params': sum(parameter.numel() for parameter in model.parameters()),
        'classes': len(cfg.label_names) if cfg.has_weights and cfg.label_names is not None else None,
        'task': source and source.task,
        'data': source and source.data,
        'licence': source and source.licence,
        'source': source and source.page,
        'origin': source and source.origin,
        'bytes': source and source.size,
        'sha256': source and source.sha256,
    }
