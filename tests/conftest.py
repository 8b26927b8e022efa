"""Settings of all tests."""
import os

import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')  # a test that reaches for the Hub fails at once; read on import
pytest.register_assert_rewrite('base')  # asserts of the shared testers explain themselves, too


def pytest_configure():
    import torch

    torch.set_num_threads(1)  # models this small only wait for more
