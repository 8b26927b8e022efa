"""What tests of scripts share."""
import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def script(monkeypatch):
    """Imports a script by its module's name; the number of threads that it sets is taken back."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)
