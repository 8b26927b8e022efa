"""The timeline as HTML: probabilities over time, events below, and a table of the events to read and to download.

Nothing of it is stored: the files to download are part of the page.
"""
import base64
import csv
import html
import io
import json
import os
from collections.abc import Iterator, Sequence

from flatzoo.console.text import printable
from flatzoo.inference.events import Event, event_lanes
from flatzoo.inference.subtitles import subtitles
from flatzoo.inference.windows import Record

__all__ = ['clock', 'empty_timeline', 'event_files', 'timeline_html']

TITLE = 'What happens when'
LINES = 8  # classes that are drawn, at most; the style sheet has as many colours
POINTS = 500  # of a line
ROWS = 300  # of the table; the files have all


def timeline_html(
        records: Sequence[Record],
        events: Sequence[Event],
        name: str,
        about: str,
        start: float = 0.0,
        end: float | None = None,
        can_jump: bool = True,
        is_complete: bool = True,
) -> str:
    """Draws what happens in a video.

    Args:
        records: The answers so far, at least one.
        events: The events so far, in the order of their starts.
        name: Name of the video, from which the files get theirs.
        about: A sentence below the title, plain text.
        start: Where the timeline begins, in seconds.
        end: Where it ends; None for the end of the last record.
        can_jump: Whether a click makes the player jump.
        is_complete: Whether all records are there, so that events can be downloaded.
    """
    length = max((records[-1].end if end is None else end) - start, 1e-3)
    colors = _colors(records, events)
    shown = [record for record in records if record.end > start]
    lines = ''.join(
        f'<polyline style="stroke: var({color})" points="{points}"/>'
        for label, color in colors.items() for points in _lines(shown, label, start, length))
    lanes = event_lanes(events)
    height = 100 / (max(lanes, default=0) + 1)
    bars = ''.join(
        f'<i style="left: {100 * max(event.start - start, 0) / length:.3f}%; '
        f'width: {100 * (event.end - max(event.start, start)) / length:.3f}%; '
        f'background: var({colors.get(event.label, "--rest")}); top: {lane * height:.2f}%; height: {height:.2f}%" '
        f'title="{_sentence(event)}"></i>'
        for event, lane in zip(events, lanes, strict=True) if event.end > start)
    names = ''.join(
        f'<li><i style="background: var({color})"></i>{_text(label)}</li>' for label, color in colors.items())
    attributes = f' data-length="{length:.3f}" title="Click to jump there"' if can_jump else ''
    times = ''.join(f'<span>{clock(start + share * length)}</span>' for share in (0, 0.25, 0.5, 0.75, 1))
    return _section(about, (
        f'<div class="band"{attributes}><svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" '
        f'aria-label="probability of the classes over time">{lines}</svg><div class="events">{bars}</div>'
        f'<span class="head"></span></div><div class="times">{times}</div><ul class="names">{names}</ul>'
        f'{_table(events, can_jump)}{_downloads(events, name) if is_complete else ""}'))


def empty_timeline(why: str) -> str:
    """The timeline of no video."""
    return _section('Probabilities and events over time, for videos of any length and for the camera.', (
        f'<div class="empty">{html.escape(why)}</div>'))


def event_files(events: Sequence[Event]) -> dict[str, tuple[str, str]]:
    """The events as files: from the suffix to media type and text."""
    rows = io.StringIO()
    table = csv.writer(rows, lineterminator='\n')
    table.writerow(('start', 'end', 'label', 'score'))
    table.writerows(event.to_dict().values() for event in events)
    return {
        '.csv': ('text/csv', rows.getvalue()),
        '.json': ('application/json', json.dumps([event.to_dict() for event in events], indent=2)),
        '.srt': ('application/x-subrip', subtitles(events, '.srt')),
        '.vtt': ('text/vtt', subtitles(events, '.vtt')),
    }


def clock(seconds: float) -> str:
    """Seconds as people write them: `4.5 s` is `0:04.5`, an hour `1:00:00`."""
    tenths = round(seconds * 10)
    whole = tenths // 10
    if whole >= 3600:
        return f'{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}'
    return f'{whole // 60}:{whole % 60:02d}.{tenths % 10}'


def _section(about: str, inner: str) -> str:
    return (
        f'<section class="flatzoo-picture flatzoo-timeline"><h3>{TITLE}</h3><p>{html.escape(about)}</p>{inner}'
        '</section>')


def _colors(records: Sequence[Record], events: Sequence[Event]) -> dict[str, str]:
    """The classes that are drawn, those that take the most time first, with their colours."""
    counts: dict[str, float] = {}
    for event in events:
        counts[event.label] = counts.get(event.label, 0.0) + 1e6 + event.end - event.start
    for record in records:
        counts[record.label] = counts.get(record.label, 0.0) + 1
    labels = sorted(counts, key=lambda label: -counts[label])[:LINES]
    return {label: f'--c{number}' for number, label in enumerate(labels)}


def _lines(records: Sequence[Record], label: str, start: float, length: float) -> Iterator[str]:
    """Points of the lines of a class, one for each part of the video without a gap. Peaks of many records stay."""
    step = min((after.time - before.time for before, after in zip(records, records[1:])), default=0.0)
    width = max(step, length / POINTS)
    points: dict[int, tuple[float, float]] = {}
    last = None
    for record in records:
        if last is not None and record.time - last > max(1.5 * step, width):
            yield _points(points)
            points = {}
        last = record.time
        value = sum(item.probability for item in record.top if item.label == label)
        place = int((record.time - start) // width)
        if place not in points or value > points[place][1]:
            points[place] = (record.time - start) / length, value
    yield _points(points)


def _points(points: dict[int, tuple[float, float]]) -> str:
    pairs = list(points.values())
    if len(pairs) == 1:  # a dash, for a point would not be seen
        pairs = [(pairs[0][0] - 0.004, pairs[0][1]), (pairs[0][0] + 0.004, pairs[0][1])]
    return ' '.join(f'{1000 * x:.1f},{97 - 94 * y:.1f}' for x, y in pairs)


def _table(events: Sequence[Event], can_jump: bool) -> str:
    if not events:
        return '<p class="none">No event: no class reaches a probability of 50 %.</p>'
    mark = '<button data-time="{:.3f}">{}</button>' if can_jump else '{1}'
    rows = ''.join(
        f'<tr><td>{mark.format(event.start, clock(event.start))}</td><td>{clock(event.end)}</td>'
        f'<td>{_text(event.label)}</td><td>{event.score:.0%}</td></tr>' for event in events[:ROWS])
    more = f'<p>{len(events) - ROWS} more events are in the files.</p>' if len(events) > ROWS else ''
    return (
        '<div class="list"><table><thead><tr><th>from</th><th>to</th><th>event</th><th>score</th></tr></thead>'
        f'<tbody>{rows}</tbody></table></div>{more}')


def _downloads(events: Sequence[Event], name: str) -> str:
    stem = html.escape(printable(os.path.splitext(name)[0], 80))
    links = ''.join(
        f'<a download="{stem}{suffix}" href="data:{kind};base64,{base64.b64encode(text.encode()).decode()}">'
        f'{suffix[1:].upper()}</a>' for suffix, (kind, text) in event_files(events).items())
    return f'<p class="files">Download the events: {links}</p>' if events else ''


def _sentence(event: Event) -> str:
    return f'{clock(event.start)} to {clock(event.end)}: {_text(event.label)} ({event.score:.0%})'


def _text(label: str) -> str:
    return html.escape(printable(label, 60))
