"""What flatzoo registers with timm, and the one way to build a video model.

timm's configuration of a set of weights (`PretrainedCfg`) has no room for video, so what it does not say, such as the
protocol by which the accuracy of a tag is measured, stands in the tag's record (`flatzoo.models.record`).
"""
import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from timm.models import build_model_with_cfg, parse_model_name, resolve_pretrained_cfg

# these have no public name in timm
from timm.models._features import FeatureGetterNet
from timm.models._input import _get_global_pool as global_pool_of, update_model_input_size  # noqa: F401

from flatzoo.data.protocol import EvalProtocol
from flatzoo.weights.checkpoint import map_weights
from flatzoo.weights.config import CONFIG_FILE, protocol_of_config, read_config, saved_config, stats_of_config
from flatzoo.weights.deferred import DeferredInit
from flatzoo.weights.download import check_file, fetch, fetch_weights, is_offline, split_name

from .record import TagRecord, tag_record

__all__ = ['build_video_model', 'eval_protocol', 'label_names', 'list_models']


def list_models(filter: str = '', pretrained: bool = False) -> list[str]:
    """Names of flatzoo's video models.

    Args:
        filter: Wildcard such as `'sifar*'`; empty for all.
        pretrained: Names with tags, only of models with weights.

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
        model: A video model, whose weights decide; or a name: `architecture.tag`, `hf-hub:org/name` or
            `local-dir:folder`. What has no protocol of its own, such as an architecture alone, gets the default: one
            clip of uniformly spaced frames, one centre crop.
        views: Which protocol of registered weights: `'paper'`, or a named alternative such as `'repository'`, where
            their official repository evaluates in another way (`other_protocols` of their record).

    Raises:
        HubError: If the `config.json` of a name on the Hub cannot be had.
        ValueError: If it cannot be used, or the weights have no alternative of this name.
    """
    if not isinstance(model, str):
        saved = getattr(model, 'saved_protocol', None)
        if saved is not None and views == 'paper':
            return saved
        return _record_of(model.pretrained_cfg).protocol_named(views)
    source, place = parse_model_name(model)
    if source is None:
        return (tag_record(model) if '.' in model else TagRecord()).protocol_named(views)
    if source == 'local-dir':
        path = Path(place, CONFIG_FILE)
    else:
        repo_id, revision = split_name(place)
        path = fetch(repo_id, CONFIG_FILE, revision)
    config = read_config(path)
    cfg = {**(config.get('pretrained_cfg') or {}), 'architecture': config['architecture']}
    stated = protocol_of_config(config, str(path)) if views == 'paper' else None
    return stated or _record_of(cfg).protocol_named(views)


def _record_of(cfg: dict[str, Any]) -> TagRecord:
    return tag_record(f'{cfg.get("architecture")}.{cfg.get("tag")}')


@functools.cache
def label_names(name: str) -> tuple[str, ...]:
    """Class names of a data set, from `flatzoo/models/labels`; lines that begin with '#' name the source."""
    lines = (Path(__file__).parent / 'labels' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return tuple(line for line in lines if line and not line.startswith('#'))


class _FeatureNet(FeatureGetterNet):
    """timm's feature wrapper, which by default takes as many levels as the backbone has, four at most."""

    def __init__(self, model: Any, out_indices: Any = None, **kwargs: Any):
        out_indices = min(4, len(model.feature_info)) if out_indices is None else out_indices
        super().__init__(model, out_indices=out_indices, **kwargs)


def build_video_model(
        model_cls: type,
        variant: str,
        pretrained: bool = False,
        pretrained_filter_fn: Callable = lambda state_dict, model: model.filter_checkpoint(state_dict),
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        mmap: bool = False,
        **kwargs: Any,
) -> Any:
    """timm's `build_model_with_cfg` for video models.

    Random initialisation waits until weights are loaded, features come from `forward_intermediates`, and files in other
    formats (official checkpoints with an `argparse.Namespace` inside) go through the model's own careful loader.

    `timm.create_model(..., pretrained=True, mmap=True)` leaves weights in the mapped file, as `mmap=True` of
    `torch.load` does: pages are read when they are used, and shared with other processes that map the file. What is
    written to, as in training, becomes a copy in memory; the file must not be changed while the model lives. Tensors
    begin in it where they happen to, so that sums in matrix products may be ordered otherwise (3e-7 of the outputs).
    Image weights that timm itself loads into a backbone are copied.
    """
    overlay = dict(pretrained_cfg_overlay or {})
    if overlay.get('file') or overlay.get('url'):
        overlay.setdefault('custom_load', True)  # timm would take the EMA weights of a training checkpoint
    if overlay.get('url'):
        overlay.setdefault('hf_hub_id', None)  # which timm would prefer to the address that was asked for
    if kwargs.get('num_classes') and any(overlay.get(key) for key in ('file', 'url', 'state_dict')):
        overlay.setdefault('num_classes', kwargs['num_classes'])  # our filters keep a classifier exactly if it fits
    cfg = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), overlay)
    cache_dir = kwargs.get('cache_dir')
    saved = saved_config(cfg, cache_dir)  # (config.json, its path) of a model that was saved or pushed
    if saved is not None:
        overlay.update(stats_of_config(saved[0]))
    weights = None
    if pretrained:
        commit = saved[1].parent.name if saved and cfg.source == 'hf-hub' else None  # that of its config.json
        weights = fetch_weights(cfg, cache_dir, commit)
    if weights is not None:  # by our own loader, which accounts for every key and names the file that it cannot read
        overlay.update(file=str(weights), source='', state_dict=None, custom_load=True)
    deferred = DeferredInit()

    def construct(**model_args: Any) -> Any:
        if model_args.get('backbone_pretrained'):
            _fetch_backbone(model_args.get('backbone'), cache_dir)
        with deferred if pretrained or model_args.get('backbone_pretrained') else contextlib.nullcontext():
            model = model_cls(**model_args)
        if mmap:
            hooks.append(model.register_load_state_dict_pre_hook(map_weights))
        return model

    hooks: list[Any] = []
    try:
        model = build_model_with_cfg(
            construct,
            variant,
            pretrained,
            pretrained_cfg_overlay=overlay,
            pretrained_filter_fn=pretrained_filter_fn,
            pretrained_strict=False,  # the filters account for every key, see _checkpoint.account_for_keys
            feature_cfg=dict(out_indices=None, feature_cls=_FeatureNet),
            **kwargs,
        )
    except Exception:
        if weights is not None:
            check_file(weights)  # if the file is damaged, that is the reason
        raise
    for hook in hooks:
        hook.remove()
    deferred.fill()
    if weights is not None:
        _restore_source(model, cfg)
    if saved is not None and isinstance(model, model_cls):
        model.saved_protocol = protocol_of_config(*saved)
        if weights is not None and cfg.num_classes == model.num_classes > 0 and not model.head_trained:
            raise ValueError(
                f'{weights}: has no classifier of the {cfg.num_classes} classes that {saved[1]} states. Save the model '
                'again, or give its real number of classes there.')
    return model


def prefetch(cfg: Any, cache_dir: Any = None) -> None:
    """Gets weights that timm itself will load into the cache, where it finds them: with a deadline, and checked."""
    if not is_offline():  # timm finds out at once
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
    """Lets a model say that its weights are from where it was told to take them, not from the cache."""
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
