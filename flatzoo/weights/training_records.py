"""Records of a training run that lie beside the weights in official files, and are read without being made.

mmengine keeps its loss curves as objects of its own with arrays of numpy inside. Loading such a file safely means to
allow their names; here each of them stands for an object that holds nothing, so that no code of mmengine or numpy runs.
"""
from typing import Any

__all__ = ['RECORDS']


class _Record:
    """Takes what a pickle says of it, and forgets it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> '_Record':
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


RECORDS = [(_Record, name) for name in (  # for torch.serialization.safe_globals
    'mmengine.logging.history_buffer.HistoryBuffer', 'numpy.ndarray', 'numpy.dtype',
    'numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct', 'numpy.core.multiarray.scalar',
    'numpy._core.multiarray.scalar', 'numpy.dtypes.Float64DType', 'numpy.dtypes.Float32DType',
    'numpy.dtypes.Int64DType')]
