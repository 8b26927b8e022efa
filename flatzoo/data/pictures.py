"""Still pictures to frames: which files are opened at all, which way up they are, and what becomes of deep pixels.

Pillow knows some fifty formats. One of them, PostScript, starts another program. Pictures are therefore opened as one
of `PICTURE_FORMATS` or not at all, whatever their names say.

Pixels become RGB of 8 bits by the range of their *type*, never by the values of one picture, so that the frames of a
clip keep their brightness. 16 bits are divided by 257 (65535 becomes 255), 12 bits of TIFF likewise (4095 becomes 255),
and floats are taken as 0 to 1. Integers of 32 bits are taken as 16 bits where their values are such. Other integers of
32 bits, integers with a sign and other floats have no range that everybody agrees on, and are refused. An alpha channel
is left out: the colours are those that are stored, as in torchvision. The orientation tag of photographs (EXIF) is
applied.
"""
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from .decode.errors import VideoError, check_pixels

if TYPE_CHECKING:
    from PIL import Image

__all__ = ['PICTURE_FORMATS', 'PictureSource', 'depth_pixels', 'is_picture', 'open_picture', 'to_depth', 'to_rgb']

PICTURE_FORMATS = ('BMP', 'JPEG', 'PNG', 'TIFF', 'WEBP')
_HEADS = (b'BM', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_PHOTOMETRIC, _BITS = 262, 258  # tags of TIFF


def is_picture(head: bytes) -> bool:
    """Whether a file that starts with these (at least 12) bytes is of one of `PICTURE_FORMATS`."""
    return head.startswith(_HEADS) or (head[:4] == b'RIFF' and head[8:12] == b'WEBP')


def open_picture(source: str | BinaryIO, name: str) -> 'Image.Image':
    """Opens a picture without decoding it.

    Args:
        source: Path, or a file with the bytes.
        name: Its name in messages.

    Raises:
        VideoError: It is of no format of `PICTURE_FORMATS`, damaged, or larger than `MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    with telling(name):
        try:
            image = Image.open(source, formats=PICTURE_FORMATS)
        except UnidentifiedImageError:
            raise VideoError(
                f'{name}: is no picture that is accepted ({", ".join(PICTURE_FORMATS)}), whatever its name says. '
                'Convert it, or get it again.') from None
        try:
            check_pixels(name, *image.size)
        except VideoError:
            image.close()
            raise
    return image


@contextlib.contextmanager
def telling(name: str) -> Iterator[None]:
    """Turns every exception that Pillow raises for a damaged file into a `VideoError`."""
    try:
        yield
    except VideoError:
        raise
    except Exception as error:  # noqa: BLE001
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VideoError(
            f'{name}: cannot be read as a BMP, JPEG, PNG, TIFF or WebP picture ({reason}). Get it again.') from None


def to_rgb(image: 'Image.Image', name: str) -> Tensor:
    """The present frame of a picture, upright, uint8 `[H, W, 3]`; see the module for deep pixels.

    Raises:
        VideoError: It is damaged, or its pixels have no agreed range.
    """
    from PIL import Image, ImageOps

    with telling(name):
        if image.mode.startswith('I') or image.mode == 'F':
            grey = Image.fromarray(_deep_grey(image, name))
            grey.info.update(image.info)
            grey.getexif().update(image.getexif())
            image = grey
        elif image.mode in ('P', 'PA'):
            image = image.convert('RGBA')  # Pillow warns of palettes with transparency that go to RGB at once
        image = ImageOps.exif_transpose(image)
        return torch.from_numpy(np.array(image.convert('RGB')))


def _deep_grey(image: 'Image.Image', name: str) -> np.ndarray:
    """Grey values `[H, W]` of 8 bits, from integers of more bits or floats."""
    values = np.asarray(image)  # decodes, after which a TIFF stands upright
    tags = getattr(image, 'tag_v2', {})
    if image.mode == 'F':
        if not ((values >= 0) & (values <= 1)).all():  # also where some are not numbers
            raise VideoError(
                f'{name}: its pixels are floats from {values.min():.6g} to {values.max():.6g}; those of a '
                'frame are taken as 0 to 1. Scale all frames alike and save them with 8 or 16 bits.')
        scaled = values * 255
    else:
        bits = tags.get(_BITS, (16,))[0]
        # Older Pillow opens 16-bit PNG as I. Some programs save 16 bits as 32; what fits into 8 may be 8 bits as well.
        if image.mode == 'I' and image.format != 'PNG':
            if bits != 32 or values.min() < 0 or not (256 <= values.max() <= 65535 or values.max() == 0):
                raise VideoError(
                    f'{name}: its pixels are integers with a sign, or of 32 bits, from {values.min()} to '
                    f'{values.max()}, of which nobody knows what is white. Scale all frames alike and save them with '
                    '8 or 16 bits, without a sign.')
            bits = 16
        scaled = values.astype(np.float32) * (255 / (2 ** bits - 1))
    grey = np.rint(scaled).astype(np.uint8)
    return 255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey  # 0 is white


def to_depth(image: 'Image.Image', depth: float, name: str) -> Tensor:
    """A depth map, upright, uint8 `[H, W, 1]`.

    Args:
        image: Deep pixels are readings, in the unit of `depth`; pixels of 8 bits are taken as they are.
        depth: The reading that becomes 255, as does what lies beyond. 0 stays "not measured", and nothing else is 0.
        name: Its name in messages.

    Raises:
        VideoError: It is damaged, or has colours.
    """
    from PIL import ImageOps

    with telling(name):
        image = ImageOps.exif_transpose(image)
        if image.mode in ('1', 'P'):
            image = image.convert('L')
        values = np.array(image)
    if values.ndim != 2:
        raise VideoError(f'{name}: is no depth map, it has {values.shape[-1]} channels.')
    return torch.from_numpy(depth_pixels(values, depth))[..., None]


def depth_pixels(values: np.ndarray, depth: float) -> np.ndarray:
    """Depth readings of any shape as pixels of 8 bits.

    Args:
        values: Readings in the unit of `depth`. Those of 8 bits are taken as they are.
        depth: The reading that becomes 255, as does what lies beyond. 0 (and what is no number, or less) stays 0, "not
            measured", and nothing else is 0.
    """
    if values.dtype == np.uint8:
        return values
    readings = np.nan_to_num(values.astype(np.float32), posinf=depth)
    return np.ceil(readings * (255 / depth)).clip(0, 255).astype(np.uint8)  # up: what was measured is not 0


class PictureSource:
    """Frames by index of a picture, of an animation (WebP, PNG) or of a TIFF with several pages."""

    def __init__(self, path: str):
        self.path = path
        self._image = open_picture(path, path)
        try:
            self.timestamps = []
            time = 0.0
            # The further pictures of a photograph (MPO) are previews, or the same scene for the other eye.
            count = 1 if self._image.format in ('JPEG', 'MPO') else getattr(self._image, 'n_frames', 1)
            for index in range(count):
                self._load(index)
                self.timestamps.append(time)
                time += (self._image.info.get('duration') or 100) / 1000  # [ms]; 100 is what browsers take for 0
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._image.close()

    def _load(self, index: int) -> None:
        with telling(self.path):
            self._image.seek(index)
            self._image.load()
        check_pixels(self.path, *self._image.size)

    def read(self, indices: list[int]) -> Tensor:
        """Frames with the given indices, uint8 `[N, H, W, C]`."""
        frames = []
        for index in indices:
            self._load(index)
            frames.append(to_rgb(self._image, self.path))
            if frames[-1].shape != frames[0].shape:
                raise VideoError(f'{self.path}: its pages differ in size. Save those of one size.')
        return torch.stack(frames)
