"""Watches a live source: a thread reads and decodes, frames that the model is too slow for are dropped, the source is
opened again when it is lost."""
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flatzoo.data.decode import VideoError
from flatzoo.data.decode.live import kind_of, name_of, read_live
from flatzoo.data.decode.stream import StreamFrame
from flatzoo.models import VideoModel

from .classifier import top_classes
from .window_frames import Frame
from .window_model import WindowModel
from .windows import Record, WindowPlan

__all__ = ['Sighting', 'watch']

QUEUE = 64  # decoded frames that wait for the model
PAUSES = (1.0, 30.0)  # seconds before a lost source is opened again: at first, and at most
DROPS = ('camera', 'address')  # sources that do not wait


@dataclass(frozen=True)
class Sighting:
    """A record of a live source.

    Attributes:
        record: The answer for a window.
        latency: Seconds from the arrival of the last frame of the window to the answer.
        dropped: Frames that were dropped since the last sighting.
    """

    record: Record
    latency: float
    dropped: int


def watch(
        source: str,
        model: VideoModel,
        plan: WindowPlan,
        topk: int = 5,
        stall: float = 10.0,
        retries: int = 10,
        drop: bool | None = None,
        note: Callable[[str], None] = lambda line: None,
        sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Sighting]:
    """Answers the windows of a live source as they end.

    Args:
        source: See `flatzoo.data.decode.live.read_live`.
        model: A video model in eval mode.
        plan: Length and sampling of the windows.
        topk: Classes per record.
        stall: Seconds without data after which a source counts as lost, and a growing file as complete.
        retries: How often in a row a camera or an address that was lost is opened again, with pauses that grow from 1
            to 30 seconds.
        drop: Whether the oldest frames are dropped when the model is too slow. None drops those of cameras and
            addresses; standard input and files wait, so that no frame is lost.
        note: Called with a line for whatever is passed over.
        sleep: Waits for some seconds.

    Raises:
        VideoError: The source cannot be opened at first, is no video, or was lost for good.
    """
    kind = kind_of(source)
    waiting = _Waiting(QUEUE, kind in DROPS if drop is None else drop)
    lines: deque[str] = deque()
    reader = threading.Thread(
        target=_read, args=(source, kind, waiting, stall, retries, lines.append, sleep), daemon=True,
        name='flatzoo-watch')
    reader.start()
    answer = WindowModel(model, batch_size=1)
    buffer, transform = plan.buffer(model), plan.transform(model)
    arrived, dropped = time.monotonic(), 0
    try:
        while True:
            taken = waiting.take()
            while lines:
                note(lines.popleft())
            if taken is None:
                windows = buffer.finish()
            else:
                (frame, when), lost = taken
                dropped += lost
                try:
                    windows = buffer.push(Frame(frame.time, frame.load, transform, frame.num_bytes))
                except ValueError as error:
                    raise VideoError(f'{name_of(source)}: {error}') from None
            for window in windows:
                [logits] = answer([window])
                record = Record(window.start, window.end, tuple(top_classes(model, logits, topk)), logits)
                yield Sighting(record, time.monotonic() - arrived, dropped)
                dropped = 0
            if taken is None:
                if waiting.error is not None:
                    raise waiting.error
                return
            arrived = when  # the frame that ends a window is not in it
    finally:
        waiting.stop()


class _Waiting:
    """Frames between the thread that decodes and the model."""

    def __init__(self, size: int, drop: bool):
        self.size, self.drop = size, drop
        self.error: Exception | None = None
        self._frames: deque[tuple[StreamFrame, float]] = deque()
        self._dropped, self._ended, self._stopped = 0, False, False
        self._changed = threading.Condition()

    def put(self, frame: StreamFrame) -> bool:
        """Adds a frame; False if nobody wants more."""
        with self._changed:
            if self.drop and len(self._frames) >= self.size:
                self._frames.popleft()
                self._dropped += 1
            while len(self._frames) >= self.size and not self._stopped:
                self._changed.wait()
            self._frames.append((frame, time.monotonic()))
            self._changed.notify_all()
            return not self._stopped

    def take(self) -> tuple[tuple[StreamFrame, float], int] | None:
        """The oldest frame, and how many were dropped before it; None at the end."""
        with self._changed:
            while not self._frames and not self._ended:
                self._changed.wait(0.2)  # wakes up for Ctrl-C
            if not self._frames:
                return None
            lost, self._dropped = self._dropped, 0
            self._changed.notify_all()
            return self._frames.popleft(), lost

    def end(self, error: Exception | None = None) -> None:
        """No more frames come."""
        with self._changed:
            self.error, self._ended = error, True
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody takes frames any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether nobody takes frames any more."""
        return self._stopped


def _read(
        source: str,
        kind: str,
        waiting: _Waiting,
        stall: float,
        retries: int,
        note: Callable[[str], None],
        sleep: Callable[[float], None],
) -> None:
    """Reads the source into `waiting`, again and again if it is lost."""
    began, failures, seen, last = time.monotonic(), 0, False, 0.0
    name = name_of(source)
    try:
        while not waiting.stopped:
            start = max(time.monotonic() - began, last + 0.001) if seen else 0.0
            error: Exception | None = None
            frames = read_live(source, stall, note, start)
            try:
                for frame in frames:
                    if not seen:
                        began = time.monotonic() - frame.time
                    seen, failures, last = True, 0, frame.time
                    if not waiting.put(frame):
                        return
            except VideoError as raised:
                error = raised
            finally:
                frames.close()
            if kind not in DROPS or not seen:
                waiting.end(error)
                return
            failures += 1
            if failures > retries:
                waiting.end(error or VideoError(f'{name}: ended, and came back {retries} times with nothing.'))
                return
            pause = min(PAUSES[0] * 2 ** (failures - 1), PAUSES[1])
            reason = str(error) if error is not None else f'{name}: ended.'
            note(f'{reason} It is opened again in {pause:g} s (try {failures} of {retries}).')
            sleep(pause)
    except BaseException as error:  # noqa: BLE001 - raised where the frames are taken
        waiting.end(error if isinstance(error, Exception) else RuntimeError(str(error)))
