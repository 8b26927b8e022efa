"""What the page says about time: the timeline of a video as it grows, and that of a camera."""
import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from flatzoo.console.text import printable
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.inference.events import Event, classes_for_events, events
from flatzoo.inference.stream import Stream
from flatzoo.inference.windows import Record, plan_windows, predict_windows
from flatzoo.models import VideoModel

from .timeline import clock, timeline_html

__all__ = ['Cameras', 'follow_video']

SECONDS = 1.0  # from one picture of a growing timeline to the next, at least
SHOWN = 60.0  # seconds of a camera that the timeline shows
KEPT = 1200  # answers of a camera that make events: ten minutes
SESSIONS = 16  # cameras at a time


def follow_video(
        model: VideoModel,
        path: str,
        goes_on: Callable[[], bool] = lambda: True,
        seconds: float = SECONDS,
) -> Iterator[str]:
    """Answers every window of a video, and draws the timeline again and again while it grows.

    Args:
        model: A video model in eval mode, with a trained head.
        path: A file that `check_video` accepted.
        goes_on: Asked after each answer whether anybody still wants more.
        seconds: Time between two timelines, at least.

    Yields:
        HTML, the last of which is the whole timeline. Nothing for a video that is no longer than one window.

    Raises:
        VideoError: If the file cannot be read.
    """
    name, plan = os.path.basename(path), plan_windows(model)
    with VideoReader(path) as video:
        length = (video.timestamps[-1] - video.timestamps[0]).item()
    about = f'An answer every {plan.every:g} s, each for a window of {plan.window:g} s. '
    if length <= plan.window:
        return
    notes: list[str] = []
    kept: list[Record] = []
    answers = predict_windows(
        path, model, plan.every, plan.window, topk=classes_for_events(model.multi_label), note=notes.append)
    due = time.monotonic()
    with contextlib.closing(answers):
        for record in answers:
            if not goes_on():
                return
            kept.append(dataclasses.replace(record, logits=None))
            began = time.monotonic()
            if began >= due:
                yield timeline_html(
                    kept, _events(kept, model), name, f'{about}{clock(record.end)} of {clock(length)} so far.',
                    end=max(length, record.end), is_complete=False)
                now = time.monotonic()
                due = now + max(seconds, 10 * (now - began))  # a long timeline takes its time
    about += ' '.join(printable(note.replace(path, name)) for note in notes) or 'Click to jump there.'
    yield timeline_html(kept, _events(kept, model), name, about)


def _events(records: list[Record], model: VideoModel) -> list[Event]:
    return events(records, multi_label=model.multi_label)


@dataclasses.dataclass
class _Camera:
    stream: Stream
    settings: Hashable
    began: float
    last: float = -1.0  # when the last frame was taken
    kept: list[Record] = dataclasses.field(default_factory=list)


class Cameras:
    """The cameras of the visitors, each a `flatzoo.Stream`."""

    def __init__(self):
        self._cameras: dict[str, _Camera] = {}
        self._lock = threading.Lock()

    def push(
            self,
            session: str,
            frame: Any,
            model: VideoModel,
            settings: Hashable,
            now: float | None = None,
    ) -> tuple[Record, str] | None:
        """Takes a frame of a visitor's camera.

        Args:
            session: The visitor.
            frame: uint8 `[H, W, 3]`.
            model: The model.
            settings: What the visitor has chosen; a camera with other settings begins anew.
            now: When the frame was taken, in seconds of any clock; None for now.

        Returns:
            The last answer and the timeline, once another window has ended; else None.

        Raises:
            VideoError: Too many cameras are open.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            camera = self._cameras.get(session)
            if camera is None or camera.settings != settings:
                if camera is None and len(self._cameras) >= SESSIONS:
                    raise VideoError(f'{SESSIONS} cameras are watched already. Try again later.')
                camera = self._cameras[session] = _Camera(
                    Stream(model, topk=classes_for_events(model.multi_label)), settings, now)
        moment = now - camera.began
        if moment <= camera.last:
            return None
        camera.last = moment
        record = camera.stream.push(frame, moment)
        if record is None:
            return None
        camera.kept = [*camera.kept[1 - KEPT:], dataclasses.replace(record, logits=None)]
        plan = camera.stream.plan
        about = f'The last {SHOWN:g} seconds: an answer every {plan.every:g} s, each for a window of {plan.window:g} s.'
        end = max(record.end, SHOWN)
        return record, timeline_html(
            camera.kept, _events(camera.kept, camera.stream.model), 'camera', about, start=end - SHOWN, end=end,
            can_jump=False)

    def close(self, session: str) -> None:
        """Forgets the camera of a visitor."""
        with self._lock:
            self._cameras.pop(session, None)
