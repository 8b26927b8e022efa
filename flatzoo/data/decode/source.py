"""The interface between `VideoReader` and the libraries that decode."""
from typing import Protocol

from torch import Tensor

__all__ = ['FrameSource']


class FrameSource(Protocol):
    """An open file whose frames are read by index.

    `PyAVSource`, `TorchcodecSource` and `flatzoo.data.pictures.PictureSource` have this interface. A new decoder needs
    nothing else. Its constructor takes the path, and raises `VideoError` if the file cannot be read.

    Sources of videos also have `stream_index`, the index of the stream that is read, and `num_streams`, the number of
    video streams in the file. Pictures have neither.

    Attributes:
        path: The file.
        timestamps: Presentation time of every frame in seconds, ascending. Its length is the number of frames.
    """

    path: str
    timestamps: list[float]

    def read(self, indices: list[int]) -> Tensor:
        """Decodes frames.

        Args:
            indices: N different frame indices, ascending.

        Returns:
            Upright RGB frames, uint8 `[N, H, W, 3]`.

        Raises:
            VideoError: No frame can be decoded.
        """
        ...

    def close(self) -> None:
        """Closes the file. It may be called more than once."""
        ...
