"""The Hub of `fake_hub` is one to unmodified clients: the one installed here, with Xet off and on, and others.

`FLATZOO_HUB_CLIENTS` may name folders (separated as in PATH) with other versions of the client, each one made by

    pip install --target FOLDER huggingface_hub==1.33.0

The same flow then runs with each of them too; huggingface_hub 0.36.2, 1.33.0 and 2.4.0 are known to pass.
"""
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest
from fake_hub.server import Fault, HubServer

TESTS = Path(__file__).parents[1]
CLIENTS = [None, *filter(None, os.environ.get('FLATZOO_HUB_CLIENTS', '').split(os.pathsep))]


def start(hub: HubServer, home: Path, *arguments: str, client: str | None = None) -> subprocess.Popen:
    """Starts a Python process that has the Hub as its Hub."""
    env = {**os.environ, **hub.env(home), 'PYTHONPATH': os.pathsep.join(filter(None, [client, str(TESTS)]))}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *arguments], env=env, stdout=pipe, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize('client', CLIENTS, ids=lambda client: Path(client).name if client else 'installed')
@pytest.mark.parametrize('mode', ['http', 'parts', 'xet'])
def test_flow(tmp_path, client, mode):
    options = {'http': {}, 'parts': dict(part_size=250_000, redirect=False), 'xet': dict(xet=True)}
    with HubServer(tmp_path / 'hub', **options[mode]) as hub:
        hub.page_size = 3
        process = start(hub, tmp_path / 'home', '-m', 'fake_hub.flow', client=client)
        output = process.communicate(timeout=600)[0]
        assert process.returncode == 0, output
        assert output.endswith('all steps went well\n')
    paths = [f'{method} {path}' for method, path, _ in hub.requests]
    assert any('PUT /lfs/' in path for path in paths) == (mode != 'xet')
    assert any('partNumber=3' in path for path in paths) == (mode == 'parts')
    assert any('xet-write-token' in path for path in paths) == (mode == 'xet')
    assert any('/cdn/' in path for path in paths) == (mode != 'parts')
    assert any('cursor=' in path for path in paths)
    assert not list((tmp_path / 'hub' / 'incoming').iterdir())


PUSH = """
import sys
from huggingface_hub import HfApi, snapshot_download
HfApi().create_repo('org/net', exist_ok=True)
HfApi().upload_file(repo_id='org/net', path_in_repo=f'{sys.argv[1]}.bin', path_or_fileobj=sys.argv[1].encode() * 99999)
"""
PULL = """
import sys
from pathlib import Path
from huggingface_hub import snapshot_download
folder = Path(snapshot_download('org/net'))
print(sorted((path.name, path.read_bytes() == path.stem.encode() * 99999) for path in folder.glob('*.bin')))
"""


def test_processes_at_once(tmp_path):
    with HubServer(tmp_path / 'hub', xet=True) as hub:
        for script in (PUSH, PULL):  # one home, so one cache, for both
            processes = [start(hub, tmp_path / 'home', '-c', script, name) for name in ('a', 'b')]
            outputs = [process.communicate(timeout=600)[0] for process in processes]
            assert [process.returncode for process in processes] == [0, 0], outputs
    assert all("[('a.bin', True), ('b.bin', True)]" in output for output in outputs)


@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / 'hub') as hub:
        ask(hub, 'POST', '/api/repos/create', json.dumps({'name': 'net'}))
        yield hub


def ask(hub, method, path, body=None, token='hf_test', **headers):
    """One request; returns status, headers and body of the answer, which no client has followed or retried."""
    connection = http.client.HTTPConnection('127.0.0.1', hub.port, timeout=60)
    headers |= {'Authorization': f'Bearer {token}'} if token else {}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    result = answer.status, dict(answer.headers), answer.read()
    connection.close()
    return result


def commit(hub, *operations, summary='Add'):
    lines = [dict(key='header', value=dict(summary=summary)), *operations]
    body = '\n'.join(json.dumps(line) for line in lines)
    return ask(hub, 'POST', '/api/models/alice/net/commit/main', body)


def add(path, content):
    return dict(key='file', value=dict(path=path, content=content, encoding='utf-8'))


def files(hub):
    return {item['path']: item for item in json.loads(ask(hub, 'GET', '/api/models/alice/net/tree/main')[2])}


def interrupted(hub, method, path, body):
    """Sends half of a request's body and breaks the connection."""
    with socket.create_connection(('127.0.0.1', hub.port)) as connection:
        token = '' if path.startswith('/lfs/') else 'Authorization: Bearer hf_test\r\n'
        head = f'{method} {path} HTTP/1.1\r\nHost: hub\r\n{token}Content-Length: {len(body)}\r\n\r\n'
        connection.sendall(head.encode() + body[:len(body) // 2])
    for _ in range(6000):
        if (method, path, None) in hub.requests:
            return
        time.sleep(0.01)
    raise AssertionError('the Hub did not notice')


@pytest.mark.parametrize('asked, status, content, range_', [
    (None, 200, b'0123456789', None),
    ('bytes=2-4', 206, b'234', 'bytes 2-4/10'),
    ('bytes=7-', 206, b'789', 'bytes 7-9/10'),
    ('bytes=-3', 206, b'789', 'bytes 7-9/10'),
    ('bytes=0-999', 206, b'0123456789', 'bytes 0-9/10'),
    ('bytes=10-', 416, None, 'bytes */10'),
])
def test_ranges(hub, asked, status, content, range_):
    assert commit(hub, add('a.txt', '0123456789'))[0] == 200
    first, headers, _ = ask(hub, 'HEAD', '/alice/net/resolve/main/a.txt')
    assert first == 307 and headers['X-Repo-Commit'] in headers['Location']
    answer = ask(hub, 'GET', headers['Location'], **({'Range': asked} if asked else {}))
    assert answer[0] == status and answer[1].get('Content-Range') == range_
    assert content is None or answer[2] == content
    git_id = 'ad471007bd7f5983d273b9584e5629230150fd54'  # of a file '0123456789', says git hash-object
    assert files(hub)['a.txt']['oid'] == git_id and (asked or answer[1]['ETag'] == f'"{git_id}"')


def test_contents_have_other_addresses_that_are_signed(hub):
    data = os.urandom(1000)
    oid = sha256(data).hexdigest()
    batch = json.dumps(dict(operation='upload', transfers=['basic'], objects=[dict(oid=oid, size=len(data))]))
    address = '/alice/net.git/info/lfs/objects/batch'
    href = json.loads(ask(hub, 'POST', address, batch)[2])['objects'][0]['actions']['upload']['href']
    assert href.startswith(hub.cdn_url) and not hub.cdn_url.startswith(hub.url)
    path = href.removeprefix(hub.cdn_url)
    assert ask(hub, 'PUT', path, data)[0] == 400  # the token does not belong there
    assert ask(hub, 'PUT', path[:-1] + '!', data, token=None)[0] == 403
    assert ask(hub, 'PUT', path, data[:-1], token=None)[0] == 400  # another sha256
    interrupted(hub, 'PUT', path, data)
    lfs = dict(key='lfsFile', value=dict(path='a.bin', algo='sha256', oid=oid, size=len(data)))
    assert commit(hub, lfs)[0] == 400 and 'a.bin' not in files(hub)
    assert not list(hub.store.incoming.iterdir())
    assert ask(hub, 'PUT', path, data, token=None)[0] == 200 and commit(hub, lfs)[0] == 200
    assert 'actions' not in json.loads(ask(hub, 'POST', address, batch)[2])['objects'][0]  # already there
    status, headers, _ = ask(hub, 'GET', '/alice/net/resolve/main/a.bin')
    assert (status, headers['X-Linked-Etag'], headers['X-Linked-Size']) == (302, f'"{oid}"', '1000')
    path = headers['Location'].removeprefix(hub.cdn_url)
    assert ask(hub, 'GET', path, token=None)[2] == data
    assert ask(hub, 'GET', path)[0] == 400 and ask(hub, 'GET', path.split('?')[0], token=None)[0] == 403


def test_commit_is_whole_or_not_at_all(hub):
    before = ask(hub, 'GET', '/api/models/alice/net')[2]
    bad = [
        (add('../a', 'a'), 400), (add('a//b', 'a'), 400), (add('.git/config', 'a'), 400),
        (dict(key='other', value=dict(path='a')), 400), (dict(key='deletedFile', value=dict(path='nowhere')), 404),
        (add('README.md', '---\nlicense: {a: b}\n---\n'), 400),
        (dict(key='lfsFile', value=dict(path='a.bin', algo='sha256', oid='0' * 64, size=1)), 400),
        (add('large.txt', 'a' * (10 * 2**20 + 1)), 400),
    ]
    for operation, status in bad:
        assert commit(hub, add('good.txt', 'good'), operation)[0] == status, operation
    assert commit(hub, add('good.txt', 'good'), summary='')[0] == 400
    lines = dict(key='header', value=dict(summary='Add')), add('good.txt', 'good')
    body = '\n'.join(map(json.dumps, lines)) + '\n' * 999
    interrupted(hub, 'POST', '/api/models/alice/net/commit/main', body.encode())  # all lines came, but not all bytes
    assert ask(hub, 'GET', '/api/models/alice/net')[2] == before


def test_push_that_is_killed_leaves_nothing(hub, tmp_path):
    hub.faults.append(Fault('PUT /lfs/', delay=3, times=1))
    before = ask(hub, 'GET', '/api/models/alice/net')[2]
    script = "from huggingface_hub import HfApi\nHfApi().upload_file(repo_id='alice/net', path_in_repo='a.bin', " \
             "path_or_fileobj=bytes(9_000_000))"
    process = start(hub, tmp_path / 'home', '-c', script)
    while not any(path.endswith('/batch') for _, path, _ in hub.requests):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    while not any(method == 'PUT' for method, _, _ in hub.requests):
        time.sleep(0.01)
    assert ask(hub, 'GET', '/api/models/alice/net')[2] == before
    assert not list(hub.store.incoming.iterdir())
    process = start(hub, tmp_path / 'home', '-c', script)
    assert 'Traceback' not in process.communicate(timeout=600)[0] and 'a.bin' in files(hub)


def test_commits_at_once_keep_all_files(hub):
    threads = [threading.Thread(target=commit, args=(hub, add(f'{n}.txt', 'a'))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(files(hub)) == {'.gitattributes', *(f'{n}.txt' for n in range(8))}
    commits = json.loads(ask(hub, 'GET', '/api/models/alice/net/commits/main')[2])
    assert len(commits) == len({commit['id'] for commit in commits}) == 9


def test_faults(hub):
    commit(hub, add('a.txt', '0123456789'))
    path = ask(hub, 'HEAD', '/alice/net/resolve/main/a.txt')[1]['Location']
    hub.faults += [Fault('GET .*a.txt', flip=3, times=1), Fault('GET .*a.txt', truncate=4, times=1),
                   Fault('GET .*a.txt', cut=5, times=1), Fault('GET .*a.txt', status=503, times=1),
                   Fault('GET .*a.txt', delay=0.2, drop='after', times=1)]
    assert ask(hub, 'GET', path)[2] == b'0122456789'
    assert ask(hub, 'GET', path)[1]['Content-Length'] == '4'
    with pytest.raises(http.client.IncompleteRead) as broken:
        ask(hub, 'GET', path)
    assert broken.value.partial == b'01234'
    assert ask(hub, 'GET', path)[0] == 503
    start = time.monotonic()
    with pytest.raises(ConnectionError):
        ask(hub, 'GET', path)
    assert time.monotonic() - start >= 0.2
    assert ask(hub, 'GET', path)[2] == b'0123456789'


def test_hub_that_stops_and_comes_back(tmp_path):
    with HubServer(tmp_path) as hub:
        ask(hub, 'POST', '/api/repos/create', json.dumps({'name': 'net', 'visibility': 'private'}))
        assert commit(hub, add('a.txt', 'a'))[0] == 200
        connection = http.client.HTTPConnection('127.0.0.1', hub.port, timeout=60)
        connection.request('GET', '/api/whoami-v2', headers={'Authorization': 'Bearer hf_test'})
        assert connection.getresponse().read()
    with pytest.raises((ConnectionError, http.client.HTTPException)):  # not even on connections that are open
        connection.request('GET', '/api/whoami-v2')
        connection.getresponse()
    with pytest.raises(ConnectionError):
        ask(hub, 'GET', '/api/models/alice/net')
    with HubServer(tmp_path) as hub:
        assert ask(hub, 'GET', '/api/models/alice/net', token=None)[0] == 401
        assert json.loads(ask(hub, 'GET', '/api/models/alice/net')[2])['private'] and 'a.txt' in files(hub)


def test_process(tmp_path):
    command = [sys.executable, '-m', 'fake_hub.server', '--root', str(tmp_path), '--port', '0', '--user', 'carol']
    process = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        hub = type('Hub', (), {'port': int(line.split()[0].split(':')[-1])})
        assert 'HF_TOKEN=hf_test' in line and json.loads(ask(hub, 'GET', '/api/whoami-v2')[2])['name'] == 'carol'
        assert ask(hub, 'PUT', '/_test/faults', json.dumps([dict(match='whoami', status=502)]))[0] == 200
        assert ask(hub, 'GET', '/api/whoami-v2')[0] == 502
        assert json.loads(ask(hub, 'GET', '/_test/requests')[2])[-1] == ['GET', '/api/whoami-v2', 502]
    finally:
        process.terminate()
        process.wait(60)
