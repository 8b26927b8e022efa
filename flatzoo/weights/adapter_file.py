"""Adapter files: the trained part of a model with a frozen backbone, without the weights that the Hub already has.

The format is safetensors. The header names the backbone and has a digest of its weights, because adapters on another
backbone run without an error and give wrong answers.
"""
import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flatzoo.console.text import printable

from .config import check_arguments

__all__ = ['read_adapter_file', 'state_digest', 'weight_digest', 'write_adapter_file']

_FORMAT = 'flatzoo_adapters_v1'
_FIELDS = {'model', 'model_args', 'adapter_args', 'backbone', 'backbone_digest'}


def weight_digest(module: nn.Module, without: Collection[str] = ()) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of a module's state dict, in the order of the names.

    Args:
        module: The module.
        without: Names of parameters or modules that are left out.
    """
    return state_digest({
        name: tensor for name, tensor in module.state_dict().items() if name.partition('.')[0] not in without})


def state_digest(tensors: dict[str, Tensor]) -> str:
    """As `weight_digest`, of the tensors of a state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f'{name} {tensor.dtype} {list(tensor.shape)}\n'.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return f'sha256:{digest.hexdigest()}'


def write_adapter_file(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Writes the file under a temporary name and renames it, so that the file is never incomplete.

    Args:
        path: The file to write.
        tensors: State dict.
        header: `model`, `model_args`, `adapter_args`, `backbone` and `backbone_digest`, all of which JSON can hold.
    """
    path = Path(path)
    partial = path.with_name(f'{path.name}.partial')
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.touch()
        mode = partial.stat().st_mode  # of an ordinary new file; safetensors lets only the owner read
        save_file(tensors, partial, metadata={_FORMAT: json.dumps(header)})
        partial.chmod(mode)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_adapter_file(path: str | Path, header_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads an adapter file.

    Args:
        path: The file.
        header_only: Whether to leave out the tensors.

    Returns:
        State dict and header.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or not an adapter file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such adapter file.')
    try:
        with safe_open(path, 'pt') as file:
            header = json.loads((file.metadata() or {}).get(_FORMAT, 'null'))
            tensors = {} if header_only else {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, RecursionError) as error:
        reason = 'too deeply nested' if isinstance(error, RecursionError) else printable(error, 200)
        raise ValueError(f'{path}: is damaged or not safetensors ({reason}). Save the adapters again.') from error
    if not isinstance(header, dict) or not header.keys() >= _FIELDS or not (
            isinstance(header['model'], (str, type(None))) and isinstance(header['model_args'], dict)
            and isinstance(header['adapter_args'], dict)):
        raise ValueError(
            f'{path}: is not an adapter file, or has another version. Accepted are files of save_adapters(). Weights '
            'of a whole model are loaded by timm.create_model(checkpoint_path=).')
    check_arguments(header['model_args'], str(path))
    check_arguments(header['adapter_args'], str(path))
    labels = header.get('label_names')
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError(f"{path}: 'label_names' must be a list of strings. Save the adapters again.")
    return tensors, header
