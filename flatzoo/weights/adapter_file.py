"""Files of what is trained beside a frozen backbone: adapters without the weights that the Hub already has.

A file is safetensors; its header says for which backbone it was trained, down to a digest of the weights, for adapters
on another backbone run without an error and answer nonsense.
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
        without: Its parts, parameters or modules by name, that are left out.
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
    """Writes the file under a temporary name and renames it, so that there is never half of one.

    Args:
        path: The file to write.
        tensors: State dict.
        header: What JSON can hold: `model`, `model_args`, `adapter_args`, `backbone` and `backbone_digest`.
    """
    path = Path(path)
    partial = path.with_name(f'{path.name}.partial')
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.touch()
        mode = partial.stat().st_mode  # as of any new file; safetensors' are the owner's alone
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
        ValueError: If it is damaged or no adapter file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such adapter file.')
    try:
        with safe_open(path, 'pt') as file:
            header = json.loads((file.metadata() or {}).get(_FORMAT, 'null'))
            tensors = {} if header_only else {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, RecursionError) as error:
        reason = 'too deeply nested' if isinstance(error, RecursionError) else printable(error, 200)
        raise ValueError(f'{path}: is damaged or no safetensors file ({reason}). Save the adapters again.') from error
    if not isinstance(header, dict) or not header.keys() >= _FIELDS or not (
            isinstance(header['model'], (str, type(None))) and isinstance(header['model_args'], dict)
            and isinstance(header['adapter_args'], dict)):
        raise ValueError(
            f'{path}: is no adapter file, or one of another version. Accepted is what save_adapters() wrote; weights '
            'of a whole model are loaded by timm.create_model(checkpoint_path=).')
    check_arguments(header['model_args'], str(path))
    check_arguments(header['adapter_args'], str(path))
    labels = header.get('label_names')
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise ValueError(f"{path}: 'label_names' must be a list of strings. Save the adapters again.")
    return tensors, header
