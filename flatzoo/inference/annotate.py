"""A copy of a video with its events written into the picture."""
import os
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from flatzoo.console.text import printable
from flatzoo.data.decode.stream import read_stream

from .events import Event

if TYPE_CHECKING:
    from PIL import Image

__all__ = ['annotate']

TICKS = 90_000  # of a second, in the written file


def annotate(source: str | os.PathLike, target: str | os.PathLike, events: Sequence[Event], crf: int = 23) -> None:
    """Writes a copy of a video as H.264, without sound, with the present events in a bar at the foot of the picture.

    The file appears when it is complete. Frames are decoded, drawn on and encoded one by one.

    Args:
        source: The video.
        target: The file to write, `.mp4`.
        events: Its events, in the order of their starts.
        crf: Constant rate factor of the encoder: 0 is lossless, 51 worst.

    Raises:
        VideoError: The video cannot be read.
        OSError: The file cannot be written.
    """
    import av
    from PIL import Image

    target = Path(target)
    partial = target.with_name(f'{target.name}.partial')
    last = -1
    try:
        with av.open(str(partial), 'w', format='mp4') as container:
            stream = container.add_stream('libx264', rate=30, options={'crf': str(crf)})
            stream.pix_fmt = 'yuv420p'
            stream.codec_context.time_base = Fraction(1, TICKS)
            size = None
            for time, image, present in _with_events(source, events):
                if size is None:
                    size = tuple(side + side % 2 for side in image.size)  # H.264 wants even sizes
                    stream.width, stream.height = size
                if image.size != size:
                    image = image.resize(size, Image.Resampling.BILINEAR)
                if present:
                    _draw(image, ',  '.join(f'{printable(event.label, 60)}  {event.score:.0%}' for event in present))
                frame = av.VideoFrame.from_image(image)
                last = max(last + 1, round(time * TICKS))
                frame.pts, frame.time_base = last, Fraction(1, TICKS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _with_events(
        source: str | os.PathLike, events: Sequence[Event]) -> Iterator[tuple[float, 'Image.Image', list[Event]]]:
    from PIL import Image

    waiting, present = deque(events), []
    for frame in read_stream(source):
        while waiting and waiting[0].start <= frame.time:
            present.append(waiting.popleft())
        present = [event for event in present if event.end > frame.time]
        yield frame.time, Image.fromarray(frame.load().permute(1, 2, 0).numpy()), present


def _draw(image: 'Image.Image', text: str) -> None:
    from PIL import ImageDraw, ImageFont

    width, height = image.size
    size = max(8, height // 18)
    font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(image, 'RGBA')
    while size > 8 and draw.textlength(text, font) > width * 0.96:
        size -= 1
        font = ImageFont.load_default(size)
    draw.rectangle((0, height - 2 * size, width, height), fill=(0, 0, 0, 150))
    draw.text((width * 0.02, height - 1.65 * size), text, font=font, fill=(255, 255, 255, 255))
