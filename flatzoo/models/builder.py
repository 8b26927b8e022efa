"""The names that flatzoo registers with timm, and the function that builds every video model.

timm's configuration of a set of weights (`PretrainedCfg`) has no fields for video. Such facts, for example the protocol
by which the accuracy of a tag is measured, stand in the tag's record (`flatzoo.models.record`).
"""
import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, parse_model_name, resolve_pretrained_cfg

from flatzoo.console.text import printable
from flatzoo.data.protocol import EvalProtocol
from flatzoo.layers import SuperImage
from flatzoo.weights.checkpoint import map_weights
from flatzoo.weights.config import (
    CONFIG_FILE,
    multi_label_of_config,
    protocol_of_config,
    read_config,
    saved_config,
    stats_of_config,
    temporal_of_config,
)
from flatzoo.weights.deferred import DeferredInit
from flatzoo.weights.download import HubError, check_file, fetch, fetch_weights, is_offline, split_name

from .backbone import building
from .borrowed import Borrowed
from .record import TagRecord, tag_record
from .timm_private import FeatureGetterNet

__all__ = ['build_video_model', 'class_names', 'eval_protocol', 'label_names', 'list_models']

MAX_TABLES = 2 ** 32  # bytes of constants that a saved model may have, beside its weights
_PLAIN = {  # arguments that cannot make a registered model large, except by the size of the image
    'num_frames', 'layout', 'img_size', 'in_chans', 'num_classes', 'global_pool', 'drop_rate', 'drop_path_rate'}
MAX_PIXELS = 2 ** 24  # of the image of a saved model: 4096x4096


def list_models(filter: str = '', pretrained: bool = False) -> list[str]:
    """Names of flatzoo's video models.

    Args:
        filter: Wildcard such as `'sifar*'`. Empty for all.
        pretrained: Whether to return only models with weights, as `name.tag`.

    Returns:
        Sorted names, as `timm.create_model` takes them.
    """
    return [name for name in timm.list_models(filter, pretrained=pretrained) if is_video_model(name)]


def is_video_model(name: str) -> bool:
    """Whether a name of timm's registry is a video model of flatzoo (and not an image backbone)."""
    entrypoint = timm.model_entrypoint(name.split('.', 1)[0])
    return entrypoint.__module__.startswith('flatzoo.') and not entrypoint.__module__.endswith('.uniformer')


def eval_protocol(model: Any, views: str = 'paper') -> EvalProtocol:
    """The evaluation protocol of a model: over which clips and crops its accuracy is measured.

    Args:
        model: A video model, or a name: `architecture.tag`, `hf-hub:org/name` or `local-dir:folder`. The protocol is
            that of the weights. Without one, for example for an architecture alone, it is the default: one clip of
            uniformly spaced frames and one centre crop.
        views: Which protocol of registered weights: `'paper'`, or a named alternative (`other_protocols` of their
            record). An example is `'repository'`, if the official repository evaluates in another way.

    Raises:
        HubError: The `config.json` of a name on the Hub cannot be loaded.
        ValueError: The `config.json` cannot be used, or the weights have no alternative of this name.
    """
    if not isinstance(model, str):
        saved = getattr(model, 'saved_protocol', None)
        if saved is not None and views == 'paper':
            return saved
        return _record_of(model.pretrained_cfg).protocol_named(views)
    source, place = parse_model_name(model)
    if source is None:
        return (tag_record(model) if '.' in model else TagRecord()).protocol_named(views)
    path = _config_file(source, place)
    config = read_config(path)
    cfg = {**(config.get('pretrained_cfg') or {}), 'architecture': config['architecture']}
    stated = protocol_of_config(config, str(path)) if views == 'paper' else None
    return stated or _record_of(cfg).protocol_named(views)


def class_names(model: str) -> tuple[str, ...]:
    """Names of the classes that weights know, in the order of their logits; none if they have no classifier for video.

    Args:
        model: A name: `architecture.tag`, `hf-hub:org/name` or `local-dir:folder`. An architecture alone stands for its
            first tag.

    Raises:
        HubError: The `config.json` of a name on the Hub cannot be loaded.
        ValueError: The `config.json` cannot be used.
    """
    source, place = parse_model_name(model)
    if source is None:
        cfg = timm.get_pretrained_cfg(model)
        return tuple(cfg.label_names or ()) if cfg is not None and cfg.has_weights else ()
    config = read_config(_config_file(source, place))
    return tuple(config.get('label_names') or ())


def _config_file(source: str, place: str) -> Path:
    """The `config.json` of a model in a folder or on the Hub."""
    if source == 'local-dir':
        return Path(place, CONFIG_FILE)
    repo_id, revision = split_name(place)
    return fetch(repo_id, CONFIG_FILE, revision)


def _record_of(cfg: dict[str, Any]) -> TagRecord:
    return tag_record(f'{cfg.get("architecture")}.{cfg.get("tag")}')


@functools.cache
def label_names(name: str) -> tuple[str, ...]:
    """Class names of a data set, from `flatzoo/models/labels`. Lines that begin with '#' name the source."""
    lines = (Path(__file__).parent / 'labels' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return tuple(line for line in lines if line and not line.startswith('#'))


class _FeatureNet(FeatureGetterNet):
    """timm's feature wrapper. By default it takes all levels of the backbone, but at most four."""

    def __init__(self, model: Any, out_indices: Any = None, **kwargs: Any):
        out_indices = min(4, len(model.feature_info)) if out_indices is None else out_indices
        super().__init__(model, out_indices=out_indices, **kwargs)


@torch.inference_mode(False)  # a model that is built in inference mode could not be trained
def build_video_model(
        model_cls: type,
        variant: str,
        pretrained: bool = False,
        pretrained_filter_fn: Callable = lambda state_dict, model: model.filter_checkpoint(state_dict),
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        mmap: bool = False,
        use_ema: bool | None = None,
        **kwargs: Any,
) -> Any:
    """timm's `build_model_with_cfg` for video models, in four steps: plan the source, construct, load, finish.

    Random initialisation waits until weights are loaded. Features come from `forward_intermediates`. Files in other
    formats (official checkpoints with an `argparse.Namespace` inside) go through the model's own safe loader.

    `timm.create_model(..., pretrained=True, mmap=True)` leaves weights in the mapped file, like `mmap=True` of
    `torch.load`. Pages are read when they are used, and other processes that map the file share them. Tensors that are
    written to, as in training, become copies in memory. The file must not be changed while the model exists. Tensors in
    a file are not aligned, so sums in matrix products may have another order (a difference of 3e-7 of the outputs).
    Image weights that timm itself loads into a backbone are copied.

    A training checkpoint may have a moving average beside its raw weights. `use_ema=True` takes the average and `False`
    the raw weights. None takes the average, as timm does, and warns. A tag always takes the weights with which its
    accuracy was measured.

    Raises:
        TypeError: An argument that neither flatzoo nor the backbone knows.
    """
    cache_dir = kwargs.get('cache_dir')
    source = _plan_source(variant, pretrained, pretrained_cfg_overlay, kwargs)
    if use_ema is None and not source.is_callers:
        use_ema = False  # the accuracy of a tag is that of the raw weights; published averages come alone
    deferred, hooks = DeferredInit(), []

    def construct(**model_args: Any) -> Any:
        on_meta = model_args.get('device') == 'meta'
        draws_no_weights = pretrained or model_args.get('backbone_pretrained') or on_meta
        if model_args.get('backbone_pretrained'):
            _fetch_backbone(model_args.get('backbone'), cache_dir)
        with _refusing(source), building(model_cls, model_args):
            if source.saved is not None and not on_meta and not _is_plain(source.saved[0], model_args):
                _check_memory(model_cls, model_args, None if source.borrowed else source.weights)
            with deferred if draws_no_weights else contextlib.nullcontext():
                model = model_cls(**model_args)
        if use_ema is not None:
            model.use_ema = use_ema
        if source.borrowed is not None:
            model.borrowed, model.lender_args = source.borrowed, model_args
        if mmap:
            hooks.append(model.register_load_state_dict_pre_hook(map_weights))
        return model

    try:  # timm constructs and loads
        model = build_model_with_cfg(
            construct,
            variant,
            pretrained,
            pretrained_cfg_overlay=source.overlay,
            pretrained_filter_fn=lambda weights, model: pretrained_filter_fn(
                model.choose_weights(weights), model),
            pretrained_strict=False,  # the filters account for every key, see `account_for_keys`
            feature_cfg=dict(out_indices=None, feature_cls=_FeatureNet),
            **kwargs,
        )
    except Exception:
        if source.weights is not None:
            check_file(source.weights)  # if the file is damaged, that is the reason
        raise
    for hook in hooks:
        hook.remove()
    deferred.fill()
    _finish(model, model_cls, source)
    return model


@dataclass
class _Source:
    """Where the weights of a model come from.

    Attributes:
        cfg: timm's configuration of the weights, as the caller requested it.
        overlay: Fields that replace it for timm: the file in the cache, and our own loader.
        saved: `config.json` and its path, for a model that was saved or pushed. Otherwise None.
        weights: The weight file. None without `pretrained`, or if timm finds it by itself.
        is_callers: Whether the caller gave a file, an address or tensors in place of those of a tag.
        borrowed: Whose backbone a saved model borrows.
    """
    cfg: Any
    overlay: dict[str, Any]
    saved: tuple[dict[str, Any], Path] | None
    weights: Path | None
    is_callers: bool
    borrowed: Borrowed | None = None


def _plan_source(
        variant: str,
        pretrained: bool,
        overlay: dict[str, Any] | None,
        kwargs: dict[str, Any],
) -> _Source:
    """Finds the weights and downloads them if needed."""
    overlay = dict(overlay or {})
    is_callers = any(overlay.get(key) for key in ('file', 'url', 'state_dict'))
    if overlay.get('file') or overlay.get('url'):
        overlay.setdefault('custom_load', True)  # our loader accounts for every key
    if overlay.get('url'):
        overlay.setdefault('hf_hub_id', None)  # timm would prefer it to the given address
    if kwargs.get('num_classes') and is_callers:
        overlay.setdefault('num_classes', kwargs['num_classes'])  # our filters keep a classifier only if it fits
    cfg = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), overlay)
    cache_dir = kwargs.get('cache_dir')
    saved = saved_config(cfg, cache_dir)
    if saved is not None:
        overlay.update(stats_of_config(saved[0]))
    weights = None
    if pretrained:
        commit = saved[1].parent.name if saved and cfg.source == 'hf-hub' else None  # that of its config.json
        weights = fetch_weights(cfg, cache_dir, commit)
    if weights is not None:  # our loader accounts for every key, and names a file that it cannot read
        overlay.update(file=str(weights), source='', state_dict=None, custom_load=True)
    borrowed = Borrowed.of_config(saved[0], str(saved[1])) if saved is not None and not is_callers else None
    return _Source(cfg, overlay, saved, weights, is_callers, borrowed)


@contextlib.contextmanager
def _refusing(source: _Source) -> Iterator[None]:
    """Turns any exception while a saved model is built into one that names its file. A file may ask for anything."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        if source.saved is None:
            raise
        reason = printable(error, 1000) if isinstance(error, ValueError) else \
            f'{type(error).__name__}: {printable(error, 300)}'
        raise ValueError(f'{source.saved[1]}: cannot be built: {reason}') from error


def _finish(model: Any, model_cls: type, source: _Source) -> None:
    """Restores the source that the model states, and gives a saved model its protocol."""
    if source.weights is not None:
        _restore_source(model, source.cfg)
    if not isinstance(model, model_cls):
        return
    if source.saved is None:
        if model.head_trained:  # the time that a window of the tag's own classes covers
            model.temporal_contract = _record_of(model.pretrained_cfg).temporal
        return
    model.saved_protocol = protocol_of_config(*source.saved)
    model.temporal_contract = temporal_of_config(*source.saved)
    model.multi_label = multi_label_of_config(*source.saved) and source.cfg.num_classes == model.num_classes
    if source.weights is not None and source.cfg.num_classes == model.num_classes > 0 and not model.head_trained:
        raise ValueError(
            f'{source.weights}: has no classifier of the {source.cfg.num_classes} classes that {source.saved[1]} '
            'states. Save the model again, or give its real number of classes there.')


def _is_plain(config: dict[str, Any], model_args: dict[str, Any]) -> bool:
    """Whether a saved model is a registered one at an ordinary size. It then needs no trial, which takes time."""
    args = config.get('model_args') or {}
    sized = {key for key, value in args.items() if value is not None and not isinstance(value, bool)}
    if config['architecture'] == 'superimage' or sized - _PLAIN:
        return False
    with contextlib.suppress(Exception):  # the model itself says what is wrong
        sizes = (model_args.get(key, default) for key, default in (
            ('num_frames', 8), ('layout', 'grid'), ('img_size', 224)))
        return math.prod(SuperImage(*sizes).image_size) <= MAX_PIXELS // 4
    return False


def _check_memory(model_cls: type, model_args: dict[str, Any], weights: Path | None) -> None:
    """Builds a saved model without memory first. A model of an unreasonable size is refused before it takes memory.

    Raises:
        ValueError: It would have far more parameters than its weight file, or huge tables of indices.
    """
    with torch.device('meta'):
        try:
            model = model_cls(**{**model_args, 'device': 'meta', 'backbone_pretrained': False} if
                              'backbone_pretrained' in model_args else {**model_args, 'device': 'meta'})
        except Exception as error:
            if 'meta' in str(error).lower():  # a model that reads values while it is built cannot be tried
                return
            raise
    height, width = model.image_size
    if height * width > MAX_PIXELS:
        raise ValueError(f'its image would have {height}x{width} pixels; accepted are {MAX_PIXELS:,} in all.')
    kept = model.state_dict()
    tables = sum(tensor.nbytes for name, tensor in model.named_buffers() if name not in kept)
    if tables > MAX_TABLES:
        raise ValueError(
            f'its tables of indices would take {tables / 1e9:.1f} GB; accepted are {MAX_TABLES / 1e9:.1f}. Windows or '
            'frames are too large.')
    heads = model.classifier_keys()
    count = sum(tensor.numel() for name, tensor in kept.items() if name not in heads)
    if weights is not None and count > 4 * weights.stat().st_size + 2 ** 20:  # no format stores four numbers in a byte
        raise ValueError(
            f'it would have {count:,} parameters, and {weights.name} has {weights.stat().st_size:,} bytes.')


def prefetch(cfg: Any, cache_dir: Any = None) -> None:
    """Downloads weights into the cache, with a deadline and a check, where timm will find and load them."""
    if not is_offline():  # timm raises its own error at once
        fetch_weights(cfg, cache_dir)


def _fetch_backbone(name: str | None, cache_dir: Any) -> None:
    if name is None or is_offline():
        return
    source, place = parse_model_name(name)
    if source == 'hf-hub':
        fetch(split_name(place)[0], CONFIG_FILE, split_name(place)[1], cache_dir=cache_dir)
    elif source is None:
        prefetch(timm.get_pretrained_cfg(name), cache_dir)


def _restore_source(model: Any, cfg: Any) -> None:
    """Makes a model state the given source of its weights, and not the cache."""
    for told in (model.pretrained_cfg, model.default_cfg):
        for key in ('source', 'file', 'custom_load'):
            value = getattr(cfg, key)
            if value is None:
                told.pop(key, None)
            else:
                told[key] = value


def has_own_weights(variant: str, pretrained_cfg: Any, pretrained_cfg_overlay: dict[str, Any] | None) -> bool:
    """Whether a configuration names weights of the video model itself."""
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    return bool(cfg.has_weights or cfg.state_dict or cfg.source in ('hf-hub', 'local-dir'))
