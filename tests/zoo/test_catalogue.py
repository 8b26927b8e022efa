"""The catalogue that `flatzoo list` reads: the file says what the models say, and reading it needs no model."""
import json
import subprocess
import sys

import pytest

from flatzoo.zoo.catalogue import FILE, catalogue, describe, list_names

ROWS = {row['name']: row for row in json.loads(FILE.read_text())}


def test_names():
    assert list(ROWS) == list_names(), 'run python benchmarks/regenerate.py'


@pytest.mark.parametrize('name', [  # building one takes half a second; -m slow has the others
    name if number % 4 == 0 else pytest.param(name, marks=pytest.mark.slow)
    for number, name in enumerate(sorted({name.partition('.')[0]: name for name in list_names()}.values()))])
def test_the_file_says_what_the_models_say(name):
    assert ROWS[name] == describe(name), 'run python benchmarks/regenerate.py --all'


def test_patterns_choose_as_the_registry_does():
    for pattern, pretrained in (('sifar*', False), ('*16f*', True), ('sifar_swin_b14.*', False), ('none', False)):
        names = [row['name'] for row in catalogue(pattern, pretrained)]
        assert names == list_names(pattern, pretrained)


def test_needs_neither_torch_nor_timm():
    code = (
        "import sys; sys.argv = ['flatzoo', 'list', 'sifar*']; from flatzoo.cli import main; main(sys.argv[1:]); "
        "assert not {'torch', 'timm'} & set(sys.modules)")
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0 and 'sifar_swin_b12' in result.stdout, result.stderr


def test_licences():
    rows = catalogue(licence='permissive')
    assert {'videomae_vit_s.v2_k710', 'sifar_resnet10t.actions16'} <= {row['name'] for row in rows}
    assert not {'cc-by-nc-4.0', None} & {row['licence'] for row in rows}
    assert {row['licence'] for row in catalogue(licence='mit')} == {'mit'}
