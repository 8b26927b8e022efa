"""Long videos over processes: whole files, each answered by one process with a model of its own."""
import collections
import contextlib
import dataclasses
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from flatzoo.models import VideoModel

from .windows import Record, predict_windows

START = 'spawn'  # a fork would copy locked threads of torch and FFmpeg

__all__ = ['FileRecords', 'SpreadError', 'spread_windows']


class SpreadError(RuntimeError):
    """A process has ended. The message is complete for the user."""


@dataclasses.dataclass(frozen=True)
class FileRecords:
    """What a process says about a file.

    Attributes:
        path: The file.
        records: The answers, without logits. After an error those that came before it.
        notes: What was passed over, see `flatzoo.predict_windows`.
        error: Why there are no more; None if the file was answered to its end.
    """

    path: str
    records: list[Record]
    notes: list[str]
    error: Exception | None = None


def spread_windows(
        files: Sequence[str],
        load: Callable[[], VideoModel],
        processes: int,
        threads: int = 1,
        **options: Any,
) -> Iterator[FileRecords]:
    """Answers every window of many videos in several processes.

    Args:
        files: The videos.
        load: Builds the model, once in every process. It is sent there, so it must be a module-level function or a
            partial of one.
        processes: How many.
        threads: Threads of torch in each of them.
        **options: Arguments of `flatzoo.predict_windows`.

    Yields:
        A `FileRecords` for every file, in their order. At most twice as many files as there are processes are in work
        or wait to be taken.

    Raises:
        SpreadError: A process has ended, or cannot load the model.
    """
    context = multiprocessing.get_context(START)
    stopped = context.Event()
    pool = ProcessPoolExecutor(
        min(processes, max(len(files), 1)), context, _begin, (load, threads, options, stopped))
    waiting: collections.deque = collections.deque()
    try:
        for file in files:
            with _no_interrupt():  # it may start a process
                waiting.append(pool.submit(_answer, file))
            if len(waiting) >= 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise SpreadError(
            'a process that answers has ended, perhaps for lack of memory. Give fewer --processes.') from error
    finally:
        stopped.set()  # else the end would wait for the files that are in work
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C: it is for the first process, which then says stop."""
    if threading.current_thread() is not threading.main_thread():  # others may not change it
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_here: dict[str, Any] = {}  # of a process: its model, and what it is told


def _begin(load: Callable[[], VideoModel], threads: int, options: dict[str, Any], stopped: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it was not so from the beginning
    torch.set_num_threads(threads)
    _here.update(model=load(), options=options, stopped=stopped)


def _answer(path: str) -> FileRecords:
    records: list[Record] = []
    notes: list[str] = []
    error = None
    try:
        for record in predict_windows(path, _here['model'], note=notes.append, **_here['options']):
            if _here['stopped'].is_set():
                break
            records.append(dataclasses.replace(record, logits=None))
    except Exception as raised:  # noqa: BLE001 - whatever a file does to a decoder, the others go on
        if isinstance(raised, RuntimeError) and 'memory' in str(raised):
            raise
        error = raised
    return FileRecords(path, records, notes, error)
