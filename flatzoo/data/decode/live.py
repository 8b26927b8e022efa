"""Live sources: cameras, addresses, standard input, and files that still grow.

Nothing but what the user names is opened: an address of the network only if the source is that address, and what it
leads to (the parts of a play list) only over the network, never a file.
"""
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .clock import Clock
from .container import FORMATS, choose_stream
from .errors import MAX_PIXELS, VideoError, first_line
from .stream import StreamFrame, decode_stream

if TYPE_CHECKING:
    import av

__all__ = ['SourceKind', 'kind_of', 'name_of', 'read_live']

SourceKind = str  # 'camera', 'address', 'pipe' or 'file'

_SCHEMES = ('http', 'https', 'rtsp', 'rtsps', 'rtp', 'udp', 'tcp', 'srt', 'rtmp')
_PROTOCOLS = (*_SCHEMES, 'tls', 'crypto', 'httpproxy')
# A live source is looked at for half a second, or 1 MB, before its frames are decoded; FFmpeg's own 5 would be delay.
_QUICK = {'analyzeduration': '500000', 'probesize': '1000000'}
_CAMERAS = {'linux': ('v4l2', '/dev/video{}'), 'darwin': ('avfoundation', '{}'), 'win32': ('dshow', 'video={}')}


def kind_of(source: str) -> SourceKind:
    """What a source is: `'camera'` (`camera:0`, `/dev/video0`), `'address'`, `'pipe'` (`-`) or `'file'`.

    Raises:
        VideoError: An address of an unknown kind.
    """
    if source == '-':
        return 'pipe'
    if source.startswith('camera:') or re.fullmatch(r'/dev/video\d+', source):
        return 'camera'
    scheme = re.match(r'([a-z][a-z0-9+.-]+)://', source, re.IGNORECASE)
    if scheme is None:
        return 'file'
    if scheme[1].lower() not in _SCHEMES:
        raise VideoError(f'{source}: addresses are {", ".join(f"{name}://" for name in _SCHEMES)}. A file is its path.')
    return 'address'


def name_of(source: str) -> str:
    """A source as messages name it: an address without the user and the password in it."""
    return re.sub(r'(?<=://)[^/@]*(?:@[^/@]*)*@', '', source, count=1) if kind_of(source) == 'address' else source


def read_live(
        source: str,
        stall: float = 10.0,
        note: Callable[[str], None] = lambda line: None,
        start: float = 0.0,
) -> Iterator[StreamFrame]:
    """Reads the frames of a live source until it ends.

    Args:
        source: `camera:NUMBER`, an address, `-` for standard input, or a file, which may grow.
        stall: Seconds without data after which the source counts as lost; a file, as complete.
        note: See `flatzoo.data.decode.stream.read_stream`.
        start: Time of the first frame.

    Yields:
        The frames; times are those of the source, from `start` on.

    Raises:
        VideoError: It cannot be opened, is no video, or stalls.
    """
    import av

    data = None
    kind, name = kind_of(source), name_of(source)
    try:
        if kind in ('pipe', 'file'):
            try:
                data = _Pipe(stall) if kind == 'pipe' else _GrowingFile(source, stall)
            except OSError as error:
                raise VideoError(f'{source}: cannot be opened ({error.strerror}). Check the path.') from None
            container = _open(data, source, stall, {'format_whitelist': ','.join(FORMATS), 'protocol_whitelist': ''})
        elif kind == 'camera':
            container = _open_camera(source, stall)
        else:
            options = {
                'format_whitelist': ','.join((*FORMATS, 'rtsp', 'sdp', 'rtp', 'hls', 'mpegts', 'flv')),
                'protocol_whitelist': ','.join(_PROTOCOLS), 'rw_timeout': str(int(stall * 1e6))}
            container = _open(source, name, stall, options)
        try:
            stream, _ = choose_stream(container, name)
            rate = stream.average_rate or stream.guessed_rate
            clock = Clock(1 / float(rate) if rate else None, lambda line: note(f'{name}: {line}'), start)
            try:
                yield from decode_stream(container, stream, name, clock, note)
            except VideoError as error:
                if kind == 'pipe' and clock.last is None and 'mp4' in container.format.name:
                    raise VideoError(
                        f'{name}: no frame of this MP4 can be decoded; where its index lies behind the frames, a pipe '
                        'cannot go back to them. Name the file, or pipe MPEG-TS or Matroska.') from error
                raise
        except (TimeoutError, av.error.ExitError):
            raise _stalled(name, stall) from None
        finally:
            container.close()
    finally:
        if data is not None:
            data.close()


def _stalled(name: str, stall: float) -> VideoError:
    return VideoError(f'{name}: gave nothing for {stall:g} s. Check that it runs.')


def _open(what: Any, name: str, stall: float, options: dict[str, str]) -> 'av.container.InputContainer':
    import av

    options = {**options, **_QUICK, 'max_pixels': str(MAX_PIXELS)}
    try:
        return av.open(
            what, options={key: value for key, value in options.items() if value}, metadata_errors='replace',
            timeout=(stall, stall))
    except (TimeoutError, av.error.ExitError):
        raise _stalled(name, stall) from None
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise VideoError(
            f'{name}: cannot be opened as a video ({first_line(error)}). Check the source, and that it runs.') from None


def _open_camera(source: str, stall: float) -> 'av.container.InputContainer':
    import av

    number = source.removeprefix('camera:')
    form, place = _CAMERAS.get(sys.platform, (None, ''))
    if form is None:
        raise VideoError(f'{source}: cameras are read on Linux, macOS and Windows.')
    device = number if number.startswith('/dev/') else place.format(number)
    try:
        return av.open(device, format=form, timeout=(stall, stall), metadata_errors='replace')
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f'{source}: the camera {device} cannot be opened ({first_line(error)}). Check that it is plugged in and '
            'that no other program holds it.') from None


class _Pipe:
    """Standard input as a file that FFmpeg reads, with a limit on the wait."""

    def __init__(self, stall: float):
        self.stall = stall
        self.handle = os.dup(sys.stdin.fileno())

    def read(self, size: int) -> bytes:
        if sys.platform != 'win32' and not select.select([self.handle], [], [], self.stall)[0]:
            raise TimeoutError('standard input')
        return os.read(self.handle, size)

    def close(self) -> None:
        os.close(self.handle)


class _GrowingFile:
    """A file at whose end more may come; it is complete when it has not grown for a while."""

    def __init__(self, path: str, stall: float):
        self.stall, self.complete = stall, False
        self.file = open(path, 'rb')  # noqa: SIM115 - closed by `close`

    def read(self, size: int) -> bytes:
        end = time.monotonic() + self.stall
        while not (data := self.file.read(size)) and not self.complete:  # FFmpeg asks several times at the end
            time.sleep(0.05)
            self.complete = time.monotonic() >= end
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        self.file.close()
