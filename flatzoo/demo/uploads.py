"""Which upload and which analysis belong to which visitor, so that both end when he leaves.

An upload is stored in a folder of the running server. It is deleted when its video is removed or replaced, when the
page is closed or reloaded, when it is refused, and after `KEPT_MINUTES`. The whole folder is deleted when the server
ends.
"""
import contextlib
import os
from collections.abc import Hashable
from pathlib import Path

__all__ = ['KEPT_MINUTES', 'Turns', 'Uploads']

KEPT_MINUTES = 60


class Uploads:
    """Records which session shows which upload. An upload is deleted when it is no longer shown.

    Args:
        folder: Folder of the uploads. Files outside of it, such as the examples, are never deleted.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).resolve()
        self.shown: dict[str, str] = {}

    def show(self, session: str, path: str | None) -> None:
        """Records the upload that a session shows now, and deletes its former one."""
        before = self.shown.pop(session, None)
        if path is not None:
            self.shown[session] = path
        if before not in (None, *self.shown.values()):
            self.delete(before)

    def delete(self, path: str) -> None:
        """Deletes an upload and its folder."""
        file = Path(path).resolve()
        if file.is_relative_to(self.folder):
            file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty, or gone
                file.parent.rmdir()


class Turns:
    """Records what each session wants to know of a long video. Work on what is no longer wanted ends."""

    def __init__(self):
        self._wanted: dict[str, Hashable] = {}
        self._taken: set[str] = set()

    def want(self, session: str, work: Hashable | None) -> None:
        """Records what a session wants now; None for nothing."""
        if work is None:
            self._wanted.pop(session, None)
        elif self._wanted.get(session) == work:
            return
        else:
            self._wanted[session] = work
        self._taken.discard(session)

    def take(self, session: str, work: Hashable) -> bool:
        """Whether the work is wanted and nobody has begun it. Then it has begun."""
        if session in self._taken or not self.wants(session, work):
            return False
        self._taken.add(session)
        return True

    def wants(self, session: str, work: Hashable) -> bool:
        """Whether the session wants this work still."""
        return self._wanted.get(session) == work
