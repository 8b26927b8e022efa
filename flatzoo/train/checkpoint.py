"""The files of a run. If the run is killed, each file is either complete or still its former version.

    args.yaml             the recipe
    summary.csv           a row per epoch
    results.json          of a finished run: its last and its best epoch, and the test if there is one
    last.pt               the full state for resuming
    last.pt.sha256        its digest, as sha256sum writes it
    model.safetensors     the best model so far
    config.json           its configuration; with it, `local-dir:` and `flatzoo push` take the folder
    adapters.safetensors  the trained part of it, of a model with adapters on a frozen backbone
    broken.txt            clips that could not be read, with the reasons
    few_shot.csv          the clips that few_shot has drawn
    epochs/               weights of the epochs whose mean average_epochs saves
    tracker.json          the names under which wandb, mlflow and trackio know the run
"""
import csv
import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from flatzoo.data.protocol import EvalProtocol
from flatzoo.hub.push import save_pretrained
from flatzoo.hub.staging import causes, is_full, remove_leftovers as remove_staging, staging_folder
from flatzoo.models import VideoModel
from flatzoo.models.adapter_model import AdapterModel
from flatzoo.version import __version__

__all__ = [
    'ADAPTERS', 'ARGS', 'BROKEN', 'LAST', 'RESULTS', 'SUMMARY', 'damaged', 'digest_file', 'is_full', 'is_out_of_memory',
    'load_last', 'remove_leftovers', 'save_last', 'save_model', 'write_csv', 'write_file',
]

ARGS, SUMMARY, LAST, ADAPTERS, BROKEN = 'args.yaml', 'summary.csv', 'last.pt', 'adapters.safetensors', 'broken.txt'
RESULTS = 'results.json'
FORMAT = 1
REMEDY = 'Restore it from a copy, or begin anew with another --output.'


def write_file(path: str | os.PathLike, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file under a temporary name, syncs it to the disk and renames it.

    Args:
        path: The file.
        write: Called with the open file.

    Raises:
        OSError: The file cannot be written. An existing file stays unchanged.
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
    """Writes rows with the same keys. None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, lambda file: file.write(text.getvalue().encode()))


def save_last(path: str | os.PathLike, state: dict[str, Any]) -> None:
    """Saves the state for resuming: tensors, numbers, strings, and lists and dictionaries of them.

    The digest goes into a second file. While the new checkpoint replaces the former one, the second file holds both
    digests, the new one first. The digest of the present checkpoint is therefore always in it, even if the process is
    killed.
    """
    path = Path(path)
    digest = digest_file(path)
    former = _digests(digest) or ([_sha256(path)] if path.exists() else [])

    def write(file: IO[bytes]) -> None:
        hashing = _Hashing(file)
        torch.save({'format': FORMAT, 'flatzoo_version': __version__, **state}, hashing)
        write_digests([hashing.sha256.hexdigest(), *former])

    def write_digests(digests: list[str]) -> None:
        text = ''.join(f'{one}  {path.name}\n' for one in digests)
        write_file(digest, lambda file: file.write(text.encode()))

    write_file(path, write)
    write_digests(_digests(digest)[:1])  # as `sha256sum --check` reads it


def load_last(path: str | os.PathLike) -> dict[str, Any]:
    """Loads what `save_last` saved, on the CPU. No code of the file is run.

    The file is compared with its digest. An older flatzoo wrote no digest; its files are compared with the checksums
    that torch puts into the file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file is damaged, comes from other software or from a newer flatzoo.
    """
    path = Path(path)
    known = _digests(digest_file(path))
    if known and _sha256(path) not in known:
        raise damaged(path, f'its sha256 is not the one in {digest_file(path).name}')
    try:
        if not known and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if (member := archive.testzip()) is not None:
                    raise ValueError(f'the checksum of {member}')
        state = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - torch, pickle and zipfile raise anything
        raise damaged(path, type(error).__name__) from error
    if not isinstance(state, dict) or 'format' not in state:
        raise ValueError(f'{path}: is not a checkpoint of a flatzoo run. {REMEDY}')
    if isinstance(state['format'], int) and state['format'] > FORMAT:
        raise ValueError(
            f'{path}: came from a newer flatzoo ({state.get("flatzoo_version")}); this is {__version__}. Update it.')
    wrong = [name for name, right in _PARTS.items() if name not in state or not right(state[name])]
    if wrong:
        raise damaged(path, f'{", ".join(wrong)} {"is" if len(wrong) == 1 else "are"} not what a run saves')
    return state


def damaged(path: str | os.PathLike, why: str) -> ValueError:
    """The error for a checkpoint that cannot be used."""
    return ValueError(f'{path}: is damaged or no checkpoint of this run ({why}). {REMEDY}')


def digest_file(path: Path) -> Path:
    """The file with the digest of a checkpoint."""
    return path.with_name(f'{path.name}.sha256')


def _digests(path: Path) -> list[str]:
    """The digests in a digest file. The list is empty if the file is missing or has another content."""
    try:
        lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    except FileNotFoundError:
        return []
    return [line.split()[0] for line in lines if line.split()]


def _sha256(path: Path) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


class _Hashing:
    """Writes to a file and computes its digest."""

    def __init__(self, file: IO[bytes]):
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _is_history(value: Any) -> bool:
    return isinstance(value, list) and all(
        _is_dict(row) and row.keys() == value[0].keys() and _is_count(row.get('epoch'))
        and all(number is None or isinstance(number, (int, float)) for number in row.values()) for row in value)


_PARTS: dict[str, Callable[[Any], bool]] = {
    'format': lambda value: _is_count(value) and value > 0,
    'recipe': _is_dict,
    'global_batch': _is_count,
    'classes': lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    'num_clips': _is_count,
    'update': _is_count,
    'model': lambda value: _is_dict(value) and all(isinstance(tensor, torch.Tensor) for tensor in value.values()),
    'optimizer': _is_dict,
    'scaler': _is_dict,
    'ema': lambda value: value is None or _is_dict(value),
    'protocol': _is_dict,
    'meters': lambda value: isinstance(value, torch.Tensor) and value.shape == (3,),
    'history': _is_history,
    'best': lambda value: value is None or isinstance(value, (int, float)),
    'broken': lambda value: isinstance(value, dict) and all(
        _is_count(index) and isinstance(reason, str) for index, reason in value.items()),
}
"""What a checkpoint holds, and whether a value can be that."""


def save_model(model: VideoModel, folder: str | os.PathLike, classes: Sequence[str], protocol: EvalProtocol) -> None:
    """Saves a model into the folder of a run, as `flatzoo.save_pretrained` does. Also saves its adapters, if any.

    Raises:
        OSError: The file cannot be written. An existing file stays unchanged.
    """
    folder = Path(folder)
    with staging_folder(folder, '.best-') as staging:
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
    """Removes the unfinished files of a killed run."""
    remove_staging(folder)
    for path in Path(folder).glob('.*.partial'):
        path.unlink(missing_ok=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the GPU or the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(
        isinstance(cause, RuntimeError) and "can't allocate memory" in str(cause) for cause in causes(error))


def _sync_folder(folder: Path) -> None:
    """Syncs the names in a folder to the disk, where the system can."""
    if not hasattr(os, 'O_DIRECTORY'):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
