"""The ordinary lint step: ruff, and the order of the rooms, both configured in pyproject.toml."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def command(name: str) -> str:
    return shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name) or pytest.skip(f'needs {name}')


@pytest.mark.parametrize('arguments', [('ruff', 'check', '--no-cache', '.'), ('lint-imports', '--no-cache')])
def test_lint(arguments):
    """Style, names that are private to another room, and imports that point upwards."""
    name, *rest = arguments
    result = subprocess.run([command(name), *rest], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
