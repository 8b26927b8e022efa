"""Which clips belong together: the person, the place or the recording that a clip is of.

Clips of one person are alike. A classifier that is tested on persons of its training looks better than it is, so probes
and their intervals keep groups together.
"""
import os
from pathlib import Path

from .files import read_table
from .lists import DataError, VideoList

__all__ = ['groups_of']


def groups_of(videos: VideoList) -> tuple[str | None, ...]:
    """The group of each clip of a list, as a table in the folder of the data set names it.

    The table is `groups.csv`, or another CSV file there that has the columns `path` and `group`. Paths count from the
    folder.

    Args:
        videos: The list.

    Returns:
        A name for each clip. None for a clip that no table names.

    Raises:
        DataError: A table names two groups for one path.
    """
    root = Path(videos.root)
    if not videos.root or '://' in videos.root or not root.is_dir():
        return (None,) * len(videos)
    first = root / 'groups.csv'
    found: dict[str, str] = {}
    for table in [first] if first.is_file() else sorted(root.glob('*.csv')):
        try:
            rows = list(read_table(table, ('path', 'group')))
        except DataError:
            if table == first:
                raise
            continue  # another list, without groups
        for number, row in rows:
            path = _key(root / row['path'])
            if found.setdefault(path, row['group']) != row['group']:
                raise DataError(
                    f'{table}, line {number}: {row["path"]} is in the groups {found[path]} and {row["group"]}. A clip '
                    'has one group.')
    return tuple(found.get(_key(clip.path)) or None for clip in videos.clips)


def _key(path: str | os.PathLike) -> str:
    return os.path.normpath(os.path.abspath(path))
