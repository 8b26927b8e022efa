"""`flatzoo.Stream` and `flatzoo watch`: the answers of a file, frame by frame, from sources that come and go."""
import contextlib
import http.server
import json
import os
import sys
import threading

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import flatzoo
from flatzoo.cli import main
from flatzoo.data.actions import write_spliced
from flatzoo.data.decode import VideoError, VideoReader, live
from flatzoo.data.decode.clock import Clock
from flatzoo.data.decode.live import kind_of, name_of, read_live
from flatzoo.data.decode.stream import StreamFrame
from flatzoo.inference import watch as watching
from flatzoo.inference.watch import watch
from flatzoo.inference.windows import plan_windows


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp('live') / 'long.ts'
    write_spliced(path, 3, seed=1, size=32, fps=16, gap_seconds=(.5, 1))
    return path


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return timm.create_model('superimage', backbone='test_resnet', num_classes=5, img_size=32, num_frames=4).eval()


@pytest.fixture(scope='module')
def expected(model, video):
    return list(flatzoo.predict_windows(video, model, .5, 1., batch_size=1))


def same(records, expected):
    return len(records) == len(expected) and all(
        torch.equal(a.logits, b.logits) and (a.start, a.top) == (b.start, b.top) and abs(a.end - b.end) < 1e-6
        for a, b in zip(records, expected))


def test_a_stream_answers_like_a_file(model, video, expected):
    with VideoReader(video) as reader:
        frames = reader.get_frames(range(len(reader)))
    for form in (lambda x: x, lambda x: x.permute(1, 2, 0).numpy(), lambda x: Image.fromarray(
            x.permute(1, 2, 0).numpy())):
        stream = flatzoo.Stream(model, fps=16, every=.5, window=1.)
        records = [record for frame in frames if (record := stream.push(form(frame))) is not None]
        assert same(records + stream.finish(), expected)
    assert stream.push(frames[0]) is None and stream.finish()[0].start == 0  # another stream


def test_the_memory_of_a_frame_may_be_used_again(model):
    answers = []
    for reuse in (False, True):
        stream, memory = flatzoo.Stream(model, fps=4, every=1, window=1), np.zeros((32, 32, 3), np.uint8)
        for i in range(5):
            frame = memory if reuse else np.zeros((32, 32, 3), np.uint8)
            frame[:] = 40 * i
            answers.append(stream.push(frame))
    assert answers[4] is not None and torch.equal(answers[4].logits, answers[9].logits)


def test_times_of_ones_own(model):
    stream = flatzoo.Stream(model, every=1, window=1)
    frame = np.zeros((32, 32, 3), np.uint8)
    assert [stream.push(frame, t) for t in (0, .4, .9)] == [None] * 3
    assert stream.push(frame, 3.2).start == 0  # three windows ended, one of them has frames
    with pytest.raises(ValueError, match='order'):
        stream.push(frame, 3)
    assert [record.start for record in stream.finish()] == [3]
    assert stream.push(frame) is None and stream.push(frame) is None  # by the clock on the wall
    for wrong in (dict(fps=0), dict(fps=2, every=.1), dict(every=0)):
        with pytest.raises(ValueError, match='fps|every'):
            flatzoo.Stream(model, **wrong)
    for wrong in (np.zeros((32, 32), np.uint8), torch.rand(3, 32, 32), 7):
        with pytest.raises(VideoError):
            stream.push(wrong)


def test_the_clock():
    notes = []
    clock = Clock(.1, notes.append)
    assert [round(clock.time(stamp), 6) for stamp in (7.0, 7.1, None, 7.3)] == [0, .1, .2, .3]
    assert clock.time(7.25) == pytest.approx(.4)  # out of order
    assert clock.time(7.4) > .4 and not notes
    before = clock.last
    assert clock.time(2 ** 33 / 90000) - before > 1000 and 'no frames' in notes[0]  # a gap stays one
    before = clock.last
    assert clock.time(0.0) == pytest.approx(before + clock.interval)  # MPEG-TS wraps
    assert clock.time(.1) == pytest.approx(before + clock.interval + .1) and 'restart' in notes[1]


@pytest.mark.parametrize('start', [0, 66.])
def test_first_frames_without_a_timestamp(start):
    """As RTSP gives them; what follows counts from any number."""
    notes = []
    clock = Clock(.1, notes.append, start)
    times = [clock.time(stamp) for stamp in (None, None, 1000., 1000.1, 1000.3)]
    assert times == pytest.approx([start, start + .1, start + .2, start + .3, start + .5]) and not notes


def test_old_frames_that_come_late_are_no_restart():
    notes = []
    clock = Clock(.1, notes.append)
    stamps = [0, .1, 7.6, 7.7, 2.1, 2.2, 7.8, 7.9]  # behind a hole
    times = [clock.time(stamp) for stamp in stamps]
    assert times == sorted(times) and times[-1] == pytest.approx(7.9, abs=.3) and len(set(times)) == len(times)
    assert clock.time(8.5) == pytest.approx(8.5)
    assert not any('by -' in line for line in notes[:1]) and any('2 frames out of order' in line for line in notes)


@pytest.mark.parametrize('source, kind', [
    ('-', 'pipe'), ('camera:1', 'camera'), ('/dev/video2', 'camera'), ('rtsp://a/b', 'address'), ('a.ts', 'file'),
    ('HTTP://a', 'address')])
def test_kinds_of_sources(source, kind):
    assert kind_of(source) == kind


@pytest.mark.parametrize('source, name', [
    ('rtsp://me:secret@cam/a@b', 'rtsp://cam/a@b'), ('rtsp://me:se@cret@cam:554/', 'rtsp://cam:554/'),
    ('http://cam/?to=me@b', 'http://cam/?to=me@b'), ('a@b.ts', 'a@b.ts'), ('-', '-')])
def test_messages_do_not_tell_passwords(source, name):
    assert name_of(source) == name


@pytest.mark.parametrize('source', ['file:///etc/passwd', 'concat://a', 'data://x'])
def test_only_addresses_of_streams_are_opened(source):
    with pytest.raises(VideoError, match='addresses are'):
        kind_of(source)


def test_sources_that_are_not_there(tmp_path):
    (tmp_path / 'text.ts').write_text('#EXTM3U\nhttp://example.com/a.ts\n')
    for source in (str(tmp_path / 'none.ts'), str(tmp_path / 'text.ts'), '/dev/video99'):
        with pytest.raises(VideoError, match='cannot be opened|cameras'):
            next(read_live(source, stall=.2))


class Pauses:
    """Time that passes only while something waits; the file grows in the first pause."""

    def __init__(self, path, rest):
        self.now, self.path, self.rest = 0., path, rest

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        with open(self.path, 'ab') as file:
            file.write(self.rest)
        self.rest = b''


def test_a_growing_file(model, video, expected, tmp_path, monkeypatch):
    data, path = video.read_bytes(), tmp_path / 'growing.ts'
    path.write_bytes(data[:len(data) // 2])
    clock = Pauses(path, data[len(data) // 2:])
    monkeypatch.setattr(live, 'time', clock)
    sightings = list(watch(str(path), model, plan_windows(model, .5, 1.), stall=1.))
    assert same([sighting.record for sighting in sightings], expected) and clock.rest == b'' and clock.now >= 1
    assert all(sighting.dropped == 0 and sighting.latency >= 0 for sighting in sightings)
    assert clock.now < 1.2  # the end is waited for once, however often FFmpeg asks


class Server(http.server.BaseHTTPRequestHandler):
    """Gives half of a stream, then the whole, then nothing."""

    def do_GET(self):
        self.server.asked += 1
        self.send_response(200 if self.server.asked <= 2 else 404)
        self.end_headers()
        if self.server.asked <= 2:
            data = self.server.data
            self.wfile.write(data[:len(data) // 2] if self.server.asked == 1 else data)

    def log_message(self, *args):
        pass


def test_a_lost_address_is_opened_again(model, video):
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server) as server:
        server.asked, server.data = 0, video.read_bytes()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        notes, pauses, found = [], [], []
        with pytest.raises(VideoError, match='cannot be opened|404'):
            for sighting in watch(
                    f'http://127.0.0.1:{server.server_address[1]}/live', model, plan_windows(model, .5, 1.), stall=5.,
                    retries=3, drop=False, note=notes.append, sleep=pauses.append):
                found.append(sighting.record)
        server.shutdown()
    assert pauses == [1, 1, 2, 4] and sum('opened again' in line for line in notes) == 4
    starts = [record.start for record in found]
    assert starts == sorted(set(starts)) and found[-1].end > 3.4


def test_a_slow_model_drops_the_oldest_frames(model, monkeypatch):
    pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    read = threading.Event()

    def frames(*_):
        for i in range(200):
            yield StreamFrame(i / 10, lambda: pixels, 0)
        read.set()

    class Slow(watching.WindowModel):
        def __call__(self, windows):
            read.wait(60)
            return super().__call__(windows)

    monkeypatch.setattr(watching, 'read_live', frames)
    monkeypatch.setattr(watching, 'WindowModel', Slow)
    sightings = []
    with contextlib.suppress(VideoError):
        for sighting in watch('camera:0', model, plan_windows(model, 1., 1.), retries=0):
            sightings.append(sighting)
    assert 200 - watching.QUEUE - 20 <= sum(sighting.dropped for sighting in sightings) < 200 - watching.QUEUE + 1
    assert sightings[-1].record.end == pytest.approx(20)


@pytest.mark.skipif(sys.platform == 'win32', reason='pipes of POSIX')
@pytest.mark.parametrize('interrupted', [False, True])
def test_command(model, video, expected, tmp_path, monkeypatch, capsys, interrupted):
    flatzoo.save_pretrained(model, tmp_path / 'model', label_names=list('abcde'))
    out, into = os.pipe()
    os.write(into, video.read_bytes())  # fits into a pipe
    if interrupted:
        take, left = watching._Waiting.take, [20]

        def take_some(self):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return take(self)

        monkeypatch.setattr(watching._Waiting, 'take', take_some)
    os.close(into)
    with open(out, 'rb') as stdin:
        monkeypatch.setattr('sys.stdin', stdin)
        command = ['watch', '-', '--model', str(tmp_path / 'model'), '--every', '.5', '--window', '1', '--json-lines']
        assert main(command) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(records) == (1 if interrupted else len(expected))
    for got, record in zip(records, expected):
        assert (got['start'], got['index']) == (round(record.start, 3), record.index)
        assert got['latency'] >= 0 and got['dropped'] == 0


@pytest.mark.skipif(sys.platform == 'win32', reason='pipes of POSIX')
def test_a_stalled_pipe_is_told(monkeypatch, video):
    out, into = os.pipe()
    os.write(into, video.read_bytes())
    with open(out, 'rb') as stdin:
        monkeypatch.setattr('sys.stdin', stdin)
        with pytest.raises(VideoError, match='nothing for 0.3 s'):
            for _ in read_live('-', stall=.3):
                pass
    os.close(into)


def test_mp4_in_a_pipe_is_told(monkeypatch, tmp_path):
    write_spliced(tmp_path / 'a.mp4', 4, size=256, crf=0, camera_shake=.05)
    assert (tmp_path / 'a.mp4').stat().st_size > 2 ** 16  # more than FFmpeg keeps
    with open(tmp_path / 'a.mp4', 'rb') as stdin:
        monkeypatch.setattr('sys.stdin', stdin)
        with pytest.raises(VideoError, match='pipe MPEG-TS'):
            next(read_live('-'))


def test_an_event_that_lasts_is_told_at_the_end(model, video, tmp_path, capsys):
    flatzoo.save_pretrained(model, tmp_path / 'model', label_names=list('abcde'))
    command = [
        'watch', str(video), '--model', str(tmp_path / 'model'), '--events', '--high', '.1', '--low', '.1', '--stall',
        '.1', '--json-lines']
    assert main(command) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events and events[-1]['end'] > 3
    assert main(['watch', str(tmp_path / 'none.ts'), *command[2:]]) == 1
    assert 'cannot be opened' in capsys.readouterr().err


def test_how_answers_are_computed_is_recorded(model, video, tmp_path, capsys):
    flatzoo.save_pretrained(model, tmp_path / 'model', label_names=list('abcde'))
    for precision, recorded in (('bf16', 'bf16'), ('fp32', None)):
        chosen = ['--model', str(tmp_path / 'model'), '--precision', precision, '--every', '1']
        assert main(['watch', str(video), *chosen, '--stall', '.1', '--json-lines']) == 0
        watched, said = capsys.readouterr()
        assert ('computing in bf16' in said) == (recorded is not None)
        assert main(['predict', str(video), *chosen, '--json']) == 0
        [answer] = json.loads(capsys.readouterr().out)
        file = tmp_path / f'{precision}.jsonl'
        assert main(['predict', str(video), *chosen, '--json-lines', str(file)]) == 0
        capsys.readouterr()
        lines = [json.loads(line) for line in [*watched.splitlines(), *file.read_text().splitlines()]]
        assert len(lines) == 2 * len(answer['records']) > 0
        assert {line.get('precision') for line in lines} == {answer.get('precision')} == {recorded}
        settings = json.loads((tmp_path / f'{file.name}.run.json').read_text())['settings']
        assert settings.get('precision') == recorded


def test_frames_as_other_programs_give_them(model, video):
    """OpenCV's colours are turned by a negative stride; memory may not be writable."""
    with VideoReader(video) as reader:
        frames = reader.get_frames(range(9)).permute(0, 2, 3, 1).numpy()
    answers = []
    for form in (lambda x: x, lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1], lambda x: x):
        stream = flatzoo.Stream(model, fps=8, every=1, window=1)
        answers.append([stream.push(form(frame)) for frame in frames][-1])
        frames.flags.writeable = False
    assert torch.equal(answers[0].logits, answers[1].logits) and torch.equal(answers[0].logits, answers[2].logits)
