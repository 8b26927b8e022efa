"""From a video file to frames: one reader, exact by frame index, over PyAV, torchcodec or (pictures only) Pillow.

Every problem with a file is reported by one exception, `VideoError`. A file is never trusted: the sizes and counts in
its header are checked against `MAX_PIXELS` and against the bytes that are there.

`reader.py` holds the reader, `source.py` the interface that a decoder has, and one file each holds a decoder.
"""
from .errors import MAX_PIXELS, VideoError
from .reader import BACKENDS, Backend, VideoReader

__all__ = ['BACKENDS', 'Backend', 'MAX_PIXELS', 'VideoError', 'VideoReader']
