"""`flatzoo.predict_windows`: windows of long videos, each the same as its frames alone."""
import argparse
import csv
import functools
import io
import json
import os
import threading
import types

import av
import numpy as np
import pytest
import timm
import torch
from amflow_cases import VIT
from processes import FORKSERVER

import flatzoo
from flatzoo.cli import main, windows as windows_command
from flatzoo.data.actions import spliced_frames, write_spliced
from flatzoo.data.array_clip import ArrayClip
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.data.decode.stream import read_stream
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.temporal import TemporalContract
from flatzoo.data.views import read_views
from flatzoo.inference import spread
from flatzoo.inference.load import load_model, model_name
from flatzoo.inference.spread import SpreadError, spread_windows
from flatzoo.inference.window_frames import Frame, WindowBuffer, window_rows
from flatzoo.inference.window_model import WindowModel
from flatzoo.inference.windows import cut_windows, plan_windows

SMALL = dict(num_classes=5, img_size=32, num_frames=4)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp('long') / 'long.mp4'
    write_spliced(path, 4, seed=1, size=32, fps=16)
    return path


def build(layout='grid', **kwargs):
    torch.manual_seed(0)
    return timm.create_model('superimage', backbone='test_resnet', layout=layout, **SMALL | kwargs).eval()


@pytest.fixture(scope='module')
def model():
    return build()


PLAIN = EvalProtocol()


def alone(model, video, record, protocol=PLAIN):
    """Logits of the frames of a window, cut out and given to the model alone."""
    with VideoReader(video) as reader:
        times = reader.timestamps - reader.timestamps[0]
        inside = torch.where((times >= record.start - 1e-3) & (times < record.end - 1e-3))[0]
        clip = ArrayClip(reader.get_frames(inside))
    views = read_views(protocol, clip, 'clip', (0, len(clip)), model.num_frames, model.img_size)
    with torch.inference_mode():
        return model(views).mean(0)


@pytest.mark.parametrize('every, window', [(.5, 2.), (.3, .7), (1.5, 1.), (.25, 60.)])
def test_a_window_is_its_frames_alone(model, video, every, window):
    records = list(flatzoo.predict_windows(video, model, every, window, batch_size=1))
    assert isinstance(flatzoo.predict_windows(video, model, every, window), types.GeneratorType)
    assert records[0].start == 0 and all(a.end - a.start <= window + 1e-9 for a in records)
    assert [record.start for record in records] == pytest.approx([i * every for i in range(len(records))])
    with VideoReader(video) as reader:
        length = len(reader) / 16
    assert length - records[-1].end < max(every, window) - min(window, every) + .07
    for record in records:
        assert torch.equal(record.logits, alone(model, video, record))
    batched = list(flatzoo.predict_windows(video, model, every, window, batch_size=3))
    assert max((a.logits - b.logits).abs().max() for a, b in zip(batched, records, strict=True)) < 1e-5


def test_all_views_of_a_protocol_count(model, video):
    protocol = EvalProtocol(num_clips=2, num_crops=3, scale_up=True)
    for record in flatzoo.predict_windows(video, model, 1., 2., protocol=protocol, batch_size=6):
        assert (record.logits - alone(model, video, record, protocol)).abs().max() < 1e-5


@pytest.mark.parametrize('name, options', [
    ('superimage', dict(backbone='test_resnet', layout='time:1')),
    ('probe', dict(backbone='test_vit', probe='attentive', probe_heads=2, probe_depth=1)),
    ('probe', dict(backbone='test_vit', probe='linear')),
    ('amflow', dict(VIT, flow='none')),
    ('amflow', dict(VIT, flow='none', temporal='lstm', adapter='serial', fusion='linear', am_blocks=(0, -1))),
    ('amflow', dict(VIT, flow='none', temporal='transformer')),
])
def test_shared_frames_are_encoded_once(video, name, options):
    torch.manual_seed(0)
    size = 160 if name == 'probe' else 28 if name == 'amflow' else 32
    arguments = SMALL | dict(img_size=size) | options
    model = timm.create_model(arguments.pop('model_name', name), **arguments).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # adapters begin with zeros
    assert model.encodes_frames and 'encodes_frames' not in vars(model)
    plan = plan_windows(model, .5, 2.)
    windows = list(cut_windows(read_stream(video), plan, model, 'long'))
    answer = WindowModel(model)
    logits = torch.cat([answer([window]) for window in windows])
    for window, row in zip(windows, logits):
        with torch.inference_mode():
            assert (model(window.views()).mean(0) - row).abs().max() < 1e-5
    assert answer.encoded == len({id(frame) for window in windows for frame in window.rows[0]})
    assert len(windows) * model.num_frames > 3 * answer.encoded - 30  # four times as many, but for the ends


def test_models_that_mix_frames_do_not_say_so(model):
    assert not model.encodes_frames
    for options in (dict(flow='vanilla'), dict(squeeze='after'), dict(backbone_logits='plain'), dict(num_classes=0)):
        arguments = {**VIT, 'num_classes': 5, 'flow': 'none', **options}
        assert not timm.create_model(arguments.pop('model_name'), **arguments).encodes_frames
    assert not timm.create_model('tsm', backbone='resnet10t', **SMALL).encodes_frames


def test_frames_are_chosen_by_seconds():
    protocol = EvalProtocol()
    for fps in (15, 60):
        times = [i / fps for i in range(2 * fps)]
        [row] = window_rows(protocol, 8, times)
        assert [times[index] for index in row] == pytest.approx([.125 + .25 * i for i in range(8)], abs=1 / 15)
    uneven = [0, .5, 1.0, 1.5] + [1.6 + .01 * i for i in range(40)]  # the rate changes on the way
    [row] = window_rows(protocol, 4, uneven)
    assert [uneven[index] for index in row] == pytest.approx([.25, .75, 1.25, 1.75], abs=.27)
    [row] = window_rows(EvalProtocol('dense', stride=4), 4, [i / 30 for i in range(16)])
    assert row == [0, 4, 8, 12]
    assert window_rows(protocol, 4, [3.0]) == [[0, 0, 0, 0]]


def test_a_gap_has_no_windows_and_the_buffer_stays_small():
    buffer = WindowBuffer(.5, 1., lambda times: [list(range(len(times)))])
    found = []
    for time in [i / 10 for i in range(30)] + [3600 + i / 10 for i in range(20)]:
        found += buffer.push(Frame(time, lambda: torch.zeros(3, 4, 4, dtype=torch.uint8), lambda x: x[None], 48))
        assert len(buffer._frames) <= 11
    found += buffer.finish()
    starts = [window.start for window in found]
    assert starts == [0, .5, 1, 1.5, 2, 2.5, 3599.5, 3600, 3600.5, 3601, 3601.5][:len(starts)] and len(starts) > 9


def test_large_frames_are_shrunk_early(monkeypatch):
    monkeypatch.setattr('flatzoo.inference.window_frames.KEPT_BYTES', 100)
    buffer = WindowBuffer(1., 10., lambda times: [[0]])
    frames = [Frame(i / 10, lambda: torch.zeros(3, 4, 4, dtype=torch.uint8), lambda x: x[None], 48) for i in range(9)]
    for frame in frames:
        buffer.push(frame)
    assert sum(frame.num_bytes for frame in frames) <= 100


def test_frames_in_memory(model, video):
    with VideoReader(video) as reader:
        frames = reader.get_frames(range(len(reader)))
    expected = list(flatzoo.predict_windows(video, model, .5, 1.))
    assert list(flatzoo.predict_windows(frames, model, .5, 1., fps=16)) == expected
    with pytest.warns(UserWarning, match='30 per second'):
        assert next(flatzoo.predict_windows(frames, model, .5, 1.)).end == 1
    with pytest.warns(UserWarning, match='2 s, the default'):
        flatzoo.predict_windows(frames, model, fps=16)
    with pytest.raises(ValueError, match='fps'):
        flatzoo.predict_windows(frames, model, fps=0)


def test_the_length_of_a_window(model):
    model = build()
    assert plan_windows(model).window == 2 and plan_windows(model).is_default
    assert plan_windows(model, protocol=EvalProtocol('dense', stride=15)).window == 2
    model.temporal_contract = TemporalContract(1.5, 4, .375)
    assert plan_windows(model).window == 1.5 and not plan_windows(model).is_default
    assert plan_windows(model, window=3).window == 3
    for wrong in (0, -1, float('nan'), 'x', True):
        with pytest.raises(ValueError, match='every'):
            plan_windows(model, wrong)
    with pytest.raises(ValueError, match='num_clips=1'):
        plan_windows(model, protocol=EvalProtocol('dense', stride=4, num_clips=3))


def test_the_contract_travels_with_the_weights(tmp_path):
    model = build()
    model.temporal_contract = TemporalContract(1.5, 4, .375)
    flatzoo.save_pretrained(model, tmp_path, label_names=list('abcde'))
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['video']['temporal'] == {'seconds': 1.5, 'frames': 4, 'stride': .375}
    assert timm.create_model(f'local-dir:{tmp_path}', pretrained=True).temporal_contract == model.temporal_contract
    config['video']['temporal']['seconds'] = -1
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='temporal.*seconds'):
        timm.create_model(f'local-dir:{tmp_path}', pretrained=True)


def test_wrong_files(model, tmp_path):
    for path in (tmp_path / 'none.mp4', tmp_path):  # an error in the thread that decodes comes here
        with pytest.raises(VideoError, match=str(path)):
            next(flatzoo.predict_windows(path, model, window=1.))
    assert not [thread for thread in threading.enumerate() if thread.name == 'flatzoo-ahead']


def test_what_was_answered_before_the_end_broke_off(model, video, tmp_path):
    whole = list(flatzoo.predict_windows(video, model, .25, .5))
    with av.open(str(video)) as container, av.open(str(tmp_path / 'a.mkv'), 'w') as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = (tmp_path / 'a.mkv').read_bytes()
    (tmp_path / 'cut.mkv').write_bytes(data[:len(data) // 2])
    notes = []
    records = list(flatzoo.predict_windows(tmp_path / 'cut.mkv', model, .25, .5, note=notes.append))
    assert 2 < len(records) < len(whole) and records[:-3] == whole[:len(records) - 3]
    assert any('are missing' in line and 'cut.mkv' in line for line in notes)


def test_the_size_may_change(model):
    def frames():
        for i, size in enumerate(16 * [(48, 64)] + 16 * [(64, 48)]):
            pixels = torch.full((3, *size), i, dtype=torch.uint8)
            yield types.SimpleNamespace(time=i / 16, load=lambda pixels=pixels: pixels, num_bytes=1)

    windows = list(cut_windows(frames(), plan_windows(model, .5, 1.), model, 'frames'))
    assert len(windows) == 3 and windows[1].views().shape == (1, 3, 4, 32, 32)


def test_spliced_videos_have_known_times():
    pieces = list(spliced_frames(8, 3, size=16, fps=8, gap_seconds=(.5, 1), camera_shake=.05))
    end = 0
    for frames, segment in pieces:
        if segment is not None:
            assert (segment.start, segment.end) == (end / 8, (end + len(frames)) / 8)
        end += len(frames)
    assert end / 8 >= 8 and sum(segment is not None for _, segment in pieces) >= 2
    again = list(spliced_frames(8, 3, size=16, fps=8, gap_seconds=(.5, 1), camera_shake=.05))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(pieces, again, strict=True))
    other = next(spliced_frames(8, 4, size=16, fps=8))[0]
    assert other.shape != pieces[0][0].shape or not torch.equal(other, pieces[0][0])


@pytest.fixture(scope='module')
def trained(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp('model')
    flatzoo.save_pretrained(model, folder, label_names=['run', 'jump', 'nothing', 'swim', 'fly'])
    return ['--model', str(folder)]


def run(capsys, *arguments):
    code = main(['predict', *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_command(trained, video, capsys, tmp_path):
    code, out, err = run(capsys, video, *trained, '--every', 1)
    assert code == 0 and out.startswith(f'{video}\n0:00:00.00 - 0:00:02.00') and 'the default' in err
    code, out, err = run(capsys, video, *trained, '--every', 1, '--window', 1, '--json')
    [entry] = json.loads(out)
    assert 'default' not in err and entry['records'][1]['start'] == 1 and len(entry['records'][0]['top']) == 5
    code, out, _ = run(capsys, video, tmp_path / 'none.mp4', *trained, '--every', 1, '--csv')
    rows = list(csv.DictReader(out.splitlines()))
    assert code == 1 and rows[0]['path'] == str(video) and 'no such file' in rows[-1]['error']


def test_events_subtitles_timeline_and_a_copy(trained, video, capsys, tmp_path):
    pytest.importorskip('matplotlib')
    files = [tmp_path / name for name in ('a.srt', 'a.png', 'a.mp4')]
    code, out, _ = run(
        capsys, video, *trained, '--high', .01, '--low', .01, '--subtitles', files[0], '--timeline', files[1],
        '--annotate', files[2], '--json')
    [entry] = json.loads(out)
    assert code == 0 and list(entry) == ['path', 'events']
    assert files[0].read_text().count('-->') == len(entry['events'])
    assert files[1].read_bytes().startswith(b'\x89PNG')
    with VideoReader(video) as before, VideoReader(files[2]) as after:
        assert len(before) == len(after) and (after.timestamps[-1] - before.timestamps[-1]).abs() < .01
    for arguments, said in (
            ([video, video, '--subtitles', 'a.srt'], 'one video'), ([video, '--subtitles', 'a.txt'], '.vtt'),
            ([video, '--events', '--smooth', 2], 'odd')):
        if said == 'one video':
            arguments[1] = files[2]
        with pytest.raises(SystemExit):
            run(capsys, *arguments, *trained)
        assert said in capsys.readouterr().err


def test_classes_of_a_multi_label_model_overlap(video, capsys, tmp_path):
    pytest.importorskip('matplotlib')
    model = build()
    model.multi_label = True
    with torch.no_grad():
        model.get_classifier().weight.zero_()
        model.get_classifier().bias.copy_(torch.tensor([2., -2, 3, 1, -3]))
    flatzoo.save_pretrained(model, tmp_path, label_names=['run', 'jump', 'nothing', 'swim', 'fly'])
    files = [option for name in ('timeline.png', 'annotate.mp4')
             for option in (f'--{name[:-4]}', tmp_path / name)]
    code, out, err = run(
        capsys, video, '--model', tmp_path, '--every', .5, '--window', 1, '--topk', 1, *files, '--json')
    [entry] = json.loads(out)
    length = entry['events'][0]['end']
    assert code == 0 and [(event['start'], event['end'], event['label']) for event in entry['events']] == [
        (0, length, 'run'), (0, length, 'swim')]
    assert [event['score'] for event in entry['events']] == pytest.approx([.8808, .7311], abs=1e-4)
    assert 'scores of classes by themselves' in err and 'highest' not in err
    with VideoReader(tmp_path / 'annotate.mp4') as copy:
        assert len(copy) > 1


@pytest.mark.parametrize('form, options', [
    ('csv', ['--every', 2]), ('jsonl', [])])
def test_goes_on_where_it_was_cut_off(trained, video, capsys, tmp_path, form, options):
    names = [tmp_path / f'{name}.mp4' for name in 'abc']
    for name in names:
        name.write_bytes(video.read_bytes())
    names[1].write_bytes(b'no video')
    file = tmp_path / f'answers.{form}'
    command = [*names, *trained, *options, '--csv' if form == 'csv' else '--json-lines', file]
    assert run(capsys, *command)[0] == 1
    whole = file.read_bytes()
    code, _, err = run(capsys, *command)
    assert code == 1 and file.read_bytes() == whole and 'b.mp4: is not a video' in err  # nothing is answered twice
    file.write_bytes(whole[:-5])  # as after a cut
    assert run(capsys, *command)[0] == 1 and file.read_bytes() == whole
    code, _, err = run(capsys, *command, '--topk', 1)
    assert code == 1 and 'another run' in err and file.read_bytes() == whole


def test_a_clip_is_never_written_to(trained, video, capsys):
    before = video.read_bytes()
    code, out, _ = run(capsys, *trained, '--csv', video)
    assert code == 0 and out.startswith('path,rank') and video.read_bytes() == before
    with pytest.raises(SystemExit):
        run(capsys, video, *trained, '--annotate', video.parent / '.' / video.name)
    assert 'the video itself' in capsys.readouterr().err and video.read_bytes() == before
    (video.parent / 'mine.csv').write_text('x\n')
    code, _, err = run(capsys, video, *trained, '--csv', video.parent / 'mine.csv')
    assert code == 1 and 'was not written by such a run' in err


def test_parquet_of_windows(trained, video, capsys, tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    command = [video, *trained, '--every', 1, '--parquet', tmp_path / 'out']
    assert run(capsys, *command)[0] == 0
    table = parquet.read_table(tmp_path / 'out').to_pylist()
    assert table[1]['start'] == 1 and table[1]['label'] in ('run', 'jump', 'nothing', 'swim', 'fly')
    [file] = (tmp_path / 'out').glob('*.parquet')
    written = file.stat().st_mtime_ns
    assert run(capsys, *command)[0] == 0 and file.stat().st_mtime_ns == written


def test_arrays_of_numpy(model):
    frames = np.zeros((40, 32, 40, 3), np.uint8)
    assert len(list(flatzoo.predict_windows(frames, model, 1., 1., fps=10))) == 4


@pytest.fixture
def quick_start(monkeypatch):
    """Processes that have imported everything."""
    monkeypatch.setattr(spread, 'START', FORKSERVER.get_start_method())


def test_another_process_answers_alike(quick_start, trained, model, video, tmp_path):
    broken = tmp_path / 'broken.mp4'
    broken.write_bytes(b'no video')
    load = functools.partial(load_model, model_name(trained[1]))
    whole, none = spread_windows([str(video), str(broken)], load, 1, every=1.0, topk=2)
    expected = list(flatzoo.predict_windows(video, model, 1.0, topk=2, note=lambda _: None))
    assert [record.start for record in whole.records] == [record.start for record in expected]
    for record, other in zip(whole.records, expected):
        assert record.probability == pytest.approx(other.probability, abs=1e-4) and record.logits is None
    assert 'the default' in whole.notes[0] and whole.error is None
    assert isinstance(none.error, VideoError) and none.path == str(broken) and none.records == []


def test_whole_files_are_spread_over_processes(quick_start, trained, video, capsys, tmp_path):
    names = [tmp_path / f'{name}.mp4' for name in 'abc']
    for name in names:
        name.write_bytes(video.read_bytes())
    names[1].write_bytes(b'no video')
    command = [*names, *trained, '--every', 1, '--json']
    code, one, said = run(capsys, *command)
    assert code == 1
    code, several, also = run(capsys, *command, '--processes', 2)
    assert code == 1 and also == said
    for a, b in zip(json.loads(one), json.loads(several), strict=True):
        assert (a['path'], a.get('error')) == (b['path'], b.get('error'))
        for x, y in zip(a['records'], b['records'], strict=True):
            assert (x['start'], x['end']) == (y['start'], y['end'])
            assert x['probability'] == pytest.approx(y['probability'], abs=1e-4)


def test_a_process_that_ends_is_told(quick_start, video):
    load = functools.partial(os._exit, 3)  # as the kernel does for lack of memory
    with pytest.raises(SpreadError, match='fewer --processes'):
        list(spread_windows([str(video)], load, 1))


@pytest.mark.parametrize('cores, files, asked, expected', [
    (8, 20, None, 4), (8, 3, None, 1), (2, 20, None, 1), (64, 20, None, 20), (2, 20, 3, 3), (2, 1, 3, 1)])
def test_how_many_processes(model, monkeypatch, cores, files, asked, expected):
    monkeypatch.setattr(windows_command, 'available_cores', lambda: cores)
    assert windows_command._processes(files, model, argparse.Namespace(processes=asked)) == expected


def test_the_next_program_may_take_less(trained, video, monkeypatch):
    """`flatzoo predict ... | head` is no error."""
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

        def fileno(self):
            raise OSError

    monkeypatch.setattr('sys.stdout', Closed())
    assert main(['predict', str(video), *trained, '--every', '1']) == 141
