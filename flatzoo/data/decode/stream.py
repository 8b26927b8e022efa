"""All frames of a video in the order in which they are shown, each decoded once, in constant memory.

`VideoReader` knows the frames of a file by their index, for which it lists them all first. What is read here may be
hours long, or have no end: a file is read packet by packet, and a frame is turned into pixels only if somebody asks.
"""
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .clock import Clock
from .container import open_file, orientation, upright_pixels
from .errors import nothing_decoded
from .mp4_claims import check_mp4_claims, claim_limit, false_claim
from .reader import picture_source, read_head
from .source import FrameSource

if TYPE_CHECKING:
    import av

__all__ = ['StreamFrame', 'decode_stream', 'read_stream']

THREADS = 4  # of a decoder, at most
MISSING = 1.0  # seconds that a file may be shorter than its header says, for its sound may be longer


class StreamFrame:
    """A frame and its time.

    Args:
        time: When it is shown, in seconds from the start.
        load: Gives its pixels, uint8 `[C, H, W]` over `[H, W, C]` memory.
        num_bytes: What it takes in memory until it is loaded, about.
    """

    __slots__ = ('time', 'load', 'num_bytes')

    def __init__(self, time: float, load: Callable[[], Tensor], num_bytes: int):
        self.time, self.load, self.num_bytes = time, load, num_bytes


def read_stream(path: str | os.PathLike, note: Callable[[str], None] = lambda line: None) -> Iterator[StreamFrame]:
    """Reads a video file from its start to its end.

    Damaged packets are skipped. The file stays open until the iterator ends or is closed.

    Args:
        path: The file, of any kind that `VideoReader` takes.
        note: Called with a line that names the file for whatever is wrong with it and was passed over: damage, a
            missing end and how long it is, restarts and gaps of the timestamps, another size of the frames.

    Yields:
        The frames, the first one at 0 seconds.

    Raises:
        VideoError: It is no video, or none of its frames can be decoded.
    """
    path = os.fsdecode(path)
    picture = picture_source(path, read_head(path))
    if picture is not None:
        yield from _read_pictures(picture)
        return
    check_mp4_claims(path)
    container, stream, _ = open_file(path)
    try:
        stream.codec_context.thread_type = 'AUTO'
        stream.codec_context.thread_count = min(THREADS, os.cpu_count() or 1)
        clock = Clock(_interval(stream), lambda line: note(f'{path}: {line}'))
        yield from decode_stream(container, stream, path, clock, note, claim_limit(path))
        stated = _seconds(stream, container)
        end = clock.last + clock.interval
        if stated is not None and stated - end > max(MISSING, clock.interval):
            note(f'{path}: ends after {end:.1f} of the {stated:.1f} s that its header states; {stated - end:.1f} s are '
                 'missing. Get the video again, or go on without them.')
    finally:
        container.close()


def decode_stream(
        container: 'av.container.InputContainer',
        stream: 'av.VideoStream',
        name: str,
        clock: Clock,
        note: Callable[[str], None] = lambda line: None,
        limit: int | None = None,
) -> Iterator[StreamFrame]:
    """Decodes an open container from its present position to its end.

    Args:
        container: The container.
        stream: Its stream of video.
        name: What to call it.
        clock: Gives the times.
        note: See `read_stream`.
        limit: Bytes of packets that a file can hold; None for what is no file.

    Raises:
        VideoError: No frame can be decoded, or the header claims more than the file can hold.
    """
    import av
    from av.video.reformatter import VideoReformatter

    reformatter, size, damaged, claimed, broken = VideoReformatter(), None, 0, 0, None
    first_key = None
    packets = _packets(container, stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, IndexError, OSError) as error:  # IndexError: PyAV, where streams are added
            if isinstance(error, (TimeoutError, av.error.ExitError)):
                raise
            broken, packet = error, None
        if packet is not None:
            claimed += 1 + packet.size
            if limit is not None and claimed > limit:
                raise false_claim(name)
            if first_key is None and packet.is_keyframe:
                first_key = packet.pts
        try:
            frames = stream.decode(packet)  # None drains the decoder
        except av.error.FFmpegError:
            frames = []
            damaged += packet is not None
        for frame in frames:
            if first_key is not None and frame.pts is not None and clock.last is None and frame.pts < first_key:
                continue  # it refers to frames that are not there
            if size not in (None, (frame.width, frame.height)):
                note(f'{name}: frames have {frame.width}x{frame.height} pixels from {clock.last:.2f} s on, before '
                     f'{size[0]}x{size[1]}')
            size = frame.width, frame.height
            time = clock.time(None if frame.pts is None else float(frame.pts * stream.time_base))
            yield StreamFrame(time, _Pixels(frame, reformatter), 3 * frame.width * frame.height // 2)
        if packet is None:
            break
    if clock.last is None:
        raise nothing_decoded(name)
    if damaged or broken is not None:
        what = f'{damaged} packets are damaged and were skipped' if damaged else 'the file breaks off'
        note(f'{name}: {what}; what could be decoded is used')


class _Pixels:
    """The pixels of a decoded frame, made when they are asked for."""

    __slots__ = ('frame', 'reformatter')

    def __init__(self, frame: 'av.VideoFrame', reformatter: 'av.video.reformatter.VideoReformatter'):
        self.frame, self.reformatter = frame, reformatter

    def __call__(self) -> Tensor:
        frame = self.frame
        pixels = upright_pixels(frame, self.reformatter, (frame.width, frame.height), orientation(frame))
        return pixels.clone(memory_format=torch.contiguous_format).permute(2, 0, 1)


def _packets(container: 'av.container.InputContainer', stream: 'av.VideoStream') -> Iterator['av.Packet']:
    for packet in container.demux(stream):
        if packet.size:  # an empty packet is a repeated frame in AVI, and would end the decoder
            yield packet


def _read_pictures(source: FrameSource) -> Iterator[StreamFrame]:
    try:
        for index, time in enumerate(source.timestamps):
            pixels = source.read([index])[0].permute(2, 0, 1)
            yield StreamFrame(time - source.timestamps[0], lambda pixels=pixels: pixels, pixels.numel())
    finally:
        source.close()


def _interval(stream: 'av.VideoStream') -> float | None:
    rate = stream.average_rate or stream.guessed_rate
    return 1 / float(rate) if rate else None


def _seconds(stream: 'av.VideoStream', container: 'av.container.InputContainer') -> float | None:
    """How long the header says that the video is; None if it does not say so."""
    stated = [] if stream.duration is None else [float(stream.duration * stream.time_base)]
    if container.duration is not None:  # that of a stream counts what an edit list cuts away
        stated.append(container.duration / 1_000_000)
    return min(stated, default=None)
