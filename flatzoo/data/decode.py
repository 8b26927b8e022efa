"""From a video file to frames: one reader, exact by frame index, over PyAV, torchcodec or (WebP only) Pillow.

A clip needs 8 or 16 frames out of hundreds. The PyAV reader therefore first lists the packets of the file without
decoding them, which gives the true number of frames and their times whatever the header claims, and then decodes, in
one forward pass, only the stretches between a key frame and a wanted frame, in H.264 without the B-frames that no other
frame refers to. Frames are recognised by their presentation time, so a variable frame rate, B-frames, edit lists and a
start time other than zero change nothing.

Whatever is wrong with a file is told by one exception, `VideoError`. A file is never trusted: sizes and counts in its
header are checked against `MAX_PIXELS` and against the bytes that are there.
"""
import bisect
import math
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ['BACKENDS', 'MAX_PIXELS', 'VideoError', 'VideoReader']

BACKENDS = ('auto', 'pyav', 'torchcodec')
MAX_PIXELS = 2 ** 25  # pixels of one frame: 8192 x 4096, enough for 8K video

# Formats of FFmpeg that are no video files: text drawn as a terminal would, and play lists and scripts, which name
# other files or wait for a network.
_REFUSED_FORMATS = {
    'applehttp', 'avisynth', 'concat', 'dash', 'hls', 'image2', 'imf', 'lavfi', 'rtp', 'rtsp', 'sap', 'sdp', 'tty',
    'vapoursynth',
}


class VideoError(ValueError):
    """A file that cannot be read as a video.

    The message names the file, says what is wrong with it and what to do.
    """


class VideoReader:
    """Reads frames of one video file by index.

    Videos (all containers and codecs of FFmpeg), animations (GIF, WebP) and still images (a video of one frame) are
    read alike. Rotation metadata is applied. Damaged packets are skipped and each frame that they should have given is
    filled with the nearest earlier frame; of a truncated file the frames that are present are used. Where a decoder
    conceals damage within a frame, its pixels can depend on which frames are asked together.

    `backend='auto'` is PyAV, also where torchcodec is installed: its packet list and key-frame seeks leave torchcodec
    no lead on one thread, and PyAV also reads damaged files, raw streams and streams without whole key frames,
    which torchcodec refuses or reads wrong. `backend='torchcodec'` (exact mode) remains for those who want it; frames
    of 8-bit video are the same bit for bit, those of deeper video differ at sharp edges of colour. WebP is always read
    with Pillow.

    A reader keeps its file open: use it in a `with` statement. It is not thread-safe.

    Args:
        path: the video file.
        backend: `'auto'`, `'pyav'` or `'torchcodec'`.

    Raises:
        VideoError: the file is missing, empty, no video, or cannot be decoded. Raised here, or by the first property or
            method that has to decode a frame.
        ImportError: the backend is not installed.
        ValueError: an unknown backend.

    Example:
        >>> with VideoReader('clip.mp4') as video:
        ...     frames = video.get_frames(uniform_indices(len(video), 8)[0])  # (8, 3, H, W)
    """

    def __init__(self, path: str | os.PathLike, backend: str = 'auto'):
        if backend not in BACKENDS:
            raise ValueError(f'unknown backend {backend!r}; use one of {", ".join(BACKENDS)}')
        self.path = os.fsdecode(path)
        self._source = None
        self._size: tuple[int, int] | None = None
        head = _read_head(self.path)
        if head[:4] == b'RIFF' and head[8:12] == b'WEBP':
            self._source = _PillowSource(self.path)
        elif backend == 'torchcodec':
            self._source = _TorchcodecSource(self.path)
        else:
            self._source = _PyAVSource(self.path)

    def __enter__(self) -> 'VideoReader':
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. May be called more than once."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def __len__(self) -> int:
        """Number of frames that the file holds (found by counting them, not by asking the header)."""
        return len(self._open_source().timestamps)

    def __repr__(self) -> str:
        state = 'closed' if self._source is None else f'{len(self)} frames'
        return f'{type(self).__name__}({self.path!r}, {state})'

    @property
    def timestamps(self) -> Tensor:
        """Presentation time of every frame on the clock of the file, in seconds, float64 `[len(self)]`, ascending."""
        return torch.tensor(self._open_source().timestamps, dtype=torch.float64)

    @property
    def fps(self) -> float:
        """Average number of frames per second, from the timestamps. 0.0 for a single frame, which has no rate."""
        times = self._open_source().timestamps
        return round((len(times) - 1) / (times[-1] - times[0]), 6) if times[-1] > times[0] else 0.0

    @property
    def height(self) -> int:
        """Height of the frames in pixels, after rotation."""
        return self._frame_size()[0]

    @property
    def width(self) -> int:
        """Width of the frames in pixels, after rotation."""
        return self._frame_size()[1]

    def get_frames(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Decodes the frames with the given indices.

        Each frame that is needed is decoded once, in the order of the file, however often and in whatever order it is
        asked for.

        Args:
            indices: T frame indices in [0, len(self)); they may repeat and need not be sorted.

        Returns:
            RGB frames, uint8 `[T, C, H, W]`: a permuted view of `[T, H, W, C]` memory, which resizes fastest.

        Raises:
            IndexError: an index outside of the video.
            VideoError: no frame could be decoded.
        """
        source = self._open_source()
        indices = torch.as_tensor(indices)
        if indices.ndim != 1 or (indices.numel() and indices.dtype not in (torch.int64, torch.int32)):
            raise ValueError(
                f'frame indices must be a flat list of integers, got {indices.dtype} of shape {list(indices.shape)}')
        if indices.numel() == 0:
            return torch.empty((0, self.height, self.width, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        first, last = int(indices.min()), int(indices.max())
        if first < 0 or last >= len(self):
            raise IndexError(
                f'frame {first if first < 0 else last} asked of {self.path}, which has frames 0 to {len(self) - 1}')
        unique, inverse = torch.unique(indices, return_inverse=True)
        frames = source.read(unique.tolist())  # [unique, H, W, C]
        self._size = tuple(frames.shape[1:3])
        if not torch.equal(unique, indices):
            frames = frames[inverse]  # [T, H, W, C]
        return frames.permute(0, 3, 1, 2)

    def _open_source(self):
        if self._source is None:
            raise ValueError(f'the reader of {self.path} is closed; open a new VideoReader')
        return self._source

    def _frame_size(self) -> tuple[int, int]:
        if self._size is None:
            self._size = tuple(self._open_source().read([0]).shape[1:3])
        return self._size


def _read_head(path: str) -> bytes:
    """First bytes of a file that is fit to be opened: there, regular (a pipe would block), readable and not empty."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise VideoError(f'{path}: is a directory. Give the video files in it.')
        if not stat.S_ISREG(mode):
            raise VideoError(f'{path}: is not a regular file. Save the video to a file first.')
        with open(path, 'rb') as file:
            head = file.read(16)
    except (FileNotFoundError, NotADirectoryError):
        raise VideoError(f'{path}: no such file. Check the path.') from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        if isinstance(error, VideoError):
            raise
        reason = getattr(error, 'strerror', None) or error
        raise VideoError(f'{path!r}: cannot be opened ({reason}). Check the path and its permissions.') from None
    if not head:
        raise VideoError(f'{path}: the file is empty (0 bytes). Get the video again.')
    return head


def _check_pixels(path: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise VideoError(
            f'{path}: frames of {width}x{height} pixels, more than the {MAX_PIXELS} pixels that are accepted. '
            f'If the size is not a false claim of the header, scale the video down first.')


def _nothing_decoded(path: str) -> VideoError:
    return VideoError(
        f'{path}: no frame can be decoded, the file is damaged or its frames have more than {MAX_PIXELS} pixels. '
        f'Get the video again.')


def _claim_limit(path: str) -> int:
    """Bytes of frames that a file may claim to hold: some containers store packets packed, none as tightly as this."""
    return 65536 + 16 * os.path.getsize(path)


def _false_claim(path: str) -> VideoError:
    return VideoError(f'{path}: the header claims more frames than the file can hold. Get the video again.')


def _check_mp4_claims(path: str) -> None:
    """Refuses an MP4 file whose sample counts cannot be true, before FFmpeg makes room for as many samples."""
    limit, end = _claim_limit(path), os.path.getsize(path)
    with open(path, 'rb') as file:
        start = boxes = 0
        while start < end and boxes < 1_000_000:  # other kinds of files end within a few
            boxes += 1
            file.seek(start)
            header = file.read(16)
            if len(header) < 8:
                return
            size, kind = struct.unpack('>I4s', header[:8])
            if size == 1 and len(header) == 16:  # a 64-bit size follows
                size = struct.unpack('>Q', header[8:])[0]
            elif size == 0:  # the last box
                size = end - start
            if size < 8:
                return
            if kind in (b'moov', b'moof'):
                file.seek(start)
                tables = file.read(min(size, end))
                for match in re.finditer(rb'stsz.{4}(.{4})(.{4})|trun.{4}(.{4})', tables, re.DOTALL):
                    sample_size, samples, run = (int.from_bytes(group or b'', 'big') for group in match.groups())
                    if sample_size * samples > limit or run > limit:
                        raise _false_claim(path)
            start += size


class _PyAVSource:
    """Frames by index with PyAV: packet list, seek to key frames, one pass forward, one decoder thread."""

    def __init__(self, path: str):
        self.path = path
        self._container = None
        self._can_seek = True
        self._intact = True  # the container could be read to its end
        self._number_frames = False  # name frames by number instead of by time
        self._wanted: set[int] | None = None  # times of the frames that must be decoded; None: all
        _check_mp4_claims(path)
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
        import av
        self.close()
        try:
            # 'file:' keeps a colon in a file name from being taken as a protocol. The limits must be given here, since
            # opening already looks into the file: it follows play lists and decodes first frames.
            self._container = av.open(
                'file:' + self.path,
                options={
                    'format_whitelist': ','.join(sorted(av.formats_available - _REFUSED_FORMATS)),
                    'protocol_whitelist': 'file',
                    'max_pixels': str(MAX_PIXELS),
                },
                metadata_errors='replace',
            )
        except (av.error.FFmpegError, ValueError, MemoryError) as error:
            refused = isinstance(error, av.error.ArgumentError)
            reason = 'it is damaged, or text or a play list' if refused else _reason(error)
            raise VideoError(
                f'{self.path}: is not a video that FFmpeg can read ({reason}). '
                f'Check that the file is a complete video.') from None
        # The cover picture of a song is stored as a video stream.
        cover = av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if not s.disposition & cover]
        if not streams:
            kinds = ', '.join(sorted({s.type for s in self._container.streams})) or 'no streams'
            raise VideoError(f'{self.path}: has no video stream (it holds: {kinds}). Give a file with pictures.')
        self._stream = streams[0]
        codec = self._stream.codec_context
        if codec is None:
            raise VideoError(f'{self.path}: its video codec is unknown to FFmpeg. Convert the video to H.264 first.')
        _check_pixels(self.path, codec.width or 0, codec.height or 0)
        codec.thread_type, codec.thread_count = 'NONE', 1  # more cost CPU time and gain nothing on sparse frames
        self._frames = self._decode()
        self._held = None  # newest frame at or before the last target, with its time: (pts, frame)
        self._ahead = None  # frame decoded past the last target
        self._fed_key = None  # newest key frame given to the decoder

    def _index(self) -> None:
        """Lists the times of all frames (`_pts`) and of the key frames (`_keys`, with `_key_dts`), both ascending."""
        pts: set[int] = set()
        keys: dict[int, int] = {}
        shown, claimed, limit = 0, 0, _claim_limit(self.path)
        latest, reordered = -math.inf, False
        for packet in self._demux():
            claimed += 1 + packet.size
            if claimed > limit:
                raise _false_claim(self.path)
            if packet.pts is None:
                pts.clear()
                break
            reordered |= packet.pts < latest
            latest = max(latest, packet.pts)
            if packet.is_keyframe:
                keys.setdefault(packet.pts, packet.pts if packet.dts is None else packet.dts)
            # What lies before the first key frame cannot be decoded; what an edit list cuts away is decoded, not shown.
            if keys and not packet.is_discard:
                shown += 1
                pts.add(packet.pts)
        if 2 * len(pts) < shown:
            pts.clear()  # most frames share their time with another one: it does not tell them apart
        self._keys, self._key_dts = sorted(keys), keys
        # Leading frames of the first key frame refer to frames that are not there.
        self._pts = sorted(t for t in pts if t >= self._keys[0])
        if self._pts:
            base = self._stream.time_base
            self.timestamps = [t * base.numerator / base.denominator for t in self._pts]
        else:
            # Raw streams and some AVI carry no times, some writers leave all at 0: count the frames by decoding them
            # and name them by number.
            self._can_seek = False
            self._number_frames = True
            self._open()
            count = sum(1 for _ in self._frames)
            if not count:
                raise _nothing_decoded(self.path)
            self._keys, self._pts = [0], list(range(count))
            rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
            self.timestamps = [i / rate for i in range(count)]
        container = self._container.format.name
        # Only times out of order tell that packets carry the times of their own frames; where they are those of
        # decoding, or a packet is a field, a frame could be taken for another one.
        self._leaves_out = (
            reordered and not self._number_frames
            and self._stream.codec_context.name == 'h264' and container.startswith(('mov', 'matroska')))
        if self._can_seek and self._intact and container.startswith('mov'):
            # At the end of the file: any frame is sought, which costs less than opening. In damaged Matroska files
            # seeks go elsewhere once all has been read.
            self._fed_key = -math.inf
        else:
            self._open()

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
            if self._ahead is None or self._ahead[0] > target:
                break
            self._held, self._ahead = self._ahead, None
        if self._wanted is not None and (self._held is None or self._held[0] != target):
            self._wanted = None  # damaged, or left out before it was wanted: from now on all frames are decoded
            self._leaves_out = False
            self._restart(key)
            return self._frame_at(index)
        if self._held is not None:
            return self._held[1]
        if self._can_seek:  # nothing came out after the seek: read this file from its start from now on
            self._can_seek = False
            self._open()
            return self._frame_at(index)
        if self._ahead is not None:  # all frames up to here are damaged
            return self._ahead[1]
        raise _nothing_decoded(self.path)

    def read(self, indices: list[int]) -> Tensor:
        """Frames with the given ascending indices, uint8 `[N, H, W, C]`."""
        from av.video.reformatter import VideoReformatter
        reformatter = VideoReformatter()  # kept for all frames: setting one up costs more than a small frame
        self._wanted = {self._pts[index] for index in indices} if self._leaves_out else None
        out = None
        for row, index in enumerate(indices):
            frame = self._frame_at(index)
            if out is None:
                width, height, turns = frame.width, frame.height, round(frame.rotation / 90) % 4
                shape = (width, height) if turns % 2 else (height, width)
                out = torch.empty((len(indices), *shape, 3), dtype=torch.uint8)
            # A stream may change its frame size on the way; all frames get the size of the first.
            plane = reformatter.reformat(frame, width, height, 'rgb24', threads=1).planes[0]
            pixels = torch.frombuffer(plane, dtype=torch.uint8).view(height, plane.line_size)  # lines may be padded
            pixels = pixels[:, :3 * width].unflatten(1, (width, 3))
            out[row] = pixels.rot90(turns) if turns else pixels
        return out


def _no_torchcodec() -> ImportError:
    return ImportError(
        "backend='torchcodec' needs the torchcodec package that matches this torch, and the shared FFmpeg "
        "libraries. Install them or use backend='pyav'.")


class _TorchcodecSource:
    """Frames by index with torchcodec in its exact mode, one thread."""

    def __init__(self, path: str):
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError) as error:  # a missing FFmpeg library is a RuntimeError
            raise _no_torchcodec() from error
        self.path = path
        # The times, and the checks of the file, are those of PyAV.
        listing = _PyAVSource(path)
        listing.close()
        self.timestamps = listing.timestamps
        self._decoder = self._call(VideoDecoder, path, dimension_order='NHWC', num_ffmpeg_threads=1, seek_mode='exact')
        if len(self._decoder) != len(self.timestamps):
            raise VideoError(
                f'{path}: torchcodec finds {len(self._decoder)} frames and PyAV {len(self.timestamps)}. '
                f"Use backend='pyav' for this file.")

    def close(self) -> None:
        self._decoder = None

    def read(self, indices: list[int]) -> Tensor:
        return self._call(self._decoder.get_frames_at, indices).data

    def _call(self, function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (RuntimeError, ValueError, IndexError) as error:
            if 'Could not load libtorchcodec' in str(error):  # which newer releases load at first use
                raise _no_torchcodec() from error
            raise VideoError(
                f"{self.path}: torchcodec cannot decode it ({_reason(error)}). "
                f"Try backend='pyav', which skips damaged packets.") from None


class _PillowSource:
    """Frames by index of a WebP file, whose animations FFmpeg does not decode."""

    def __init__(self, path: str):
        from PIL import Image
        self.path = path
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # the size is checked below
            self._image = self._call(Image.open, path, formats=['WEBP'])
        try:
            _check_pixels(path, *self._image.size)
            self.timestamps = []
            time = 0.0
            for index in range(getattr(self._image, 'n_frames', 1)):
                self._call(self._image.seek, index)
                self._call(self._image.load)
                self.timestamps.append(time)
                time += self._image.info.get('duration', 0) / 1000  # [ms]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._image.close()

    def read(self, indices: list[int]) -> Tensor:
        import numpy as np
        width, height = self._image.size
        out = torch.empty((len(indices), height, width, 3), dtype=torch.uint8)
        for row, index in enumerate(indices):
            self._call(self._image.seek, index)
            out[row] = torch.from_numpy(np.array(self._call(self._image.convert, 'RGB')))
        return out

    def _call(self, function, *args, **kwargs):
        from PIL import Image
        try:
            return function(*args, **kwargs)
        except (OSError, ValueError, EOFError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
            raise VideoError(
                f'{self.path}: Pillow cannot decode this WebP file ({_reason(error)}). Get the file again.') from None


def _reason(error: Exception) -> str:
    """First line of an error's text, without the path that FFmpeg repeats."""
    text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:200]
