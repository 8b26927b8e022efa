"""Text that came from outside, such as a class name of somebody's model, on its way to a terminal or into a message."""
import re
import reprlib
from typing import Any

__all__ = ['escape_controls', 'printable', 'shortened']

# control characters, line and paragraph separators, and what turns the direction of all that follows
_CONTROLS = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]')
_CONTROLS_BUT_LAYOUT = re.compile(_CONTROLS.pattern.replace('\x00-\x1f', '\x00-\x08\x0b-\x1f'))


_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxtuple, _REPR.maxset = 3, 4, 6, 6, 4
_REPR.maxstring = _REPR.maxother = 80


def printable(text: Any, length: int | None = None) -> str:
    """A text in one line that a terminal shows and does not obey: control characters come out escaped.

    Args:
        text: What to show.
        length: Characters after which it is cut.
    """
    text = str(text)
    if length is not None and len(text) > length:
        text = f'{text[:length]}...'
    return _CONTROLS.sub(_escape, text)


def escape_controls(text: str) -> str:
    """As `printable`, but line breaks and tabs stay."""
    return _CONTROLS_BUT_LAYOUT.sub(_escape, text)


def shortened(value: Any, length: int = 100) -> str:
    """`repr` of a value that may be huge, deep or refer to itself; it is not built in full to be cut."""
    return printable(_REPR.repr(value), length)


def _escape(match: re.Match) -> str:
    return match[0].encode('unicode_escape').decode()
