"""The recordings of official code are re-created to the last bit."""
import hashlib
import json

import pytest
import torch
from golden_files import DATA, normal, read_golden, uniform


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """One for all tensors, in the order of their names."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(tensors[name].numpy().tobytes())
    return hashed.hexdigest()


@pytest.mark.parametrize('name', sorted(path.stem for path in DATA.glob('*.npz')))
def test_every_bit_is_the_recorded_one(name):
    assert digest(read_golden(name)) == json.loads((DATA / 'digests.json').read_text())[name]


@pytest.mark.parametrize('size', [32, 45, 1000])
def test_numbers_are_those_of_torch(size):
    generator = torch.Generator().manual_seed(7)
    assert torch.equal(torch.from_numpy(uniform(7, 100)), torch.rand(100, generator=generator))
    torch.testing.assert_close(torch.from_numpy(normal(7, 100, size)), torch.randn(size, generator=generator))


def test_recordings_are_small():
    """What can be re-created is not stored; the weights of the files in safetensors cannot."""
    sizes = {path.name: path.stat().st_size for path in DATA.iterdir()}
    assert sum(size for name, size in sizes.items() if not name.endswith('.safetensors')) < 6_000_000
    assert max(sizes.values()) < 1_000_000
