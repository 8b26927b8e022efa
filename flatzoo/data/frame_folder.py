"""Frames that are images in a folder or a ZIP file, read as those of a `VideoReader` are: RGB, or depth maps."""
import os
import zipfile
from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from torch import Tensor

from .decode import VideoError, _check_pixels
from .files import is_image, natural_key

__all__ = ['FrameFolder']


class FrameFolder:
    """Reads frames of a folder with one image per frame, in the order of the numbers in their names.

    Args:
        path: The folder, or an uncompressed ZIP file of its images.
        depth: None for RGB. Else the images are depth maps of 16 bits, and this reading becomes 255; what lies beyond
            it becomes 255, too, and 0 stays "not measured". Images of 8 bits are taken as they are.
        name: What messages call it; the path if None.

    Raises:
        VideoError: There is no such folder or no image in it. Raised by `get_frames`: an image cannot be read.
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
        self._names = sorted(filter(is_image, names), key=natural_key)
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
        from PIL import Image

        try:
            source = BytesIO(self._zip.read(name)) if self._zip else os.path.join(self.path, name)
            with Image.open(source) as image:
                _check_pixels(f'{self.name}/{name}', *image.size)
                if self.depth is None:
                    return torch.from_numpy(np.array(image.convert('RGB')))
                values = np.array(image)
        except VideoError:
            raise
        # Pillow raises whatever a damaged file makes its parsers raise.
        except Exception as error:  # noqa: BLE001
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise VideoError(f'{self.name}: {name} cannot be read ({reason}). Get the image again.') from None
        if values.ndim != 2:
            raise VideoError(f'{self.name}: {name} is no depth map, it has {values.shape[-1]} channels.')
        if values.dtype != np.uint8:
            scaled = np.ceil(values.astype(np.float32) * (255 / self.depth))  # up: what was measured is not 0
            values = scaled.clip(0, 255).astype(np.uint8)
        return torch.from_numpy(values)[..., None]
