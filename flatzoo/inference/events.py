"""From the answers for windows to events: what happens from when to when. Pure functions over records.

A record speaks for the time around the middle of its window, halfway to its neighbours; the first and the last one
before and after a gap also for the rest of their windows. The probabilities of neighbouring records are averaged. An
event begins with the record in which a class becomes likely (`high`) and lasts while it stays possible (`low`) and no
other class becomes likely: two thresholds, so that a probability that trembles around one of them does not cut an event
into pieces (hysteresis).
"""
import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .windows import Record

__all__ = ['Event', 'events', 'iter_events']


@dataclass(frozen=True)
class Event:
    """Something that happens.

    Attributes:
        start: Start in seconds from the first frame.
        end: End in seconds.
        label: Name of the class.
        score: Mean probability of the class over the records of the event, 0...1.
    """

    start: float
    end: float
    label: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON can hold it; seconds are rounded to milliseconds."""
        return dict(asdict(self), start=round(self.start, 3), end=round(self.end, 3), score=round(self.score, 6))


def events(
        records: Iterable[Record],
        high: float = 0.5,
        low: float = 0.3,
        smooth: int = 3,
        min_seconds: float = 0.0,
        ignore: Sequence[str] = ('nothing',),
) -> list[Event]:
    """Joins the records of one video into events.

    Args:
        records: As `flatzoo.predict_windows` gives them, in the order of time.
        high: Probability at which an event of a class begins, in (0, 1].
        low: Probability below which it ends, at most `high`.
        smooth: Records over which probabilities are averaged, an odd number; 1 for none.
        min_seconds: Events that are shorter are left out.
        ignore: Classes that are no events.

    Returns:
        The events in the order of their starts. They do not overlap.

    Raises:
        ValueError: An argument that is not accepted, or records that are not in order.
    """
    return list(iter_events(records, high, low, smooth, min_seconds, ignore))


def iter_events(
        records: Iterable[Record],
        high: float = 0.5,
        low: float = 0.3,
        smooth: int = 3,
        min_seconds: float = 0.0,
        ignore: Sequence[str] = ('nothing',),
) -> Iterator[Event]:
    """As `events`, but gives each event as soon as it has ended: for streams, and for videos of many hours.

    Raises:
        ValueError: See `events`.
    """
    if not 0 < low <= high <= 1:
        raise ValueError(f'thresholds must be 0 < low <= high <= 1, got low={low!r} and high={high!r}')
    if isinstance(smooth, bool) or not isinstance(smooth, int) or smooth < 1 or smooth % 2 == 0:
        raise ValueError(f'smooth must be an odd number of records, such as 1 or 3, got {smooth!r}')
    if not min_seconds >= 0:
        raise ValueError(f'min_seconds must be at least 0, got {min_seconds!r}')
    return (event for event in _join(records, high, low, smooth, set(ignore))
            if event.end - event.start >= min_seconds - 1e-6)


def _join(records: Iterable[Record], high: float, low: float, smooth: int, ignore: set[str]) -> Iterator[Event]:
    label, start, end, scores = None, 0.0, 0.0, []
    for begin, finish, chances in _cells(records, smooth):
        best = max(chances, key=chances.get)
        likely = best if chances[best] >= high else None
        goes_on = label is not None and abs(begin - end) < 1e-6 and likely in (None, label) and \
            chances.get(label, 0.0) >= low
        if not goes_on:
            if label is not None:
                yield Event(start, end, label, statistics.fmean(scores))
            label = likely if likely not in ignore else None
            start, scores = begin, []
        end = finish
        if label is not None:
            scores.append(chances.get(label, 0.0))
    if label is not None:
        yield Event(start, end, label, statistics.fmean(scores))


def _cells(records: Iterable[Record], smooth: int) -> Iterator[tuple[float, float, dict[str, float]]]:
    """Per record: from when to when it speaks, and the smoothed probabilities of its classes."""
    for before, record, after, chances in _runs(records, smooth):
        begin = record.start if before is None else (before.time + record.time) / 2
        finish = record.end if after is None else (record.time + after.time) / 2
        yield begin, finish, chances


def _runs(
        records: Iterable[Record], smooth: int) -> Iterator[tuple[Record | None, Record, Record | None, dict]]:
    """Each record with its neighbours (None across a gap), and the mean probabilities of the records around it."""
    half = smooth // 2
    near: deque[Record] = deque()  # of one run without a gap
    place, step, last = 0, None, None

    def give(leave: int) -> Iterator[tuple[Record | None, Record, Record | None, dict]]:
        nonlocal place
        while len(near) - place > leave:
            around = list(near)[max(0, place - half):place + half + 1]
            neighbours = near[place - 1] if place else None, near[place + 1] if place + 1 < len(near) else None
            yield neighbours[0], near[place], neighbours[1], _mean(around)
            place += 1
            while place > half + 1:
                near.popleft()
                place -= 1

    for record in records:
        if last is not None:
            passed = record.time - last.time
            if passed <= 0:
                raise ValueError(f'records must be in the order of time; {record.start} follows {last.start} s')
            if step is not None and passed > 1.5 * step:
                yield from give(0)
                near.clear()
                place = 0
            step = passed if step is None else step
        near.append(record)
        last = record
        yield from give(max(half, 1))
    yield from give(0)


def _mean(records: Sequence[Record]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for record in records:
        for item in record.top:
            sums[item.label] = sums.get(item.label, 0.0) + item.probability
    return {label: value / len(records) for label, value in sums.items()}
