"""`docs/add_a_paper.md`, followed in a copy of the repository: its files, its command, nothing else."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/add_a_paper.md').read_text()
WRITTEN = re.findall(r'^`([\w/]+\.py)`:\n\n<!--.*?-->\n```python\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)
[COMMAND] = re.findall(r'^python benchmarks/.*$', PAGE, re.MULTILINE)
TRIED = re.findall(r'^```python\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    """The repository with the new paper in it, and everything generated."""
    root = tmp_path_factory.mktemp('copy')
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip('needs a clone of the repository')
    for name in filter(None, listed.stdout.split('\0')):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    for name, code in WRITTEN:
        assert not (root / name).exists()
        (root / name).write_text(code)
    run(root, *COMMAND.split()[1:])
    return root


def run(root, *arguments):
    env = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1', PYTEST_ADDOPTS='')
    result = subprocess.run(
        [sys.executable, '-W', 'ignore', *arguments], cwd=root, env=env, capture_output=True, text=True, timeout=1800)
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    return result.stdout


@pytest.mark.slow  # it counts the new model and runs a part of the suite
def test_the_page_is_true(copy):
    assert [name for name, _ in WRITTEN] == ['flatzoo/models/spiral.py', 'tests/models/test_spiral.py']
    run(copy, '-c', TRIED)
    assert (copy / 'model_cards/spiral_resnet18.a1_in1k.md').exists()
    assert 'spiral_resnet18.a1_in1k' in run(copy, '-m', 'flatzoo', 'list', 'spiral*')
    tests = ('models/test_spiral', 'models/test_import', 'models/test_record', 'hub/test_cards', 'zoo')
    paths = [str(next(copy.glob(f'tests/{test}*'))) for test in tests]
    run(copy, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *paths)
    run(copy, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/docs/test_docs.py', '-k', 'not the_code_runs')
