"""A picture of a whole video: which class is likely when, and the events below."""
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flatzoo.console.text import printable
from flatzoo.inference.events import Event, event_lanes
from flatzoo.inference.windows import Record

from .figures import figure_class

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['timeline_figure']

LINES = 8  # classes that are drawn, at most
POINTS = 4000  # of a line; more than a picture shows


def timeline_figure(records: Sequence[Record], events: Sequence[Event], title: str = '') -> 'Figure':
    """Draws the probabilities of the classes over time, and the events.

    Drawn are the classes of events and those that are most probable somewhere, the most frequent ones first, at most
    eight.

    Args:
        records: Of one video, at least one.
        events: Of the same video, in the order of their starts.
        title: A line above.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no record.
    """
    if not records:
        raise ValueError('a timeline needs at least one record')
    Figure = figure_class()
    counts: dict[str, int] = {}
    for label in [event.label for event in events] * (len(records) + 1) + [record.label for record in records]:
        counts[label] = counts.get(label, 0) + 1
    labels = sorted(counts, key=lambda label: -counts[label])[:LINES]
    colors = {label: f'C{number}' for number, label in enumerate(labels)}
    figure = Figure(figsize=(11, 4.2), layout='constrained')
    lines, bars = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    shown = records[::max(1, len(records) // POINTS)]
    times = [record.time for record in shown]
    for label in labels:
        values = [sum(item.probability for item in record.top if item.label == label) for record in shown]
        lines.plot(times, values, color=colors[label], label=printable(label, 40), linewidth=1.2)
    lines.set(ylim=(0, 1), ylabel='probability', title=printable(title, 100))
    lines.legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    for event, lane in zip(events, event_lanes(events), strict=True):
        bars.barh(
            lane, event.end - event.start, 0.9, event.start, color=colors.get(event.label, 'gray'), alpha=0.8,
            linewidth=0)
    bars.invert_yaxis()
    bars.set(yticks=[], ylabel='events', xlabel='time')
    bars.set_xlim(records[0].start, max(records[-1].end, records[0].start + 1e-3))
    bars.xaxis.set_major_formatter(lambda seconds, _: _clock(seconds))
    return figure


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f'{int(minutes)}:{rest:04.1f}'
    return f'{int(minutes // 60)}:{int(minutes % 60):02d}:{rest:02.0f}'
