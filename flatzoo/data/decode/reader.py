"""One reader for all videos and pictures: it opens a file with the source that fits, and reads frames by index."""
import os
import stat
import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from .errors import VideoError
from .pyav_source import PyAVSource
from .source import FrameSource
from .torchcodec_source import TorchcodecSource

__all__ = ['BACKENDS', 'Backend', 'VideoReader', 'picture_source', 'read_head']

Backend = Literal['auto', 'pyav', 'torchcodec']
BACKENDS: tuple[Backend, ...] = get_args(Backend)

# First brands of pictures in a container of MP4 (HEIF), whose tiles look like streams of video.
_PICTURE_BRANDS = (b'heic', b'heix', b'heim', b'heis', b'mif1')


class VideoReader:
    """Reads frames of one video file by index.

    Videos (all containers and codecs of FFmpeg), animations (GIF, WebP) and still images (a video of one frame) are
    read alike. Rotation and mirroring metadata is applied. Damaged packets are skipped and each frame that they should
    have given is filled with the nearest earlier frame; of a truncated file the frames that are present are used. Where
    a decoder conceals damage within a frame, its pixels can depend on which frames are asked together.

    `backend='auto'` is PyAV, even if torchcodec is installed. With packet lists and key-frame seeks, PyAV is as fast as
    torchcodec on one thread. PyAV also reads damaged files, raw streams and streams without whole key frames, which
    torchcodec refuses or reads wrong. `backend='torchcodec'` uses its exact mode. Frames of 8-bit video are the same
    bit for bit; those of deeper video differ at sharp edges of colour. Pictures and WebP are always read with Pillow,
    see `flatzoo.data.pictures`.

    If a file has several video streams, the reader takes the one that FFmpeg ranks best (by default flag, number of
    frames and bit rate). A warning names the first such file. `stream` is the index of the stream.

    A reader keeps its file open: use it in a `with` statement. It is not thread-safe.

    Args:
        path: The video file.
        backend: `'auto'`, `'pyav'` or `'torchcodec'`.

    Raises:
        VideoError: The file is missing, empty, no video, or cannot be decoded. Raised here, or by the first property or
            method that has to decode a frame.
        ImportError: The backend is not installed.
        ValueError: An unknown backend.

    Example:
        >>> with VideoReader('clip.mp4') as video:
        ...     frames = video.get_frames(uniform_indices(len(video), 8)[0])  # (8, 3, H, W)
    """

    def __init__(self, path: str | os.PathLike, backend: Backend = 'auto'):
        if backend not in BACKENDS:
            raise ValueError(f'unknown backend {backend!r}; use one of {", ".join(BACKENDS)}')
        self.path = os.fsdecode(path)
        self._source: FrameSource | None = None
        self._size: tuple[int, int] | None = None
        head = read_head(self.path)
        picture = picture_source(self.path, head)
        if picture is not None:
            self._source = picture
        elif backend == 'torchcodec':
            self._source = TorchcodecSource(self.path)
        else:
            self._source = PyAVSource(self.path)
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
            IndexError: An index outside of the video.
            VideoError: No frame could be decoded.
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

    def _open_source(self) -> FrameSource:
        if self._source is None:
            raise ValueError(f'the reader of {self.path} is closed; open a new VideoReader')
        return self._source

    def _frame_size(self) -> tuple[int, int]:
        if self._size is None:
            self._size = tuple(self._open_source().read([0]).shape[1:3])
        return self._size


def read_head(path: str) -> bytes:
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


def picture_source(path: str, head: bytes) -> FrameSource | None:
    """The source of a picture, None for a video."""
    from ..pictures import PictureSource, is_picture
    if head[4:8] == b'ftyp' and head[8:12] in _PICTURE_BRANDS:
        raise VideoError(f'{path}: is a HEIF picture, not a video. Convert it to JPEG or PNG first.')
    if not is_picture(head):
        return None
    if head.startswith(b'\xff\xd8'):  # a picture, or a stream of them
        try:
            stream = PyAVSource(path)
        except VideoError:
            return PictureSource(path)
        stream.close()
        if len(stream.timestamps) > 1:
            return None
    return PictureSource(path)


_warned_of_streams = False


def _warn_of_streams(path: str, source: FrameSource) -> None:
    """Names the first file with several video streams; a data set may hold thousands of them."""
    global _warned_of_streams
    if getattr(source, 'num_streams', 1) > 1 and not _warned_of_streams:
        _warned_of_streams = True
        warnings.warn(
            f'{path}: has {source.num_streams} video streams; stream {source.stream_index} is read, which FFmpeg '
            'ranks best. There is no warning for further such files; VideoReader.stream is the index of their stream.',
            stacklevel=3)
