"""torch.hub: every model of flatzoo and nothing else, from another working directory and without flatzoo installed."""
import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import timm

import flatzoo

ROOT = Path(__file__).resolve().parents[2]
CODE = '''
import json, sys, torch

repo = sys.argv[1]
out = dict(names=torch.hub.list('flatzoo/flatzoo:main', trust_repo=True))
out['help'] = {name: torch.hub.help('flatzoo/flatzoo:main', name, trust_repo=True) for name in out['names']}
model = torch.hub.load(repo, 'sifar_swin_tiny', source='local', num_classes=3, img_size=64).eval()
out['built'] = [list(model(torch.zeros(2, 3, 8, 64, 64)).shape), model.pretrained_cfg['architecture']]
trained = torch.hub.load(repo, 'sifar_resnet10t', source='local', pretrained=True)
out['trained'] = [trained.head_trained, len(trained.pretrained_cfg['label_names'])]
fresh = torch.hub.load(repo, 'sifar_resnet10t', source='local', pretrained=True, num_classes=3)
out['fresh'] = [fresh.head_trained, fresh.num_classes]
any_backbone = torch.hub.load(repo, 'superimage', source='local', backbone='test_vit', img_size=32, num_classes=2)
out['any'] = list(any_backbone(torch.zeros(1, 3, 8, 32, 32)).shape)
image = torch.hub.load('flatzoo/flatzoo:main', 'uniformer_small', trust_repo=True, num_classes=4, depths=(1, 1, 1, 1))
out['image'] = list(image(torch.zeros(1, 3, 64, 64)).shape)
torch.save(model.state_dict(), 'weights.pth')  # the repository is off sys.path by now: the package still works
from timm.models import save_for_hf
save_for_hf(model, 'saved', safe_serialization=True)
out['saved'] = json.load(open('saved/config.json'))['architecture']
out['installed'] = __import__('flatzoo').__file__
try:
    torch.hub.load(repo, 'resnet50', source='local')
except RuntimeError as error:
    out['unknown'] = str(error)
print(json.dumps(out))
'''


@pytest.fixture(scope='module')
def out(tmp_path_factory) -> dict:
    """What a process says that runs elsewhere, with the repository where torch.hub keeps downloads of it."""
    folder = tmp_path_factory.mktemp('elsewhere')
    (folder / 'torch/hub').mkdir(parents=True)
    (folder / 'torch/hub/flatzoo_flatzoo_main').symlink_to(ROOT, target_is_directory=True)
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    result = subprocess.run(
        [sys.executable, '-c', CODE, str(ROOT)], cwd=folder, capture_output=True, text=True,
        env=dict(environment, TORCH_HOME=str(folder / 'torch'), HF_HUB_OFFLINE='1', OMP_NUM_THREADS='1'))
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_every_model_of_ours_and_no_other(out):
    ours = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith('flatzoo.')}
    assert set(out['names']) == ours and set(flatzoo.list_models()) < ours
    assert 'Cannot find callable resnet50' in out['unknown']


def test_help_says_what_a_model_is(out):
    for name, text in out['help'].items():
        assert text.startswith(timm.model_entrypoint(name).__doc__) and 'num_classes' in text, name


def test_load(out):
    assert out['built'] == [[2, 3], 'sifar_swin_tiny']
    assert out['trained'] == [True, 16] and out['fresh'] == [False, 3]
    assert out['any'] == [1, 2] and out['image'] == [1, 4]
    assert out['saved'] == 'sifar_swin_tiny' and Path(out['installed']).samefile(flatzoo.__file__)


def test_dependencies_are_those_of_the_package():
    """torch.hub looks for modules, pyproject.toml names distributions."""
    first = ast.parse((ROOT / 'hubconf.py').read_text()).body[1]  # after the docstring, before any import
    found = ast.literal_eval(first.value)
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    wanted = {requirement.split('>')[0].strip() for requirement in project['dependencies']}
    assert set(found) == {{'pillow': 'PIL'}.get(name, name) for name in wanted}
