"""Which of two ways to compute the same is faster here, found out by trying both once.

Packed products are 1.5 times as fast as those of the BLAS on one kind of CPU and not faster at all on another. No rule
of ours would hold on all, so the first forward tries both ways on its own numbers and keeps the faster one for this
size. Both give the same answer up to rounding.
"""
import time
from collections.abc import Callable, Hashable
from typing import Literal

import torch
from torch import Tensor

__all__ = ['faster', 'rule', 'shortest', 'size_class']

MOST_ROWS = 16384  # that are tried: at large sizes memory counts as much as the product
_SECONDS = 0.02  # for the trials of a key
_BETWEEN = 4 * 2 ** 20  # numbers that are written before each trial: as in a model, weights come from far memory
_ROUNDS = 3  # of longer runs: the fastest one is the least disturbed
_GAIN = 0.95  # the other way has to be faster than noise

_chosen: dict[Hashable, bool] = {}
_rule: Literal['measure', 'always', 'never'] = 'measure'


def size_class(rows: int) -> int:
    """Sizes that share a choice: the next power of two, at most `MOST_ROWS`."""
    return min(1 << (rows - 1).bit_length(), MOST_ROWS)


def faster(key: Hashable, plain: Callable[[], Tensor], other: Callable[[], Tensor]) -> bool:
    """Whether the other way is faster than the plain one.

    The answer for a key is found once per process and number of threads, in some tens of milliseconds.

    Args:
        key: The operation with its sizes and dtype.
        plain: Runs it as torch and timm do. Its result is not used.
        other: Runs it the other way. Its result is not used.
    """
    if _rule != 'measure':
        return _rule == 'always'
    key = (key, torch.get_num_threads())
    chosen = _chosen.get(key)
    if chosen is None:
        plain(), other()  # packs weights
        seconds = shortest(plain, other, before=torch.empty(_BETWEEN, device='cpu').zero_)
        chosen = _chosen[key] = seconds[1] < _GAIN * seconds[0]
    return chosen


def shortest(
        *ways: Callable[[], object], seconds: float = _SECONDS, rounds: int = _ROUNDS,
        before: Callable[[], object] = lambda: None,
) -> list[float]:
    """The seconds of the shortest run of each way.

    Args:
        ways: They take turns.
        seconds: For how long they are repeated, with all that belongs to it.
        rounds: How often at least.
        before: Called before each run and not counted.
    """
    # other programs disturb a thread's time less than the clock's, but it leaves out the work of other threads
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    best = [float('inf')] * len(ways)
    begin, done = clock(), 0
    while clock() - begin < seconds or done < rounds:
        for i, way in enumerate(ways):
            before()
            start = clock()
            way()
            best[i] = min(best[i], clock() - start)
        done += 1
    return best


class rule:  # noqa: N801 - a context manager that reads like a statement
    """Sets how `faster` answers, for tests and benchmarks.

        with rule('always'):
            prepared(clip)

    Args:
        value: `'measure'` tries both ways, `'always'` takes the other way, `'never'` the plain one.
    """

    def __init__(self, value: Literal['measure', 'always', 'never']):
        if value not in ('measure', 'always', 'never'):
            raise ValueError(f"rule takes 'measure', 'always' or 'never', got {value!r}")
        self.value = value

    def __enter__(self) -> None:
        global _rule
        self.before, _rule = _rule, self.value

    def __exit__(self, *error: object) -> None:
        global _rule
        _rule = self.before
