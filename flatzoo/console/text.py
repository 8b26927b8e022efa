"""Makes foreign text, such as a class name of a downloaded model, safe for a terminal or a message."""
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
    """Returns a text in one line with its control characters escaped, so that it cannot control a terminal.

    Args:
        text: The text.
        length: Number of characters after which the text is cut.
    """
    text = str(text)
    if length is not None and len(text) > length:
        text = f'{text[:length]}...'
    return _CONTROLS.sub(_escape, text)


def escape_controls(text: str) -> str:
    """Escapes control characters like `printable`, but keeps line breaks and tabs."""
    return _CONTROLS_BUT_LAYOUT.sub(_escape, text)


def shortened(value: Any, length: int = 100) -> str:
    """A short `repr` of a value that may be huge, deep or recursive. The full text is never built."""
    return printable(_REPR.repr(value), length)


def _escape(match: re.Match) -> str:
    return match[0].encode('unicode_escape').decode()
