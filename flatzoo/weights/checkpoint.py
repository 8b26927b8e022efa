"""Reads weights without running code from the file, renames them for a video model and accounts for every key."""
import argparse
import logging
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from .training_records import RECORDS

__all__ = [
    'account_for_keys', 'choose_weights', 'image_checkpoint', 'load_checkpoint', 'map_weights', 'prefixed_weights',
    'unwrap_checkpoint',
]

_logger = logging.getLogger(__name__)


_RAW = ('state_dict', 'model', 'model_state_dict', 'model_state', 'net', 'network', 'module', 'weights', 'params')
_EMA = (
    'state_dict_ema', 'model_ema', 'ema', 'ema_state_dict', 'model_ema_state_dict', 'ema_model', 'module_ema',
    'net_ema', 'params_ema')
_WRAPPERS = ('module.', 'model.', 'net.')  # of DistributedDataParallel, Lightning and users; not `network.`: VOLO's own
_INSIDE = ('_orig_mod.', '_fsdp_wrapped_module.', '_checkpoint_wrapped_module.')  # of torch.compile, FSDP, ...


def unwrap_checkpoint(state_dict: dict[str, Any]) -> dict[str, Tensor]:
    """The weights inside a checkpoint, under the names of the model. See `choose_weights`."""
    return choose_weights(state_dict)


def choose_weights(state_dict: dict[str, Any], use_ema: bool | None = None) -> dict[str, Tensor]:
    """The weights inside a checkpoint of training code, without the prefixes that wrappers put before the names.

    Weights are found under keys such as `state_dict`, `model`, `model_state_dict` and `net`, and moving averages under
    keys such as `state_dict_ema`, `model_ema` and `ema`. Removed are the prefixes `module.` (DistributedDataParallel,
    AveragedModel), `_orig_mod.` (torch.compile), `model.` (Lightning), `net.` and those of FSDP. If the weights have
    such a prefix, averages beside them may have a prefix such as `ema.`.

    Args:
        state_dict: The checkpoint, or the weights.
        use_ema: Whether to take the moving average or the raw weights if there are both. None takes the average, as
            timm does, and warns.

    Raises:
        ValueError: If there is no moving average and `use_ema` asks for it.
    """
    groups = {key: value for key, value in state_dict.items() if _holds_tensors(value)}
    raw = next((key for key in _RAW if key in groups), None)
    ema = next((key for key in _EMA if key in groups), None)
    flat = raw is None and ema is None
    if flat:
        names = [key for key, value in state_dict.items() if isinstance(value, Tensor)]
        raw = next((prefix for prefix in _WRAPPERS if any(name.startswith(prefix) for name in names)), None)
        ema = next((f'{key}.' for key in _EMA if any(name.startswith(f'{key}.') for name in names)), None)
        if ema is None:
            if use_ema:
                raise ValueError('use_ema=True (--ema): there is no moving average, such as model_ema, in the file.')
            return _without_prefixes(state_dict)
    if raw is not None and ema is not None and use_ema is None:
        warnings.warn(
            f'The file has raw weights ({raw!r}) and their moving average (EMA, {ema!r}). The average is taken. '
            'use_ema=False (on the command line --raw) takes the raw weights.', stacklevel=3)
    if raw is None and use_ema is False:
        warnings.warn(f'The file has only a moving average of weights ({ema!r}), which is taken.', stacklevel=3)
    if flat:
        prefix = raw if raw is not None and use_ema is False else ema
        return _without_prefixes({
            key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)})
    if ema is None:
        return choose_weights(groups[raw], use_ema)
    return choose_weights(groups[raw if raw is not None and use_ema is False else ema])


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(
        isinstance(part, Tensor) or _holds_tensors(part) for part in value.values())


def _without_prefixes(state_dict: dict[str, Any]) -> dict[str, Any]:
    for part in _INSIDE:
        state_dict = {key.replace(part, ''): value for key, value in state_dict.items()}
    while True:
        names = [key for key, value in state_dict.items() if isinstance(value, Tensor)]
        prefix = next((p for p in _WRAPPERS if any(name.startswith(p) for name in names)), None)
        if prefix is None:
            return state_dict
        beside = [name for name in names if not name.startswith(prefix)]
        if prefix == 'module.':  # it may also be the prefix of single parts
            beside = [name for name in beside if name == 'n_averaged']  # the count of AveragedModel
        elif beside:  # metrics, losses and teachers of a Lightning module
            _logger.info(f'Left out, not part of the model: {", ".join(beside[:5])}{", ..." if beside[5:] else ""}')
        state_dict = {key.removeprefix(prefix): value for key, value in state_dict.items() if key not in beside}


def image_checkpoint(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of an image model for the backbone. timm's own filter adapts embeddings and bias tables."""
    backbone_filter = getattr(sys.modules[type(model.backbone).__module__], 'checkpoint_filter_fn', None)
    if backbone_filter is not None:
        try:
            state_dict = backbone_filter(state_dict, model.backbone)
        except KeyError as error:
            raise RuntimeError(
                f'These weights are not those of {type(model.backbone).__name__}, which has no {error}. Build the '
                'model with the backbone of the weights, or load weights of this architecture.'
            ) from error
    return prefixed_weights(state_dict)


def prefixed_weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames weights from the names of the backbone to those of the video model."""
    return {f'backbone.{key}': value for key, value in state_dict.items()}


def account_for_keys(
        model: nn.Module,
        state_dict: dict[str, Tensor],
        optional: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Leaves out a classifier of another size, and checks that all other keys of weights and model are the same.

    Args:
        model: The model that will load it.
        state_dict: Weights under the model's names.
        optional: Parts of names that may be missing, beside the classifier.

    Raises:
        RuntimeError: If keys are missing or left over. The message names them.
    """
    wanted = model.state_dict()
    classifier = model.classifier_keys()
    other = [
        key for key in classifier | _classifier_of_weights(model)
        if key in state_dict and (key not in wanted or state_dict[key].shape != wanted[key].shape)
    ]
    if other and model.num_classes:
        _logger.info(f'The weights have other classes. The head for {model.num_classes} classes starts untrained.')
    state_dict = {key: value for key, value in state_dict.items() if key not in other}
    optional = tuple(classifier) + optional
    missing = [
        key for key in wanted
        if key not in state_dict and not _is_buffer_of_norm(key) and not any(part in key for part in optional)]
    unexpected = [key for key in state_dict if key not in wanted and not _is_buffer_of_norm(key)]
    if missing or unexpected:
        raise RuntimeError(
            f'These weights are not those of {type(model).__name__} as it was built: {len(missing)} keys are missing '
            f'({", ".join(missing[:5])}{", ..." if len(missing) > 5 else ""}), {len(unexpected)} are not wanted '
            f'({", ".join(unexpected[:5])}{", ..." if len(unexpected) > 5 else ""}). Build the model with the '
            'arguments of the weights (backbone, num_frames, layout, ape, window_size), or load others.'
        )
    return state_dict


def _classifier_of_weights(model: nn.Module) -> set[str]:
    """Names of the classifier's parameters in the weights, even if the model has none (`num_classes=0`)."""
    names = model.pretrained_cfg.get('classifier') or ()
    names = (names,) if isinstance(names, str) else names
    return {f'{name}.{kind}' for name in names for kind in ('weight', 'bias')}


def _is_buffer_of_norm(key: str) -> bool:
    return key.endswith('num_batches_tracked')


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint file without running code from it.

    If the format allows it, tensors are mapped from the file, so that only used tensors take memory.

    Args:
        path: A safetensors file, or a PyTorch file with tensors and plain containers. Two kinds of objects are allowed
            besides: `argparse.Namespace`, in which training scripts keep their arguments, and the records of training
            runs in `flatzoo.weights.training_records`, whose content is not read.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or needs code of another class.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such weight file.')
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        _check_zip(path)
        with torch.serialization.safe_globals([argparse.Namespace, *RECORDS]):
            mmap = zipfile.is_zipfile(path)  # files of torch < 1.6 are not ZIP files and cannot be mapped
            checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except _Bomb:
        raise
    except Exception as error:  # noqa: BLE001 - torch.load raises UnpicklingError, RuntimeError, EOFError, KeyError, ...
        unsafe = re.findall(r'GLOBAL (\S+)', str(error))
        reason = f'it needs {unsafe[0]}, which is not allowed' if unsafe else 'it is damaged or not a weight file'
        raise ValueError(
            f'{path}: cannot be loaded safely, {reason}. Accepted: safetensors, or PyTorch files with tensors, plain '
            'containers and argparse.Namespace.'
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path}: holds a {type(checkpoint).__name__}, not a state dict or a checkpoint with one.')
    _check_tensors(checkpoint, path)
    return checkpoint


class _Bomb(ValueError):
    """The file is small but would take much memory."""


def _check_zip(path: Path) -> None:
    """Refuses a PyTorch file with compressed or overlapping members. torch writes none, and both can be huge."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = path.stat().st_size
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or sum(
            member.file_size for member in members) > size:
        raise _Bomb(
            f'{path}: is compressed, or its members claim more than its {size} bytes. PyTorch writes no such file. '
            'Get it from its publisher, or save the weights again.')


def _check_tensors(checkpoint: dict, path: Path) -> None:
    """Refuses tensors that are larger than the file, such as one number that is repeated 10^12 times."""
    size, seen, waiting = path.stat().st_size, set(), [checkpoint]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            if value.layout is not torch.strided or value.is_meta or value.numel() * value.element_size() > size:
                raise _Bomb(
                    f'{path}: holds a tensor of shape {list(value.shape)}, kind {value.layout}, but the file has only '
                    f'{size} bytes. Save the weights again.')
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:  # they may refer to each other
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def map_weights(model: nn.Module, state_dict: dict[str, Tensor], *_: Any) -> None:
    """Hook before `load_state_dict`: parameters and buffers become the tensors of the state dict, without a copy.

    Parameters and buffers stay the same objects, with their dtype and device. Tensors of another dtype or device are
    converted. Tensors of another shape are left to `load_state_dict`, which refuses them.
    """
    with torch.no_grad():
        for key, tensor in model.state_dict(keep_vars=True).items():
            value = state_dict.get(key)
            if value is not None and value.shape == tensor.shape:
                state_dict[key] = tensor.set_(value.to(tensor))  # load_state_dict then copies it to itself
