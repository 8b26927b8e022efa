"""What can go wrong between a model and the Hub: each time one clear error, soon, and nothing half done."""
import json
import os
import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import timm
import torch
from fake_hub.client import connect, served_hub, small_model
from fake_hub.server import Fault, HubServer
from huggingface_hub import HfApi, constants
from processes import Process, on_hub
from timm.models import save_for_hf

import flatzoo
from flatzoo.cli import main
from flatzoo.hub.pull import download
from flatzoo.hub.push import push_to_hub, save_pretrained
from flatzoo.weights import download as _download

WEIGHTS = 'model.safetensors'


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with served_hub(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def net(hub):
    """A model on the Hub, `alice/net`."""
    model = small_model()
    push_to_hub(model, 'alice/net', label_names=['a', 'b', 'c'])
    return model


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """An address where nobody listens."""
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        url = f'http://127.0.0.1:{unused.getsockname()[1]}'
    connect(monkeypatch, SimpleNamespace(url=url, token='hf_test'), tmp_path / 'home')
    return url


@pytest.fixture
def silent(monkeypatch, tmp_path):
    """An address that takes connections and never answers; the client's patience is cut to a second."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen(16)
        url = f'http://127.0.0.1:{listener.getsockname()[1]}'
        connect(monkeypatch, SimpleNamespace(url=url, token='hf_test'), tmp_path / 'home')
        monkeypatch.setattr(constants, 'HF_HUB_ETAG_TIMEOUT', 1)
        yield url
        huggingface_hub.close_session()


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that the client of the Hub makes before it asks again, in seconds. They are not waited for."""
    waited = []
    clock = SimpleNamespace(**{**vars(time), 'sleep': waited.append})
    monkeypatch.setattr('huggingface_hub.utils._http.time', clock)
    return waited


def cache_file(name=WEIGHTS, repo='models--alice--net'):
    [path] = Path(constants.HF_HUB_CACHE, repo).glob(f'snapshots/*/{name}')
    return path


def cached_files():
    return [path for path in Path(constants.HF_HUB_CACHE).rglob('*') if path.name == WEIGHTS]


def command(capsys, *args):
    """The one line on standard error of a command that fails."""
    assert main([str(arg) for arg in args]) == 1
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and err.startswith(f'flatzoo {args[0]}: error: ')
    return err


def damage(path, position=-1):
    """Changes one byte of a file of the cache."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.resolve().write_bytes(data)


def publish(folder, repo='alice/net'):
    """Puts a folder on the Hub as it is."""
    HfApi().create_repo(repo, exist_ok=True)
    HfApi().upload_folder(repo_id=repo, folder_path=folder)


# the network

@pytest.mark.parametrize('kind', ['nowhere', 'silent'])
def test_no_network(kind, request, tmp_path, capsys, pauses):
    url = request.getfixturevalue(kind)
    save_pretrained(small_model(), tmp_path / 'run')
    for ask in (
        lambda: command(capsys, 'pull', 'alice/net'),
        lambda: command(capsys, 'push', tmp_path / 'run', 'alice/net'),
        lambda: command(capsys, 'predict', __file__, '--model', 'hf-hub:alice/net'),
        lambda: refusal(lambda: flatzoo.eval_protocol('hf-hub:alice/net')),
        lambda: refusal(lambda: timm.create_model('videomae_vit_s.mcg_k400', pretrained=True)),
        lambda: refusal(lambda: timm.create_model('uniformer_small', pretrained=True)),
        lambda: refusal(lambda: timm.create_model(
            'superimage', backbone='test_resnet.r160_in1k', img_size=32, num_frames=4, pretrained=True)),
    ):
        assert f'{url} cannot be reached' in ask() and pauses == []


def refusal(call):
    with pytest.raises(flatzoo.HubError) as caught:
        call()
    return str(caught.value)


def test_no_network_for_an_address(nowhere, monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    overlay = dict(url=f'{nowhere}/weights.pth')
    says = refusal(lambda: timm.create_model('sifar_swin_tiny', pretrained=True, pretrained_cfg_overlay=overlay))
    assert f'{nowhere}/weights.pth cannot be downloaded' in says and 'overlay' in says
    assert not list(tmp_path.rglob('*.pth'))


def test_no_network_on_timms_own_way(nowhere, pauses):
    """timm asks for config.json before our code runs, with the retries of the client; in the end it says why."""
    with pytest.raises(huggingface_hub.errors.LocalEntryNotFoundError, match='[Cc]heck your connection'):
        timm.create_model('hf-hub:alice/net', pretrained=True)
    assert sum(pauses) > 10  # which is why pull() does not go this way


def test_no_network_and_a_cached_copy(net, hub, monkeypatch, caplog, pauses):
    flatzoo.pull('alice/net')
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
    monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', 'http://127.0.0.1:9/{repo_id}/{revision}/{filename}')
    assert flatzoo.pull('alice/net', verify=True).head_trained
    assert timm.create_model('hf-hub:alice/net', pretrained=True).head_trained
    assert pauses == [] and 'does not answer' in caplog.text


def test_offline(net, hub, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    for args in (['pull', 'alice/net'], ['predict', __file__, '--model', 'hf-hub:alice/net']):
        says = command(capsys, *args)
        assert 'is not in the cache' in says and 'Unset HF_HUB_OFFLINE' in says
    save_pretrained(net, tmp_path / 'run')
    assert 'HF_HUB_OFFLINE forbids to push' in command(capsys, 'push', tmp_path / 'run', 'alice/net')
    assert main(['push', str(tmp_path / 'run'), 'alice/net', '--dry-run']) == 0  # asks nobody
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    flatzoo.pull('alice/net')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    says = refusal(lambda: timm.create_model('videomae_vit_s.mcg_k400', pretrained=True))
    assert says.startswith('model.safetensors of MCG-NJU/')
    hub.requests.clear()
    assert flatzoo.pull('alice/net', verify=True).head_trained
    assert timm.create_model('hf-hub:alice/net', pretrained=True).head_trained
    assert not hub.requests


@pytest.mark.parametrize('status, says', [(503, 'answers with error 503'), (429, 'answers with error 429')])
def test_a_hub_that_is_not_well(status, says, net, hub, capsys, tmp_path, pauses):
    save_pretrained(net, tmp_path / 'run')
    hub.faults.append(Fault(status=status))
    assert says in command(capsys, 'pull', 'alice/net')
    assert says in command(capsys, 'push', tmp_path / 'run', 'alice/net')
    assert pauses == []


def test_what_is_no_hub(hub, capsys, tmp_path):
    """A proxy, or a wrong HF_ENDPOINT, says 404 without saying of what."""
    save_pretrained(small_model(), tmp_path / 'run')
    hub.faults.append(Fault(status=404))
    for args in (['pull', 'alice/net'], ['push', tmp_path / 'run', 'alice/net']):
        assert 'as no Hub does. Check HF_ENDPOINT' in command(capsys, *args)


# repositories and tokens

@pytest.mark.parametrize('name, says', [
    ('alice/none', 'no such repository'),
    ('alice/net@v9', 'no such branch, tag or commit'),
    ('alice/net@', "Give 'org/name'"),
    ('net', "Give 'org/name'"),
    ('alice/net/model.safetensors', "Give 'org/name'"),
    ('alice/na..me', 'alice/na..me'),
])
def test_names(name, says, net, capsys):
    assert says in command(capsys, 'pull', name)


@pytest.mark.parametrize('token, pulls, pushes', [
    ('', 'no token was given', 'pushing needs a token'),
    ('hf_wrong', 'does not accept the token', 'does not accept the token'),
    ('hf_other', 'your token does not open it', 'the token may not do this'),
    ('hf_read', None, 'the token may not do this'),
])
def test_tokens(token, pulls, pushes, hub, monkeypatch, capsys, tmp_path):
    push_to_hub(small_model(), 'alice/net', private=True)
    save_pretrained(small_model(), tmp_path / 'run')
    monkeypatch.setenv('HF_TOKEN', token)
    if pulls is None:
        assert main(['pull', 'alice/net']) == 0 and capsys.readouterr()
    else:
        assert pulls in command(capsys, 'pull', 'alice/net') and not cached_files()
    assert pushes in command(capsys, 'push', tmp_path / 'run', 'alice/new')


def test_what_is_no_model(hub, tmp_path, capsys):
    (tmp_path / 'README.md').write_text('# Nothing\n')
    publish(tmp_path)
    assert 'has no config.json' in command(capsys, 'pull', 'alice/net')
    (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='bert')))
    publish(tmp_path)
    assert "has no 'architecture'" in command(capsys, 'pull', 'alice/net')
    save_for_hf(timm.create_model('test_resnet'), tmp_path / 'image', safe_serialization=True)
    publish(tmp_path / 'image', 'alice/image')
    assert 'is an image model (test_resnet)' in command(capsys, 'pull', 'alice/image') and not cached_files()


# damaged files

def test_flipped_byte_on_the_way(net, hub, capsys):
    """Plain HTTP has no digests: the file is compared when it is there, named with both, and not kept."""
    hub.faults.append(Fault('GET .*model.safetensors', flip=5000))
    want = next(iter(hub_digests(hub)))
    for ask in (lambda: command(capsys, 'pull', 'alice/net'),
                lambda: refusal(lambda: timm.create_model('hf-hub:alice/net', pretrained=True))):
        says = ask()
        assert 'model.safetensors of alice/net' in says and 'is damaged' in says and f'should be {want} and is' in says
        assert not cached_files() and not list(Path(constants.HF_HUB_CACHE).rglob(want))
    hub.faults.clear()
    assert flatzoo.pull('alice/net').head_trained  # downloaded anew


def test_flipped_byte_of_the_config(net, hub, capsys):
    hub.faults.append(Fault('GET .*config.json', flip=30))
    says = command(capsys, 'pull', 'alice/net')
    assert 'config.json of alice/net is damaged: its git sha1 should be' in says


def test_flipped_byte_of_a_backbone(hub, tmp_path):
    """Image weights that timm itself loads are fetched and compared before."""
    hub.orgs = ('timm',)
    image = timm.create_model('test_resnet')
    save_for_hf(image, tmp_path / 'image', safe_serialization=True)
    publish(tmp_path / 'image', 'timm/test_resnet.r160_in1k')
    args = dict(backbone='test_resnet.r160_in1k', num_frames=4, img_size=32, num_classes=3, pretrained=True)
    hub.faults.append(Fault('GET .*model.safetensors', flip=5000))
    assert 'is damaged' in refusal(lambda: timm.create_model('superimage', **args)) and not cached_files()
    hub.faults.clear()
    model = timm.create_model('superimage', **args)
    assert torch.equal(model.backbone.conv1[0].weight, image.conv1[0].weight)


def hub_digests(hub):
    return [file.lfs.sha256 for file in HfApi().model_info('alice/net', files_metadata=True).siblings if file.lfs]


def test_truncated_on_the_way(net, hub, capsys):
    hub.faults.append(Fault('GET .*model.safetensors', truncate=5000))
    says = command(capsys, 'pull', 'alice/net')
    assert 'model.safetensors of alice/net' in says and 'incomplete: 5000 of' in says and not cached_files()
    hub.faults.clear()
    assert flatzoo.pull('alice/net').head_trained


def test_interrupted_on_the_way(net, hub):
    """A connection that breaks is taken up again where it broke."""
    hub.faults.append(Fault('GET .*model.safetensors', cut=300_000, times=1))
    assert flatzoo.pull('alice/net', verify=True).head_trained
    assert sum(method == 'GET' and WEIGHTS in path for method, path, _ in hub.requests) == 2


def test_connection_lost_for_good(net, hub, capsys, monkeypatch):
    clock = SimpleNamespace(**{**vars(time), 'sleep': lambda seconds: None})
    monkeypatch.setattr('huggingface_hub.file_download.time', clock)
    hub.faults.append(Fault('GET .*model.safetensors', drop='before'))
    assert 'cannot be reached' in command(capsys, 'pull', 'alice/net') and not cached_files()


@pytest.mark.parametrize('offline', [False, True])
def test_verify_finds_a_damaged_cache(offline, net, hub, capsys, monkeypatch, tmp_path):
    flatzoo.pull('alice/net')
    [want], path = hub_digests(hub), cache_file()
    damage(path)
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', offline)
    assert main(['pull', 'alice/net']) == 0 and capsys.readouterr()  # a byte of a weight shows nowhere else
    says = command(capsys, 'pull', 'alice/net', '--verify', '--out', tmp_path / 'mine')
    assert 'model.safetensors of alice/net' in says and str(path) in says
    assert f'should be {want} and is' in says and not (tmp_path / 'mine').exists()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    assert main(['pull', 'alice/net', '--verify']) == 0
    assert _download.check_file(cache_file()) == want


def test_somebodys_own_links(tmp_path):
    """Only links of the cache say a digest; a folder of links into some other store is left alone."""
    save_pretrained(small_model(), tmp_path / 'run')
    for file in list((tmp_path / 'run').iterdir()):
        file.rename(tmp_path / ('0' * 39 + str(len(file.name) % 10)))
        file.symlink_to(tmp_path / ('0' * 39 + str(len(file.name) % 10)))
    assert timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True).head_trained


def test_verify_without_links(net, hub, capsys, monkeypatch):
    """Where the cache has no links, as on some Windows machines, the digests are the Hub's."""
    flatzoo.pull('alice/net')
    for path in list(Path(constants.HF_HUB_CACHE).rglob('snapshots/*/*')):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert main(['pull', 'alice/net', '--verify']) == 0 and capsys.readouterr()
    damage(cache_file())
    assert 'model.safetensors of alice/net' in command(capsys, 'pull', 'alice/net', '--verify')
    flatzoo.pull('alice/net')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    path = cache_file('config.json')
    path.write_bytes(path.read_bytes())
    assert flatzoo.pull('alice/net').head_trained


@pytest.mark.parametrize('how', ['truncated', 'garbage', 'empty'])
def test_weights_in_the_cache_that_cannot_be_read(how, net, hub, monkeypatch, capsys):
    flatzoo.pull('alice/net')
    path = cache_file()
    content = {'truncated': path.read_bytes()[:9000], 'garbage': b'no weights at all', 'empty': b''}[how]
    path.resolve().write_bytes(content)
    says = refusal(lambda: timm.create_model('hf-hub:alice/net', pretrained=True))
    assert str(path) in says and 'is damaged' in says and hub_digests(hub)[0] in says
    assert timm.create_model('hf-hub:alice/net', pretrained=True).head_trained  # downloaded anew


def test_incomplete_file_of_an_address(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    torch.save(timm.create_model('sifar_swin_tiny', num_classes=3).state_dict(), tmp_path / 'tiny.pth')
    url = (tmp_path / 'tiny.pth').as_uri()
    path = _download.fetch_url(url)
    assert path.read_bytes() == (tmp_path / 'tiny.pth').read_bytes() and _download.fetch_url(url) == path
    path.unlink()
    get = torch.hub.download_url_to_file

    def half(url, dst, **kwargs):
        get(url, dst, **kwargs)
        os.truncate(dst, 1000)

    monkeypatch.setattr('torch.hub.download_url_to_file', half)
    assert 'arrived incomplete: 1000 of' in refusal(lambda: _download.fetch_url(url)) and not path.exists()


# two at once, and killed ones

def pull_net(folder):
    download('alice/net', folder, verify=True)


def test_two_processes_pull_at_once(net, hub, tmp_path):
    hub.faults.append(Fault('GET .*(safetensors|json)', delay=0.3))
    home = tmp_path / 'both'
    processes = [
        Process(tmp_path / name, on_hub, hub.url, hub.token, home, pull_net, tmp_path / 'mine') for name in ('a', 'b')]
    for one in processes:
        done = one.wait()
        assert done.returncode == 0, done.stderr
    assert {file.name for file in (tmp_path / 'mine').iterdir()} == {
        'README.md', 'config.json', 'video_preprocessor_config.json', WEIGHTS}
    other = timm.create_model(f'local-dir:{tmp_path / "mine"}', pretrained=True).eval()
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(other(clip), net(clip))


def push_net(folder):
    push_to_hub(timm.create_model(f'local-dir:{folder}', pretrained=True), 'alice/net')


def test_a_push_that_is_killed(net, hub, tmp_path):
    """Nothing of it is visible on the main branch, and the next push goes through."""
    before = HfApi().model_info('alice/net').sha
    other = small_model(1)
    save_pretrained(other, tmp_path / 'run')
    hub.faults.append(Fault('PUT /lfs/', delay=60, drop='before'))
    batches = sum(path.endswith('/lfs/objects/batch') for _, path, _ in hub.requests)
    one = Process(tmp_path / 'log', on_hub, hub.url, hub.token, tmp_path / 'other', push_net, tmp_path / 'run')
    try:
        deadline = time.monotonic() + 600
        while sum(path.endswith('/lfs/objects/batch') for _, path, _ in hub.requests) == batches:  # now the weights
            assert time.monotonic() < deadline and one.is_alive()
            time.sleep(0.05)
        time.sleep(0.3)
    finally:
        one.kill()
    hub.faults.clear()
    assert HfApi().model_info('alice/net').sha == before
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(flatzoo.pull('alice/net').eval()(clip), net(clip))
    push_to_hub(other, 'alice/net')
    assert torch.equal(flatzoo.pull('alice/net').eval()(clip), other(clip))


@pytest.mark.parametrize('fault, says', [
    (Fault('POST .*/commit/', drop='before'), 'cannot be reached'),
    (Fault('POST .*/commit/', status=500), 'error 500'),
])
def test_a_commit_that_fails(fault, says, net, hub, pauses):
    before = HfApi().model_info('alice/net').sha
    hub.faults.append(fault)
    assert says in refusal(lambda: push_to_hub(small_model(1), 'alice/net', tag='v2'))
    hub.faults.clear()
    assert HfApi().model_info('alice/net').sha == before and not HfApi().list_repo_refs('alice/net').tags


def test_a_folder_that_cannot_be_made(net, hub, tmp_path, capsys):
    (tmp_path / 'file').touch()
    assert 'cannot be made' in command(capsys, 'pull', 'alice/net', '--out', tmp_path / 'file')


def test_a_killed_pull_into_a_folder(net, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'copyfile', lambda *paths: (_ for _ in ()).throw(OSError('No space left on device')))
    with pytest.raises(OSError, match='No space left'):
        download('alice/net', tmp_path / 'mine')
    assert not list((tmp_path / 'mine').iterdir())


def test_a_hub_that_starts_later(tmp_path, monkeypatch, capsys):
    """A failed question leaves nothing behind that hinders the next one."""
    with HubServer(tmp_path / 'served') as server:
        connect(monkeypatch, server, tmp_path / 'home')
        assert 'no such repository' in command(capsys, 'pull', 'alice/net')
        push_to_hub(small_model(), 'alice/net')
        assert main(['pull', 'alice/net']) == 0
    huggingface_hub.close_session()
