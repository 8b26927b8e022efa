"""Files that come from anybody: each one is refused by a sentence, soon, and before it takes memory."""
import json
import os
import shutil
import time
import zipfile

import pytest
import safetensors.torch
import timm
import torch
from fake_hub.client import small_model

from flatzoo.console.text import escape_controls, printable, shortened
from flatzoo.hub.push import save_pretrained
from flatzoo.layers import Layout
from flatzoo.train.recipe import RecipeError, load_recipe, read_config
from flatzoo.weights.adapter_file import read_adapter_file, write_adapter_file
from flatzoo.weights.checkpoint import load_checkpoint
from flatzoo.weights.config import read_config as read_model_config


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp('saved') / 'run'
    return save_pretrained(small_model(), folder, label_names=['a', 'b', 'c'])


@pytest.fixture
def changed(saved, tmp_path):
    """Copies the saved model and changes its configuration; gives the name under which timm takes it."""
    def change(arguments=None, **fields):
        folder = tmp_path / 'changed'
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder)
        config = json.loads((folder / 'config.json').read_text())
        config['model_args'].update(arguments or {})
        (folder / 'config.json').write_text(json.dumps({**config, **fields}))
        return f'local-dir:{folder}'
    return change


def refusal(name):
    start = time.process_time()
    with pytest.raises(ValueError) as caught:
        timm.create_model(name, pretrained=True)
    assert time.process_time() - start < 10 and len(str(caught.value)) < 2000
    return str(caught.value)


@pytest.mark.parametrize('arguments, says', [
    (dict(num_frames=10 ** 9), "'num_frames' of 'model_args' is 1000000000; accepted is up to 1024"),
    (dict(num_frames=float('nan')), "'num_frames' of 'model_args' is nan"),
    (dict(num_frames=True), "'num_frames' of 'model_args' is True"),
    (dict(num_frames='4'), 'cannot be built: num_frames must be a whole number'),
    (dict(layout='1000000000x1'), 'has more than 65536 cells'),
    (dict(layout='nested:200x200/200x200'), 'has more than 65536 cells'),
    (dict(layout='time:99999'), 'cannot be built: Cannot read the layout'),
    (dict(layout='index:' + '[' * 100_000), 'too deeply nested'),
    (dict(layout='256x256'), 'its image would have 8192x8192 pixels'),
    (dict(in_chans=10 ** 9), "'in_chans' of 'model_args' is 1000000000"),
    (dict(in_chans='three'), 'cannot be built: TypeError'),
    (dict(img_size=10 ** 9), "'img_size' of 'model_args' is 1000000000"),
    (dict(img_size=[32, 32, 32]), 'is one number or (height, width), got [32, 32, 32]'),
    (dict(act_layer=5), 'cannot be built: TypeError'),
    (dict(act_layer='os.system'), 'cannot be built: KeyError'),
    (dict(backbone=5), 'cannot be built: AttributeError'),
    (dict(backbone='\x1b[2J'), r"cannot be built: backbone='\x1b[2J' is no timm model"),
    (dict(backbone='local-dir:/nowhere'), 'cannot be built: FileNotFoundError'),
    (dict(backbone='test_vit', depth=10 ** 9), "'depth' of 'model_args' is 1000000000"),
    (dict(backbone='test_vit', embed_dim=60_000, num_heads=10, depth=4), 'parameters, and model.safetensors has'),
    (dict(backbone='levit_128s', img_size=1024), 'its tables of indices would take'),
    (dict(layers=[10 ** 6] * 4), "'layers' of 'model_args' is 1000000"),
    (dict(unknown=[[[[[[1]]]]]]), 'at depth 6'),
    (dict(unknown=1), 'cannot be built: TypeError'),
])
def test_arguments(arguments, says, changed):
    assert says in refusal(changed(arguments))


@pytest.mark.parametrize('fields, says', [
    (dict(num_classes=10 ** 9, label_names=None), "'num_classes' must be a number of classes, got 1000000000"),
    (dict(video=dict(protocol=dict(num_clips=10 ** 9))), "'protocol' takes 1000000000 views; accepted are 1024"),
    (dict(video=dict(mean=[0.] * 10 ** 5, std='x' * 10 ** 5)), "'std' of 'video' must be a list"),
    (dict(video=dict(std=[0., 0., 0.], mean=[0., 0., 0.])), 'std above 0'),
    (dict(video=dict(flatzoo_version='\x1b[2J\n' * 1000, format=99)), r'came from a newer flatzoo (flatzoo \x1b[2J\n'),
])
def test_fields(fields, says, changed):
    text = refusal(changed(**fields))
    assert says in text and '\x1b' not in text and '\n' not in text


def test_only_what_could_be_large_is_tried_first(saved, tmp_path, monkeypatch):
    """The trial takes time, which registered models of an ordinary size are spared."""
    tried = []
    monkeypatch.setattr('flatzoo.models.builder._check_memory', lambda *arguments: tried.append(arguments))
    plain = save_pretrained(timm.create_model('sifar_swin_tiny', num_classes=2), tmp_path / 'plain')
    timm.create_model(f'local-dir:{plain}', pretrained=True)
    assert not tried
    timm.create_model(f'local-dir:{saved}', pretrained=True)  # of any backbone
    assert len(tried) == 1
    config = json.loads((plain / 'config.json').read_text())
    (plain / 'config.json').write_text(json.dumps({**config, 'model_args': {**config['model_args'], 'drop_rate': 0.1,
                                                                            'attn_drop_rate': 0.1}}))
    timm.create_model(f'local-dir:{plain}', pretrained=True)
    assert len(tried) == 2


def test_architectures(changed):
    """timm looks for it before code of ours runs; what pulls looks before."""
    path = changed(architecture='\x1b[2J' + 'a' * 10 ** 6).removeprefix('local-dir:') + '/config.json'
    with pytest.raises(ValueError, match=r"there is no architecture '\\x1b\[2Ja{90,100}' in flatzoo"):
        read_model_config(path)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes here')
def test_pipes(changed):
    name = changed()
    path = name.removeprefix('local-dir:') + '/config.json'
    os.rename(path, f'{path}.kept')
    os.mkfifo(path)
    with pytest.raises(ValueError, match='is not a file'):
        read_model_config(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        read_adapter_file(path)


@pytest.mark.parametrize('content, says', [
    ('[' * 10 ** 6, 'too deeply nested'),
    (' ' * 2 ** 25 + '{}', 'are accepted'),
])
def test_configurations_that_are_deep_or_large(content, says, tmp_path):
    (tmp_path / 'config.json').write_text(content)
    with pytest.raises(ValueError, match=says):
        read_model_config(tmp_path / 'config.json')


def test_tensor_bombs(tmp_path):
    """One number that claims to be 10^12 of them, within lists that hold each other, in a file of a kilobyte."""
    torch.save(dict(a=[dict(b=torch.zeros(1).expand(10 ** 6, 10 ** 6))]), tmp_path / 'bomb.pth')
    with pytest.raises(ValueError, match=r'a tensor of shape \[1000000, 1000000\]'):
        load_checkpoint(tmp_path / 'bomb.pth')
    laughs = [0]
    for _ in range(60):
        laughs = [laughs, laughs]
    torch.save(dict(a=torch.zeros(3), laughs=laughs), tmp_path / 'laughs.pth')
    start = time.process_time()
    assert load_checkpoint(tmp_path / 'laughs.pth')['a'].shape == (3,) and time.process_time() - start < 5
    torch.save(dict(a=torch.eye(3).to_sparse()), tmp_path / 'sparse.pth')
    with pytest.raises(ValueError, match='sparse'):
        load_checkpoint(tmp_path / 'sparse.pth')


def test_zip_bombs(tmp_path):
    torch.save(dict(a=torch.zeros(10 ** 6)), tmp_path / 'plain.pth')
    with zipfile.ZipFile(tmp_path / 'plain.pth') as plain, \
            zipfile.ZipFile(tmp_path / 'bomb.pth', 'w', zipfile.ZIP_DEFLATED) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    assert load_checkpoint(tmp_path / 'plain.pth')['a'].shape == (10 ** 6,)
    with pytest.raises(ValueError, match='is compressed, or its members claim more'):
        load_checkpoint(tmp_path / 'bomb.pth')


@pytest.mark.parametrize('change, says', [
    (dict(model_args=dict(num_frames=10 ** 9)), "'num_frames' of 'model_args' is 1000000000"),
    (dict(adapter_args=dict(width=10 ** 9)), "'width' of 'model_args' is 1000000000"),
    (dict(model=5), 'is not an adapter file'),
    (dict(model_args=[1]), 'is not an adapter file'),
    (dict(label_names=[1]), "'label_names' must be a list of strings"),
])
def test_adapter_files(change, says, tmp_path):
    header = dict(model='amflow_vit_b', model_args={}, adapter_args={}, backbone='b', backbone_digest='d')
    write_adapter_file(tmp_path / 'good.safetensors', dict(a=torch.zeros(1)), header)
    assert read_adapter_file(tmp_path / 'good.safetensors')[1] == header
    write_adapter_file(tmp_path / 'bad.safetensors', dict(a=torch.zeros(1)), {**header, **change})
    with pytest.raises(ValueError, match=says):
        read_adapter_file(tmp_path / 'bad.safetensors')
    deep = {'flatzoo_adapters_v1': '[' * 10 ** 5}
    safetensors.torch.save_file(dict(a=torch.zeros(1)), tmp_path / 'deep.safetensors', deep)
    with pytest.raises(ValueError, match='too deeply nested'):
        read_adapter_file(tmp_path / 'deep.safetensors')


@pytest.mark.parametrize('end', ['lr: *i', '? *i\n: 1', '*i : 1'])
def test_recipes_that_refer_to_themselves(end, tmp_path):
    """Nine lists of nine of the list before: a kilobyte that would print as gigabytes."""
    lines = ['mixup: &a [x, x, x, x, x, x, x, x, x]']
    lines += [f'o{b}: &{b} [{", ".join([f"*{a}"] * 9)}]' for a, b in zip('abcdefgh', 'bcdefghi')]
    (tmp_path / 'laughs.yaml').write_text('\n'.join([*lines, end]))
    start = time.process_time()
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / 'laughs.yaml'))
    assert time.process_time() - start < 5 and len(str(caught.value)) < 1000
    (tmp_path / 'value.yaml').write_text('\n'.join([line.replace('mixup', 'lr') for line in lines[:1]]))
    with pytest.raises(RecipeError, match='lr takes float, got'):
        load_recipe(str(tmp_path / 'value.yaml'))
    (tmp_path / 'deep.yaml').write_text('[' * 10 ** 4)
    with pytest.raises(RecipeError, match='too deeply nested|is not a YAML file'):
        read_config(str(tmp_path / 'deep.yaml'))


def test_layouts_of_users_are_bounded_too():
    with pytest.raises(ValueError, match='takes up to 65536 frames'):
        Layout('grid').index(10 ** 9)
    assert Layout('256x256').index(65536).shape == (1, 256, 256)


def test_text():
    assert printable('a\x1b[31m\nb\x9b\u202e\u2028') == r'a\x1b[31m\nb\x9b\u202e\u2028'
    for name in ('क्‍ष', '👩‍👧', 'می‌خواهم', '走る\u3000人', 'C++'):  # joiners and wide spaces are text
        assert printable(name) == name
    assert printable('abcdef', 3) == 'abc...' and escape_controls('a\n\tb\r\x00') == 'a\n\tb\\r\\x00'
    laughs = ['x']
    for _ in range(50):
        laughs = [laughs] * 9
    assert len(shortened(laughs)) < 200
