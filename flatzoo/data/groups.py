"""Who or what is behind each clip: the person, the camera, the recording. Clips of one group resemble each other.

A model that has seen a person in training knows more about this person than about others. A figure for new people
therefore needs people in val that train does not have. Groups are the column `group` of a CSV or JSONL list of clips,
or a file `groups.csv` in the folder of any data set, with the columns `path` (from the folder on, or the publisher's
name of the clip) and `group`:

    path,group
    train/wave/anna_1.mp4,anna
    val/wave/bert_1.mp4,bert

`read_videos` gives each clip its group (`Clip.group`), empty where none is known.
"""
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from .files import bad_line, is_array, is_video, read_table, read_text
from .lists import Clip, DataError, VideoList, same_name, some

__all__ = ['GROUPS_FILE', 'GROUP_COLUMNS', 'group_findings', 'groups_of', 'read_groups', 'with_groups']

GROUPS_FILE = 'groups.csv'
GROUP_COLUMNS = ('group', 'person', 'subject', 'performer', 'actor', 'speaker')
"""Names that the column of the groups may have."""
_PATHS = ('path', 'clip', 'file', 'filename', 'video', 'id', 'name')


def read_groups(root: str | Path) -> dict[str, str]:
    """The groups that `groups.csv` in the folder of a data set names.

    Args:
        root: The folder.

    Returns:
        Group by path or name of a clip, as the file has them; empty if there is no such file.

    Raises:
        DataError: The file has no column of paths or of groups, or gives a clip two groups.
    """
    path = Path(root, GROUPS_FILE)
    if not path.is_file():
        return {}
    header = [name.strip() for name in next(iter(read_text(path).splitlines()), '').split(',')]
    paths = next((name for name in _PATHS if name in header), None)
    column = next((name for name in GROUP_COLUMNS if name in header), None)
    if paths is None or column is None:
        raise DataError(
            f'{path}: needs a column path and a column group, it has {", ".join(header)}. Name them so, or rename the '
            'file if it is something else.')
    groups: dict[str, str] = {}
    for number, row in read_table(path, (paths, column)):
        name, group = _key(row[paths]), row[column].strip()
        if groups.setdefault(name, group) != group:
            raise bad_line(path, number, f'{name} is of the group {groups[name]} in a former line and of {group} here')
    return groups


def with_groups(videos: VideoList, groups: Mapping[str, str]) -> VideoList:
    """A list whose clips have their groups.

    Args:
        videos: The list.
        groups: Group by path from the root of the list on, or by name of the clip (`Clip.id`), both with or without
            the ending of the file. Clips that are not in it keep the group that they have.
    """
    if not groups:
        return videos
    of_stem: dict[str, set[str]] = defaultdict(set)
    for name, group in groups.items():
        of_stem[_stem(name)].add(group)
    known = {stem: next(iter(found)) for stem, found in of_stem.items() if len(found) == 1} | dict(groups)

    def group_of(clip: Clip) -> str:
        root = videos.root.rstrip('/')
        names = [_key(clip.path.removeprefix(root).lstrip('/\\') if root else clip.path), _key(clip.id)]
        for name in (*names, *map(_stem, names)):
            if name in known:
                return known[name]
        return clip.group

    return replace(videos, clips=tuple(replace(clip, group=group_of(clip)) for clip in videos.clips))


def groups_of(lists: Iterable[VideoList]) -> dict[str, dict[str, int]]:
    """Number of clips by group and split; the group '' has those whose group is not known."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for videos in lists:
        for clip in videos.clips:
            counts[clip.group][videos.split] = counts[clip.group].get(videos.split, 0) + 1
    return dict(counts)


def group_findings(lists: Iterable[VideoList]) -> list[str]:
    """What looks wrong about the groups of the splits of a data set, a line each: one group in several splits.

    Args:
        lists: The splits.
    """
    counts = groups_of(lists)
    lines = [
        f'{group} is in {" and ".join(f"{split} ({_clips(count)})" for split, count in splits.items())}'
        for group, splits in sorted(counts.items()) if group and len(splits) > 1]
    without = counts.pop('', None)
    if counts and without:
        where = some(f'{count} in {split}' for split, count in without.items())
        lines.append(f'without a group: {_clips(sum(without.values()))} ({where})')
    return lines


def _clips(count: int) -> str:
    return f'{count} clip{"s" * (count != 1)}'


def _key(text: str) -> str:
    return same_name(text.strip().replace('\\', '/').removeprefix('./'))


def _stem(name: str) -> str:
    file = name.rpartition('/')[2]
    return name.rpartition('.')[0] if is_video(file) or is_array(file) else name
