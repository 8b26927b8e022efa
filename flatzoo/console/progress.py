"""Progress of long work: a bar on a terminal, and an occasional line in a log."""
import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

__all__ = ['LogLines', 'Progress']

SECONDS = 30.0  # between two lines in a log


class LogLines:
    """Prints progress lines with the time passed and the time left, not too often.

    Args:
        total: Total amount of work.
        seconds: Least time between two lines.
        report: Called with a line.
        done: Amount that was done before the start.
        unit: Name of one unit, whose rate is told; empty for no rate.
    """

    def __init__(
            self,
            total: int,
            seconds: float,
            report: Callable[[str], None],
            done: int = 0,
            unit: str = '',
    ):
        self.unit = unit
        self.total, self.seconds, self.report, self.first = total, seconds, report, done
        self.start = self.last = time.monotonic()

    def say(self, done: int, what: str, more: str = '') -> None:
        """Prints `{what} 120/3000: {more}, 0:02:10 passed, 0:50:00 left`, unless the last line is too recent."""
        now = time.monotonic()
        if now - self.last < self.seconds:
            return
        self.last = now
        passed = now - self.start
        if self.unit:
            rate = f'{(done - self.first) / max(passed, 1e-6):.1f} {self.unit}/s'
            more = f'{more}, {rate}' if more else rate
        left = passed / max(done - self.first, 1) * (self.total - done)
        self.report(
            f'{what} {done}/{self.total}: {more}{", " if more else ""}{duration(passed)} passed, {duration(left)} left')


class Progress:
    """Shows progress on standard error: a tqdm bar on a terminal, otherwise a line every half minute.

    Args:
        total: Number of units.
        unit: Name of one unit.
        disable: Whether to show nothing.
        description: Text before the count.
    """

    def __init__(self, total: int, unit: str, disable: bool = False, description: str = ''):
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self.bar = tqdm(
            total=total, unit=unit, desc=description or None, file=sys.stderr, disable=disable or not terminal)
        self.what = f'{description} {unit}'.strip()
        self.note, self.done = '', 0
        self.log = None if disable or terminal else LogLines(
            total, SECONDS, lambda line: print(line, file=sys.stderr, flush=True), unit=unit)

    def __enter__(self) -> 'Progress':
        return self

    def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.close()

    def update(self, count: int = 1, note: str = '') -> None:
        """Adds finished units. `note` is shown beside the count."""
        self.done += count
        if self.log is not None:
            self.log.say(self.done, self.what, note)
        if note:
            self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(count)


def duration(seconds: float) -> str:
    """A time as `0:02:10`."""
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02d}:{rest:02d}'
