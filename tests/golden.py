"""Cases of official code: tensors and weights that it made, in `tests/recorded` or built from a recipe."""
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parent / 'recorded'


def load_case(name: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """What a case says of itself, its tensors, and the weights under their official names."""
    case = json.loads((DATA / f'{name}.json').read_text())
    tensors = load_file(DATA / f'{name}.safetensors')
    weights = {key.removeprefix('model.'): tensor for key, tensor in tensors.items() if key.startswith('model.')}
    if not weights:
        weights = {
            key: recipe(key, shape, case['config']['seed']) for key, shape in case['state_dict_keys'].items()}
    return case['config'], tensors, weights


def recipe(key: str, shape: list[int], seed: int) -> Tensor:
    """A weight from numpy's legacy generator, the same everywhere, in the range that its kind has in networks."""
    if key.endswith('num_batches_tracked'):
        return torch.tensor(0)
    state = np.random.RandomState((seed * 100003 + zlib.crc32(key.encode())) % 2**32)
    u = (state.random_sample(shape) * 2 - 1) * 3**0.5
    if key.endswith('running_var'):
        u = 0.6 + abs(u)
    elif len(shape) == 1:
        u = 1 + 0.2 * u if key.endswith('weight') else 0.2 * u
    elif len(shape) == 3 and shape[0] == 1:
        u = 0.5 * u
    else:
        u = 1.2 * u / (u.size / shape[0])**0.5
    return torch.from_numpy(u.astype(np.float32))
