"""Frames by index with PyAV.

A clip needs 8 or 16 frames out of hundreds. This source therefore first lists the packets of the file without decoding
them. That gives the true number of frames and their times, whatever the header claims. It then decodes, in one forward
pass, only the stretches between a key frame and a wanted frame. In H.264 it also skips the B-frames that no other frame
refers to. Frames are recognised by their presentation time. A variable frame rate, B-frames, edit lists and a start
time other than zero therefore change nothing.
"""
import bisect
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .container import open_file, orientation, upright_pixels
from .errors import nothing_decoded
from .mp4_claims import check_mp4_claims, claim_limit, false_claim

__all__ = ['PyAVSource']

# Those whose packets carry the time at which their frame is shown; in others FFmpeg makes it up from that of decoding.
_TIMED_FORMATS = ('mov', 'matroska', 'mpegts', 'mpeg', 'ogg', 'flv', 'live_flv', 'nut', 'ivf', 'mxf', 'gif')


class _UntrueTimes(Exception):
    """The decoder returns frames in another order than the times of the packets say."""


class PyAVSource:
    """Frames by index with PyAV: packet list, seek to key frames, one pass forward, one decoder thread."""

    def __init__(self, path: str):
        self.path = path
        self._container = None
        self._can_seek = True
        self._intact = True  # the container could be read to its end
        self._number_frames = False  # name frames by number instead of by time
        self._checked = False  # all frames were decoded, to see whether the times of packets are true
        self._reordered = False  # packets are not in the order of their times
        self._damaged = 0  # packets that could not be decoded
        self._wanted: set[int] | None = None  # times of the frames that must be decoded; None: all
        check_mp4_claims(path)
        try:
            self._open()
            self._index()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self) -> None:
        """(Re)opens the file at its first packet."""
        self.close()
        self._container, self._stream, self.num_streams = open_file(self.path)
        self.stream_index = self._stream.index
        codec = self._stream.codec_context
        codec.thread_type, codec.thread_count = 'NONE', 1  # more cost CPU time and gain nothing on sparse frames
        self._frames = self._decode()
        self._held = None  # newest frame at or before the last target, with its time: (pts, frame)
        self._ahead = None  # frame decoded past the last target
        self._fed_key = None  # newest key frame given to the decoder

    def _index(self) -> None:
        """Lists the times of all frames (`_pts`) and of the key frames (`_keys`, with `_key_dts`), both ascending."""
        pts: set[int] = set()
        keys: dict[int, int] = {}
        shown, claimed, limit = 0, 0, claim_limit(self.path)
        latest, reordered, true_times = -math.inf, False, True
        for packet in self._demux():
            claimed += 1 + packet.size
            if claimed > limit:
                raise false_claim(self.path)
            if packet.pts is None:
                true_times = False
                break
            reordered |= packet.pts < latest
            if packet.is_keyframe:
                # All that comes before a key frame is shown before it, unless two recordings were strung together, or
                # an edit list shows a part twice.
                true_times &= packet.pts > latest
                keys.setdefault(packet.pts, packet.pts if packet.dts is None else packet.dts)
            latest = max(latest, packet.pts)
            # What lies before the first key frame cannot be decoded; what an edit list cuts away is decoded, not shown.
            if keys and not packet.is_discard:
                shown += 1
                pts.add(packet.pts)
        true_times &= len(pts) == shown > 0  # a time that two frames share does not tell them apart
        self._keys, self._key_dts = sorted(keys), keys
        # Leading frames of the first key frame refer to frames that are not there.
        self._pts = sorted(t for t in pts if t >= self._keys[0])
        self._reordered = reordered
        if not true_times or self._may_be_decode_times():
            self._check_times(true_times)
        else:
            self.timestamps = self._seconds(self._pts)
        container = self._container.format.name
        # Only times out of order tell that packets carry the times of their own frames; where they are those of
        # decoding, or a packet is a field, a frame could be taken for another one.
        self._leaves_out = (
            reordered and not self._number_frames
            and self._stream.codec_context.name == 'h264' and container.startswith(('mov', 'matroska')))
        if self._can_seek and self._intact and not self._checked and container.startswith('mov'):
            # At the end of the file: any frame is sought, which costs less than opening. In damaged Matroska files
            # seeks go elsewhere once all has been read.
            self._fed_key = -math.inf
        else:
            self._open()

    def _may_be_decode_times(self) -> bool:
        """Whether packets may carry the times of decoding in place of those at which frames are shown.

        A decoder that puts frames into another order needs packets whose times are in another order, too; unless FFmpeg
        has made these up.
        """
        made_up = self._container.format.name.split(',')[0] not in _TIMED_FORMATS
        return self._stream.codec_context.has_b_frames and (made_up or not self._reordered)

    @property
    def _doubtful(self) -> bool:
        """Whether the times may still be decoding times: a header may not say that frames are reordered."""
        return not (self._checked or self._reordered)

    def _seconds(self, times: list[int]) -> list[float]:
        base = self._stream.time_base
        return [t * base.numerator / base.denominator for t in times]

    def _check_times(self, true_times: bool = True, complete: bool = True) -> None:
        """Decodes the whole file, and numbers its frames if the times of the packets are not those of their frames.

        Args:
            true_times: What the packets themselves say: each has a time, and two recordings do not overlap.
            complete: Number them also where an undamaged packet gives no frame. Not once the number of frames was told.
        """
        self._checked = self._number_frames = True
        self._damaged, self._wanted = 0, None
        self._open()
        times = [frame.pts for _, frame in self._frames]
        if not times:
            raise nothing_decoded(self.path)
        unique = set(times)
        ascending = None not in unique and all(a < b for a, b in zip(times, times[1:]))
        if true_times and ascending and (not complete or self._damaged or unique.issuperset(self._pts)):
            self._number_frames = False
            self.timestamps = self._seconds(self._pts)
            return
        # Raw streams and some AVI carry no times, some writers leave all at 0.
        self._can_seek = False
        if true_times and None not in unique and len(unique) == len(times):
            self.timestamps = self._seconds(sorted(unique))  # each of another frame, but all of them right
        else:
            rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
            self.timestamps = [number / rate for number in range(len(times))]
        self._keys, self._pts = [0], list(range(len(times)))

    def _demux(self) -> Iterator:
        """Packets of the video stream from the present position; a damaged container ends them."""
        import av
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:  # an empty packet is a repeated frame in AVI, and would end the decoder
                    yield packet
        except (av.error.FFmpegError, IndexError):
            self._intact = False  # IndexError: PyAV, at the end of a file that got new streams on the way

    def _decode(self, key: int | None = None) -> Iterator[tuple[int, 'av.VideoFrame']]:  # noqa: F821
        """Yields (pts, frame) in presentation order, from the first packet or, after a seek, from key frame `key`."""
        import av
        landed = key is None
        number = 0
        packets = self._demux()
        while True:
            packet = next(packets, None)
            if packet is not None and packet.is_keyframe and packet.pts is not None:
                if not landed and packet.pts > key:
                    return  # the seek went too far; the caller starts over without seeking
                landed = True
                self._fed_key = packet.pts if self._fed_key is None else max(self._fed_key, packet.pts)
            if not landed and packet is not None:
                continue
            if packet is not None:
                leave_out = self._wanted is not None and packet.pts not in self._wanted
                self._stream.codec_context.skip_frame = 'NONREF' if leave_out else 'DEFAULT'
            try:
                frames = self._stream.decode(packet)  # None drains the decoder
            except av.error.FFmpegError:
                frames = []  # damaged packet
                self._damaged += 1
            for frame in frames:
                if self._number_frames:
                    yield number, frame
                    number += 1
                elif frame.pts is not None:
                    yield frame.pts, frame
            if packet is None:
                return

    def _start_at(self, key: int) -> None:
        """Seeks to a key frame."""
        import av
        try:
            # MP4 and Matroska seek by presentation time. The others seek by decoding time, which is never later.
            by_pts = self._container.format.name.startswith(('mov', 'matroska'))
            self._container.seek(key if by_pts else min(key, self._key_dts[key]), stream=self._stream)
        except av.error.FFmpegError:
            self._can_seek = False
            self._open()
            return
        self._held = self._ahead = self._fed_key = None
        self._frames = self._decode(key)

    def _restart(self, key: int) -> None:
        """Back to a key frame, or to the first packet."""
        if self._can_seek:
            self._start_at(key)
        else:
            self._open()

    def _frame_at(self, index: int):
        """Decodes the frame `index`; a missing one gives the nearest earlier one."""
        target = self._pts[index]
        key = self._keys[bisect.bisect_right(self._keys, target) - 1]
        if self._held is not None and target < self._held[0]:  # backwards: only between two calls of `read`
            self._restart(key)
        elif self._can_seek and (key > self._keys[0] if self._fed_key is None else key > self._fed_key):
            self._start_at(key)  # a key frame not yet read lies between here and the target: skip what is before it
        while self._held is None or self._held[0] < target:
            if self._ahead is None:
                self._ahead = next(self._frames, None)
                if self._ahead and self._held and self._ahead[0] <= self._held[0] and self._doubtful:
                    raise _UntrueTimes
            if self._ahead is None or self._ahead[0] > target:
                break
            self._held, self._ahead = self._ahead, None
        if self._wanted is not None and (self._held is None or self._held[0] != target):
            self._wanted = None  # damaged, or left out before it was wanted: from now on all frames are decoded
            self._leaves_out = False
            self._restart(key)
            return self._frame_at(index)
        if self._held is not None:
            if self._held[0] != target and self._doubtful and not self._damaged:
                raise _UntrueTimes
            return self._held[1]
        if self._can_seek:  # nothing came out after the seek: read this file from its start from now on
            self._can_seek = False
            self._open()
            return self._frame_at(index)
        if self._ahead is not None:  # all frames up to here are damaged
            return self._ahead[1]
        raise nothing_decoded(self.path)

    def read(self, indices: list[int]) -> Tensor:
        """Frames with the given ascending indices, uint8 `[N, H, W, C]`."""
        try:
            return self._read(indices)
        except _UntrueTimes:  # an encoder that starts late to put frames into another order, in AVI
            self._check_times(complete=False)
            self._open()
            last = len(self._pts) - 1
            return self._read([min(index, last) for index in indices])

    def _read(self, indices: list[int]) -> Tensor:
        from av.video.reformatter import VideoReformatter
        reformatter = VideoReformatter()  # kept for all frames: setting one up costs more than a small frame
        self._wanted = {self._pts[index] for index in indices} if self._leaves_out else None
        out = None
        for row, index in enumerate(indices):
            frame = self._frame_at(index)
            if out is None:
                width, height = frame.width, frame.height
                turn = orientation(frame)
                shape = (width, height) if turn[0] else (height, width)
                out = torch.empty((len(indices), *shape, 3), dtype=torch.uint8)
            # A stream may change its frame size on the way; all frames get the size of the first.
            out[row] = upright_pixels(frame, reformatter, (width, height), turn)
        return out
