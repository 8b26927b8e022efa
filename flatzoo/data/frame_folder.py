"""Frames that are images in a folder or a ZIP file, read as those of a `VideoReader` are: RGB, or depth maps."""
import os
import zipfile
from collections.abc import Sequence
from io import BytesIO

import torch
from torch import Tensor

from .decode import MAX_PIXELS, VideoError
from .files import frame_order
from .lists import DataError
from .pictures import open_picture, telling, to_depth, to_rgb

__all__ = ['FrameFolder']

MAX_BYTES = 16 * MAX_PIXELS  # of a file in a ZIP file: no picture that is accepted needs as many


class FrameFolder:
    """Reads frames of a folder with one image per frame, in the order of the numbers in their names.

    Pictures are those of `flatzoo.data.pictures`: turned as their orientation tag says, deep ones scaled by the range
    of their type (65535 becomes 255). Of an animation the first frame is taken.

    Args:
        path: The folder, or an uncompressed ZIP file of its images.
        depth: None for RGB. Else the images are depth maps of 16 bits, and this reading becomes 255; what lies beyond
            it becomes 255, too, and 0 stays "not measured". Images of 8 bits are taken as they are.
        name: Its name in messages. None takes the path.

    Raises:
        VideoError: There is no such folder or no image in it, or several series of frames, such as optical flow beside
            the frames, whose numbers are the same. Raised by `get_frames`: an image cannot be read.
    """

    def __init__(self, path: str | os.PathLike, depth: int | None = None, name: str | None = None):
        self.path = os.fsdecode(path)
        self.name = name or self.path
        self.depth = depth
        self._zip = None
        try:
            if os.path.isdir(self.path):
                names = os.listdir(self.path)
            else:
                self._zip = zipfile.ZipFile(self.path)
                names = self._zip.namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise VideoError(f'{self.name}: is no folder of frames ({error}). Check the path.') from None
        try:
            self._names = frame_order(names)
        except DataError as error:
            self.close()
            raise VideoError(f'{self.name}: {error}') from None
        if not self._names:
            raise VideoError(f'{self.name}: holds no images. Give the folder with one image per frame.')

    def __enter__(self) -> 'FrameFolder':
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file. May be called more than once."""
        if self._zip is not None:
            self._zip.close()

    def __len__(self) -> int:
        return len(self._names)

    def get_frames(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Frames with the given indices, uint8 `[T, C, H, W]`, C = 3 (RGB) or 1 (depth).

        Raises:
            VideoError: An image that cannot be read, or that has another size than the first one.
        """
        frames: list[Tensor] = []
        for index in torch.as_tensor(indices).tolist():
            frame = self._read(self._names[index])  # [H, W, C]
            if frames and frame.shape != frames[0].shape:
                raise VideoError(
                    f'{self.name}: {self._names[index]} is {frame.shape[1]}x{frame.shape[0]}, other frames are '
                    f'{frames[0].shape[1]}x{frames[0].shape[0]}. Give the frames of a clip one size.')
            frames.append(frame)
        return torch.stack(frames).permute(0, 3, 1, 2)

    def _read(self, name: str) -> Tensor:
        where = f'{self.name}: {name}'
        with self._open(name) as image:
            return to_rgb(image, where) if self.depth is None else to_depth(image, self.depth, where)

    def _open(self, name: str):
        where = f'{self.name}: {name}'
        with telling(where):
            if self._zip is None:
                return open_picture(os.path.join(self.path, name), where)
            if self._zip.getinfo(name).file_size > MAX_BYTES:
                raise VideoError(f'{where} claims more than the {MAX_BYTES} bytes that are accepted. Get it again.')
            return open_picture(BytesIO(self._zip.read(name)), where)

    def check(self) -> None:
        """Opens each image, which decodes none.

        Raises:
            VideoError: One is of no accepted format.
        """
        for name in self._names:
            self._open(name).close()
