"""Cuts a stream of frames into windows of time that may overlap, and says which frames of a window a model sees."""
import bisect
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.transforms import EvalTransform

__all__ = ['Frame', 'Window', 'WindowBuffer', 'window_rows']

KEPT_BYTES = 2 ** 28  # of frames in full size, before the oldest of them are shrunk whether anybody needs them or not
TOLERANCE = 1e-3  # seconds: Matroska rounds times to this


class Frame:
    """A frame of a stream, shrunk to what a model sees of it as soon as somebody asks for that.

    Args:
        time: When it is shown, in seconds from the start.
        load: Gives its pixels, uint8 `[C, H, W]`.
        transform: Crops of the protocol.
        num_bytes: What it takes in memory until it is shrunk.

    Attributes:
        features: What the model made of its crops, for a model that encodes frames one by one; else None.
    """

    __slots__ = ('time', 'num_bytes', 'features', '_load', '_transform', '_crops')

    def __init__(self, time: float, load: Callable[[], Tensor], transform: EvalTransform, num_bytes: int = 0):
        self.time, self.num_bytes = time, num_bytes
        self.features: Tensor | None = None
        self._load: Callable[[], Tensor] | None = load
        self._transform = transform
        self._crops: Tensor | None = None

    @property
    def crops(self) -> Tensor:
        """What the model sees of it, uint8 `[V, C, h, w]`.

        Raises:
            ValueError: It fits no crop.
        """
        if self._crops is None:
            # [V, C, h, w]; a view would keep the whole frame alive, or change with the memory of the caller
            self._crops = self._transform(self._load()[None])[:, 0].clone()
            self._load, self.num_bytes = None, 0
        return self._crops


@dataclass
class Window:
    """A stretch of time and the frames of it that a model sees.

    Attributes:
        start: In seconds from the start of the stream.
        end: Likewise; the end of the stream, where that comes earlier.
        rows: The frames, a row for each clip.
    """

    start: float
    end: float
    rows: list[list[Frame]]

    def views(self) -> Tensor:
        """The views of the window, uint8 `[V, C, T, h, w]`, in the order of `flatzoo.data.views.read_views`."""
        clips = [torch.stack([frame.crops for frame in row], dim=1) for row in self.rows]  # each [V, T, C, h, w]
        return torch.stack(clips, dim=1).flatten(0, 1).transpose(1, 2)


class WindowBuffer:
    """Holds the last frames of a stream, and gives each window as soon as the first frame behind it has come.

    Window k covers the time from `k * every` to `k * every + window` seconds. A window without any frame, in a gap of
    the stream, is left out. At the end of the stream comes one shorter window, if frames are left that no window has.

    Args:
        every: Seconds from one window to the next.
        window: Seconds that a window lasts.
        select: Which frames of a window the model sees: from their times to rows of indices, such as `window_rows`.
    """

    def __init__(self, every: float, window: float, select: Callable[[list[float]], list[list[int]]]):
        self.every, self.window, self.select = every, window, select
        self.count = 0  # windows behind us
        self.covered = 0.0  # end of the last window that was given
        self.interval = 0.0  # seconds between the last two frames
        self.last: float | None = None
        self._frames: deque[Frame] = deque()
        self._full = 0  # bytes of the frames that are kept in full size

    def push(self, frame: Frame) -> list[Window]:
        """Takes the next frame, and returns the windows that end before it."""
        done = []
        if self.last is not None:
            self.interval = frame.time - self.last
        while self._start() + self.window <= frame.time + TOLERANCE:
            window = self._cut(self._start() + self.window)
            if window is not None:
                done.append(window)
            self.count += 1
            self._drop()
            if not self._frames:  # a gap: on to the first window that the frame is in
                self.count = max(self.count, math.ceil((frame.time + TOLERANCE - self.window) / self.every))
        self.last = frame.time
        self._frames.append(frame)
        self._shrink(frame)
        return done

    def finish(self) -> list[Window]:
        """The windows that are left at the end of the stream."""
        done = []
        if self.last is None:
            return done
        end = self.last + (self.interval or 1 / 25)
        while self._frames:
            full = self._start() + self.window <= end + self.interval / 2
            if not full and self.covered >= end - self.interval / 2:
                break
            window = self._cut(min(self._start() + self.window, end))
            if window is not None:
                done.append(window)
            self.count += 1
            self._drop()
            if not full:
                break
        self._frames.clear()
        return done

    def _start(self) -> float:
        return self.count * self.every

    def _cut(self, end: float) -> Window | None:
        start = self._start()
        frames = [frame for frame in self._frames if start - TOLERANCE <= frame.time < end - TOLERANCE]
        if not frames:
            return None
        self.covered = end
        rows = self.select([frame.time for frame in frames])
        return Window(start, end, [[frames[index] for index in row] for row in rows])

    def _drop(self) -> None:
        """Forgets the frames that no window to come has."""
        while self._frames and self._frames[0].time < self._start() - TOLERANCE:
            self._full -= self._frames.popleft().num_bytes

    def _shrink(self, frame: Frame) -> None:
        self._full += frame.num_bytes
        if self._full > KEPT_BYTES:
            self._full = sum(kept.num_bytes for kept in self._frames)  # some were shrunk meanwhile
            for kept in self._frames:
                if self._full <= KEPT_BYTES:
                    break
                self._full -= kept.num_bytes
                kept.crops  # noqa: B018 - shrinks it


def window_rows(protocol: EvalProtocol, num_frames: int, times: list[float]) -> list[list[int]]:
    """Which frames of a window a model sees.

    The frames of the window are a clip of their own, sampled as the protocol samples a video. Frames whose times are
    not evenly spaced are first replaced by evenly spaced ones, each the nearest frame in time, so that it is seconds
    that count. Dense protocols, whose stride counts frames of any duration, spread the frames over the window.

    Args:
        protocol: The protocol.
        num_frames: Frames T per clip.
        times: Times of the frames of the window, ascending.

    Returns:
        Indices of the frames, `[num_clips][T]`.
    """
    count = len(times)
    if protocol.sampling == 'dense':
        rows = [[index * count // num_frames for index in range(num_frames)]]
    else:
        rows = protocol.sample(count, num_frames).tolist()
    step = (times[-1] - times[0]) / (count - 1) if count > 1 else 0.0
    if all(abs(time - times[0] - index * step) < step / 2 for index, time in enumerate(times)) or count == 1:
        return rows
    return [[_nearest(times, times[0] + index * step) for index in row] for row in rows]


def _nearest(times: list[float], time: float) -> int:
    after = bisect.bisect_left(times, time)
    if after == 0 or (after < len(times) and times[after] - time < time - times[after - 1]):
        return after
    return after - 1
