"""Records of a training run beside the weights in official files. They are skipped safely.

mmengine keeps its loss curves as objects of its own classes, with numpy arrays inside. Safe loading must allow the
names of these classes. Here each name stands for an empty object, so no code of mmengine or numpy runs.
"""
from typing import Any

__all__ = ['RECORDS']


class _Record:
    """Accepts any state from a pickle and discards it."""

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
