"""Work that threads do ahead of whoever takes its results: the next files, or the next windows of one file."""
import collections
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ['load_ahead', 'run_ahead']

T = TypeVar('T')
_END = object()


def load_ahead(
        load: Callable[[Any], Any],
        items: Iterable[Any],
        workers: int,
        ahead: int = 1,
) -> Iterator[tuple[Any, Any]]:
    """Yields (item, load(item)) in order. Threads load a few items ahead.

    Args:
        load: Called in the threads, with an item.
        items: What is to be loaded.
        workers: Number of threads.
        ahead: Items that may be loaded and wait, beside those that the threads are loading: as many as are used in
            the time in which nobody takes any.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: collections.deque = collections.deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(load, item)))
            if len(waiting) >= workers + ahead:
                item, future = waiting.popleft()
                yield item, future.result()
        while waiting:
            item, future = waiting.popleft()
            yield item, future.result()
    finally:  # after Ctrl-C there is nothing to wait for
        pool.shutdown(wait=False, cancel_futures=True)


def run_ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """Yields the items of an iterable that a thread takes from it.

    Args:
        items: The iterable. It is closed in the thread when this iterator is closed.
        size: Items that wait at most.

    Raises:
        Exception: What the iterable raises, after its items.
    """
    waiting: queue.Queue = queue.Queue(size)
    stopped = threading.Event()

    def put(item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not put(item):
                    break
            put(_END)
        except BaseException as error:  # noqa: BLE001 - raised where the items are taken
            put(_Failure(error))
        finally:
            close = getattr(iterator, 'close', None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, daemon=True, name='flatzoo-ahead')
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stopped.set()
        thread.join(5)


class _Failure:
    def __init__(self, error: BaseException):
        self.error = error
