"""Shards: packed from a list and read back the same, from disk, from a server, and by WebDataset itself."""
import http.server
import io
import json
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from flatzoo.data import clips
from flatzoo.data.actions import write_action
from flatzoo.data.clips import ClipDataset
from flatzoo.data.lists import Clip, DataError, VideoList, read_videos
from flatzoo.data.shards import pack

try:
    import webdataset
except ImportError:
    webdataset = None
needs_webdataset = pytest.mark.skipif(webdataset is None, reason='needs the extra webdataset')


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    """Videos, a part of one, and a folder of frames."""
    folder = tmp_path_factory.mktemp('source')
    found = []
    for number in range(5):
        path = write_action(folder / f'{number}.mp4', number, number, size=16, num_frames=6, fps=6)
        found.append(Clip(str(path), number % 2, id=f'v{number}'))
    found.append(Clip(found[0].path, 1, 0.2, 0.8, 'seconds', 'part'))
    (folder / 'frames').mkdir()
    for number in range(9, 12):
        Image.fromarray(np.full((16, 16, 3), number * 20, np.uint8)).save(folder / f'frames/{number}.png')
    found.append(Clip(str(folder / 'frames'), 0, 1, 3, id='frames'))
    return VideoList('mine', found, ['turn left', 'b'], 'train', flip=False, metric='mean_class', note='sided')


@pytest.fixture(scope='module')
def packed(videos, tmp_path_factory):
    if webdataset is None:
        pytest.skip('needs the extra webdataset')
    folder = tmp_path_factory.mktemp('100% shards')
    shards, failed = pack(videos, folder, max_clips=3)
    assert [path.name for path in shards] == [f'train-00000{i}.tar' for i in range(3)] and not failed
    return folder


def assert_same_clips(videos, shards):
    assert sorted(clip.id for clip in shards.clips) == sorted(clip.id for clip in videos.clips)
    place = {clip.id: index for index, clip in enumerate(shards.clips)}
    one, other = (ClipDataset(v, 3, 16, train=False) for v in (videos, shards))
    for index, clip in enumerate(videos.clips):
        a, b = one[index], other[place[clip.id]]
        assert a['label'] == b['label']
        assert torch.equal(a['clip'], b['clip'])


def test_read_as_they_were_packed(videos, packed):
    shards = read_videos('auto', packed, 'train')
    for name in ('name', 'classes', 'split', 'flip', 'metric', 'depth', 'note'):
        assert getattr(shards, name) == getattr(videos, name)
    assert [clip.id for clip in shards.clips] != [clip.id for clip in videos.clips]  # shuffled
    assert_same_clips(videos, shards)


def test_nothing_else_is_left_in_the_folder(packed):
    names = sorted(path.name for path in packed.iterdir())
    assert names == ['train-000000.tar', 'train-000001.tar', 'train-000002.tar', 'train.index.json']


def test_without_index(videos, packed, tmp_path):
    for path in packed.glob('*.tar'):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / 'classes.txt').write_text('turn left\nb\n')
    shards = read_videos('wds', tmp_path, 'training')
    assert not shards.flip and shards.classes == videos.classes
    assert_same_clips(videos, shards)


def test_webdataset_reads_them(videos, packed):
    if webdataset is None:
        pytest.skip('needs the extra webdataset')
    urls = sorted(map(str, packed.glob('*.tar')))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(samples) == len(videos)
    for sample in samples:
        clip = next(clip for clip in videos.clips if clip.id == sample['json']['id'])
        assert sample['cls'] == clip.label and sample['json']['label'] == videos.classes[clip.label]
        if 'mp4' in sample:
            assert sample['mp4'] == open(clip.path, 'rb').read()


@needs_webdataset
def test_evaluation_keeps_its_order_and_shards_pack_again(videos, packed, tmp_path):
    from dataclasses import replace
    pack(replace(videos, split='val'), tmp_path)
    assert [clip.id for clip in read_videos('wds', tmp_path, 'test').clips] == [clip.id for clip in videos.clips]
    pack(read_videos('wds', packed, 'train'), tmp_path, max_bytes=2000)
    assert len(list(tmp_path.glob('train-*.tar'))) > 1
    assert_same_clips(videos, read_videos('wds', tmp_path, 'train'))


@needs_webdataset
def test_files_that_cannot_be_read_are_named(videos, tmp_path):
    listed = [*videos.clips[:2], Clip(str(tmp_path / 'gone.mp4'), 0)]
    shards, failed = pack(VideoList('x', listed, ['a', 'b'], 'val'), tmp_path / 'out')
    assert len(failed) == 1 and 'gone.mp4' in failed[0]
    assert len(read_videos('wds', tmp_path / 'out', 'val')) == 2
    with pytest.raises(DataError, match='has shards of the split val already'):
        pack(VideoList('x', listed, ['a', 'b'], 'val'), tmp_path / 'out')
    with pytest.raises(DataError, match='no clip of x could be read'):
        pack(VideoList('x', listed[2:], ['a'], 'val'), tmp_path / 'other')
    assert not list((tmp_path / 'other').glob('*.tar'))


class Server(http.server.BaseHTTPRequestHandler):
    """Serves parts of files, as object stores do; every third request fails."""

    folder = None
    requests = 0
    parts = True

    def do_GET(self):
        type(self).requests += 1
        path = self.folder / self.path.lstrip('/')
        if self.requests % 3 == 2:
            return self.send_error(503)
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        part = self.headers.get('Range')
        if part and self.parts:
            first, last = map(int, part.removeprefix('bytes=').split('-'))
            data = data[first:last + 1]
        self.send_response(206 if part and self.parts else 200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def url(packed, monkeypatch):
    monkeypatch.setattr('flatzoo.data.shards.time.sleep', lambda seconds: None)
    Server.folder, Server.requests, Server.parts = packed, 0, True
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_from_a_server(videos, url):
    shards = read_videos('auto', url, 'train')
    assert_same_clips(videos, shards)
    with pytest.raises(DataError, match='no val.index.json'):
        read_videos('wds', url, 'val')


def test_server_that_serves_no_parts(url):
    shards = read_videos('wds', url, 'train')
    Server.parts = False
    assert 'does not send parts' in ClipDataset(shards, 3, 16)[0]['error']


def test_from_another_store(videos, packed):
    import fsspec
    memory = fsspec.filesystem('memory')
    memory.put(f'{packed}/', '/bucket/', recursive=True)
    assert_same_clips(videos, read_videos('wds', 'memory://bucket', 'train'))


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_shards_of_others(videos, tmp_path):
    video = open(videos.clips[0].path, 'rb').read()
    write_tar(tmp_path / 'train/000.tar', {
        'run/a.mp4': video, 'run/a.cls': b'run', 'run/a.txt': b'x', 'b.json': b'{"label": "walk"}', 'b.mp4': video})
    write_tar(tmp_path / 'valid/000.tar', {'c.mp4': video, 'c.cls': b'run'})
    shards = read_videos('auto', tmp_path, 'train')
    assert shards.classes == ('run', 'walk') and [clip.label for clip in shards.clips] == [0, 1]
    assert 'clip' in ClipDataset(shards, 3, 16)[0]
    assert len(read_videos('wds', tmp_path, 'val')) == 1


@pytest.mark.parametrize('write, message', [
    (lambda path: path.write_bytes(b'no tar'), 'not a readable, uncompressed tar file'),
    (lambda path: write_tar(path, {'a.mp4': b'x'}), 'the sample a has no label'),
    (lambda path: write_tar(path, {'a.mp4': b'x', 'a.json': b'{'}), 'a.json: is not JSON'),
])
def test_bad_shards(tmp_path, write, message):
    write(tmp_path / 'train-0.tar')
    with pytest.raises(DataError, match=message):
        read_videos('wds', tmp_path, 'train')


def test_broken_member_and_cut_shard(videos, packed, tmp_path):
    write_tar(tmp_path / 'train-0.tar', {'a.mp4': b'x' * 999, 'a.cls': b'0'})
    item = ClipDataset(read_videos('wds', tmp_path, 'train'), 3, 16)[0]
    assert item['error'].startswith(f'{tmp_path}/train-0.tar/a.mp4: ') and '/dev/shm' not in item['error']
    shards = read_videos('wds', packed, 'train')
    (tmp_path / 'cut.tar').write_bytes(open(shards.clips[0].path, 'rb').read(2000))
    clip = Clip(str(tmp_path / 'cut.tar'), 0, member=shards.clips[0].member)
    assert 'ends too early' in ClipDataset(VideoList('cut', [clip], ['a']), 3, 16)[0]['error']


def test_memory_without_room(videos, packed, monkeypatch):
    write = clips._write_temporary

    def full(data, suffix, folder):
        if folder == '/dev/shm':
            raise OSError(28, 'No space left on device')
        return write(data, suffix, folder)

    monkeypatch.setattr(clips, '_write_temporary', full)
    assert_same_clips(videos, read_videos('wds', packed, 'train'))


def test_bad_index(tmp_path):
    (tmp_path / 'train-0.tar').touch()
    for text, message in (('{', 'cannot be read'), (json.dumps({'version': 0}), 'Pack the shards again')):
        (tmp_path / 'train.index.json').write_text(text)
        with pytest.raises(DataError, match=message):
            read_videos('wds', tmp_path, 'train')


def write_index(folder, packed, **changes):
    """The index of `packed` with some of it changed."""
    data = json.loads((packed / 'train.index.json').read_text()) | changes
    (folder / 'train.index.json').write_text(json.dumps(data))


@pytest.mark.parametrize('name', [
    '../secret.tar', '/etc/passwd', 'a/../../b.tar', '..', '', 'file:///etc/passwd', 'c:\\x.tar', 'x\0.tar', 7])
def test_index_names_shards_beside_it_only(packed, tmp_path, name):
    write_index(tmp_path, packed, shards=[name])
    with pytest.raises(DataError, match='train.index.json: names the shard .*beside its index'):
        read_videos('wds', tmp_path, 'train')


@pytest.mark.parametrize('clip', [
    [9, 'a.mp4', 0, 9, 0, 0, None, 'frames', 'a'], [-1, 'a.mp4', 0, 9, 0, 0, None, 'frames', 'a'],
    [0, 'a.mp4', -1, 9, 0, 0, None, 'frames', 'a'], [0, 'a.mp4', 0, '9', 0, 0, None, 'frames', 'a'],
    [0, None, 0, 9, 0, 0, None, 'frames', 'a'], [0, 'a.mp4', 0, 9, 1.5, 0, None, 'frames', 'a'], ['a'], 5])
def test_index_with_odd_clips(packed, tmp_path, clip):
    write_index(tmp_path, packed, clips=[clip])
    with pytest.raises(DataError, match='train.index.json: .*Pack the shards again'):
        read_videos('wds', tmp_path, 'train')


def test_member_of_absurd_size(packed, tmp_path):
    for path in packed.glob('*.tar'):
        (tmp_path / path.name).symlink_to(path)
    write_index(tmp_path, packed, clips=[[0, 'a.mp4', 0, 10 ** 15, 0, 0, None, 'frames', 'a']])
    assert 'ends too early' in ClipDataset(read_videos('wds', tmp_path, 'train'), 3, 16)[0]['error']


@needs_webdataset
def test_pictures_and_odd_suffixes_are_packed_so_that_they_are_found(videos, tmp_path):
    """The suffix of a member must not be that of its label; what it is shows its content."""
    (tmp_path / 'in').mkdir()
    found = []
    for name in ('a.json', 'b.cls', 'c', 'd.MP4'):
        (tmp_path / 'in' / name).write_bytes(open(videos.clips[0].path, 'rb').read())
    Image.new('RGB', (16, 16)).save(tmp_path / 'in/e.png')
    for path in sorted((tmp_path / 'in').iterdir()):
        found.append(Clip(str(path), 0, id=path.name))
    mixed = VideoList('mixed', found, ['a'], 'val')
    shards, failed = pack(mixed, tmp_path / 'out')
    assert not failed
    assert_same_clips(mixed, read_videos('wds', tmp_path / 'out', 'val'))
