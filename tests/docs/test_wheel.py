"""A wheel is built from the tree, unpacked far away, and works there: nothing that a user needs is left behind."""
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT_FROM = ('pyproject.toml', 'setup.cfg', 'README.md', 'LICENSE')


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The unpacked wheel. It is built from a copy of the tree, since a build leaves folders behind."""
    if not all(map(importlib.util.find_spec, ('pip', 'setuptools'))):
        pytest.skip('needs pip and setuptools')
    tree, built, site = (tmp_path_factory.mktemp(name) for name in ('tree', 'built', 'site'))
    shutil.copytree(ROOT / 'flatzoo', tree / 'flatzoo', ignore=shutil.ignore_patterns('__pycache__'))
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, tree)
    subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', built, tree],
        check=True, env=dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK='1', PIP_NO_INDEX='1'))
    [wheel] = built.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def python(site, *arguments):
    """What Python prints outside of the repository, with the unpacked wheel in front of all that is installed."""
    result = subprocess.run(
        [sys.executable, *arguments], cwd=site.parent, env=dict(os.environ, PYTHONPATH=str(site)),
        capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_has_every_file_of_the_package(site):
    """Code, weights, labels, presets, example videos, the catalogue and `py.typed`, byte for byte."""
    def contents(root):
        files = (path for path in (root / 'flatzoo').rglob('*') if path.is_file() and '__pycache__' not in path.parts)
        return {str(path.relative_to(root)): path.read_bytes() for path in files}

    wheel, tree = contents(site), contents(ROOT)
    assert wheel.keys() == tree.keys()
    assert wheel == tree
    assert {Path(name).suffix for name in wheel} >= {'.typed', '.txt', '.yaml', '.safetensors', '.mp4', '.json'}


def test_the_wheel_says_what_it_is(site):
    [distribution] = importlib.metadata.distributions(name='flatzoo', path=[str(site)])
    [command] = distribution.entry_points.select(group='console_scripts')
    assert (command.name, command.value) == ('flatzoo', 'flatzoo.cli:main')
    assert {'timm', 'torch', 'av'} <= {re.match(r'[\w.-]+', name)[0] for name in distribution.requires}
    assert any(path.name == 'LICENSE' for path in distribution.files)


def test_the_command_works_outside_of_the_repository(site):
    found = python(site, '-c', 'import importlib.util; print(importlib.util.find_spec("flatzoo").origin)')
    assert Path(found.strip()) == site / 'flatzoo/__init__.py'  # and not what is installed
    assert 'predict' in python(site, '-m', 'flatzoo', '--help')
    listed = python(site, '-m', 'flatzoo', 'list', 'sifar_resnet10t*', '--pretrained')
    assert 'sifar_resnet10t.actions16' in listed and 'sifar_resnet10t.actions49' in listed
    video = site / 'flatzoo/data/assets/is_picked_up.mp4'
    answer = python(site, '-m', 'flatzoo', 'predict', str(video))
    assert 'is picked up' in answer.splitlines()[1]  # the likeliest class: the model and its weights are in the wheel
