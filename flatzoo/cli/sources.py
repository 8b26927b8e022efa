"""What commands work on: SPEC ROOT of a data set, or files, folders and patterns."""
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import CommandError

if TYPE_CHECKING:
    from flatzoo.data.lists import VideoList

__all__ = ['is_spec', 'lists_or_files']


def is_spec(sources: Sequence[str]) -> bool:
    """Whether two arguments are the layout of a data set and its folder."""
    from flatzoo.data.readers import READERS

    return len(sources) == 2 and sources[0].partition(':')[0] in (*READERS, 'auto') and not os.path.exists(sources[0])


def lists_or_files(sources: Sequence[str], splits: Sequence[str] = ()) -> 'list[VideoList] | list[str]':
    """The lists of SPEC ROOT, or the given files.

    Raises:
        CommandError: The data set is not laid out so.
    """
    from flatzoo.data.lists import DataError
    from flatzoo.inference.embed import every_split

    if not is_spec(sources):
        if splits:
            raise CommandError('--split is for data sets: give SPEC ROOT, such as: folder videos/')
        return list(sources)
    try:
        return every_split(*sources, splits)
    except (DataError, OSError) as error:
        raise CommandError(' '.join(str(error).split())) from error


def one_line(error: BaseException, place: str | os.PathLike | None = None) -> str:
    """The text of an error in one line.

    Args:
        error: The error.
        place: What was written to. A disk that is full is named by a sentence in place of a number.
    """
    from flatzoo.hub.staging import is_full

    text = ' '.join(str(error).split())
    if not is_full(error) or 'the disk is full' in text:
        return text
    place = place or getattr(error, 'filename', None)
    return f'{f"{place}: " if place else ""}the disk is full. What was there before is kept: make room and start again.'


def plain_kwargs(values: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Arguments of the model, without those that were not given."""
    return {**values, **{key: value for key, value in others.items() if value is not None}}
