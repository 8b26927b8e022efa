"""Recorded outputs of official code: `data/*.npz`, in which seeded random tensors are re-created instead of stored.

The recordings were made with weights and inputs of `torch.randn`. Its uniform numbers are those of a Mersenne Twister,
which numpy's `RandomState` promises to keep for ever. How they become normal numbers differs between processors by a
few units in the last place. These differences are stored, so that every bit is the recorded one on every machine and
with every release of torch and numpy: the arithmetic below is IEEE addition, multiplication, division and square root.
"""
import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / 'recorded'
SINGLE, DOUBLE = np.float32, np.float64
LOG_2 = 0.6931471805599453


def read_golden(name: str) -> dict[str, Tensor]:
    """Returns the tensors of `data/{name}.npz`.

    A file holds plain arrays and, for the seeded tensors, two more: `seeded`, a JSON list of `[name, shape, seed,
    draws, mean, std]`, where `draws` numbers of the seed's stream come first, and `corrections` in units in the last
    place (int8, of all seeded tensors in a row).
    """
    with np.load(DATA / f'{name}.npz', allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    seeded, corrections = json.loads(str(arrays.pop('seeded', '[]'))), arrays.pop('corrections', None)
    used = 0
    for key, shape, seed, draws, mean, std in seeded:
        values = normal(seed, draws, math.prod(shape)) * SINGLE(std) + SINGLE(mean)
        bits = values.view(np.int32) + corrections[used:used + values.size]
        used += values.size
        arrays[key] = bits.view(SINGLE).reshape(shape)
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


@lru_cache(maxsize=4)
def uniform(seed: int, size: int) -> np.ndarray:
    """The first numbers of `torch.rand` from `torch.Generator().manual_seed(seed)`: 24 bits each, exactly."""
    numbers = np.random.RandomState(seed).randint(0, 2 ** 32, size=size, dtype=np.uint32)
    return (numbers & 0xffffff).astype(SINGLE) * SINGLE(2 ** -24)


def normal(seed: int, draws: int, size: int) -> np.ndarray:
    """`torch.randn(size)`, but for a few units in the last place, from a generator that has given `draws` numbers.

    It is Box and Muller's transform of blocks of 16 numbers. Where the last block is not full, it overlaps the one
    before it and takes new numbers.
    """
    tail = size % 16
    numbers = uniform(seed, -(-(draws + size + 16) // 2 ** 18) * 2 ** 18)[draws:]
    result = box_muller(numbers[:size - tail])
    return np.concatenate([result[:size - 16], box_muller(numbers[size:size + 16])]) if tail else result


def box_muller(numbers: np.ndarray) -> np.ndarray:
    first, second = numbers.reshape(-1, 2, 8).swapaxes(0, 1)
    radius = np.sqrt(SINGLE(-2) * logarithm(SINGLE(1) - first).astype(SINGLE))
    cos, sin = cos_and_sin(SINGLE(2 * math.pi) * second)
    return np.stack([radius * cos.astype(SINGLE), radius * sin.astype(SINGLE)], 1).reshape(-1)


def logarithm(x: np.ndarray) -> np.ndarray:
    """Natural logarithm from the series of the inverse hyperbolic tangent; numpy's differs between machines."""
    mantissa, exponent = np.frexp(x.astype(DOUBLE))
    ratio = (mantissa - math.sqrt(0.5)) / (mantissa + math.sqrt(0.5))  # at most 0.172 in size
    return 2 * ratio * series(ratio * ratio, [1 / (2 * n + 1) for n in range(12)]) + (exponent - 0.5) * LOG_2


def cos_and_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine from their Taylor series; numpy's differ between machines."""
    quarter = np.rint(angle.astype(DOUBLE) * (2 / math.pi))
    rest = angle - quarter * (math.pi / 2)
    square = rest * rest
    cos = series(square, [(-1) ** n / math.factorial(2 * n) for n in range(10)])
    sin = rest * series(square, [(-1) ** n / math.factorial(2 * n + 1) for n in range(10)])
    odd, quarter = quarter % 2 == 1, quarter % 4
    return (np.where((quarter == 1) | (quarter == 2), -1, 1) * np.where(odd, sin, cos),
            np.where(quarter >= 2, -1, 1) * np.where(odd, cos, sin))


def series(x: np.ndarray, coefficients: list[float]) -> np.ndarray:
    """A polynomial by Horner's rule, lowest power first."""
    result = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + coefficient
    return result

