"""In which numbers a model computes: fp32, bfloat16 where the machine gains several times by it, or 8-bit integers."""
import functools
import os
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional as F

from .choice import shortest
from .int8 import Int8Linear
from .optimize import optimize

__all__ = ['PRECISIONS', 'Precision', 'choose_precision', 'cpu_gains_by_bfloat16', 'precision_of', 'prepare']

Precision = Literal['auto', 'fp32', 'bf16', 'int8']
PRECISIONS = get_args(Precision)

_DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
_GAIN = 3.0  # of bf16 products over fp32 ones: what lies between the products takes its share of it
_GAIN_OF_AMX = 1.5  # is enough where there are matrix units: they gain more, but share it with what runs beside us


def prepare(model: nn.Module, precision: Precision = 'auto') -> nn.Module:
    """Prepares a trained model to answer fast: `optimize` in the right numbers.

    Args:
        model: A model in eval or training mode, on its device. It is not changed.
        precision: `'fp32'`, `'bf16'`, `'int8'` (products of linear layers on a CPU, see `optimize`), or `'auto'`, see
            `choose_precision`.

    Returns:
        The prepared model in eval mode. It shares its tensors with the given one if their dtype stays.

    Raises:
        ValueError: There is no such precision, or int8 is not for this model.
    """
    chosen = choose_precision(model, precision)
    if chosen == 'int8':
        return optimize(model, quantize='int8')
    return optimize(model, _DTYPES[chosen])


def choose_precision(model: nn.Module, precision: Precision = 'auto') -> Literal['fp32', 'bf16', 'int8']:
    """Chooses the numbers in which a model answers.

    `auto` takes bf16 on CUDA devices that compute in it, and on CPUs that multiply it several times as fast as fp32
    (Intel's AMX does; found out once per process, in milliseconds). All others take fp32, as do models whose answer
    bf16 would blur: those say so by `bfloat16_blurs`. The environment variable FLATZOO_PRECISION says what `auto` means
    on a machine.

    Args:
        model: The model, on its device.
        precision: `'auto'`, or the answer.

    Raises:
        ValueError: There is no such precision.
    """
    if precision == 'auto':
        precision = os.environ.get('FLATZOO_PRECISION') or 'auto'
    if precision not in PRECISIONS:
        raise ValueError(f'precision is one of {", ".join(PRECISIONS)}, got {precision!r}')
    if precision != 'auto':
        return precision
    parameter = next(model.parameters(), None)
    if parameter is None or getattr(model, 'bfloat16_blurs', False):
        return 'fp32'
    if parameter.device.type == 'cuda':
        return 'bf16' if torch.cuda.is_bf16_supported(including_emulation=False) else 'fp32'
    return 'bf16' if parameter.device.type == 'cpu' and cpu_gains_by_bfloat16() else 'fp32'


def precision_of(model: nn.Module) -> str:
    """The numbers in which a model computes, as results record them.

    They are `'fp32'`, `'bf16'`, `'int8'` where linear layers multiply integers, or torch's name of another dtype.
    """
    if any(isinstance(module, Int8Linear) for module in model.modules()):
        return 'int8'
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    return next((name for name, known in _DTYPES.items() if known == dtype), str(dtype).removeprefix('torch.'))


def cpu_gains_by_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 several times as fast as fp32."""
    has_matrix_units = getattr(torch.cpu, '_is_amx_tile_supported', lambda: False)()
    return _gain_of_bfloat16() >= (_GAIN_OF_AMX if has_matrix_units else _GAIN)


@functools.cache
def _gain_of_bfloat16() -> float:
    """How many times as fast this CPU multiplies in bfloat16 as in fp32."""
    if torch.backends.cpu.get_cpu_capability() in ('NO AVX', 'DEFAULT', 'AVX2'):  # has no units for it
        return 1.0
    for rows in (128, 512):  # few rows hide part of the gain, and many take long where there is none
        ways = []
        for dtype in (torch.float32, torch.bfloat16):
            ways.append(functools.partial(
                F.linear, torch.ones(rows, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)))
            ways[-1]()  # loads the kernel
        float32, bfloat16 = shortest(*ways, seconds=0)
        if float32 < _GAIN_OF_AMX * bfloat16:
            break
    return float32 / bfloat16
