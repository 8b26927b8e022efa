"""Clips that are arrays in files of NumPy (.npy, .npz) or MATLAB (.mat): depth maps, or RGB frames.

Which axis is time cannot be seen from the numbers, so it follows from the format: NumPy's files have it first,
`[T, H, W]`, MATLAB's last, `[H, W, T]`. A file of several arrays is read if one of them alone can be the clip. No file
is unpickled. Files of .npy are mapped into memory, so that only the frames that are asked for are read.
"""
import math
import os
import zipfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .array_clip import ArrayClip
from .decode import VideoError
from .files import is_array
from .pictures import depth_pixels

__all__ = ['ArrayFile']

_BYTES = {'int8': 1, 'uint8': 1, 'int16': 2, 'uint16': 2, 'int32': 4, 'uint32': 4, 'single': 4}  # of MATLAB's classes
MAX_BYTES = 2 ** 32  # of an array that is not mapped: 4 GiB, 27,000 frames of 320x240 readings


class ArrayFile:
    """Reads frames of an array in a file, with the interface of `FrameFolder`.

    Args:
        path: The file.
        depth: None for RGB frames, uint8 `[T, H, W, 3]`. Else the array holds depth maps, and this reading becomes
            255; what lies beyond becomes 255, too, and 0 stays "not measured". Values of 8 bits are taken as they are.
        name: Its name in messages. None takes the path.

    Raises:
        VideoError: It cannot be read, holds no array that can be a clip, or several.
    """

    def __init__(self, path: str | os.PathLike, depth: int | None = None, name: str | None = None):
        self.path = os.fsdecode(path)
        self.name = name or self.path
        self.depth = depth
        if not is_array(self.path):
            raise VideoError(f'{self.name}: is no file of NumPy or MATLAB (.npy, .npz, .mat).')
        self._frames = self._one(self._load())
        if depth is None:
            self._frames = ArrayClip(np.asarray(self._frames))

    def __enter__(self) -> 'ArrayFile':
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the array. May be called more than once."""
        self._frames = ()

    def __len__(self) -> int:
        return len(self._frames)

    def get_frames(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Frames with the given indices, uint8 `[T, C, H, W]`, C = 3 (RGB) or 1 (depth)."""
        if self.depth is None:
            return self._frames.get_frames(indices)
        frames = np.stack([self._frames[index] for index in torch.as_tensor(indices).tolist()])  # [T, H, W]
        return torch.from_numpy(depth_pixels(frames, self.depth))[:, None]

    def _load(self) -> dict[str, np.ndarray]:
        """Arrays by name, time first."""
        suffix = os.path.splitext(self.path)[1].lower()
        try:
            if suffix == '.npy':
                return {'': np.load(self.path, mmap_mode='c', allow_pickle=False)}
            if suffix == '.npz':
                with zipfile.ZipFile(self.path) as archive:
                    self._check_bytes(sum(member.file_size for member in archive.infolist()))
                with np.load(self.path, allow_pickle=False) as arrays:
                    return dict(arrays)
            return {name: np.moveaxis(array, -1, 0) for name, array in self._load_mat().items()}
        except (VideoError, ImportError):
            raise
        except Exception as error:  # noqa: BLE001 - numpy, zipfile, zlib and scipy raise anything
            reason = ' '.join(str(error).split())[:200] or type(error).__name__
            raise VideoError(f'{self.name}: cannot be read as an array ({reason}). Get it again.') from None

    def _load_mat(self) -> dict[str, np.ndarray]:
        try:
            from scipy.io import loadmat, whosmat
        except ImportError as error:
            raise ImportError("MATLAB files are read with scipy: pip install 'flatzoo[mat]'.") from error
        try:
            names = {
                name: math.prod(shape) * _BYTES.get(kind, 8) for name, shape, kind in whosmat(self.path)
                if len(shape) in (3, 4)}
        except NotImplementedError:
            raise VideoError(
                f'{self.name}: is a MATLAB file of version 7.3. Save it with save(..., "-v7"), or as .npy.') from None
        self._check_bytes(sum(names.values()))  # before anything is unpacked
        arrays = loadmat(self.path, variable_names=list(names))
        return {name: arrays[name] for name in names if isinstance(arrays.get(name), np.ndarray)}

    def _check_bytes(self, count: int) -> None:
        if count > MAX_BYTES:
            raise VideoError(
                f'{self.name}: holds {count / 2 ** 30:.3g} GiB; accepted are {MAX_BYTES / 2 ** 30:g}. Cut it into '
                'clips, or save it as .npy, of which only the frames that are needed are read.')

    def _one(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """The array that can be the clip."""
        wanted = 4 if self.depth is None else 3
        fitting = {
            name: array for name, array in arrays.items()
            if array.ndim == wanted and array.size and array.dtype.kind in 'uif'}
        if len(fitting) == 1:
            return next(iter(fitting.values()))
        found = ', '.join(f'{name or "the array"} {list(array.shape)} {array.dtype}' for name, array in arrays.items())
        if fitting:
            raise VideoError(f'{self.name}: several of its arrays can be the clip: {found}. Keep one in the file.')
        if self.depth is None and any(array.ndim == 3 for array in arrays.values()):
            raise VideoError(
                f'{self.name}: holds no RGB frames [T, H, W, 3], but {found}. For depth maps say which reading becomes '
                '255, as in folder:depth=4000.')
        kind = 'RGB frames of three channels' if self.depth is None else 'depth maps'
        raise VideoError(f'{self.name}: holds no {kind}, but {found or "nothing of three axes"}.')
