"""Frames by index with torchcodec."""
from torch import Tensor

from .container import orientation
from .errors import VideoError, first_line
from .pyav_source import PyAVSource

__all__ = ['TorchcodecSource']


def _no_torchcodec() -> ImportError:
    return ImportError(
        "backend='torchcodec' needs the torchcodec package that matches this torch, and the shared FFmpeg "
        "libraries. Install them or use backend='pyav'.")


class TorchcodecSource:
    """Frames by index with torchcodec in its exact mode, one thread."""

    def __init__(self, path: str):
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, OSError, RuntimeError) as error:  # a missing FFmpeg library is a RuntimeError
            raise _no_torchcodec() from error
        self.path = path
        # The times, and the checks of the file, are those of PyAV.
        listing = PyAVSource(path)
        transposed, flipped = orientation(listing._frame_at(0))
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
                f"{self.path}: torchcodec cannot decode it ({first_line(error)}). "
                f"Try backend='pyav', which skips damaged packets.") from None
