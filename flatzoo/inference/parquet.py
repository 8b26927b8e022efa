"""Answers for very many video files, with Ray Data on many processes and machines, stored as Parquet files.

Every process has a model of its own and takes small blocks of files. The answers return to the main process, which
writes Parquet files one after the other. A Parquet file is complete or absent. To continue an interrupted run, start it
again with the same arguments: files with an answer are not read again.
"""
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .ray_cluster import cluster, import_ray
from .resume import other_run

if TYPE_CHECKING:
    import pyarrow

__all__ = ['answered_files', 'file_key', 'open_folder', 'run_batches']

SETTINGS = '_settings.json'  # readers of Parquet folders pass over names that begin so
BLOCK = 64  # files that a process takes at a time
ROWS = 4096  # answers after which a Parquet file is written,
SECONDS = 60.0  # or after this time

Answers = Callable[[Any, list[str]], Iterable[tuple[str, Any]]]


def open_folder(folder: str | os.PathLike, settings: Mapping[str, Any]) -> Path:
    """Creates a folder for answers, or opens one with the answers of a run with the same settings.

    Args:
        folder: The folder.
        settings: Everything that changes the answers (model, views, ...), in values that JSON can hold.

    Raises:
        ValueError: The folder holds answers of other settings, or other files.
        OSError: The folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SETTINGS
    text = json.dumps(dict(settings), indent=2, sort_keys=True)
    if file.exists():
        there = file.read_text(encoding='utf-8')
        if there != text:
            raise other_run(folder, json.loads(there), json.loads(text))
    elif any(folder.iterdir()):
        raise ValueError(f'{folder}: is not empty and holds no answers. Give a new folder.')
    else:
        _write(file, lambda partial: partial.write_text(text, encoding='utf-8'))
    return folder


def answered_files(folder: str | os.PathLike) -> dict[str, str | None]:
    """The files that have an answer in a folder, by their column `path`, with the error or None."""
    import pyarrow.parquet

    files: dict[str, str | None] = {}
    for part in sorted(Path(folder).glob('*.parquet')):
        table = pyarrow.parquet.read_table(part, columns=['path', 'error'])
        files.update(zip(table['path'].to_pylist(), table['error'].to_pylist(), strict=True))
    return files


def file_key(path: str | os.PathLike) -> str:
    """The value of the column `path` for a file: absolute, with bytes escaped that are not UTF-8."""
    return _text(os.fsencode(os.path.abspath(path)))


def run_batches(
        paths: Sequence[str],
        folder: str | os.PathLike,
        load: Callable[[], Any],
        answer: Answers,
        processes: int = 1,
        gpus: float = 0,
) -> Iterator[tuple[str, Any]]:
    """Answers files with Ray Data and writes the answers as Parquet.

    The columns are `path` (`file_key`), `labels`, `indices` and `probabilities`
    (lists, the most probable class first) and `error` (null where there is an answer).

    Args:
        paths: Video files, without those that the folder has answers for.
        folder: Where the Parquet files go, `open_folder`.
        load: Builds a model, once in every process. Ray sends it to the processes, so it must be a module-level
            function or a partial of one.
        answer: Gets the model and some files and gives for each the file and a list of (label, index, probability), or
            an exception. Sent like `load`.
        processes: Processes that answer, over all machines of the Ray cluster: the one that `RAY_ADDRESS` names, or
            else one that is started on this machine and ends with the run.
        gpus: Number of GPUs of each process.

    Yields:
        Each file as its `file_key`, in the order in which the answers come, and its error or None. What was
        yielded is written at the latest when the iterator ends or is closed.

    Raises:
        ImportError: If Ray is not installed.
        RuntimeError: The processes fail. An error with a single file is stored for that file instead.
    """
    import pyarrow

    ray = import_ray()
    folder = Path(folder)
    files = [os.fsencode(os.path.abspath(path)) for path in paths]
    if not files:
        return

    def finish(tables: list['pyarrow.Table']) -> None:
        if tables:
            import pyarrow.parquet

            table = pyarrow.concat_tables(tables)
            target = folder / f'{time.strftime("%Y%m%dT%H%M%S")}-{uuid.uuid4().hex[:8]}.parquet'
            _write(target, lambda partial: pyarrow.parquet.write_table(table, partial))
            tables.clear()

    waiting: list[pyarrow.Table] = []
    last = time.monotonic()
    with cluster(ray, processes):
        size = max(1, min(BLOCK, len(files) // (4 * processes)))
        blocks = [
            pyarrow.table({'file': pyarrow.array(files[start:start + size], pyarrow.binary())})
            for start in range(0, len(files), size)]
        data = ray.data.from_arrow(blocks).map_batches(
            _Answerer, fn_constructor_args=(load, answer), batch_format='pyarrow', batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=min(processes, len(blocks))), num_cpus=1, num_gpus=gpus)
        try:
            for table in data.iter_batches(batch_size=None, batch_format='pyarrow'):
                waiting.append(table)
                if sum(map(len, waiting)) >= ROWS or time.monotonic() - last > SECONDS:
                    finish(waiting)
                    last = time.monotonic()
                yield from zip(table['path'].to_pylist(), table['error'].to_pylist(), strict=True)
        except ray.exceptions.RayError as error:
            cause = getattr(error, 'cause', None) or error
            lines = str(cause).strip().splitlines() or ['']
            raise RuntimeError(f'the processes of Ray failed ({type(cause).__name__}): {lines[-1]}') from error
        finally:  # also after Ctrl-C: what is answered is kept
            finish(waiting)


class _Answerer:
    """The part that runs in the processes of Ray."""

    def __init__(self, load: Callable[[], Any], answer: Answers):
        self.model = load()
        self.answer = answer

    def __call__(self, block: 'pyarrow.Table') -> 'pyarrow.Table':
        files = [os.fsdecode(file) for file in block['file'].to_pylist()]
        return _table([(os.fsencode(file), answer) for file, answer in self.answer(self.model, files)])


def _table(answers: Sequence[tuple[bytes, Any]]) -> 'pyarrow.Table':
    import pyarrow

    failed = [isinstance(answer, Exception) for _, answer in answers]
    best = [[] if error else list(answer) for (_, answer), error in zip(answers, failed, strict=True)]
    schema = pyarrow.schema({
        'path': pyarrow.string(),
        'labels': pyarrow.list_(pyarrow.string()),
        'indices': pyarrow.list_(pyarrow.int32()),
        'probabilities': pyarrow.list_(pyarrow.float32()),
        'error': pyarrow.string(),
    })
    return pyarrow.table({
        'path': [_text(path) for path, _ in answers],
        'labels': [[label for label, _, _ in top] for top in best],
        'indices': [[index for _, index, _ in top] for top in best],
        'probabilities': [[probability for _, _, probability in top] for top in best],
        'error': [
            _text(os.fsencode(f'{type(answer).__name__}: {" ".join(str(answer).splitlines())}')) if error else None
            for (_, answer), error in zip(answers, failed, strict=True)],
    }, schema=schema)


def _text(path: bytes) -> str:
    return path.decode('utf-8', 'backslashreplace')


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes under a temporary name, then renames."""
    partial = path.with_name(f'_{path.name}.partial')
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
