"""Temporary folders for files that are still being written, and the removal of those of killed processes."""
import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ['causes', 'is_full', 'remove_leftovers', 'staging_folder']

PREFIXES = ('.best-', '.saving-', '.pulling-')


@contextlib.contextmanager
def staging_folder(folder: str | os.PathLike, prefix: str) -> Iterator[Path]:
    """A temporary folder inside of another one, whose files can be moved there by renaming. It is removed at the end.

    Folders of killed processes are removed, too. A lock beside each temporary folder tells whether a process still uses
    it.

    Args:
        folder: The folder, which must exist.
        prefix: Start of the name, one of `PREFIXES`.

    Raises:
        OSError: The disk is full, or the folder cannot be written. safetensors' own error becomes one of these.
    """
    remove_leftovers(folder)
    with tempfile.NamedTemporaryFile(prefix=prefix, suffix='.lock', dir=folder, delete=False) as file:
        path = Path(file.name)
    lock = FileLock(path)
    staging = path.with_suffix('')
    try:
        with contextlib.suppress(OSError, NotImplementedError):  # without locks of the file system leftovers stay
            lock.acquire()
        staging.mkdir()
        yield staging
    except Exception as error:
        if is_full(error) and not isinstance(error, OSError):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_lock(lock, path)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Removes the staging folders that no living process uses."""
    folder = Path(folder)
    paths = {path for prefix in PREFIXES for path in folder.glob(f'{prefix}*')}
    for staging in {path.with_suffix('') if path.suffix == '.lock' else path for path in paths}:
        path = staging.with_name(f'{staging.name}.lock')
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (OSError, NotImplementedError, Timeout):  # it is in use, or we may not write here
            continue
        shutil.rmtree(staging, ignore_errors=True)
        _remove_lock(lock, path)


def _remove_lock(lock: FileLock, path: Path) -> None:
    """Removes the file of a lock while we hold it. Afterwards it could belong to another process."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # Windows removes no file that a process has open
        lock.release()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    else:
        lock.release()


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota is full, or a file is too large. safetensors states this only in its message."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return any(
        getattr(cause, 'errno', None) in codes or 'No space left' in str(cause)
        or any(f'os error {code})' in str(cause) for code in codes) for cause in causes(error))


def causes(error: BaseException | None) -> list[BaseException]:
    """An error and its causes."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
