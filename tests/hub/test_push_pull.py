"""Models that go to a Hub, or into a folder, and come back the same."""
import argparse
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from fake_hub.client import served_hub, small_model
from fake_hub.server import HubServer
from safetensors import safe_open
from timm.models import save_for_hf

import flatzoo
from flatzoo.cli import main
from flatzoo.data.protocol import EvalProtocol
from flatzoo.hub.pull import download
from flatzoo.hub.push import open_checkpoint, push_to_hub, save_pretrained

FILES = {'model.safetensors', 'config.json', 'video_preprocessor_config.json', 'README.md'}
LABELS = ['jump', 'run', 'swim']
PROTOCOL = EvalProtocol(sampling='dense', stride=2, num_clips=2, num_crops=3, scale_up=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with served_hub(tmp_path, monkeypatch) as server:
        yield server


def files_of(repo_id, revision=None):
    return set(huggingface_hub.HfApi().list_repo_files(repo_id, revision=revision)) - {'.gitattributes'}


@torch.no_grad()
def same(model, other, clip=None):
    """Two models give the same logits and say the same of themselves."""
    clip = torch.randn(2, model.in_chans, model.num_frames, *model.img_size) if clip is None else clip
    assert torch.equal(other.eval()(clip), model.eval()(clip))
    bytes_ = torch.randint(256, clip.shape, dtype=torch.uint8)  # by mean and std of the weights
    assert torch.equal(other(bytes_), model(bytes_))
    assert other.num_frames == model.num_frames and other.layout == model.layout and other.img_size == model.img_size
    assert other.head_trained
    return True


# push and pull

def test_the_same_model_comes_back(hub):
    model = small_model()
    pushed = flatzoo.push_to_hub(model, 'alice/net', label_names=LABELS, protocol=PROTOCOL, tag='v1')
    assert files_of('alice/net') == FILES == set(pushed.files)
    commits = huggingface_hub.HfApi().list_repo_commits('alice/net')
    assert [commit.title for commit in commits] == ['Push model with flatzoo', 'initial commit']
    assert pushed.commit == commits[0].commit_id and pushed.url.startswith(hub.url)

    by_timm = timm.create_model('hf-hub:alice/net@v1', pretrained=True)
    for other in (by_timm, flatzoo.pull('alice/net'), flatzoo.pull('hf-hub:alice/net@v1')):
        assert same(model, other) and list(other.pretrained_cfg['label_names']) == LABELS
        assert flatzoo.eval_protocol(other) == PROTOCOL
    assert by_timm.pretrained_cfg['hf_hub_id'] == 'alice/net@v1' and 'file' not in by_timm.pretrained_cfg
    assert flatzoo.eval_protocol('hf-hub:alice/net') == PROTOCOL
    assert flatzoo.eval_protocol(f'local-dir:{download("alice/net")}') == PROTOCOL

    other = flatzoo.pull('alice/net', num_classes=7)  # to fine-tune it
    assert other.num_classes == 7 and not other.head_trained and other.pretrained_cfg.get('label_names') is None
    features = timm.create_model('hf-hub:alice/net', pretrained=True, features_only=True)
    assert len(features(torch.randn(1, 3, 4, 32, 32))) > 1


@pytest.mark.parametrize('name, args', [
    ('sifar_swin_b12', dict(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=(4, 4, 4, None),
                            img_size=64, ape=True, num_classes=3)),
    ('flatten_swinv2_t', dict(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), num_frames=6, layout='2x3',
                              img_size=64, num_classes=3)),
    ('time_resnet50', dict(backbone='test_resnet', n=3, arrangement='temporal', num_new_frames=2, img_size=48,
                           in_chans=1, num_classes=3)),
    ('superimage', dict(backbone='test_vit', num_frames=4, layout='index:[[3,1],[2,0]]', img_size=16, num_classes=3)),
])
def test_arguments_come_back(name, args, tmp_path):
    """Windows, layouts, channels: what the model was built with is in its configuration."""
    model = timm.create_model(name, **args)
    save_pretrained(model, tmp_path, label_names=LABELS)
    assert same(model, timm.create_model(f'local-dir:{tmp_path}', pretrained=True))


def test_a_changed_size_comes_back(tmp_path):
    model = timm.create_model('sifar_swin_tiny', num_classes=3)
    model.set_input_size(img_size=64, num_frames=4, layout='1x4')
    save_pretrained(model, tmp_path)
    other = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert same(model, other)
    windows = [m.window_size for m in model.modules() if hasattr(m, 'shift_size')]
    assert windows == [m.window_size for m in other.modules() if hasattr(m, 'shift_size')]


def test_private(hub, monkeypatch):
    model = small_model()
    push_to_hub(model, 'alice/secret', private=True)
    assert huggingface_hub.HfApi().model_info('alice/secret').private
    assert same(model, flatzoo.pull('alice/secret'))
    push_to_hub(model, 'org/open')
    with pytest.raises(flatzoo.HubError, match='org/open is there already and is public'):
        push_to_hub(model, 'org/open', private=True)
    monkeypatch.setenv('HF_TOKEN', 'hf_other')
    with pytest.raises(flatzoo.HubError, match='no such repository .* or it is private and your token does not open'):
        flatzoo.pull('alice/secret', cache_dir=Path(hub.store.root, 'other'))
    assert same(model, flatzoo.pull('alice/secret', token='hf_test', cache_dir=Path(hub.store.root, 'other')))


def test_revisions_and_tags(hub):
    first, second = small_model(0), small_model(1)
    push_to_hub(first, 'org/net', tag='v1')
    pushed = push_to_hub(second, 'org/net', revision='try', commit_message='Second')
    assert huggingface_hub.HfApi().list_repo_commits('org/net', revision='try')[0].title == 'Second'
    for name, model in [('@v1', first), ('', first), ('@main', first), ('@try', second), (f'@{pushed.commit}', second)]:
        assert same(model, flatzoo.pull(f'org/net{name}'))
        assert same(model, timm.create_model(f'hf-hub:org/net{name}', pretrained=True))
    push_to_hub(second, 'org/net')  # the main branch moves and the cache follows
    assert same(second, flatzoo.pull('org/net')) and same(first, flatzoo.pull('org/net@v1'))
    with pytest.raises(flatzoo.HubError, match='has a tag v1 already'):
        push_to_hub(second, 'org/net', tag='v1')
    with pytest.raises(flatzoo.HubError, match='v1 is a tag there, and only branches take commits'):
        push_to_hub(second, 'org/net', revision='v1')
    assert len(huggingface_hub.HfApi().list_repo_commits('org/net')) == 3  # that one was not sent


def test_card(hub):
    def readme():
        return Path(huggingface_hub.hf_hub_download('alice/net', 'README.md', force_download=True)).read_text()

    model = small_model()
    push_to_hub(model, 'alice/net', label_names=LABELS)
    card = huggingface_hub.ModelCard(readme())
    assert card.data.library_name == 'flatzoo' and card.data.pipeline_tag == 'video-classification'
    code = card.content.partition('```python\n')[2].partition('```')[0]
    exec(code, {'clip': torch.randn(1, 3, 4, 32, 32)})  # the snippet runs as it stands
    push_to_hub(model, 'alice/net', card='# Mine\n')
    assert readme() == '# Mine\n'
    pushed = push_to_hub(small_model(1), 'alice/net')  # and stays
    assert readme() == '# Mine\n' and 'README.md' not in pushed.files


def test_nothing_new(hub):
    """A push of what is there already makes no commit."""
    first = push_to_hub(small_model(), 'alice/net')
    again = push_to_hub(small_model(), 'alice/net', tag='same')
    assert again.commit == first.commit and len(huggingface_hub.HfApi().list_repo_commits('alice/net')) == 2


def test_dry_run(hub):
    pushed = push_to_hub(small_model(), 'alice/net', dry_run=True, tag='v1')
    assert set(pushed.files) == FILES and pushed.commit is None
    assert not hub.requests


def test_commit_of_config_and_weights(hub, monkeypatch):
    """Weights come from the commit of config.json, even if there is a push in between."""
    first, second = small_model(0), small_model(1)
    push_to_hub(first, 'alice/net')
    fetch = flatzoo.models.builder.fetch_weights

    def push_in_between(*args):
        push_to_hub(second, 'alice/net')
        return fetch(*args)

    monkeypatch.setattr(flatzoo.models.builder, 'fetch_weights', push_in_between)
    assert same(first, timm.create_model('hf-hub:alice/net', pretrained=True))


def test_weights_of_a_registered_name(hub):
    """Registered weights come the same way, whatever their file is called."""
    model = timm.create_model('sifar_swin_tiny', num_classes=3)
    push_to_hub(model, 'org/tiny')
    overlay = dict(hf_hub_id='org/tiny', num_classes=3)
    other = timm.create_model('sifar_swin_tiny', pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay)
    assert same(model, other)
    assert other.pretrained_cfg['hf_hub_id'] == 'org/tiny' and 'file' not in other.pretrained_cfg
    assert not any('config.json' in path for method, path, _ in hub.requests if method == 'GET')
    with io.BytesIO() as file:
        torch.save({'model': model.state_dict(), 'args': argparse.Namespace(lr=1)}, file)
        huggingface_hub.HfApi().upload_file(
            path_or_fileobj=file.getvalue(), path_in_repo='best.pth', repo_id='org/tiny')
    overlay.update(hf_hub_filename='best.pth')
    assert same(model, timm.create_model(
        'sifar_swin_tiny', pretrained=True, num_classes=3, pretrained_cfg_overlay=overlay))


def test_a_saved_model_can_be_scripted(tmp_path):
    save_pretrained(small_model(), tmp_path)
    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    clip = torch.randn(1, 3, 4, 32, 32)
    torch.testing.assert_close(torch.jit.script(model)(clip), model(clip))


# folders

def test_folder(tmp_path):
    model = small_model()
    save_pretrained(model, tmp_path / 'a' / 'b', label_names=LABELS, protocol=PROTOCOL, card='# Mine\n')
    folder = tmp_path / 'a' / 'b'
    assert {file.name for file in folder.iterdir()} == FILES
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1  # safetensors would let nobody else read it
    config = json.loads((folder / 'config.json').read_text())
    assert config['label_names'] == LABELS and config['num_classes'] == 3
    assert 'num_classes' not in config['model_args'] and 'label_names' not in config['pretrained_cfg']
    video = config['video']
    assert video['format'] == 1 and video['flatzoo_version'] == flatzoo.__version__
    assert (video['num_frames'], video['layout'], video['img_size']) == (4, '2x2:column', [32, 32])
    assert EvalProtocol.from_dict(video['protocol']) == PROTOCOL
    assert len(video['mean']) == len(video['std']) == 3
    with safe_open(folder / 'model.safetensors', 'pt') as file:
        assert file.metadata() == {'format': 'pt'}
    first = (folder / 'model.safetensors').read_bytes()
    save_pretrained(model, folder)
    assert (folder / 'model.safetensors').read_bytes() == first  # what has not changed is not pushed again


def test_mean_and_std_are_those_of_the_video_block(tmp_path):
    save_pretrained(small_model(), tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    config['video'].update(mean=[0.1, 0.2, 0.3], std=[0.5, 0.5, 0.5])
    (tmp_path / 'config.json').write_text(json.dumps(config))
    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert model.pretrained_cfg['mean'] == (0.1, 0.2, 0.3)
    torch.testing.assert_close(model.super_image.norm_scale.flatten(), torch.full((3,), 2 / 255))


def test_tied_and_transposed_weights(tmp_path):
    tied = small_model()
    block = tied.backbone.layer1[0]
    block.bn2.weight = block.bn1.weight
    conv = next(m for m in tied.modules() if isinstance(m, torch.nn.Conv2d))
    conv.weight.data = conv.weight.data.to(memory_format=torch.channels_last)
    save_pretrained(tied, tmp_path)
    weights = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).state_dict()
    assert weights.keys() == tied.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in tied.state_dict().items())


def test_tied_weights_of_coat(tmp_path):
    model = timm.create_model(
        'superimage', backbone='coat_tiny', num_frames=4, img_size=32, num_classes=3)
    assert len(dict(model.named_parameters())) < len(dict(model.named_parameters(remove_duplicate=False)))
    save_pretrained(model, tmp_path)
    assert same(model, timm.create_model(f'local-dir:{tmp_path}', pretrained=True))


def test_a_failing_save_leaves_the_old_one(tmp_path, monkeypatch):
    model = small_model()
    save_pretrained(model, tmp_path, label_names=LABELS)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(tensors, path, metadata):
        Path(path).write_bytes(b'half')
        raise OSError('No space left on device')

    monkeypatch.setattr('safetensors.torch.save_file', full)
    with pytest.raises(OSError, match='No space left'):
        save_pretrained(small_model(1), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize('labels, says', [
    (['a', 'b'], '3 classes but got 2 class names'), (['a', 'b', 3], 'must be strings'), ('abc', 'got 1 class names')])
def test_wrong_labels(labels, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        save_pretrained(small_model(), tmp_path / 'new', label_names=labels)
    assert not (tmp_path / 'new').exists()


def test_what_is_no_video_model(tmp_path):
    with pytest.raises(TypeError, match='timm.models.save_for_hf'):
        save_pretrained(timm.create_model('test_resnet'), tmp_path)
    with pytest.raises(TypeError, match='timm.models.save_for_hf'):
        push_to_hub(timm.create_model('test_resnet'), 'alice/net', dry_run=True)
    with pytest.raises(ValueError, match='not built by timm.create_model'):
        save_pretrained(flatzoo.VideoModel('test_resnet', img_size=32), tmp_path)


def test_protocol_of_registered_weights(tmp_path):
    """What starts from weights with a protocol keeps it, unless another is given."""
    model = timm.create_model('sifar_resnet10t.actions16', pretrained=True)
    save_pretrained(model, tmp_path)
    other = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert flatzoo.eval_protocol(other) == flatzoo.eval_protocol('sifar_resnet10t.actions16')
    assert list(other.pretrained_cfg['label_names']) == list(model.pretrained_cfg['label_names'])
    assert flatzoo.eval_protocol('sifar_swin_b14.ibm_k400') == EvalProtocol(num_crops=3)


# what is pushed

def test_checkpoints(tmp_path):
    model = timm.create_model('sifar_swin_tiny', num_classes=3)
    save_pretrained(model, tmp_path / 'run', label_names=LABELS, card='# Mine\n')
    opened, card = open_checkpoint(tmp_path / 'run')
    assert same(model, opened) and card == '# Mine\n'
    assert same(model, open_checkpoint(tmp_path / 'run' / 'model.safetensors')[0])
    safetensors.torch.save_file(model.state_dict(), tmp_path / 'bare.safetensors')
    opened, card = open_checkpoint(tmp_path / 'bare.safetensors', 'sifar_swin_tiny')  # classes are counted
    assert same(model, opened) and card is None
    save_for_hf(model, tmp_path / 'timm', safe_serialization=True)
    assert same(model, open_checkpoint(tmp_path / 'timm')[0])
    save_for_hf(model, tmp_path / 'pickle')  # pytorch_model.bin
    assert same(model, open_checkpoint(tmp_path / 'pickle')[0])


@pytest.mark.parametrize('path, model, says', [
    ('none', None, 'there is no such file'),
    ('empty', None, 'has no config.json'),
    ('empty', 'sifar_swin_tiny', 'has no config.json'),
    ('run', 'sifar_swin_tiny', 'its config.json already names the model; leave sifar_swin_tiny out'),
    ('bare.safetensors', None, '--model'),
    ('image.safetensors', 'sifar_swin_tiny', 'not those of'),
])
def test_what_is_no_checkpoint(path, model, says, tmp_path):
    (tmp_path / 'empty').mkdir()
    save_pretrained(small_model(), tmp_path / 'run')
    for name in ('bare', 'image'):
        safetensors.torch.save_file(timm.create_model('test_resnet').state_dict(), tmp_path / f'{name}.safetensors')
    with pytest.raises((OSError, RuntimeError, ValueError), match=says):
        open_checkpoint(tmp_path / path, model)


# the command line

def test_commands(hub, tmp_path, capsys):
    model = timm.create_model('sifar_swin_tiny', num_classes=3)
    safetensors.torch.save_file(model.state_dict(), tmp_path / 'bare.safetensors')
    (tmp_path / 'classes.txt').write_text('\n'.join(LABELS) + '\n')
    push = ['push', str(tmp_path / 'bare.safetensors'), 'org/net', '--model', 'sifar_swin_tiny', '--labels',
            str(tmp_path / 'classes.txt'), '--tag', 'v1', '--message', 'Mine']
    assert main([*push, '--dry-run']) == 0
    out, err = capsys.readouterr()
    assert 'would go to org/net@main, tag v1' in out and 'model.safetensors' in out and err == '' and not hub.requests
    assert main(push) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f'{hub.url}/org/net/commit/') and out.count('\n') == 1 and 'pushed to org/net@main' in err
    assert huggingface_hub.HfApi().list_repo_commits('org/net')[0].title == 'Mine'

    assert main(['pull', 'org/net@v1', '--out', str(tmp_path / 'mine'), '--verify']) == 0
    out, err = capsys.readouterr()
    assert out == f'{tmp_path / "mine"}\n' and 'sifar_swin_tiny, 3 classes, digests verified' in err
    assert {file.name for file in (tmp_path / 'mine').iterdir()} == FILES
    assert same(model, timm.create_model(f'local-dir:{tmp_path / "mine"}', pretrained=True))


def test_predict_uses_names_and_protocol_of_the_hub(hub, capsys, monkeypatch):
    trained = timm.create_model('sifar_resnet10t.actions16', pretrained=True)
    names = [f'action {i}' for i in range(16)]
    push_to_hub(trained, 'org/actions', label_names=names, protocol=EvalProtocol(num_clips=2, num_crops=3))
    asked = []
    load_views = EvalProtocol.load_views
    monkeypatch.setattr(EvalProtocol, 'load_views', lambda self, *args: asked.append(self) or load_views(self, *args))
    clip = next(Path(flatzoo.__file__).parent.glob('data/assets/*.mp4'))
    assert main(['predict', str(clip), '--model', 'hf-hub:org/actions', '--json']) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert all(item['label'] == names[item['index']] for item in entry['predictions'])
    assert asked == [EvalProtocol(num_clips=2, num_crops=3)]


ROUND_TRIP = '''
import sys, timm
from flatzoo.cli import main
assert main(['push', sys.argv[1], 'alice/net', '--private']) == 0
assert main(['pull', 'alice/net', '--out', sys.argv[2], '--verify']) == 0
assert timm.create_model('hf-hub:alice/net', pretrained=True).head_trained
'''


def test_with_the_settings_of_a_user(tmp_path):
    """The client as it is, in a process of its own: its own way of transfer (Xet), its own cache and retries."""
    run, mine = tmp_path / 'run', tmp_path / 'mine'
    save_pretrained(small_model(), run, label_names=LABELS)
    with HubServer(tmp_path / 'served', xet=True) as server:
        env = {**os.environ, **server.env(tmp_path / 'home'), 'OMP_NUM_THREADS': '1'}
        env['PYTHONPATH'] = str(Path(flatzoo.__file__).parents[1])
        process = subprocess.run(
            [sys.executable, '-c', ROUND_TRIP, run, mine], env=env, capture_output=True, text=True, timeout=600)
        assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[0].startswith(f'{server.url}/alice/net/commit/')
    assert process.stdout.splitlines()[1] == str(mine)
    first, second = (json.loads((folder / 'config.json').read_text()) for folder in (run, mine))
    second['pretrained_cfg'].pop('pool_size', None)  # timm adds it
    assert first == second
    assert (mine / 'model.safetensors').read_bytes() == (run / 'model.safetensors').read_bytes()


def test_a_full_folder_for_temporary_files_is_one_sentence(tmp_path, monkeypatch, capsys):
    save_pretrained(small_model(), tmp_path / 'mine', label_names=LABELS)

    def full(tensors, path, metadata):
        raise safetensors.SafetensorError('I/O error: No space left on device (os error 28)')

    monkeypatch.setattr('safetensors.torch.save_file', full)
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    assert main(['push', str(tmp_path / 'mine'), 'org/name']) == 1
    err = capsys.readouterr().err
    assert err.startswith('flatzoo push: error: org/name: ') and err.count('\n') == 1
    assert 'is full. Nothing was pushed.' in err and 'TMPDIR' in err
