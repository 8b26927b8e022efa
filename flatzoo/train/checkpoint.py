"""The files of a run, each of which is there complete or in its former version, whatever kills the run.

    args.yaml             the recipe
    summary.csv           a row per epoch
    last.pt               all that is needed to go on
    model.safetensors     the best model so far
    config.json           what it is; makes the folder one for `local-dir:` and `flatzoo push`
    adapters.safetensors  the trained part of it, of a model with adapters on a frozen backbone
    broken.txt            clips that could not be read, with the reasons
"""
import csv
import errno
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from flatzoo.data.protocol import EvalProtocol
from flatzoo.hub.push import save_pretrained
from flatzoo.models import VideoModel
from flatzoo.models.adapter_model import AdapterModel
from flatzoo.version import __version__

__all__ = [
    'ADAPTERS', 'ARGS', 'BROKEN', 'LAST', 'SUMMARY', 'is_full', 'is_out_of_memory', 'load_last', 'save_last',
    'remove_leftovers', 'save_model', 'write_csv', 'write_file',
]

ARGS, SUMMARY, LAST, ADAPTERS, BROKEN = 'args.yaml', 'summary.csv', 'last.pt', 'adapters.safetensors', 'broken.txt'
FORMAT = 1


def write_file(path: str | os.PathLike, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file under a temporary name, brings it to the disk and gives it its name.

    Args:
        path: The file.
        write: Called with the open file.

    Raises:
        OSError: It cannot be written; what was there is untouched.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.name}.partial')
    try:
        with open(partial, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows with the same keys; None is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, lambda file: file.write(text.getvalue().encode()))


def save_last(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Saves all that is needed to go on: tensors, numbers, strings, and lists and dictionaries of them."""
    write_file(path, lambda file: torch.save({'format': FORMAT, 'flatzoo_version': __version__, **state}, file))


def load_last(path: str | os.PathLike) -> dict[str, Any]:
    """Loads what `save_last` saved, on the CPU; no code of the file is run.

    Raises:
        ValueError: It is damaged, foreign or newer than this flatzoo.
    """
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - torch and pickle raise anything
        raise ValueError(f'{path}: is damaged or no checkpoint of a run ({type(error).__name__}).') from error
    if not isinstance(state, dict) or 'format' not in state:
        raise ValueError(f'{path}: is no checkpoint of a run of flatzoo.')
    if state['format'] > FORMAT:
        raise ValueError(
            f'{path}: came from a newer flatzoo ({state["flatzoo_version"]}); this is {__version__}. Update it.')
    return state


def save_model(model: VideoModel, folder: str | os.PathLike, classes: Sequence[str], protocol: EvalProtocol) -> None:
    """Saves a model into the folder of a run, as `flatzoo.save_pretrained` does, and its adapters if it has some.

    Raises:
        OSError: It cannot be written; what was there is untouched.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory(prefix='.best-', dir=folder) as staging:
        save_pretrained(model, staging, label_names=classes, protocol=protocol)
        if isinstance(model, AdapterModel) and model.frozen:
            model.save_adapters(Path(staging, ADAPTERS))
        files = sorted(Path(staging).iterdir(), key=lambda file: file.suffix == '.json')  # config.json last
        for file in files:
            with open(file, 'rb') as written:
                os.fsync(written.fileno())
        for file in files:
            os.replace(file, folder / file.name)
    _sync_folder(folder)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Removes what a run that was killed had begun to write."""
    for path in Path(folder).glob('.best-*'):
        shutil.rmtree(path, ignore_errors=True)
    for path in Path(folder).glob('.*.partial'):
        path.unlink(missing_ok=True)


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota is full, or a file too large for it; safetensors says it in words alone."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(
        getattr(cause, 'errno', None) in codes or 'No space left' in str(cause)
        or any(f'os error {code})' in str(cause) for code in codes) for cause in _causes(error))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the GPU or the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        isinstance(cause, RuntimeError) and "can't allocate memory" in str(cause) for cause in _causes(error))


def _causes(error: BaseException | None) -> list[BaseException]:
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system can."""
    if not hasattr(os, 'O_DIRECTORY'):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
