"""Events as subtitles, which players show over the video: SubRip (.srt) and WebVTT (.vtt)."""
import html
import os
from collections.abc import Iterable

from flatzoo.console.text import printable

from .events import Event

__all__ = ['SUFFIXES', 'subtitles']

SUFFIXES = ('.srt', '.vtt')


def subtitles(events: Iterable[Event], suffix: str = '.srt') -> str:
    """The text of a file of subtitles, one for each event.

    Args:
        events: The events.
        suffix: `.srt` or `.vtt`, or a path that ends so.

    Raises:
        ValueError: Another suffix.
    """
    kind = os.path.splitext(suffix)[1].lower() or suffix.lower()
    if kind not in SUFFIXES:
        raise ValueError(f'subtitles are written as .srt (SubRip) or .vtt (WebVTT), got {suffix!r}')
    blocks = ['WEBVTT'] if kind == '.vtt' else []
    for number, event in enumerate(events, 1):
        text = printable(event.label).replace('-->', '→').strip() or '(no name)'
        if kind == '.vtt':
            text = html.escape(text, quote=False)
        times = f'{_time(event.start, kind)} --> {_time(event.end, kind)}'
        blocks.append(f'{number}\n{times}\n{text} ({event.score:.0%})')
    return '\n\n'.join(blocks) + '\n' if blocks else ''


def _time(seconds: float, kind: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    mark = ',' if kind == '.srt' else '.'
    return f'{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{milliseconds:03d}'
