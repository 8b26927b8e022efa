"""What an MP4 file says of itself, checked against its size before FFmpeg believes it."""
import os
import re
import struct

from .errors import VideoError

__all__ = ['check_mp4_claims', 'claim_limit', 'false_claim']


def claim_limit(path: str) -> int:
    """Bytes of frames that a file may claim to hold: some containers store packets packed, none as tightly as this."""
    return 65536 + 16 * os.path.getsize(path)


def false_claim(path: str) -> VideoError:
    return VideoError(f'{path}: the header claims more frames than the file can hold. Get the video again.')


def check_mp4_claims(path: str) -> None:
    """Refuses an MP4 file whose sample counts cannot be true, before FFmpeg makes room for as many samples.

    One that ends within its frames, before the index that lies behind them, is refused, too: nobody can read it.
    """
    limit, end = claim_limit(path), os.path.getsize(path)
    with open(path, 'rb') as file:
        start = boxes = 0
        first, has_index = b'', False
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
            first = first or kind
            if first == b'ftyp' and kind == b'mdat' and not has_index and start + size > end:
                raise VideoError(
                    f'{path}: is not a video that FFmpeg can read (it ends after {end / 1e6:.2f} of at least '
                    f'{(start + size) / 1e6:.2f} MB, before the index that follows its frames). Get the video again.')
            if kind in (b'moov', b'moof'):
                has_index = True
                file.seek(start)
                tables = file.read(min(size, end))
                for match in re.finditer(rb'stsz.{4}(.{4})(.{4})|trun.{4}(.{4})', tables, re.DOTALL):
                    sample_size, samples, run = (int.from_bytes(group or b'', 'big') for group in match.groups())
                    if sample_size * samples > limit or run > limit:
                        raise false_claim(path)
            start += size
