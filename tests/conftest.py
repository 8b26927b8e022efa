"""Settings of all tests."""
import pytest
import torch

pytest.register_assert_rewrite('base')  # asserts of the shared testers explain themselves, too
torch.set_num_threads(1)  # models this small only wait for more
