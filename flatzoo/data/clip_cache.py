"""Decoded clips in memory that all decoding processes share, so that a small data set is decoded once, not each epoch.

The memory is bounded, and given back by the system when the last process has ended, however it ends.
"""
import math
import multiprocessing
import shutil
from pathlib import Path

import torch
from torch import Tensor

__all__ = ['ClipCache']

_SHARED = Path('/dev/shm')  # where Linux keeps shared memory; a write beyond its size would kill the process
_SPARE = 2 ** 26  # bytes that stay free there, for the batches on their way
_DIMS = 5


class ClipCache:
    """Keeps uint8 tensors by their number, as many as there is room for.

    It may be handed to processes when they are started, and all of them then share what each has put in.

    Args:
        count: Number of different tensors, 0...`count` - 1.
        max_bytes: Bound of the memory, which is taken as tensors come. Where the system has less shared memory, the
            cache is smaller, down to nothing.
    """

    def __init__(self, count: int, max_bytes: int):
        if _SHARED.is_dir():
            max_bytes = min(max_bytes, max(shutil.disk_usage(_SHARED).free - _SPARE, 0))
        self.max_bytes = max_bytes
        # As torch's own collation gets shared memory. `share_memory_` would copy, and so fill, all of it at once.
        storage = torch.UntypedStorage._new_shared(max(max_bytes, 1))
        self._bytes = torch.empty(0, dtype=torch.uint8).set_(storage)
        # offset, number of dimensions (0: nothing is kept), shape
        self._places = torch.zeros(count, 2 + _DIMS, dtype=torch.int64).share_memory_()
        self._used = multiprocessing.get_context('spawn').Value('q', 0)  # which forked processes take, too

    @property
    def used(self) -> int:
        """Number of bytes that are taken."""
        return self._used.value

    def has_room(self, count: int) -> bool:
        """Whether `count` more bytes fit in."""
        return self.used + count <= self.max_bytes

    def get(self, number: int) -> Tensor | None:
        """The tensor that was put in, None if it is not there. Its memory is shared: do not change it."""
        with self._used.get_lock():
            offset, dims, *shape = self._places[number].tolist()
        if not dims:
            return None
        shape = shape[:dims]
        return self._bytes[offset:offset + math.prod(shape)].view(shape)

    def put(self, number: int, tensor: Tensor) -> bool:
        """Keeps a copy of a tensor, uint8 of at most 5 dimensions, if there is room. Returns whether it is kept."""
        if tensor.dtype != torch.uint8 or not 1 <= tensor.ndim <= _DIMS:
            raise ValueError(f'kept are uint8 tensors of 1 to {_DIMS} dimensions, got {tensor.dtype} of {tensor.ndim}')
        count = tensor.numel()
        with self._used.get_lock():
            offset = self._used.value
            if offset + count > self.max_bytes:
                return False
            self._used.value = offset + count
        self._bytes[offset:offset + count] = tensor.reshape(-1)
        with self._used.get_lock():
            self._places[number] = torch.tensor([offset, tensor.ndim, *tensor.shape] + [0] * (_DIMS - tensor.ndim))
        return True
