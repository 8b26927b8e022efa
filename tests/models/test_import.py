"""What `import flatzoo` brings along, and what it registers."""
import re
import subprocess
import sys

import pytest
import timm
from timm.models import PretrainedCfg, get_pretrained_cfg

import flatzoo

HEAVY = ('av', 'torchcodec', 'transformers', 'matplotlib', 'PIL.ImageTk', 'pandas', 'scipy')
OURS = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith('flatzoo.')]
TAGGED = [name for name in timm.list_models(include_tags=True) if name.split('.')[0] in OURS]


def run(code: str) -> list[str]:
    result = subprocess.run([sys.executable, '-W', 'error::UserWarning', '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr  # timm warns when a name is registered twice
    return result.stdout.split()


@pytest.fixture(scope='module')
def before_and_after() -> tuple[list[str], ...]:
    """timm's names, modules of timm's registry, heavy packages and all new ones, before and after importing flatzoo."""
    code = f'''
import sys, timm
names, modules = set(timm.list_models()), set(timm.list_modules())
entrypoints = {{name: timm.model_entrypoint(name) for name in names}}
loaded = set(sys.modules)
import flatzoo
new = set(sys.modules) - loaded
print(*(name for name in {HEAVY} if name in sys.modules and name not in loaded), ';',
      *(name for name in names if timm.model_entrypoint(name) is not entrypoints[name]), ';',
      *(name for name in timm.list_modules() if name in modules and timm.list_models(module=name) and
        any(timm.model_entrypoint(model).__module__.startswith('flatzoo') for model in timm.list_models(module=name))),
      ';', *(name for name in new))
'''
    return tuple(part.split() for part in ' '.join(run(code)).split(';'))


def test_imports_nothing_heavy(before_and_after):
    assert before_and_after[0] == []


def test_imports_little(before_and_after):
    """Beside flatzoo and what timm brings along: not the server side of the Hub, not torch's compiler."""
    new = before_and_after[3]
    assert {name.split('.')[0] for name in new} <= {'flatzoo', 'huggingface_hub'}
    assert {name for name in new if name.startswith('huggingface_hub')} <= {
        'huggingface_hub._commit_api', 'huggingface_hub.lfs'}
    later = ('cli', 'train', 'visualize', 'export', 'data.readers', 'data.clips', 'hub.convert', 'hub.transformers')
    assert not [name for name in new if name.startswith(tuple(f'flatzoo.{room}' for room in later))]


def test_takes_no_name_of_timm(before_and_after):
    """Neither a model's name nor a module's, under which `timm.list_models(module=)` would mix both."""
    assert before_and_after[1] == []
    assert before_and_after[2] == []


def test_lists_its_models():
    assert 'sifar_swin_b12' in flatzoo.list_models() and 'superimage' in flatzoo.list_models()
    assert set(flatzoo.list_models()) <= set(OURS)
    assert flatzoo.list_models('sifar_swin_b1*') == [name for name in flatzoo.list_models() if 'sifar_swin_b1' in name]
    assert 'sifar_swin_b14.ibm_k400' in flatzoo.list_models('sifar*', pretrained=True)
    assert not any('untrained' in name for name in flatzoo.list_models(pretrained=True))
    assert flatzoo.list_models('resnet50') == []
    assert re.fullmatch(r'\d+\.\d+.*', flatzoo.__version__)


@pytest.mark.parametrize('name', TAGGED)
def test_configurations(name):
    cfg = get_pretrained_cfg(name)
    assert type(cfg) is PretrainedCfg  # timm refuses to load a subclass with more fields
    assert len(cfg.input_size) == 3  # of one frame
    assert cfg.architecture == name.split('.')[0] and cfg.tag == name.split('.', 1)[1]
    assert len(cfg.mean) == len(cfg.std) == cfg.input_size[0]
    assert cfg.num_classes >= 0
    sources = [source for source in (cfg.hf_hub_id, cfg.url, cfg.file) if source]
    assert bool(sources) == (cfg.tag != 'untrained')
    assert len(sources) <= 1
    for source in sources:
        assert re.fullmatch(r'https://\S+\.(pth|pth\.tar|safetensors)|[\w-]+/[\w.-]+|/\S+\.safetensors', str(source))
    if cfg.hf_hub_id:
        assert not cfg.hf_hub_id.endswith('/')
    if cfg.hf_hub_id and cfg.hf_hub_id.startswith('timm/'):
        assert timm.is_model_pretrained(cfg.hf_hub_id.removeprefix('timm/')) or cfg.architecture.startswith('uniformer')
    if cfg.url and '.pth' in cfg.url and name in flatzoo.list_models(pretrained=True):
        assert cfg.custom_load  # timm's own loader refuses an argparse.Namespace in a download
    if cfg.label_names is not None:
        assert len(cfg.label_names) == len(set(cfg.label_names)) == cfg.num_classes


@pytest.mark.parametrize('name', flatzoo.list_models(pretrained=True))
def test_evaluation_protocols(name):
    protocol = flatzoo.eval_protocol(name)
    assert protocol.views == protocol.num_clips * protocol.num_crops >= 1
