"""The configuration of a saved model: `config.json` as timm writes it, with a block `video`.

timm's file rebuilds the model: architecture, arguments, preprocessing. The block `video` holds what timm has no field
for, above all the evaluation protocol. timm and transformers ignore it.

    "video": {"flatzoo_version": "0.2.0", "format": 1, "num_frames": 8, "layout": "grid", "img_size": [224, 224],
              "protocol": {"sampling": "uniform", ...}, "mean": [...], "std": [...],
              "temporal": {"seconds": 2.0, "frames": 8, "stride": 0.25}}

Mean and standard deviation are per channel of a frame in 0...1. `temporal` is there for models whose training knew
the length of its clips, see `flatzoo.data.temporal`. `"multi_label": true` marks models whose clips may have several
classes: the sigmoid of a logit is the score of its class. `format` is raised by each change that an older flatzoo
cannot read.
"""
import difflib
import json
import math
from pathlib import Path
from typing import Any

import timm

from flatzoo.console.text import printable, shortened
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.temporal import TemporalContract
from flatzoo.version import __version__

from .download import check_file, fetch, split_name

__all__ = [
    'CONFIG_FILE', 'FORMAT', 'NEIGHBOURS_FILE', 'check_arguments', 'check_config', 'multi_label_of_config',
    'protocol_of_config', 'read_config', 'saved_config', 'stats_of_config', 'temporal_of_config', 'video_block',
]

CONFIG_FILE = 'config.json'
NEIGHBOURS_FILE = 'neighbours.json'  # in its place beside features that answer as nearest neighbours
FORMAT = 3
"""Newest format. It is 1 but for models that an older flatzoo would misunderstand: 2 if they borrow their backbone, so
that their files look incomplete, and 3 if their clips may have several classes."""

# Limits for a configuration, which may come from anybody: each number becomes time and memory when the model is built.
# The models of the papers need at most a tenth of these limits.
MAX_BYTES = 2 ** 25  # of the file
MAX_NUMBER = 2 ** 16  # width, heads, channels, ...
MAX_CLASSES = 2 ** 20
MAX_FRAMES = 1024
MAX_PIXELS = 4096  # a side of a frame or a window
MAX_BLOCKS = 128  # of a backbone, or of one of its stages
MAX_ENTRIES = 1024  # of a list or object in the arguments
MAX_VIEWS = 1024
_LIMITS = {'num_classes': MAX_CLASSES, 'num_frames': MAX_FRAMES, 'img_size': MAX_PIXELS, 'in_chans': 1024,
           'window_size': 128, 'depth': MAX_BLOCKS, 'depths': MAX_BLOCKS, 'layers': MAX_BLOCKS}


def video_block(model: Any, protocol: EvalProtocol, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """The block `video` of a video model."""
    return {
        'flatzoo_version': __version__,
        'format': 3 if model.multi_label else 1,
        'num_frames': model.num_frames,
        'layout': str(model.layout),
        'img_size': list(model.img_size),
        'protocol': protocol.to_dict(),
        'mean': list(mean),
        'std': list(std),
        **({} if model.temporal_contract is None else {'temporal': model.temporal_contract.to_dict()}),
        **({'multi_label': True} if model.multi_label else {}),
    }


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads a `config.json` and checks it, see `check_config`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or cannot be used.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # reading from a pipe could wait for ever
        raise ValueError(f'{path}: is not a file. Save or download the model again.')
    if path.exists() and path.stat().st_size > MAX_BYTES:
        raise ValueError(
            f'{path}: has {path.stat().st_size} bytes; at most {MAX_BYTES} are accepted. It is not a configuration.')
    check_file(path)
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:  # RecursionError: lists in lists in lists
        reason = 'too deeply nested' if isinstance(error, RecursionError) else error
        raise ValueError(f'{path}: is damaged, it is not JSON ({reason}). Save or download the model again.') from error
    check_config(config, str(path))
    return config


def saved_config(cfg: Any, cache_dir: str | Path | None = None) -> tuple[dict[str, Any], Path] | None:
    """The checked `config.json` from which timm rebuilds a model, and its path. None for registered models.

    Args:
        cfg: timm's `PretrainedCfg` with `source` `'local-dir'` or `'hf-hub'`.
        cache_dir: Folder of the cache.

    Raises:
        ValueError: If it cannot be used.
    """
    if cfg.source == 'local-dir':
        path = Path(cfg.file, CONFIG_FILE)
    elif cfg.source == 'hf-hub':
        path = _last_fetched(cfg.hf_hub_id, cache_dir)
    else:
        return None
    return read_config(path), path


def _last_fetched(name: str, cache_dir: str | Path | None) -> Path:
    """The `config.json` of a repository that timm has just read. The Hub is asked only if the cache lacks it."""
    from huggingface_hub import try_to_load_from_cache

    repo_id, revision = split_name(name)
    path = try_to_load_from_cache(repo_id, CONFIG_FILE, cache_dir=cache_dir, revision=revision)
    return Path(path) if isinstance(path, str) else fetch(repo_id, CONFIG_FILE, revision, cache_dir=cache_dir)


def check_config(config: Any, where: str) -> None:
    """Refuses a configuration that cannot be rebuilt, or whose parts contradict each other.

    Args:
        config: Content of a `config.json`.
        where: Its name in error messages.

    Raises:
        ValueError: If it comes from a newer flatzoo, names an unknown architecture, or its number of classes and its
            class names do not match.
    """
    if not isinstance(config, dict) or not isinstance(config.get('architecture'), str):
        raise ValueError(f"{where}: has no 'architecture', so timm or flatzoo did not write it.")
    for key in ('video', 'model_args', 'pretrained_cfg'):
        if not isinstance(config.get(key) or {}, dict):
            raise ValueError(f'{where}: {key!r} must be an object, got {shortened(config[key])}. Save the model again.')
    video = config.get('video') or {}
    writer = f'flatzoo {printable(video["flatzoo_version"], 20)}' if 'flatzoo_version' in video else 'another version'
    if not isinstance(video.get('format', 1), int) or video.get('format', 1) > FORMAT:
        raise ValueError(
            f'{where}: came from a newer flatzoo ({writer}, format {shortened(video["format"], 20)}); this is flatzoo '
            f"{__version__}, which knows formats up to {FORMAT}. Update it: pip install -U flatzoo.")
    architecture = config['architecture']
    if not timm.is_model(architecture):
        architecture = architecture[:100]
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f' Similar names: {", ".join(near)}.' if near else ''
        raise ValueError(
            f'{where}: there is no architecture {architecture!r} in flatzoo {__version__} and timm {timm.__version__}; '
            f'{writer} wrote it.{hint} Update them, or import the package that registers it.')
    _check_classes(config, where)
    check_arguments(config.get('model_args') or {}, where)
    protocol = protocol_of_config(config, where)
    if protocol is not None and protocol.views > MAX_VIEWS:
        raise ValueError(f"{where}: its 'protocol' takes {protocol.views} views; accepted are {MAX_VIEWS}.")
    temporal_of_config(config, where)
    multi_label_of_config(config, where)
    for key in ('mean', 'std'):
        stated = video.get(key, [])
        if not isinstance(stated, list) or not all(
                isinstance(value, (int, float)) and math.isfinite(value) for value in stated):
            raise ValueError(
                f"{where}: {key!r} of 'video' must be a list with a number per channel, got {shortened(stated)}.")


def protocol_of_config(config: dict[str, Any], where: str = 'config.json') -> EvalProtocol | None:
    """The evaluation protocol that a configuration states. None if it states none.

    Raises:
        ValueError: If it is not a protocol.
    """
    stated = (config.get('video') or {}).get('protocol')
    if stated is None:
        return None
    if not isinstance(stated, dict):
        raise ValueError(f"{where}: 'protocol' must be an object, got {shortened(stated)}.")
    try:
        return EvalProtocol.from_dict(stated)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: 'protocol' cannot be used: {printable(error, 300)}") from error


def temporal_of_config(config: dict[str, Any], where: str = 'config.json') -> TemporalContract | None:
    """The temporal contract that a configuration states, None if it states none.

    Raises:
        ValueError: If it is not one.
    """
    stated = (config.get('video') or {}).get('temporal')
    if stated is None:
        return None
    if not isinstance(stated, dict):
        raise ValueError(f"{where}: 'temporal' must be an object, got {shortened(stated)}.")
    try:
        return TemporalContract.from_dict(stated)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: 'temporal' cannot be used: {printable(error, 300)}") from error


def multi_label_of_config(config: dict[str, Any], where: str = 'config.json') -> bool:
    """Whether a configuration states that clips may have several classes.

    Raises:
        ValueError: If it is neither true nor false.
    """
    stated = (config.get('video') or {}).get('multi_label', False)
    if not isinstance(stated, bool):
        raise ValueError(f"{where}: 'multi_label' must be true or false, got {shortened(stated)}.")
    return stated


def stats_of_config(config: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation that a configuration states for video, as fields of timm's configuration."""
    video = config.get('video') or {}
    return {key: tuple(video[key]) for key in ('mean', 'std') if video.get(key)}


def _check_classes(config: dict[str, Any], where: str) -> None:
    cfg, args = config.get('pretrained_cfg') or {}, config.get('model_args') or {}
    count = config.get('num_classes', cfg.get('num_classes'))
    labels = config.get('label_names', cfg.get('label_names'))
    if labels is not None and not (
            isinstance(labels, (list, tuple)) and all(isinstance(label, str) for label in labels)):
        raise ValueError(f"{where}: 'label_names' must be a list of strings. Save the model again.")
    if count is None:
        return
    if not isinstance(count, int) or not 0 <= count <= MAX_CLASSES:
        raise ValueError(
            f"{where}: 'num_classes' must be a number of classes, got {shortened(count)}; accepted is 0 to "
            f'{MAX_CLASSES}. Save the model again.')
    if labels is not None and len(labels) != count:
        raise ValueError(
            f"{where}: says num_classes {count} and has {len(labels)} 'label_names'. They must match: save the model "
            'again with its class names (label_names=).')
    if args.get('num_classes', count) != count:
        raise ValueError(
            f"{where}: says num_classes {count} and {shortened(args['num_classes'])} in 'model_args'. They must match: "
            'save the model again.')


def check_arguments(args: dict[str, Any], where: str) -> None:
    """Refuses arguments from a file that would build a model of an unreasonable size.

    Raises:
        ValueError: An argument is too large. The message names it and its limit.
    """
    for key, value in args.items():
        _check_size(value, key, where)
    size = args.get('img_size', 1)
    if isinstance(size, (list, tuple)) and len(size) != 2:
        raise ValueError(
            f"{where}: 'img_size' of 'model_args' is one number or (height, width), got {shortened(size)}.")


def _check_size(value: Any, key: str, where: str, depth: int = 0) -> None:
    """Refuses an argument that would build a model of an unreasonable size.

    Raises:
        ValueError: It is too large. The message names the limit.
    """
    limit = _LIMITS.get(key, MAX_NUMBER)
    name = f"{where}: {printable(key, 40)!r} of 'model_args'"
    if isinstance(value, bool) and key in _LIMITS:
        raise ValueError(f'{name} is {value}; accepted is a number up to {limit}.')
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not -limit <= value <= limit:  # also false for NaN
            raise ValueError(f'{name} is {shortened(value)}; accepted is up to {limit}. No model needs more.')
        if isinstance(value, int) and key in _LIMITS and value < (0 if key == 'num_classes' else 1):
            raise ValueError(f'{name} is {value}; accepted is 1 to {limit}.')
    elif isinstance(value, (list, tuple, dict)):
        if len(value) > MAX_ENTRIES or depth > 4:
            raise ValueError(f'{name} has {len(value)} entries at depth {depth + 1}; accepted are {MAX_ENTRIES} and 5.')
        pairs = value.items() if isinstance(value, dict) else ((key, entry) for entry in value)
        for inner, entry in pairs:
            _check_size(entry, inner, where, depth + 1)
