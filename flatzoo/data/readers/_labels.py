"""Reads labels as numbers or as names, never as a mixture of both."""
import re
from collections.abc import Callable, Sequence
from typing import Any

from ..lists import DataError, same_name, unnamed

__all__ = ['read_label_sets', 'read_labels']

MARK = '|'  # between the classes of a clip that has several

_WHOLE = re.compile(r'\d+(\.0*)?')  # pandas writes 3.0 where a column has gaps
_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?', re.IGNORECASE)
_MANY = 1000  # with more classes than this, and no clip in most of them, the numbers are taken for ids
_ADVICE = 'Where numbers are names, list the names of all classes in classes.txt, one a line'


def read_labels(
        labels: Sequence[Any],
        names: Sequence[str] | None,
        error: Callable[[int, str], DataError],
) -> tuple[list[int], tuple[str, ...]]:
    """Index of the class of each label, and the names of the classes.

    There are three cases, tried in this order. If a list of classes has all labels, they are names from that list. If
    all labels are whole numbers, they count classes from 0. If no label is a number, they are names, and the classes
    are the sorted names.

    Args:
        labels: The labels of all splits, strings or numbers.
        names: Names of the classes, from a list beside the data.
        error: Makes the error from the index of a label and the reason.

    Raises:
        DataError: A label is unlike the others or not in the list of classes, or the numbers cannot count classes.
    """
    texts = [same_name(str(label).strip()) for label in labels]
    odd = [place for place, text in enumerate(texts) if not _WHOLE.fullmatch(text)]
    if names is not None:
        names = tuple(map(same_name, names))
        label_of = {name: label for label, name in enumerate(names)}
        unknown = {place for place, text in enumerate(texts) if text not in label_of}
        if not unknown:
            return [label_of[text] for text in texts], names
        if odd:
            place = next((place for place in odd if place in unknown), min(unknown))
            why = f'the class {texts[place]!r} is not in the list of classes'
            raise error(place, why if len(odd) == len(texts) else f'{why}, nor are all labels numbers from 0')
    if not odd:
        return _numbered([int(float(text)) if '.' in text else int(text) for text in texts], names, error)

    if 2 * len(odd) <= len(texts):
        raise error(odd[0], f'the label should be a whole number from 0 like the others, it is {texts[odd[0]]!r}')
    place = next((place for place, text in enumerate(texts) if _NUMBER.fullmatch(text)), None)
    if place is not None:
        raise error(
            place, f'the label is the number {texts[place]}; labels are either all names or all whole numbers from 0. '
            f'{_ADVICE}')
    names = tuple(sorted(set(texts)))
    label_of = {name: label for label, name in enumerate(names)}
    return [label_of[text] for text in texts], names


def read_label_sets(
        labels: Sequence[Any],
        names: Sequence[str] | None,
        error: Callable[[int, str], DataError],
) -> tuple[list[tuple[int, ...]], tuple[str, ...], bool]:
    """As `read_labels`, where a clip may have several classes: `a|b`, or a list of them.

    A label that the list of classes has as it is, sign and all, is one class. An empty label is a clip of none of the
    classes, where another clip shows that there may be several; else it is taken for forgotten.

    Args:
        labels: The labels of all splits: strings, numbers, or lists of these.
        names: Names of the classes, from a list beside the data.
        error: Makes the error from the index of a label and the reason.

    Returns:
        The labels of each clip, as they are listed and each once; the names of the classes; and whether any clip has,
        or may have, several.

    Raises:
        DataError: See `read_labels`, or labels are empty where they may not be.
    """
    known = set(map(same_name, names or ()))
    parts: list[list[Any]] = []
    several = False
    empty = None  # the first clip without a label
    for place, label in enumerate(labels):
        if isinstance(label, list):
            several, own = True, label
        elif isinstance(label, str) and MARK in label and same_name(label.strip()) not in known:
            several, own = True, label.split(MARK)
        elif isinstance(label, str) and not label.strip():
            own, empty = [], place if empty is None else empty
        else:
            own = [label]
        if any(isinstance(part, str) and not part.strip() for part in own):
            raise error(
                place, f'one of its labels is empty ({label!r}); write them as a{MARK}b, and leave the label of a clip '
                'that shows none of the classes empty')
        parts.append(own)
    if empty is not None and not several:
        raise error(
            empty, 'the label is empty. If the clip shows none of the classes, give it a class of its own, such as '
            'nothing; if nobody has looked at it yet, leave the line out. Empty labels are for lists in which clips '
            f'may have several classes (a{MARK}b in some line)')
    if not any(parts):
        raise error(0, 'no clip of the list has a class')
    places = [place for place, own in enumerate(parts) for _ in own]
    flat, classes = read_labels(
        [part for own in parts for part in own], names, lambda index, why: error(places[index], why))
    sets: list[dict[int, None]] = [{} for _ in parts]
    for place, label in zip(places, flat):
        sets[place][label] = None
    return [tuple(own) for own in sets], classes, several


def _numbered(
        numbers: list[int],
        names: tuple[str, ...] | None,
        error: Callable[[int, str], DataError],
) -> tuple[list[int], tuple[str, ...]]:
    largest = max(numbers, default=0)
    place = numbers.index(largest) if numbers else 0
    if names is not None:
        if largest >= len(names):
            raise error(
                place, f'the label {largest} is outside 0 to {len(names) - 1}, the {len(names)} classes of the list of '
                'classes. Labels count from 0')
        return numbers, names
    used = len(set(numbers))
    if largest >= _MANY and largest >= 2 * used:
        raise error(
            place, f'the label {largest} would be one of {largest + 1} classes, and there are {used} different labels: '
            f'they look like ids. Count the classes from 0. {_ADVICE}')
    return numbers, unnamed(largest + 1)
