"""From a video file to frames: one reader, exact by frame index, over PyAV, torchcodec or (pictures only) Pillow.

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

# The formats of FFmpeg that are opened, whatever the name of a file says: containers and streams of video, and those of
# sound, so that a song is told as one. Not among them are play lists, scripts and whatever else names other files,
# waits for a network or draws text. No pictures, but for the few that Pillow does not read here.
_FORMATS = (
    'aac', 'ac3', 'aiff', 'amr', 'asf', 'asf_o', 'au', 'av1', 'avi', 'avs2', 'avs3', 'bink', 'caf', 'cavsvideo',
    'dhav', 'dirac', 'dnxhd', 'dv', 'dxa', 'eac3', 'evc', 'ffm', 'flac', 'flic', 'flv', 'gdv', 'gif', 'gxf', 'h261',
    'h263', 'h264', 'hevc', 'iv8', 'ivf', 'ivr', 'kux', 'live_flv', 'lmlm4', 'lvf', 'lxf', 'm4v', 'matroska,webm',
    'mgsts', 'mjpeg', 'mjpeg_2000', 'mlv', 'mov,mp4,m4a,3gp,3g2,mj2', 'mp3', 'mpeg', 'mpegts', 'mpegtsraw',
    'mpegvideo', 'mpjpeg', 'mtv', 'mv', 'mxf', 'mxg', 'nsv', 'nut', 'nuv', 'obu', 'ogg', 'pva', 'r3d', 'rl2', 'rm',
    'roq', 'rpl', 'smjpeg', 'smk', 'swf', 'ty', 'vc1', 'vc1test', 'viv', 'vivo', 'vvc', 'w64', 'wav', 'wtv', 'wv',
    'xmv', 'yuv4mpegpipe',
    'exr_pipe', 'j2k_pipe', 'jpegxl_pipe', 'pam_pipe', 'pbm_pipe', 'pgm_pipe', 'ppm_pipe', 'qoi_pipe',
)
# Those whose packets carry the time at which their frame is shown; in others FFmpeg makes it up from that of decoding.
_TIMED_FORMATS = ('mov', 'matroska', 'mpegts', 'mpeg', 'ogg', 'flv', 'live_flv', 'nut', 'ivf', 'mxf', 'gif')
# First brands of pictures in a container of MP4 (HEIF), whose tiles look like streams of video.
_PICTURE_BRANDS = (b'heic', b'heix', b'heim', b'heis', b'mif1')


class VideoError(ValueError):
    """A file that cannot be read as a video.

    The message names the file, says what is wrong with it and what to do.
    """


class VideoReader:
    """Reads frames of one video file by index.

    Videos (all containers and codecs of FFmpeg), animations (GIF, WebP) and still images (a video of one frame) are
    read alike. Rotation and mirroring metadata is applied. Damaged packets are skipped and each frame that they should
    have given is filled with the nearest earlier frame; of a truncated file the frames that are present are used. Where
    a decoder conceals damage within a frame, its pixels can depend on which frames are asked together.

    `backend='auto'` is PyAV, also where torchcodec is installed: its packet list and key-frame seeks leave torchcodec
    no lead on one thread, and PyAV also reads damaged files, raw streams and streams without whole key frames,
    which torchcodec refuses or reads wrong. `backend='torchcodec'` (exact mode) remains for those who want it; frames
    of 8-bit video are the same bit for bit, those of deeper video differ at sharp edges of colour. Pictures and WebP
    are always read with Pillow, see `flatzoo.data.pictures`.

    Of several video streams the one is read that FFmpeg holds for the best (by default flag, number of frames and bit
    rate); a warning names the first such file, and `stream` says which it is.

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
        picture = _picture_source(self.path, head)
        if picture is not None:
            self._source = picture
        elif backend == 'torchcodec':
            self._source = _TorchcodecSource(self.path)
        else:
            self._source = _PyAVSource(self.path)
        _warn_of_streams(self.path, self._source)

    def __enter__(self) -> 'VideoReader':
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    @property
    def stream(self) -> int | None:
        """Index of the video stream that is read, counted over all streams of the file; None for a picture."""
        return getattr(self._open_source(), 'stream_index', None)

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


def _picture_source(path: str, head: bytes) -> 'PictureSource | None':  # noqa: F821
    """The source of a picture, None for a video."""
    from ..pictures import PictureSource, is_picture
    if head[4:8] == b'ftyp' and head[8:12] in _PICTURE_BRANDS:
        raise VideoError(f'{path}: is a HEIF picture, not a video. Convert it to JPEG or PNG first.')
    if not is_picture(head):
        return None
    if head.startswith(b'\xff\xd8'):  # a picture, or a stream of them
        try:
            stream = _PyAVSource(path)
        except VideoError:
            return PictureSource(path)
        stream.close()
        if len(stream.timestamps) > 1:
            return None
    return PictureSource(path)


_warned_of_streams = False


def _warn_of_streams(path: str, source: '_PyAVSource | _TorchcodecSource') -> None:
    """Names the first file with several video streams; a data set may hold thousands of them."""
    global _warned_of_streams
    if getattr(source, 'num_streams', 1) > 1 and not _warned_of_streams:
        _warned_of_streams = True
        warnings.warn(
            f'{path}: has {source.num_streams} video streams; stream {source.stream_index} is read, which FFmpeg holds '
            'for the best. Of further such files nothing is said; VideoReader.stream tells.', stacklevel=3)


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


def _orientation(frame: 'av.VideoFrame') -> tuple[bool, list[int]]:  # noqa: F821
    """How a frame is put upright: whether it is transposed, and which dimensions of `[H, W, C]` are flipped then.

    The display matrix takes the pixel (x, y) to (a x + c y, b x + d y). Turns by other angles become the nearest one.
    """
    matrix = frame.side_data.get('DISPLAYMATRIX')
    if matrix is None:
        return False, []
    a, b, _, c, d = struct.unpack('=5i', bytes(matrix)[:20])
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    if transposed:
        a, d = c, b
    return transposed, [dim for dim, scale in enumerate((d, a)) if scale < 0]


class _UntrueTimes(Exception):
    """Frames come out of the decoder in another order than their times tell."""


class _PyAVSource:
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
                    'format_whitelist': ','.join(_FORMATS),
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
        # The cover picture of a song and the previews of a film are stored as video streams.
        preview = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
        streams = [s for s in self._container.streams.video if not s.disposition & preview]
        if not streams:
            kinds = ', '.join(sorted({s.type for s in self._container.streams})) or 'no streams'
            raise VideoError(f'{self.path}: has no video stream (it holds: {kinds}). Give a file with pictures.')
        best = self._container.streams.best('video')
        self._stream = best if best in streams else streams[0]
        self.stream_index, self.num_streams = self._stream.index, len(streams)
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
        latest, reordered, true_times = -math.inf, False, True
        for packet in self._demux():
            claimed += 1 + packet.size
            if claimed > limit:
                raise _false_claim(self.path)
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
        """Whether it is still open that times are those of decoding: a header may conceal that frames change places."""
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
            raise _nothing_decoded(self.path)
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
        raise _nothing_decoded(self.path)

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
                transposed, flipped = _orientation(frame)
                shape = (width, height) if transposed else (height, width)
                out = torch.empty((len(indices), *shape, 3), dtype=torch.uint8)
            # A stream may change its frame size on the way; all frames get the size of the first.
            plane = reformatter.reformat(frame, width, height, 'rgb24', threads=1).planes[0]
            pixels = torch.frombuffer(plane, dtype=torch.uint8).view(height, plane.line_size)  # lines may be padded
            pixels = pixels[:, :3 * width].unflatten(1, (width, 3))
            if transposed:
                pixels = pixels.transpose(0, 1)
            out[row] = pixels.flip(flipped) if flipped else pixels
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
        transposed, flipped = _orientation(listing._frame_at(0))
        listing.close()
        self.timestamps = listing.timestamps
        self.stream_index, self.num_streams = listing.stream_index, listing.num_streams
        if listing._number_frames or (transposed + len(flipped)) % 2:
            raise VideoError(
                f'{path}: its frames are mirrored, or its packets do not carry the times of their frames, which '
                f"torchcodec does not know to read. Use backend='pyav' for this file.")
        self._decoder = self._call(
            VideoDecoder, path, stream_index=listing.stream_index, dimension_order='NHWC', num_ffmpeg_threads=1,
            seek_mode='exact')
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


def _reason(error: Exception) -> str:
    """First line of an error's text, without the path that FFmpeg repeats."""
    text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0][:200]
