"""Settings of all tests."""
import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault('HF_HUB_OFFLINE', '1')  # a test that reaches for the Hub fails at once; read on import
os.environ['FLATZOO_PRECISION'] = 'fp32'  # answers are compared with those of plain models, on every machine
os.environ['OMP_NUM_THREADS'] = '1'  # models this small only wait for more; workers and processes of tests share cores
DEFAULT_MARKS = 'not slow and not gpu and not network'  # as in pyproject.toml
pytest.register_assert_rewrite('base')  # asserts of the shared testers explain themselves, too


def pytest_configure():
    if 'torch' in sys.modules:  # too late for the variable
        sys.modules['torch'].set_num_threads(1)


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # else every full collection looks at all that torch, timm and the tests have made by now


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config):
    """The plain command has a worker per core; a few files have one each, and one file none, which starts sooner.

    Selections by another mark have none, either: they need the whole memory or an idle GPU.
    """
    if config.option.markexpr != DEFAULT_MARKS:
        return 0
    files = {argument.split('::')[0] for argument in config.args}
    if any(Path(file).is_dir() for file in files):
        return None  # as xdist counts them
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return min(len(files), cores) if len(files) > 1 else 0
