"""Prints the lowest releases that pyproject.toml allows, as constraints of pip: timm==1.0.31 for timm>=1.0.31."""
import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / 'pyproject.toml').read_text())['project']
for requirement in (*project['dependencies'], *sum(project['optional-dependencies'].values(), [])):
    if match := re.fullmatch(r'([\w.-]+)(?:\[.*\])?\s*>=\s*([\w.]+)', requirement):
        print('=='.join(match.groups()))
