"""A Triton kernel that does nothing but powers of two."""
import triton
import triton.language as tl
from torch import Tensor

__all__ = ['launch']


@triton.jit
def _kernel(out, repeats, SIZE: tl.constexpr):
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    x = place.to(tl.float32) * 1e-8
    for _ in range(repeats):
        x = tl.exp2(-x)
    tl.store(out + place, x)


def launch(out: Tensor, programs: int, repeats: int, size: int) -> None:
    """Writes 2 ** -x, taken again and again, of `programs * size` numbers."""
    _kernel[(programs,)](out, repeats, SIZE=size, num_warps=4)
