"""The reader against clips made here: every frame carries its index as a bar code."""
import os
import struct
import sys
import types
import warnings
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from flatzoo.data.decode import VideoError, VideoReader, reader
from flatzoo.data.decode.pyav_source import PyAVSource
from flatzoo.data.decode.stream import read_stream

HEIGHT, WIDTH = 48, 64


def bar_code(index):
    """A frame [H, W, 3] whose eight vertical bars are the bits of `index`, the lowest on the left."""
    image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    for bit in range(8):
        if index >> bit & 1:
            image[:, bit * WIDTH // 8:(bit + 1) * WIDTH // 8] = 215
    return image


def read_codes(frames):
    """Indices that frames [T, C, H, W] carry."""
    bars = frames.float().mean((1, 2)).unflatten(1, (8, -1))[:, :, 2:-2].mean(2)  # [T, 8]
    return ((bars > 128) * 2 ** torch.arange(8)).sum(1).tolist()


def write_video(
        path,
        count=30,
        codec='libx264',
        pix_fmt='yuv420p',
        times=None,
        first=0,
        rotation=0,
        audio=False,
        gop=12,
        format=None,
        container_options=None,
        **options,
):
    """Writes `count` frames at 25 per second from time `first` on, or at `times` in milliseconds."""
    time_base = Fraction(1, 1000) if times else Fraction(1, 25)
    with av.open(str(path), 'w', format=format, options=container_options or {}) as container:
        sound = container.add_stream('aac', rate=16000) if audio else None
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        stream.options = options
        if codec in ('libx264', 'mpeg4'):
            stream.gop_size, stream.max_b_frames = gop, 2
        if rotation:
            stream.set_display_rotation(rotation)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(bar_code(index), format='rgb24').reformat(format=pix_fmt)
            frame.pts, frame.time_base = (times[index] if times else index + first), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio:
            write_audio(container, sound)
    return path


def write_audio(container, stream):
    for index in range(20):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        frame.sample_rate, frame.pts = 16000, index * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def damage_packets(path, numbers):
    """Overwrites the payload of some packets, counted in the order of the file, with zeros."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        position, size = packets[number]
        start = data.index(b'\xff\xd8', position)  # Matroska points to the block, JPEG starts a little later
        data[start:start + size] = bytes(size)
    path.write_bytes(data)
    return path


FILES = {
    'h264.mp4': {},
    'h264.mkv': {},
    'h264.ts': {},
    'raw.h264': dict(format='h264'),
    'h264.mpg': dict(format='mpeg'),
    'vp9.webm': dict(codec='libvpx-vp9', deadline='realtime', **{'cpu-used': '8'}),
    'mpeg4.avi': dict(codec='mpeg4'),
    'mjpeg.mkv': dict(codec='mjpeg', pix_fmt='yuvj420p'),
    'lossless.mkv': dict(codec='ffv1', pix_fmt='bgr0'),
    'animation.gif': dict(codec='gif', pix_fmt='rgb8'),
    'sound.mp4': dict(audio=True),
    'intra_refresh.mp4': {'intra-refresh': '1', 'bf': '0'},  # its seek points are not whole key frames
    'mp4.avi': dict(format='mp4'),  # the wrong extension
    'a:b%d.mp4': {},
}


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('videos')
    return {name: write_video(folder / name, **options) for name, options in FILES.items()}


@pytest.mark.parametrize('name', FILES)
def test_every_frame_is_exact(files, name):
    with VideoReader(files[name]) as video:
        assert len(video) == 30
        assert (video.height, video.width) == (HEIGHT, WIDTH)
        assert video.fps == pytest.approx(25, rel=1e-3)
        frames = video.get_frames(range(30))
        assert frames.shape == (30, 3, HEIGHT, WIDTH) and frames.dtype == torch.uint8
        assert frames.permute(0, 2, 3, 1).is_contiguous()
        assert read_codes(frames) == list(range(30))


@pytest.mark.parametrize('name', FILES)
def test_sparse_unsorted_and_repeated_indices(files, name):
    generator = torch.Generator().manual_seed(0)
    with VideoReader(files[name]) as video:
        for count in (1, 2, 5, 5, 5, 9):
            indices = torch.randint(30, (count,), generator=generator)
            assert read_codes(video.get_frames(indices)) == indices.tolist()


def test_frames_equal_plain_sequential_decoding(files):
    with av.open(str(files['h264.mp4'])) as container:
        expected = np.stack([frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)])
    with VideoReader(files['h264.mp4']) as video:
        frames = video.get_frames([29, 3, 17])
    assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), expected[[29, 3, 17]])


@pytest.fixture
def decoded(monkeypatch):
    """Times of the frames that the PyAV reader decodes, in their order."""
    times = []
    decode_all = PyAVSource._decode

    def count_frames(self, *args):
        for pts, frame in decode_all(self, *args):
            times.append(pts)
            yield pts, frame

    monkeypatch.setattr(PyAVSource, '_decode', count_frames)
    return times


@pytest.mark.parametrize('name', ['h264.mp4', 'h264.mkv'])
def test_only_the_stretches_that_are_needed_are_decoded(files, name, decoded):
    with VideoReader(files[name]) as video:  # key frames are 0, 8, 16, 24
        assert decoded == []
        video.get_frames([2, 1, 26])
        assert len(decoded) <= 3 + 3 + 1  # 0 to 2 and 24 to 26; the decoder may give one more
        assert decoded == sorted(set(decoded))  # forward, nothing twice
        del decoded[:]
        video.get_frames([26])
        video.get_frames([27])
        assert len(decoded) <= 1  # goes on from where it is


@pytest.mark.parametrize('name', ['h264.mp4', 'h264.mkv'])
def test_frames_that_nobody_needs_are_left_out(tmp_path, decoded, name):
    path = write_video(tmp_path / name, gop=60, count=60, bf='3')
    with VideoReader(path) as video:
        frames = video.get_frames(range(60))
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        indices = torch.randperm(60, generator=generator)[:6].sort()[0]
        del decoded[:]
        with VideoReader(path) as video:
            assert torch.equal(video.get_frames(indices), frames[indices])
            assert len(decoded) < 2 / 3 * int(indices[-1]) + 6  # at least a third are B-frames without dependents
            # what was left out is decoded when it is wanted after all
            assert torch.equal(video.get_frames(indices + (indices < 59)), frames[indices + (indices < 59)])
            assert torch.equal(video.get_frames(range(60)), frames)


@pytest.mark.parametrize('name, options', [
    ('decode_times.avi', {'bf': '8', 'b-pyramid': 'none', 'b-adapt': '0'}), ('mpeg4.avi', {'codec': 'mpeg4'})])
def test_nothing_is_left_out_where_times_are_those_of_decoding(tmp_path, decoded, name, options):
    path = write_video(tmp_path / name, gop=60, count=60, **options)
    with VideoReader(path) as video:
        video.get_frames([0, 8])
        assert len(decoded) >= 8  # a decoder that leaves B-frames out gives less than half of them


def stream_copy(source, path, timed=lambda packet: None):
    """The packets of a file in another container, as `ffmpeg -c copy` puts them, after `timed` has changed each."""
    with av.open(str(source)) as container, av.open(str(path), 'w') as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                timed(packet)
                packet.stream = stream
                out.mux(packet)
    return path


UNTRUE = {
    'pyramid.avi': {'bf': '3'},
    'flat.avi': {'bf': '2', 'b-pyramid': 'none'},
    'h264.asf': dict(format='asf', bf='2'),
    'mpeg4.asf': dict(codec='mpeg4', format='asf'),
}


@pytest.mark.parametrize('name', UNTRUE)
def test_times_of_decoding_are_not_taken_for_those_of_frames(tmp_path, name):
    path = write_video(tmp_path / name, gop=30, **UNTRUE[name])
    for file in (path, stream_copy(path, tmp_path / 'copy.mp4')):
        with VideoReader(file) as video:
            assert len(video) == 30 and (video.timestamps.diff() > 0).all()
            assert read_codes(video.get_frames(range(30))) == list(range(30))
            assert read_codes(video.get_frames([17, 4, 29])) == [17, 4, 29]


@pytest.mark.parametrize('name', ['copy.mp4', 'copy.mkv', 'copy.ts'])
def test_times_of_decoding_in_containers_of_good_times(files, tmp_path, name):
    def shift(packet):  # a decoding time below zero would make an edit list
        packet.dts = packet.pts = packet.dts + 20 * (1000 if name.endswith('ts') else 512)

    with VideoReader(stream_copy(files['h264.mp4'], tmp_path / name, shift)) as video:
        assert read_codes(video.get_frames(range(len(video)))) == list(range(30))


def test_recordings_that_were_strung_together(files, tmp_path):
    """Each has its own times, so that two frames share one."""
    data = files['h264.ts'].read_bytes()
    (tmp_path / 'twice.ts').write_bytes(data + data)
    with VideoReader(tmp_path / 'twice.ts') as video:
        assert len(video) == 60
        assert read_codes(video.get_frames([*range(25, 35), 59])) == [*range(25, 30), *range(5), 29]
        assert (video.timestamps.diff() > 0).all()


def test_good_times_without_b_frames_are_kept(tmp_path, decoded):
    """MPEG-2 may put frames into another order and here does not: one look at all of them, then it is sought."""
    path = write_video(tmp_path / 'p.mkv', codec='mpeg2video', gop=6, bf='0', g='6')
    with VideoReader(path) as video:
        assert len(decoded) == 30 and video.timestamps[5] == pytest.approx(0.2)
        del decoded[:]
        assert read_codes(video.get_frames([26])) == [26]
        assert len(decoded) < 10


def test_order_that_the_header_conceals_is_seen_on_the_way(tmp_path, monkeypatch):
    path = write_video(tmp_path / 'late.avi', gop=30, bf='2')
    monkeypatch.setattr(PyAVSource, '_may_be_decode_times', lambda self: False)
    for indices in (range(30), [1], [22, 2]):
        with VideoReader(path) as video:
            assert read_codes(video.get_frames(indices)) == list(indices)
            assert read_codes(video.get_frames([7, 2])) == [7, 2]


def test_key_frame_spacing_decides_about_seeking(tmp_path, monkeypatch):
    seeks = []
    seek = PyAVSource._start_at
    monkeypatch.setattr(PyAVSource, '_start_at', lambda self, key: (seeks.append(key), seek(self, key)))
    with VideoReader(write_video(tmp_path / 'one_key.mp4', gop=250)) as video:
        assert read_codes(video.get_frames([5])) == [5]
        seeks.clear()  # one that brings it back from the end of the file is no harm
        assert read_codes(video.get_frames([5, 15, 25])) == [5, 15, 25]
        assert seeks == []


@pytest.mark.parametrize(('name', 'times'), [('h264.mp4', 1), ('sound.mp4', 1), ('h264.mkv', 2)])
def test_mp4_files_are_opened_once(files, monkeypatch, name, times):
    """Opening looks into the file and decodes; in MP4 one can go back after the index."""
    opened = []
    open_file = PyAVSource._open
    monkeypatch.setattr(PyAVSource, '_open', lambda self: (opened.append(self), open_file(self)))
    with VideoReader(files[name]) as video:
        assert read_codes(video.get_frames([12, 0, 29])) == [12, 0, 29]
    assert len(opened) == times


def test_variable_frame_rate(tmp_path):
    times = [index * index * 7 for index in range(30)]
    with VideoReader(write_video(tmp_path / 'vfr.mp4', times=times)) as video:
        assert torch.allclose(video.timestamps, torch.tensor(times, dtype=torch.float64) / 1000, atol=1e-4)
        assert video.timestamps.dtype == torch.float64
        assert video.fps == pytest.approx(29 / (times[-1] / 1000), rel=1e-3)
        assert read_codes(video.get_frames([28, 3, 11])) == [28, 3, 11]


def test_edit_list(tmp_path):
    """The frames that it cuts away at the start, a key frame among them, are needed to decode, but not shown."""
    path = write_video(
        tmp_path / 'cut.mp4', first=-5, gop=30, bf='0', container_options={'avoid_negative_ts': 'disabled'})
    with av.open(str(path)) as container:
        assert sum(packet.is_discard for packet in container.demux(video=0)) == 5
    with VideoReader(path) as video:
        assert len(video) == 25 and video.timestamps[0] == 0
        assert read_codes(video.get_frames([0, 24, 3])) == [5, 29, 8]


def test_start_time(tmp_path):
    with VideoReader(write_video(tmp_path / 'late.mkv', 20, times=[3000 + 40 * i for i in range(20)])) as video:
        assert len(video) == 20 and video.timestamps[0] == 3.0
        assert read_codes(video.get_frames([0, 19, 7])) == [0, 19, 7]


@pytest.mark.parametrize('rotation', [90, 180, 270])
def test_rotation_metadata(tmp_path, rotation):
    write_video(tmp_path / 'upright.mp4', 5)
    write_video(tmp_path / 'rotated.mp4', 5, rotation=rotation)
    with VideoReader(tmp_path / 'upright.mp4') as upright, VideoReader(tmp_path / 'rotated.mp4') as rotated:
        expected = upright.get_frames([1, 4]).rot90(rotation // 90, (2, 3))  # counter-clockwise
        assert torch.equal(rotated.get_frames([1, 4]), expected)
        assert (rotated.height, rotated.width) == tuple(expected.shape[2:])


MATRICES = {  # (a, b, c, d) of `MATRICES[name]`, and what becomes of a frame [H, W]
    'as it is': ((1, 0, 0, 1), lambda f: f),
    'quarter': ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    'half': ((-1, 0, 0, -1), lambda f: np.rot90(f, 2)),
    'three quarters': ((0, -1, 1, 0), lambda f: np.rot90(f, 1)),
    'mirrored': ((-1, 0, 0, 1), lambda f: f[:, ::-1]),
    'upside down': ((1, 0, 0, -1), lambda f: f[::-1]),
    'transposed': ((0, 1, 1, 0), lambda f: f.swapaxes(0, 1)),
    'other diagonal': ((0, -1, -1, 0), lambda f: np.rot90(f, 2).swapaxes(0, 1)),
    'not at all': ((0, 0, 0, 0), lambda f: f),
}


@pytest.mark.parametrize('name', MATRICES)
def test_display_matrix(files, tmp_path, name):
    """As ffmpeg turns and mirrors, front cameras among them."""
    matrix, turned = MATRICES[name]
    data = bytearray(files['h264.mp4'].read_bytes())
    at = data.index(b'tkhd') + 44
    a, b, c, d = (value * 65536 for value in matrix)
    data[at:at + 36] = struct.pack('>9i', a, b, 0, c, d, 0, 0, 0, 2 ** 30)
    (tmp_path / 'turned.mp4').write_bytes(data)
    with VideoReader(files['h264.mp4']) as plain, VideoReader(tmp_path / 'turned.mp4') as video:
        expected = turned(plain.get_frames([3])[0].permute(1, 2, 0).numpy())
        assert np.array_equal(video.get_frames([3])[0].permute(1, 2, 0).numpy(), expected)
        assert (video.height, video.width) == expected.shape[:2]


@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
def test_the_best_of_two_streams_is_read_and_named(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(reader, '_warned_of_streams', False)
    path = tmp_path / f'two.{suffix}'
    with av.open(str(path), 'w') as container:
        streams = [container.add_stream('libx264', rate=rate) for rate in (1, 10)]
        for stream, size in zip(streams, (32, 96)):
            stream.width = stream.height = size
            stream.pix_fmt = 'yuv420p'
        streams[0].disposition = av.stream.Disposition(0)
        streams[1].disposition = av.stream.Disposition.default
        for stream, size, count in zip(streams, (32, 96), (3, 20)):
            for _ in range(count):
                frame = av.VideoFrame.from_ndarray(np.zeros((size, size, 3), np.uint8), format='rgb24')
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    with pytest.warns(UserWarning, match=f'two.{suffix}: has 2 video streams; stream 1 is read'):
        video = VideoReader(path)
    with video:
        assert (video.stream, video.height, len(video)) == (1, 96, 20)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        VideoReader(path).close()  # named once


@pytest.mark.parametrize('pix_fmt, codec, suffix', [
    ('yuv420p10le', 'ffv1', 'mkv'), ('gray16le', 'ffv1', 'mkv'), ('gbrp12le', 'ffv1', 'mkv'), ('argb', 'qtrle', 'mov')])
def test_deep_pixels_of_videos(tmp_path, pix_fmt, codec, suffix):
    path = write_video(tmp_path / f'deep.{suffix}', 5, codec=codec, pix_fmt=pix_fmt)
    with VideoReader(path) as video:
        frames = video.get_frames(range(5))
        assert read_codes(frames) == list(range(5))
        assert abs(frames[1, :, :, :6].float().mean() - 215) < 4 and abs(frames[0].float().mean() - 40) < 4


def test_one_frame(tmp_path):
    with VideoReader(write_video(tmp_path / 'one.mp4', 1)) as video:
        assert len(video) == 1 and video.fps == 0.0
        assert video.get_frames([0, 0, 0]).shape == (3, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize('name', ['image.png', 'image.jpg', 'image.bmp', 'image.gif', 'image.webp'])
def test_still_images_are_videos_of_one_frame(tmp_path, name):
    Image.fromarray(bar_code(77)).save(tmp_path / name)
    with VideoReader(tmp_path / name) as video:
        assert len(video) == 1 and video.timestamps.tolist() == [0.0]
        assert read_codes(video.get_frames([0])) == [77]


def test_animated_webp(tmp_path):
    images = [Image.fromarray(bar_code(index)) for index in range(12)]
    images[0].save(tmp_path / 'a.webp', save_all=True, append_images=images[1:], duration=50, lossless=True)
    with VideoReader(tmp_path / 'a.webp') as video:
        assert len(video) == 12 and video.fps == pytest.approx(20) and (video.height, video.width) == (HEIGHT, WIDTH)
        frames = video.get_frames([11, 0, 5, 5])
        assert np.array_equal(frames[2].permute(1, 2, 0).numpy(), bar_code(5))
        assert read_codes(frames) == [11, 0, 5, 5]
    data = (tmp_path / 'a.webp').read_bytes()
    (tmp_path / 'b.webp').write_bytes(data[:len(data) // 2])
    with pytest.raises(VideoError, match='b.webp'):
        VideoReader(tmp_path / 'b.webp')


@pytest.mark.parametrize('name, options', [
    ('a.mkv', {}),
    ('a.ts', {}),
    ('a.mp4', dict(container_options={'movflags': 'faststart'})),
])
def test_truncated_files_give_the_frames_that_are_there(tmp_path, name, options):
    data = write_video(tmp_path / name, 60, bf='0', **options).read_bytes()
    (tmp_path / name).write_bytes(data[:len(data) * 7 // 10])
    with VideoReader(tmp_path / name) as video:
        assert 0 < len(video) < 60
        codes = read_codes(video.get_frames(range(len(video))))
        assert codes[:-1] == list(range(len(video) - 1))  # the last packet is cut
        assert codes[-1] in (len(video) - 1, len(video) - 2)


def test_a_truncated_file_without_its_index_says_how_much_is_missing(tmp_path):
    path = write_video(tmp_path / 'a.mp4', 60)
    data = path.read_bytes()
    path.write_bytes(data[:len(data) // 2])
    frames = data.index(b'mdat') - 4
    whole = frames + int.from_bytes(data[frames:frames + 4], 'big')
    assert whole < len(data)  # the index lies behind
    said = f'ends after {len(data) // 2 / 1e6:.2f} of at least {whole / 1e6:.2f} MB'
    for read in (VideoReader, lambda path: next(read_stream(path))):
        with pytest.raises(VideoError, match=said):
            read(path)


def test_damaged_packets_are_filled_with_the_nearest_earlier_frame(files, tmp_path):
    path = tmp_path / 'damaged.mkv'
    path.write_bytes(files['mjpeg.mkv'].read_bytes())
    with VideoReader(damage_packets(path, [0, 7, 8, 29])) as video:
        assert len(video) == 30
        expected = [1, *range(1, 7), 6, 6, *range(9, 29), 28]  # nothing is earlier than frame 0
        assert read_codes(video.get_frames(range(30))) == expected
    for indices in ([8], [0], [29, 7]):
        with VideoReader(path) as video:
            assert read_codes(video.get_frames(indices)) == [expected[i] for i in indices]
    with VideoReader(damage_packets(path, range(1, 7))) as video, pytest.raises(IndexError, match='frames 0 to 29'):
        video.get_frames([30])


def test_nothing_left_to_decode(files, tmp_path):
    path = tmp_path / 'destroyed.mkv'
    path.write_bytes(files['mjpeg.mkv'].read_bytes())
    damage_packets(path, range(30))
    with pytest.raises(VideoError, match='destroyed.mkv: .*no frame can be decoded'):
        with VideoReader(path) as video:
            video.get_frames([3])


PLAY_LIST = '#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n'


@pytest.mark.parametrize('name, content, message', [
    ('empty.mp4', b'', 'empty'),
    ('text.mp4', b'this is not a video\n' * 200, 'not a video'),
    ('text.txt', b'this is not a video\n' * 200, 'not a video'),
    ('zeros.mp4', bytes(20000), 'not a video'),
    ('garbage.mp4', np.random.RandomState(0).bytes(20000), 'not a video'),
    ('garbage.webp', b'RIFF\x10\x00\x00\x00WEBPVP8 ' + bytes(100), 'WebP'),
    ('self.m3u8', PLAY_LIST.format('self.m3u8').encode(), 'not a video'),
    ('net.m3u8', PLAY_LIST.format('http://192.0.2.1/a.ts').encode(), 'not a video'),
    ('self.mp4', b"ffconcat version 1.0\nfile 'self.mp4'\n", 'not a video'),
])
def test_files_that_are_no_videos(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=f'{name}: .*{message}') as caught:
        VideoReader(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_nothing_but_the_file_itself_is_opened(files, tmp_path):
    """Play lists, scripts and references of every kind, whatever they are called."""
    (tmp_path / 'inner.ts').write_bytes(files['h264.ts'].read_bytes())
    (tmp_path / '0.png').write_bytes(files['h264.ts'].read_bytes())
    here = f'{tmp_path}/inner.ts'
    texts = {
        'hls': PLAY_LIST.format('inner.ts'),
        'hls_absolute': PLAY_LIST.format(here),
        'concat': "ffconcat version 1.0\nfile 'inner.ts'\n",
        'concat_unsafe': f"ffconcat version 1.0\nfile 'file:{here}'\n",
        'dash': f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
                f'mimeType="video/mp2t"><Representation id="1" bandwidth="1"><BaseURL>{here}</BaseURL>'
                '</Representation></AdaptationSet></Period></MPD>',
        'sdp': 'v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n'
               'a=rtpmap:96 H264/90000\n',
        'svg': f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{here}"/></svg>',
        'postscript': '%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n',
        'vobsub': '# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 000000000\n',
        'avisynth': f'DirectShowSource("{here}")\n',
        'ascii': 'text ' * 100,
    }
    for kind, text in texts.items():
        for suffix in ('mp4', 'png', 'ts', 'm3u8', 'svg'):
            path = tmp_path / f'{kind}.{suffix}'
            path.write_text(text)
            with pytest.raises(VideoError, match='is not a video'):
                VideoReader(path)


def test_a_film_whose_pixels_lie_in_another_file(tmp_path):
    """A data reference of QuickTime: FFmpeg would open what it names."""
    write_video(tmp_path / 'inner.mp4', 10)
    data = (tmp_path / 'inner.mp4').read_bytes()
    name = f'{tmp_path}/inner.mp4'.encode()
    alias = (b'\0' * 4 + struct.pack('>HH', 0, 2) + bytes(142) + struct.pack('>HH', 2, len(name)) + name
             + b'\0' * (len(name) % 2) + struct.pack('>HH', 0xFFFF, 0))
    entry = struct.pack('>I', 12 + len(alias)) + b'alis' + bytes(4) + alias
    url = data.index(b'url ') - 4
    old = struct.unpack('>I', data[url:url + 4])[0]
    grown = bytearray(data[:url] + entry + data[url + old:])
    for box in (b'dref', b'dinf', b'minf', b'mdia', b'trak', b'moov'):
        at = grown.index(box) - 4
        grown[at:at + 4] = struct.pack('>I', struct.unpack('>I', grown[at:at + 4])[0] + len(entry) - old)
    media = grown.index(b'mdat') + 4
    end = grown.index(b'moov') - 4
    grown[media:end] = bytes(end - media)  # its own pixels are gone
    (tmp_path / 'outer.mov').write_bytes(grown)
    with pytest.raises(VideoError):
        with VideoReader(tmp_path / 'outer.mov') as video:
            video.get_frames([3])


def test_file_without_its_index(files, tmp_path):
    data = files['h264.mp4'].read_bytes()
    (tmp_path / 'half.mp4').write_bytes(data[:len(data) // 2])
    with pytest.raises(VideoError, match='half.mp4: is not a video'):
        VideoReader(tmp_path / 'half.mp4')


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(VideoError, match='is a directory'):
        VideoReader(tmp_path)
    with pytest.raises(VideoError, match='no_such.mp4: no such file'):
        VideoReader(str(tmp_path / 'no_such.mp4'))
    with pytest.raises(VideoError, match='null'):
        VideoReader('a\0b.mp4')
    if hasattr(os, 'mkfifo'):
        os.mkfifo(tmp_path / 'pipe.mp4')
        with pytest.raises(VideoError, match='not a regular file'):
            VideoReader(tmp_path / 'pipe.mp4')


def test_audio_only(tmp_path):
    with av.open(str(tmp_path / 'song.m4a'), 'w') as container:
        write_audio(container, container.add_stream('aac', rate=16000))
    with pytest.raises(VideoError, match='song.m4a: has no video stream .*audio'):
        VideoReader(tmp_path / 'song.m4a')


def test_song_with_a_cover_picture(tmp_path):
    with av.open(str(tmp_path / 'song.mp3'), 'w') as container:
        sound = container.add_stream('mp3', rate=16000)
        cover = container.add_stream('mjpeg')
        cover.width, cover.height, cover.pix_fmt = WIDTH, HEIGHT, 'yuvj420p'
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(bar_code(1), format='rgb24').reformat(format='yuvj420p')
        container.mux(cover.encode(picture))
        container.mux(cover.encode())
        write_audio(container, sound)
    with pytest.raises(VideoError, match='song.mp3: has no video stream'):
        VideoReader(tmp_path / 'song.mp3')


def test_header_with_gigantic_dimensions(tmp_path):
    Image.fromarray(bar_code(1)).save(tmp_path / 'big.png')
    data = bytearray((tmp_path / 'big.png').read_bytes())
    data[16:24] = struct.pack('>II', 60000, 60000)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
    (tmp_path / 'big.png').write_bytes(data)
    with pytest.raises(VideoError, match='big.png: .*pixels'):
        with VideoReader(tmp_path / 'big.png') as video:
            video.get_frames([0])


@pytest.mark.parametrize('count', [3_000_000, 0xFFFFFFF0])
def test_header_with_millions_of_frames(files, tmp_path, count):
    data = bytearray(files['h264.mp4'].read_bytes())
    sizes = data.index(b'stsz')
    data[sizes + 8:sizes + 16] = struct.pack('>II', 1, count)  # so many frames of one byte
    durations = data.index(b'stts')
    data[durations + 12:durations + 16] = struct.pack('>I', count)
    (tmp_path / 'many.mp4').write_bytes(data)
    with pytest.raises(VideoError, match='many.mp4: .*claims more frames'):
        VideoReader(tmp_path / 'many.mp4')


def test_header_is_not_trusted_with_the_number_of_frames(files, tmp_path):
    data = bytearray(files['mpeg4.avi'].read_bytes())
    for tag, offset in ((b'avih', 24), (b'strh', 40)):  # total frames, stream length
        at = data.index(tag) + offset
        data[at:at + 4] = struct.pack('<I', 5_000_000)
    (tmp_path / 'long.avi').write_bytes(data)
    with VideoReader(tmp_path / 'long.avi') as video:
        assert len(video) == 30


def test_wrong_arguments(files):
    with pytest.raises(ValueError, match="unknown backend 'opencv'; use one of auto, pyav, torchcodec"):
        VideoReader(files['h264.mp4'], backend='opencv')
    with VideoReader(files['h264.mp4']) as video:
        with pytest.raises(IndexError, match='frame 30 asked of .* which has frames 0 to 29'):
            video.get_frames([0, 30])
        with pytest.raises(IndexError, match='frame -1'):
            video.get_frames([-1])
        with pytest.raises(ValueError, match='list of integers'):
            video.get_frames([0.5])
        assert video.get_frames([]).shape == (0, 3, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match='closed'):
        len(video)


def test_libraries_of_torchcodec_missing(files, monkeypatch):
    def decoder(*args, **kwargs):
        raise RuntimeError('Could not load libtorchcodec. Likely causes: ...')

    monkeypatch.setitem(sys.modules, 'torchcodec.decoders', types.SimpleNamespace(VideoDecoder=decoder))
    with pytest.raises(ImportError, match="use backend='pyav'"):
        VideoReader(files['h264.mp4'], backend='torchcodec')


def test_torchcodec_missing(files, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchcodec.decoders', None)
    with pytest.raises(ImportError, match="use backend='pyav'"):
        VideoReader(files['h264.mp4'], backend='torchcodec')


@pytest.fixture(scope='module')
def torchcodec():
    try:
        import torchcodec.decoders
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f'torchcodec cannot be imported: {str(error).splitlines()[0]}')
    return torchcodec.decoders


@pytest.mark.parametrize('name', ['h264.mp4', 'h264.mkv', 'vp9.webm', 'animation.gif', 'sound.mp4'])
def test_torchcodec_gives_the_same_frames(torchcodec, files, name):
    indices = [29, 0, 13, 13, 7]
    with VideoReader(files[name], 'pyav') as pyav, VideoReader(files[name], 'torchcodec') as other:
        assert torch.equal(pyav.timestamps, other.timestamps) and pyav.fps == other.fps
        assert torch.equal(pyav.get_frames(indices), other.get_frames(indices))
    rotated = write_video(files[name].with_suffix('.rotated.mp4'), 3, rotation=90)
    with VideoReader(rotated, 'pyav') as pyav, VideoReader(rotated, 'torchcodec') as other:
        assert torch.equal(pyav.get_frames([0, 2]), other.get_frames([0, 2]))


def test_torchcodec_errors_are_video_errors(torchcodec, files, tmp_path):
    path = tmp_path / 'damaged.mkv'
    path.write_bytes(files['mjpeg.mkv'].read_bytes())
    damage_packets(path, [7])
    with pytest.raises(VideoError, match="damaged.mkv: torchcodec cannot decode it .*backend='pyav'"):
        with VideoReader(path, 'torchcodec') as video:
            video.get_frames([7])


def test_times_that_are_all_the_same_do_not_hide_frames(tmp_path):
    """As some writers leave them: the frames are counted by decoding."""
    path = tmp_path / 'zero.mp4'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=10, options={'bf': '0'})
        stream.width = stream.height = 32
        stream.pix_fmt = 'yuv420p'
        packets = []
        for value in range(0, 200, 20):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), value, dtype=np.uint8), format='rgb24')
            packets += stream.encode(frame)
        for packet in packets + stream.encode(None):
            packet.pts = packet.dts = 0
            container.mux(packet)
    with VideoReader(path) as video:
        assert len(video) == 10
        means = video.get_frames([0, 5, 9]).float().mean((1, 2, 3))
    assert (means - torch.tensor([0.0, 100.0, 180.0])).abs().max() < 6


def test_shipped_clips_have_times_that_move_on():
    from importlib.resources import files
    for asset in (files('flatzoo') / 'data/assets').iterdir():
        if asset.name.endswith('.mp4'):
            with VideoReader(str(asset)) as video:
                assert len(video) > 30 and (video.timestamps.diff() > 0).all() and video.fps > 0, asset.name
