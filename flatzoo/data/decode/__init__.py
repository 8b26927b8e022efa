"""From a video file to frames."""
from .pyav_source import BACKENDS, MAX_PIXELS, VideoError, VideoReader, _check_pixels

__all__ = ['BACKENDS', 'MAX_PIXELS', 'VideoError', 'VideoReader', '_check_pixels']
