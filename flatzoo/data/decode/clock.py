"""One clock for all frames of a stream: it starts at 0 and only goes forward, whatever the timestamps do."""
from collections.abc import Callable

__all__ = ['Clock']

BACK = 1.0  # seconds: what goes back less is frames out of order, what goes back more is a restart
GAP = 5.0  # seconds without a frame that are worth a note
INTERVAL = 1 / 25  # of frames, as long as nothing is known
STRAY = 16  # frames after which a restart is one: behind damage, decoders give a few old frames late


class Clock:
    """Gives the frames of a stream ascending times.

    Timestamps restart where recordings were strung together or a camera was started anew, and those of MPEG-TS wrap
    after 26.5 hours. The clock then goes on by one frame. A gap without frames stays a gap. A few old frames that come
    late, before the timestamps go on where they were, are no restart. Frames may have no timestamp; those of RTSP have
    none until its server has told its clock.

    Args:
        interval: Seconds between frames that the header states; None if it states nothing.
        note: Called with a line for each restart and each long gap.
        start: Time of the first frame.

    Attributes:
        interval: Seconds between the last frames.
        last: Time of the last frame; None before the first one.
    """

    def __init__(
            self,
            interval: float | None = None,
            note: Callable[[str], None] = lambda line: None,
            start: float = 0.0,
    ):
        self.interval = interval or INTERVAL
        self.note = note
        self.start = start
        self.last: float | None = None
        self.offset: float | None = None  # of the timestamps; None before the first one
        self._former: tuple[float, int] | None = None  # offset before the last restart, and frames since
        self._untold: str | None = None  # a restart that the next frame has yet to confirm

    def time(self, stamp: float | None) -> float:
        """The time of the next frame.

        Args:
            stamp: Its timestamp in seconds; None if it has none.
        """
        if self.last is None:
            self.offset = None if stamp is None else self.start - stamp
            self.last = self.start
            return self.last
        expected = self.last + self.interval
        if stamp is not None:
            if self.offset is None:
                self.offset = expected - stamp
            self._return(stamp)
        time = expected if stamp is None else stamp + self.offset
        step = time - self.last
        if step <= -BACK:
            self._untold = (
                f'timestamps restart {self.last:.2f} s after the start (by {step:.1f} s); the time goes on there')
            self._former = self.offset, 0
            self.offset += expected - time
            time = expected
        elif step <= 0:
            time = expected
        elif step > GAP:
            self.note(f'no frames from {self.last:.2f} to {time:.2f} s')
        else:
            self.interval = step if self.interval == INTERVAL else 0.75 * self.interval + 0.25 * step
        self.last = time
        return time

    def _return(self, stamp: float) -> None:
        """Takes back a restart if the timestamps are again where they were before."""
        if self._former is None:
            return
        former, count = self._former
        if abs(stamp + former - self.last) < BACK:
            self.note(f'{count + 1} frame{"s" if count else ""} out of order at {self.last:.2f} s')
            self.offset, self._former, self._untold = former, None, None
            return
        if self._untold is not None:
            self.note(self._untold)
            self._untold = None
        self._former = (former, count + 1) if count < STRAY else None
