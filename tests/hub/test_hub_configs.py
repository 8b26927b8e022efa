"""Repositories whose files do not fit together, came from elsewhere or mean harm."""
import json
import os
import pickle

import pytest
import safetensors.torch
import timm
import torch
from fake_hub.client import served_hub, small_model
from huggingface_hub import HfApi
from timm.models import save_for_hf

import flatzoo
from flatzoo.cli import main
from flatzoo.hub.push import push_to_hub, save_pretrained

WEIGHTS = 'model.safetensors'


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with served_hub(tmp_path, monkeypatch) as server:
        yield server


def publish(folder, repo='alice/odd'):
    """Puts a folder on the Hub as it is."""
    HfApi().create_repo(repo, exist_ok=True)
    HfApi().upload_folder(repo_id=repo, folder_path=folder)


def refused(capsys, *args):
    """The one line on standard error of a pull that fails."""
    assert main(['pull', *map(str, args)]) == 1
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and err.startswith('flatzoo pull: error: ')
    return err


@pytest.mark.parametrize('change, says', [
    (dict(architecture='sifar_swin_b99'), "no architecture 'sifar_swin_b99' .* Similar names: .*sifar_swin_b"),
    (dict(video=dict(format=4, flatzoo_version='9.1.0')),
     r'newer flatzoo \(flatzoo 9.1.0, format 4\); this is flatzoo .* pip install -U flatzoo'),
    (dict(num_classes=4), "num_classes 4 and has 3 'label_names'"),
    (dict(label_names=['a', 'b']), "num_classes 3 and has 2 'label_names'"),
    (dict(num_classes=4, label_names=list('abcd')), '.*'),  # the weights have 3
    (dict(video=dict(format=1, protocol=dict(sampling='random'))), "'protocol' cannot be used"),
    (dict(video=dict(format=1, protocol=dict(num_clips=3, audio=True))), "unknown keys .*'audio'"),
    (dict(label_names='abc'), "'label_names' must be a list of strings"),
    (dict(label_names=[0, 1, 2]), "'label_names' must be a list of strings"),
    (dict(num_classes='3'), "'num_classes' must be a number of classes, got '3'"),
    (dict(video=[1]), "'video' must be an object"),
    (dict(video=dict(mean='bright')), "'mean' of 'video' must be a list"),
    (dict(model_args=dict(backbone='test_resnet', layout='2x2', img_size=32, num_frames=4, num_classes=5)), 'num_clas'),
])
def test_configurations(change, says, hub, tmp_path, capsys):
    """Refused by pull, by timm's own way and from a folder, each time before anything is built."""
    save_pretrained(small_model(), tmp_path / 'run', label_names=['a', 'b', 'c'])
    config = json.loads((tmp_path / 'run' / 'config.json').read_text())
    (tmp_path / 'run' / 'config.json').write_text(json.dumps({**config, **change}))
    publish(tmp_path / 'run')
    with pytest.raises(ValueError, match=says):
        flatzoo.pull('alice/odd')
    assert 'config.json' in refused(capsys, 'alice/odd', '--out', tmp_path / 'mine')
    assert not (tmp_path / 'mine').exists()
    for name in ('hf-hub:alice/odd', f'local-dir:{tmp_path / "run"}'):
        with pytest.raises((ValueError, RuntimeError), match='Unknown model' if 'architecture' in change else says):
            timm.create_model(name, pretrained=True)


@pytest.mark.parametrize('key', ['model_args', 'pretrained_cfg'])
def test_parts_that_are_no_objects(key, hub, tmp_path, capsys):
    save_pretrained(small_model(), tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps({**config, key: [1]}))
    publish(tmp_path)
    assert f"'{key}' must be an object, got [1]" in refused(capsys, 'alice/odd')


def test_weights_of_another_model(hub, tmp_path, capsys):
    save_pretrained(small_model(), tmp_path)
    safetensors.torch.save_file({'backbone.conv1.weight': torch.zeros(3)}, tmp_path / WEIGHTS)
    publish(tmp_path)
    assert 'model.safetensors is not that of its config.json' in refused(capsys, 'alice/odd')
    with pytest.raises(RuntimeError, match='keys are missing'):
        timm.create_model('hf-hub:alice/odd', pretrained=True)


# pickles

class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ['MALICIOUS'],)


def test_pickles(hub, tmp_path, monkeypatch, capsys):
    """Never written; read without running code from them, or refused."""
    model = small_model()
    save_for_hf(model, tmp_path / 'run')
    publish(tmp_path / 'run')
    assert not (tmp_path / 'run' / WEIGHTS).exists()
    clip = torch.randn(1, 3, 4, 32, 32)
    for pulled in (flatzoo.pull('alice/odd'), timm.create_model('hf-hub:alice/odd', pretrained=True)):
        assert torch.equal(pulled.eval()(clip), model(clip))

    monkeypatch.setenv('MALICIOUS', str(tmp_path / 'executed'))
    (tmp_path / 'run' / 'pytorch_model.bin').write_bytes(pickle.dumps(Malicious()))
    publish(tmp_path / 'run')
    for call in (flatzoo.pull, lambda name: timm.create_model(f'hf-hub:{name}', pretrained=True)):
        with pytest.raises(ValueError, match='pytorch_model.bin: cannot be loaded safely'):
            call('alice/odd')
    assert not (tmp_path / 'executed').exists()
    push_to_hub(model, 'alice/new')
    assert not any(name.endswith(('.bin', '.pth', '.pkl')) for name in HfApi().list_repo_files('alice/new'))
