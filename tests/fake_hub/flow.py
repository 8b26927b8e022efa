"""What a user does with a Hub, through the unmodified huggingface_hub client of any version, asserted step by step.

A process of its own, since the client reads its environment on import: `HubServer.env()` says where the Hub is. Each
step that went well is printed; the first that did not ends the process.
"""
import hashlib
import json
import os
import struct
import time
import urllib.request
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub.utils import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

HOME = Path(os.environ['HF_HOME'])
URL = os.environ['HF_ENDPOINT']
XET = os.environ['HF_HUB_DISABLE_XET'] == '0'
NET = 'alice/net'
api = HfApi()


def fails(error: type[Exception], function, *args, **kwargs):
    """Calls a function that has to raise `error`; returns what it raised."""
    try:
        function(*args, **kwargs)
    except error as raised:
        return raised
    raise AssertionError(f'no {error.__name__}')


def retry(function, *args, **kwargs):
    """Calls a function once more if it fails: newer clients do that themselves, older ones leave it to the user."""
    try:
        return function(*args, **kwargs)
    except OSError:
        return function(*args, **kwargs)


def status(error: HfHubHTTPError) -> int:
    return error.response.status_code


def control(method: str, path: str, value=None):
    """Asks the Hub what only a test can ask."""
    request = urllib.request.Request(f'{URL}/_test/{path}', json.dumps(value).encode(), method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.load(answer)


def faults(*faults: dict) -> None:
    control('PUT', 'faults', faults)


def requests() -> list:
    return control('GET', 'requests')


def safetensors(seed: int, size: int) -> bytes:
    """A valid file of one tensor of `size` bytes that nothing compresses."""
    data = b''.join(hashlib.sha256(b'%d.%d' % (seed, n)).digest() for n in range(size // 32))
    header = json.dumps({'weight': {'dtype': 'U8', 'shape': [len(data)], 'data_offsets': [0, len(data)]}}).encode()
    return struct.pack('<Q', len(header)) + header + data


def read(path: str, **kwargs) -> bytes:
    """What a user gets, with nothing in the cache unless a `cache_dir` is given."""
    return Path(hf_hub_download(NET, path, **{'cache_dir': HOME / f'{time.monotonic_ns()}', **kwargs})).read_bytes()


TOP = {'.gitattributes', 'README.md', 'config.json', 'model.safetensors'}
WEIGHTS = [safetensors(seed, 600_000) for seed in range(3)]
CARD = b'---\nlicense: apache-2.0\nlibrary_name: flatzoo\npipeline_tag: video-classification\n---\n# net\n'


def accounts():
    me = api.whoami()
    assert me['name'] == 'alice' and me['auth']['accessToken']['role'] == 'write'
    assert 'Invalid' in str(fails(Exception, HfApi(token='hf_wrong').whoami))
    error = fails(HfHubHTTPError, HfApi(token='hf_wrong').create_repo, 'alice/never')
    assert status(error) == 401 and 'Invalid' in str(error)
    assert status(fails(HfHubHTTPError, HfApi(token=False).create_repo, 'alice/never')) == 401
    assert status(fails(HfHubHTTPError, HfApi(token='hf_read').create_repo, 'alice/never')) == 403
    assert status(fails(HfHubHTTPError, api.create_repo, 'bob/never')) == 403


def repositories():
    assert not api.repo_exists(NET)
    url = api.create_repo(NET)
    assert url.repo_id == NET and url.repo_type == 'model'
    assert status(fails(HfHubHTTPError, api.create_repo, NET)) == 409
    assert api.create_repo(NET, exist_ok=True).repo_id == NET
    assert api.create_repo('org/net').repo_id == 'org/net'
    assert api.create_repo('data', repo_type='dataset').repo_id == 'alice/data'
    assert api.repo_exists(NET) and api.repo_exists('alice/data', repo_type='dataset')
    assert [m.id for m in api.list_models(author='alice')] == [NET]
    assert api.list_repo_files(NET) == ['.gitattributes']


def push():
    folder = HOME / 'push'
    (folder / 'extra').mkdir(parents=True)
    (folder / 'README.md').write_bytes(CARD)
    (folder / 'config.json').write_text('{"architecture": "net"}')
    (folder / 'model.safetensors').write_bytes(WEIGHTS[0])
    (folder / 'extra' / 'labels.txt').write_text('walk\nrun\n')
    (folder / 'empty.txt').touch()
    api.upload_folder(repo_id=NET, folder_path=folder, commit_message='One', commit_description='Two')
    info = api.model_info(NET, files_metadata=True)
    files = {s.rfilename: s for s in info.siblings}
    assert set(files) == TOP | {'extra/labels.txt', 'empty.txt'}
    assert files['model.safetensors'].lfs.sha256 == hashlib.sha256(WEIGHTS[0]).hexdigest()
    assert files['model.safetensors'].size == len(WEIGHTS[0]) and files['config.json'].lfs is None
    assert info.library_name == 'flatzoo' and info.pipeline_tag == 'video-classification'
    assert info.card_data.license == 'apache-2.0' and not info.private
    commits = api.list_repo_commits(NET)
    assert [c.title for c in commits] == ['One', 'initial commit'] and commits[0].message == 'Two'
    assert commits[0].authors == ['alice']


def read_back():
    assert read('model.safetensors') == WEIGHTS[0] and read('README.md') == CARD and read('empty.txt') == b''
    assert read('extra/labels.txt') == read('labels.txt', subfolder='extra') == b'walk\nrun\n'
    folder = Path(huggingface_hub.snapshot_download(NET))
    assert (folder / 'model.safetensors').read_bytes() == WEIGHTS[0] and (folder / 'extra' / 'labels.txt').exists()
    assert Path(hf_hub_download(NET, 'model.safetensors', local_files_only=True)).read_bytes() == WEIGHTS[0]
    local = HOME / 'local'
    huggingface_hub.snapshot_download(NET, local_dir=local, allow_patterns='*.json')
    assert (local / 'config.json').exists() and not (local / 'README.md').exists()
    metadata = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(NET, 'model.safetensors'))
    assert metadata.etag == hashlib.sha256(WEIGHTS[0]).hexdigest() and metadata.size == len(WEIGHTS[0])
    assert (metadata.xet_file_data is not None) == XET
    small = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(NET, 'config.json'))
    assert small.commit_hash == metadata.commit_hash == api.model_info(NET).sha
    tensors = api.get_safetensors_metadata(NET)  # reads ranges of the file
    assert tensors.parameter_count == {'U8': 600_000}
    assert api.file_exists(NET, 'config.json') and not api.file_exists(NET, 'nowhere.json')
    assert status(fails(EntryNotFoundError, read, 'nowhere.json')) == 404
    assert status(fails(RevisionNotFoundError, read, 'config.json', revision='nowhere')) == 404
    assert status(fails(RepositoryNotFoundError, hf_hub_download, 'alice/nowhere', 'config.json')) == 404
    assert status(fails(RepositoryNotFoundError, hf_hub_download, 'alice/nowhere', 'config.json', token=False)) == 401
    assert status(fails(RepositoryNotFoundError, hf_hub_download, 'nowhere', 'config.json')) == 404


def trees():
    top = {entry.path: entry for entry in api.list_repo_tree(NET)}
    assert set(top) == TOP | {'extra', 'empty.txt'}
    assert type(top['extra']).__name__ == 'RepoFolder' and top['model.safetensors'].lfs.size == len(WEIGHTS[0])
    assert [entry.path for entry in api.list_repo_tree(NET, 'extra')] == ['extra/labels.txt']
    everything = list(api.list_repo_tree(NET, recursive=True, expand=True))
    assert len(everything) == 7 and {entry.last_commit.title for entry in everything} == {'One', 'initial commit'}
    fails(EntryNotFoundError, lambda: list(api.list_repo_tree(NET, 'nowhere')))
    found = api.get_paths_info(NET, ['extra', 'config.json', 'nowhere'], expand=True)
    assert [entry.path for entry in found] == ['extra', 'config.json'] and found[1].last_commit.title == 'One'


def revisions():
    first = api.model_info(NET).sha
    api.create_tag(NET, tag='v1', tag_message='the first')
    assert status(fails(HfHubHTTPError, api.create_tag, NET, tag='v1')) == 409
    api.create_tag(NET, tag='v1', exist_ok=True)
    api.create_branch(NET, branch='dev/next')
    assert status(fails(HfHubHTTPError, api.create_branch, NET, branch='dev/next')) == 409
    api.create_branch(NET, branch='dev/next', exist_ok=True)
    api.upload_file(repo_id=NET, path_in_repo='model.safetensors', path_or_fileobj=WEIGHTS[1], revision='dev/next')
    for revision, weights in {'main': 0, 'v1': 0, first: 0, 'dev/next': 1}.items():
        assert read('model.safetensors', revision=revision) == WEIGHTS[weights], revision
    refs = api.list_repo_refs(NET)
    assert {b.name for b in refs.branches} == {'main', 'dev/next'} and [t.name for t in refs.tags] == ['v1']
    assert refs.tags[0].target_commit == first and refs.tags[0].ref == 'refs/tags/v1'
    assert api.model_info(NET, revision='v1').sha == first and api.model_info(NET).sha == first
    error = fails(HfHubHTTPError, api.upload_file, repo_id=NET, path_in_repo='a', path_or_fileobj=b'a', revision='v1')
    assert status(error) == 400
    fails(RevisionNotFoundError, api.upload_file, repo_id=NET, path_in_repo='a', path_or_fileobj=b'a', revision='no')
    api.delete_tag(NET, tag='v1')
    api.delete_branch(NET, branch='dev/next')
    fails(RevisionNotFoundError, api.model_info, NET, revision='v1')
    assert status(fails(HfHubHTTPError, api.delete_branch, NET, branch='main')) == 403


def commits():
    first = api.model_info(NET).sha
    api.create_commit(NET, [
        CommitOperationAdd('model.safetensors', WEIGHTS[1]), CommitOperationAdd('more.bin', b'\0' * 700),
        CommitOperationCopy('config.json', 'copy.json'), CommitOperationCopy('model.safetensors', 'copy.safetensors'),
        CommitOperationDelete('extra/'), CommitOperationDelete('empty.txt'),
    ], commit_message='Several', parent_commit=first)
    assert set(api.list_repo_files(NET)) == TOP | {'more.bin', 'copy.json', 'copy.safetensors'}
    assert read('model.safetensors') == WEIGHTS[1] and read('copy.safetensors') == WEIGHTS[0]
    add = [CommitOperationAdd('late.txt', b'late')]
    error = fails(HfHubHTTPError, api.create_commit, NET, add, commit_message='Late', parent_commit=first)
    assert status(error) == 412
    second = api.model_info(NET).sha
    folder = HOME / 'push'
    (folder / 'model.safetensors').write_bytes(WEIGHTS[1])
    api.upload_folder(repo_id=NET, folder_path=folder, allow_patterns=['README.md', 'model.safetensors'])
    assert api.model_info(NET).sha == second  # nothing is new, so the client sends no commit
    request = api.create_commit(NET, [CommitOperationAdd('pr.txt', b'pr')], commit_message='Ask', create_pr=True)
    assert request.pr_revision == 'refs/pr/1' and read('pr.txt', revision='refs/pr/1') == b'pr'
    assert not api.file_exists(NET, 'pr.txt')
    assert [r.name for r in api.list_repo_refs(NET, include_pull_requests=True).pull_requests] == ['1']
    bad = [CommitOperationAdd('README.md', b'---\ntags: [a\n---\n')]
    fails(ValueError, api.create_commit, NET, bad, commit_message='Bad card')
    fails(ValueError, CommitOperationAdd, '../out.txt', b'')
    assert api.model_info(NET).sha == second


def private():
    api.create_repo('alice/secret', private=True)
    api.upload_file(repo_id='alice/secret', path_in_repo='model.safetensors', path_or_fileobj=WEIGHTS[2])
    assert api.model_info('alice/secret').private
    bob, nobody, wrong = HfApi(token='hf_other'), HfApi(token=False), HfApi(token='hf_wrong')
    for stranger, code in ((bob, 404), (nobody, 401)):
        assert status(fails(RepositoryNotFoundError, stranger.model_info, 'alice/secret')) == code
        cache = HOME / f'cache{time.monotonic_ns()}'
        get = stranger.hf_hub_download
        assert status(fails(RepositoryNotFoundError, get, 'alice/secret', 'model.safetensors', cache_dir=cache)) == code
        assert 'alice/secret' not in [m.id for m in stranger.list_models(author='alice')]
    assert status(fails(HfHubHTTPError, wrong.model_info, NET)) == 401  # even where no token is needed
    assert status(fails(HfHubHTTPError, bob.upload_file, repo_id=NET, path_in_repo='a', path_or_fileobj=b'a')) == 403
    assert nobody.model_info(NET).id == NET
    path = HfApi(token='hf_read').hf_hub_download('alice/secret', 'model.safetensors')
    assert Path(path).read_bytes() == WEIGHTS[2]
    api.update_repo_settings('alice/secret', private=False)
    assert not nobody.model_info('alice/secret').private
    api.move_repo('alice/secret', 'org/moved')
    assert api.model_info('org/moved').id == 'org/moved' == api.model_info('alice/secret').id  # a redirect
    again = hf_hub_download('alice/secret', 'model.safetensors', cache_dir=HOME / 'moved')
    assert Path(again).read_bytes() == WEIGHTS[2]
    api.delete_repo('org/moved')
    assert not api.repo_exists('org/moved')
    fails(RepositoryNotFoundError, api.delete_repo, 'org/moved')
    api.delete_repo('org/moved', missing_ok=True)


def transfers():
    """What goes wrong on the way: what the client makes of it, and that main stays what it was."""
    name, size = 'model.safetensors', len(WEIGHTS[1])
    if not XET:  # these bytes go through HTTP
        large = os.urandom(11 * 2**20)  # the client writes, and resumes, in pieces of 10 MiB
        api.upload_file(repo_id=NET, path_in_repo='large.bin', path_or_fileobj=large)
        faults(dict(match='GET .*large.bin', cut=10 * 2**20 + 5, times=1))
        assert retry(read, 'large.bin', cache_dir=HOME / 'resumed') == large
        assert requests()[-1][2] == 206  # the rest only
        faults(dict(match=f'GET .*{name}', truncate=200_000))
        assert 'Consistency check failed' in str(fails(OSError, read, name))
        faults(dict(match=f'GET .*{name}', flip=200_000))
        received = read(name)  # the client does not look at digests
        assert len(received) == size and [a ^ b for a, b in zip(received, WEIGHTS[1]) if a != b] == [1]
    else:
        damage = dict(flip=200_000), dict(truncate=200_000)
        for n, fault in enumerate(damage):
            api.upload_file(repo_id=NET, path_in_repo='n.txt', path_or_fileobj=b'%d' % n)  # a token is for one commit
            faults(dict(match='GET .*xet-read-token', **fault))
            if 'flip' in fault:
                received = read(name)
                assert len(received) == size and [a ^ b for a, b in zip(received, WEIGHTS[1]) if a != b] == [1]
            else:
                fails(Exception, read, name)
    before = api.model_info(NET).sha
    faults(dict(match='HEAD .*config.json', status=503, times=1))
    assert retry(read, 'config.json')
    add = [CommitOperationAdd('late.txt', b'late'), CommitOperationAdd(name, WEIGHTS[2])]
    faults(dict(match='POST .*/commit/', drop='before', times=1))
    fails(Exception, api.create_commit, NET, add, commit_message='Lost')
    assert api.model_info(NET).sha == before and not api.file_exists(NET, 'late.txt')
    faults(dict(match='POST .*/commit/', status=500))
    assert status(fails(HfHubHTTPError, api.create_commit, NET, add, commit_message='Lost')) == 500
    assert api.model_info(NET).sha == before
    faults(dict(match='POST .*/commit/', drop='after', times=1))
    fails(Exception, api.create_commit, NET, add, commit_message='Unheard')
    faults()
    assert api.list_repo_commits(NET)[0].title == 'Unheard' and read(name) == WEIGHTS[2]


if __name__ == '__main__':
    for step in (accounts, repositories, push, read_back, trees, revisions, commits, private, transfers):
        start = time.monotonic()
        step()
        print(f'{step.__name__} {time.monotonic() - start:.2f} s', flush=True)
    print(f'huggingface_hub {huggingface_hub.__version__}: all steps went well')
