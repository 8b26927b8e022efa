"""Loads the next items in threads while the model computes."""
import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

__all__ = ['load_ahead']


def load_ahead(load: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[tuple[Any, Any]]:
    """Yields (item, load(item)) in order. Threads load a few items ahead.

    Args:
        load: Called in the threads, with an item.
        items: What is to be loaded.
        workers: Number of threads.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: collections.deque = collections.deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(load, item)))
            if len(waiting) > workers:
                item, future = waiting.popleft()
                yield item, future.result()
        while waiting:
            item, future = waiting.popleft()
            yield item, future.result()
    finally:  # after Ctrl-C there is nothing to wait for
        pool.shutdown(wait=False, cancel_futures=True)
