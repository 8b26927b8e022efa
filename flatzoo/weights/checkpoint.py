"""Weights on their way into a video model: read without running code, renamed, accounted for key by key."""
import argparse
import logging
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from .training_records import RECORDS

__all__ = [
    'account_for_keys', 'image_checkpoint', 'load_checkpoint', 'map_weights', 'prefixed_weights', 'unwrap_checkpoint',
]

_logger = logging.getLogger(__name__)


def unwrap_checkpoint(state_dict: dict[str, Any]) -> dict[str, Tensor]:
    """The weights inside a checkpoint: unwraps `model` or `state_dict`, strips `module.` of DistributedDataParallel."""
    for key in ('model', 'state_dict'):
        if isinstance(state_dict.get(key), dict):
            state_dict = state_dict[key]
    return {key.removeprefix('module.'): value for key, value in state_dict.items()}


def image_checkpoint(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of an image model for the backbone, with embeddings and bias tables adapted by timm's own filter."""
    backbone_filter = getattr(sys.modules[type(model.backbone).__module__], 'checkpoint_filter_fn', None)
    if backbone_filter is not None:
        try:
            state_dict = backbone_filter(state_dict, model.backbone)
        except KeyError as error:
            raise RuntimeError(
                f'These weights are not those of {type(model.backbone).__name__}: it has no {error}. Build the model '
                'with the backbone of the weights, or load weights of this architecture.'
            ) from error
    return prefixed_weights(state_dict)


def prefixed_weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the backbone's names -> under the video model's."""
    return {f'backbone.{key}': value for key, value in state_dict.items()}


def account_for_keys(
        model: nn.Module,
        state_dict: dict[str, Tensor],
        optional: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Leaves out a classifier of another size, and checks that else a state dict and a model have the same keys.

    Args:
        model: The model that will load it.
        state_dict: Weights under the model's names.
        optional: Parts of names that may be missing, beside the classifier.

    Raises:
        RuntimeError: If keys are missing or left over, naming them.
    """
    wanted = model.state_dict()
    classifier = model.classifier_keys()
    other = [
        key for key in classifier | _classifier_of_weights(model)
        if key in state_dict and (key not in wanted or state_dict[key].shape != wanted[key].shape)
    ]
    if other and model.num_classes:
        _logger.info(f'The weights classify something else: the head for {model.num_classes} classes starts fresh.')
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
    """Names of the classifier's parameters in the weights, also where the model has none (`num_classes=0`)."""
    names = model.pretrained_cfg.get('classifier') or ()
    names = (names,) if isinstance(names, str) else names
    return {f'{name}.{kind}' for name in names for kind in ('weight', 'bias')}


def _is_buffer_of_norm(key: str) -> bool:
    return key.endswith('num_batches_tracked')


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint file without running code from it.

    Tensors are mapped from the file where its format allows it, so that only what is used takes memory.

    Args:
        path: A safetensors file, or a PyTorch file with tensors and plain containers. Of all classes only
            `argparse.Namespace`, in which training scripts keep their arguments, is allowed, and records of a training
            run (`flatzoo.weights.training_records`), which come out empty.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or wants to run code of another class.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such weight file.')
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace, *RECORDS]):
            mmap = zipfile.is_zipfile(path)  # files of torch < 1.6 are none, and cannot be mapped
            checkpoint = torch.load(path, map_location='cpu', weights_only=True, mmap=mmap)
    except Exception as error:  # noqa: BLE001 - torch.load raises UnpicklingError, RuntimeError, EOFError, KeyError, ...
        unsafe = re.findall(r'GLOBAL (\S+)', str(error))
        reason = f'it needs {unsafe[0]}, which is not allowed' if unsafe else 'it is damaged or no weight file'
        raise ValueError(
            f'{path}: cannot be loaded safely, {reason}. Accepted: safetensors, or PyTorch files with tensors, plain '
            'containers and argparse.Namespace.'
        ) from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path}: holds a {type(checkpoint).__name__}, not a state dict or a checkpoint with one.')
    return checkpoint


def map_weights(model: nn.Module, state_dict: dict[str, Tensor], *_: Any) -> None:
    """Hook before `load_state_dict`: parameters and buffers become the tensors of the state dict, without a copy.

    They stay the objects that they are, with their dtype and device; tensors of another one are converted. Those of
    another shape are left to `load_state_dict`, which refuses them.
    """
    with torch.no_grad():
        for key, tensor in model.state_dict(keep_vars=True).items():
            value = state_dict.get(key)
            if value is not None and value.shape == tensor.shape:
                state_dict[key] = tensor.set_(value.to(tensor))  # which load_state_dict copies to itself: nothing
