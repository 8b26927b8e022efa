"""From the answers for windows to events: what happens from when to when. Pure functions over records.

A record speaks for the time around the middle of its window, halfway to its neighbours; the first and the last one
before and after a gap also for the rest of their windows. The probabilities of neighbouring records are averaged. An
event is a stretch of records in which a class is possible (`low`) and no other class is likely (`high`); in one of them
at least it is likely itself. Two thresholds, so that a probability that trembles around one of them does not cut an
event into pieces (hysteresis); the event reaches back to where it became possible, as it reaches on to where it no
longer is.
"""
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from .windows import Record

__all__ = ['Event', 'classes_for_events', 'event_lanes', 'events', 'iter_events']

EPSILON = 1e-6  # seconds: times are sums of floats


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
        smooth: int | None = None,
        min_seconds: float = 0.0,
        ignore: Sequence[str] = ('nothing',),
        multi_label: bool = False,
) -> list[Event]:
    """Joins the records of one video into events.

    Args:
        records: As `flatzoo.predict_windows` gives them, in the order of time. Classes that are not in `Record.top` are
            taken as impossible.
        high: Probability that an event of a class reaches, in (0, 1].
        low: Probability below which it has not begun or has ended, at most `high`.
        smooth: Records over which probabilities are averaged, an odd number; 1 for none. None takes as many as begin
            within one window: the window says how long a thing is that the model can see, and its answers tremble
            within that time.
        min_seconds: Events that are shorter are left out.
        ignore: Classes that are no events.
        multi_label: Whether several things may happen at a time, as a model says whose classes have probabilities of
            their own (`VideoModel.multi_label`). Each class has its own events then, whatever the others do.

    Returns:
        The events in the order of their starts. Without `multi_label` they do not overlap.

    Raises:
        ValueError: An argument that is not accepted, or records that are not in order.
    """
    found = iter_events(records, high, low, smooth, min_seconds, ignore, multi_label)
    return sorted(found, key=lambda event: event.start)


def iter_events(
        records: Iterable[Record],
        high: float = 0.5,
        low: float = 0.3,
        smooth: int | None = None,
        min_seconds: float = 0.0,
        ignore: Sequence[str] = ('nothing',),
        multi_label: bool = False,
) -> Iterator[Event]:
    """As `events`, but gives each event as soon as it has ended: for streams, and for videos of many hours.

    Raises:
        ValueError: See `events`.
    """
    if not 0 < low <= high <= 1:
        raise ValueError(f'thresholds must be 0 < low <= high <= 1, got low={low!r} and high={high!r}')
    is_count = isinstance(smooth, int) and not isinstance(smooth, bool) and smooth >= 1
    if smooth is not None and not (is_count and smooth % 2):
        raise ValueError(
            f'smooth must be an odd number of records, such as 1 or 3, or None for those of one window, got {smooth!r}')
    if not min_seconds >= 0:
        raise ValueError(f'min_seconds must be at least 0, got {min_seconds!r}')
    return (event for event in _join(records, high, low, smooth, set(ignore), multi_label)
            if event.end - event.start >= min_seconds - EPSILON)


def classes_for_events(multi_label: bool) -> int:
    """How many classes a record must hold (`topk`) so that none is missed that may be an event.

    Args:
        multi_label: Whether several things may happen at a time.
    """
    return 20 if multi_label else 5


def event_lanes(events: Sequence[Event]) -> list[int]:
    """In which lane of a picture each event lies, so that none hides another: all in lane 0 if none overlap.

    Args:
        events: In the order of their starts.
    """
    lanes, ends = [], []
    for event in events:
        lane = next((lane for lane, end in enumerate(ends) if end <= event.start + EPSILON), len(ends))
        ends[lane:lane + 1] = [event.end]
        lanes.append(lane)
    return lanes


@dataclass
class _Stretch:
    """Records in a row in which a class is possible."""

    start: float
    end: float
    sum: float = 0.0
    count: int = 0
    likely: bool = False


def _join(
        records: Iterable[Record],
        high: float,
        low: float,
        smooth: int | None,
        ignore: set[str],
        multi_label: bool,
) -> Iterator[Event]:
    stretches: dict[str, _Stretch] = {}
    for begin, finish, chances, is_first in _cells(records, smooth):
        possible = {label: chance for label, chance in chances.items() if chance >= low}
        best = max(chances, key=chances.get)
        if not multi_label and chances[best] >= high:
            possible = {best: chances[best]}
        ended = [(label, stretches.pop(label)) for label in list(stretches) if is_first or label not in possible]
        yield from _likely(ended)
        if not multi_label and any(stretch.likely for _, stretch in ended):
            stretches.clear()  # that time has had its event
        for label, chance in possible.items():
            if label not in ignore:
                stretch = stretches.setdefault(label, _Stretch(begin, finish))
                stretch.end, stretch.sum, stretch.count = finish, stretch.sum + chance, stretch.count + 1
                stretch.likely |= chance >= high
    yield from _likely(stretches.items())


def _likely(stretches: Iterable[tuple[str, _Stretch]]) -> Iterator[Event]:
    for label, stretch in stretches:
        if stretch.likely:
            yield Event(stretch.start, stretch.end, label, stretch.sum / stretch.count)


class _Cell(NamedTuple):
    """The time that a record speaks for.

    Attributes:
        begin: Its begin in seconds.
        finish: Its end.
        chances: Smoothed probabilities of the classes.
        is_first: Whether it is the first one, or the first one after a gap.
    """

    begin: float
    finish: float
    chances: dict[str, float]
    is_first: bool


def _cells(records: Iterable[Record], smooth: int | None) -> Iterator[_Cell]:
    records = iter(records)
    head = list(itertools.islice(records, 3))
    if not head:
        return
    # the shortest of the first steps, for there may be a gap between two of them
    step = min((after.start - before.start for before, after in itertools.pairwise(head)), default=0.0)
    half = (_per_window(head[0], step) if smooth is None else smooth) // 2
    near: deque[Record] = deque()  # of one run without a gap
    place, opens, last, is_first = 0, head[0].start, None, True

    def give(leave: int, closes: float = 0.0) -> Iterator[_Cell]:
        nonlocal place, is_first
        while len(near) - place > leave:
            record = near[place]
            begin = (near[place - 1].time + record.time) / 2 if place else opens
            finish = (record.time + near[place + 1].time) / 2 if place + 1 < len(near) else closes
            around = list(itertools.islice(near, max(0, place - half), place + half + 1))
            yield _Cell(begin, finish, _mean(around), is_first)
            is_first = False
            place += 1
            while place > half + 1:
                near.popleft()
                place -= 1

    for record in itertools.chain(head, records):
        if last is not None:
            passed = record.start - last.start
            if passed <= 0:
                raise ValueError(f'records must be in the order of time; {record.start} follows {last.start} s')
            if passed > 1.5 * step:  # a gap, into which the windows around it may reach
                closes = min(last.end, max(record.start, (last.end + record.start) / 2))
                yield from give(0, closes)
                near.clear()
                place, opens, is_first = 0, max(record.start, closes), True
        near.append(record)
        last = record
        yield from give(max(half, 1))
    yield from give(0, last.end)


def _per_window(record: Record, step: float) -> int:
    """How many records begin within a window, or one less: an odd number."""
    count = int((record.end - record.start) / step + 1e-3) if step > 0 else 1
    return max(1, count - 1 + count % 2)


def _mean(records: Sequence[Record]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for record in records:
        for item in record.top:
            sums[item.label] = sums.get(item.label, 0.0) + item.probability
    return {label: value / len(records) for label, value in sums.items()}
