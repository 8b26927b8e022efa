"""Finds the video files that the user names: files, folders at any depth, patterns."""
import glob
import os
import re
from collections.abc import Iterable, Iterator

from flatzoo.data.files import is_video

__all__ = ['find_videos']


def find_videos(paths: Iterable[str]) -> list[tuple[str, str | None]]:
    """Finds the files that paths, folders and patterns stand for.

    Args:
        paths: Files with any name; folders, which are searched at any depth for files with the suffix of a video,
            except hidden ones; or patterns (`*`, `?`, `[...]`, `**`) that the shell did not expand.

    Returns:
        Pairs of a path and None for each file, without repetition. A path that leads to no file comes with the reason.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for path in paths:
        matches = [path]
        if glob.has_magic(path) and not os.path.lexists(path):
            matches = sorted(glob.glob(path, recursive=True))
            if not matches:
                found[path] = path, f'{path}: the pattern matches nothing. Check the path.'
        for match in matches:
            missing = None if os.path.lexists(match) else _not_there(match)
            for file, error in _videos_in(match) if os.path.isdir(match) else [(match, missing)]:
                found.setdefault(os.path.abspath(file), (file, error))
    return list(found.values())


def _not_there(path: str) -> str:
    """Says why there is no file at a path, and what to do."""
    scheme = re.match('([a-z][a-z0-9+.-]+)://', path, re.IGNORECASE)
    if scheme and scheme[1].lower() in ('http', 'https'):
        return (
            f'{path}: is an address, and only files are read. Download it first: curl -LO ADDRESS for a video file, '
            'yt-dlp ADDRESS for a page that plays one.')
    if scheme:
        return (
            f"{path}: is a stream or an address, and only files are read. 'flatzoo watch {path}' reads it as it comes; "
            'or record a part of it first: ffmpeg -t 10 -i ADDRESS clip.mp4.')
    if path.isdecimal():
        return (
            f"{path}: no such file. If the camera {path} is meant: 'flatzoo watch camera:{path}' reads it as it comes, "
            "and 'flatzoo demo' takes the camera of a browser.")
    return f'{path}: no such file. Check the path.'


def _videos_in(folder: str) -> Iterator[tuple[str, str | None]]:
    visited = set()  # links to folders are followed, in circles too
    empty = True
    errors: list[OSError] = []
    for here, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        if os.path.realpath(here) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(here))
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in sorted(names):
            if is_video(name):
                empty = False
                yield os.path.join(here, name), None
    for error in errors:
        yield error.filename, f'{error.filename}: cannot be opened ({error.strerror}). Check its permissions.'
    if empty and not errors:
        yield folder, f'{folder}: no video in this folder. A file is tried whatever its suffix if it is named itself.'
