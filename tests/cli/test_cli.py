"""The command line: what it prints where, its exit codes, and that no file, however broken, stops it."""
import csv
import importlib
import io
import json
import os
import re
import runpy
import shutil
import sys

import av
import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from processes import Process
from timm.models import save_for_hf

import flatzoo
from flatzoo.cli import main
from flatzoo.cli.commands.predict import MANY
from flatzoo.console import progress
from flatzoo.data.actions import ACTIONS
from flatzoo.data.decode import VideoError
from flatzoo.data.protocol import EvalProtocol
from flatzoo.inference.classifier import classify_file, classify_files
from flatzoo.inference.find import find_videos
from flatzoo.inference.load import load_model, model_name
from flatzoo.models import record

predict = importlib.import_module('flatzoo.cli.commands.predict')
LABELS = ['walks', 'jumps', 'sits down', 'stands up']


def write_clip(path, seed=0, count=12, size=48):
    """Writes a video of moving noise."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = rng.integers(0, 255, (size, size + 16, 3), dtype=np.uint8).repeat(2, 0).repeat(2, 1)
    with av.open(str(path), 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = image.shape[0], image.shape[1], 'yuv420p'
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(np.roll(image, 4 * i, 1), format='rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path):
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('aac', rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    model = timm.create_model('sifar_swin_tiny', num_classes=4).eval()
    for parameter in model.backbone.head.parameters():
        parameter.data.normal_()  # probabilities that are clearly apart
    return model


@pytest.fixture(scope='module')
def folder(model, tmp_path_factory):
    """A model saved with its label names, and its bare weights."""
    folder = tmp_path_factory.mktemp('model')
    save_for_hf(model, folder, model_config={'label_names': LABELS}, safe_serialization=True)
    safetensors.torch.save_file(model.state_dict(), folder / 'checkpoint.safetensors')
    return folder


@pytest.fixture
def trained(folder):
    """Options that choose the saved model."""
    return ['--model', f'local-dir:{folder}']


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / 'clip.mp4')


def expected(model, path, protocol=EvalProtocol()):  # noqa: B008 - frozen
    with torch.inference_mode():
        views = protocol.load_views(path, model.num_frames, model.img_size)
        return model(views).mean(0).softmax(0)


# Answers

def test_text_ranks_the_classes(trained, model, clip, capsys):
    assert main(['predict', str(clip), *trained, '--topk', '3']) == 0
    out, err = capsys.readouterr()
    path, *lines = out.splitlines()
    assert path == str(clip) and err == ''
    order = expected(model, clip).topk(3)
    assert [line.split('%  ')[1] for line in lines] == [LABELS[i] for i in order.indices]
    assert [line.split('%  ')[0].strip() for line in lines] == [f'{100 * p:.1f}' for p in order.values.tolist()]


def test_json_is_pure_and_has_an_entry_for_every_file(trained, model, clip, tmp_path, capsys):
    (tmp_path / 'broken.mp4').write_bytes(b'no video at all')
    assert main(['predict', str(clip), str(tmp_path / 'broken.mp4'), *trained, '--json']) == 1
    out, err = capsys.readouterr()
    answered, failed = json.loads(out)
    assert answered['path'] == str(clip)
    assert [item['label'] for item in answered['predictions']] == [LABELS[i['index']] for i in answered['predictions']]
    probabilities = [item['probability'] for item in answered['predictions']]
    assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) == pytest.approx(1, abs=1e-5)
    for item in answered['predictions']:
        assert item['probability'] == pytest.approx(expected(model, clip)[item['index']].item(), abs=1e-5)
    assert set(failed) == {'path', 'error'} and failed['path'].endswith('broken.mp4')
    assert err == f'flatzoo predict: error: {failed["error"]}\n'


def test_csv(trained, clip, tmp_path, capsys):
    odd = write_clip(tmp_path / 'a "b", c.mp4', seed=1)
    assert main(['predict', str(odd), str(tmp_path / 'none.mp4'), str(clip), *trained, '--csv', '--topk', '2']) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row['path'], row['rank']) for row in rows] == [
        (str(odd), '1'), (str(odd), '2'), (str(tmp_path / 'none.mp4'), ''), (str(clip), '1'), (str(clip), '2')]
    assert 'no such file' in rows[2]['error'] and rows[2]['label'] == ''
    assert rows[0]['label'] in LABELS and float(rows[0]['probability']) >= float(rows[1]['probability'])


def test_names_of_classes_cannot_steer_a_terminal(model, clip, tmp_path, capsys):
    """Control characters and line breaks in names of a saved model are shown escaped; in CSV and JSON they stay."""
    names = [f'\x1b[2J\n{name}\u202e' for name in LABELS]
    save_for_hf(model, tmp_path, model_config={'label_names': names}, safe_serialization=True)
    command = ['predict', str(clip), '--model', f'local-dir:{tmp_path}', '--topk', '4']
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and sorted(line.split('%  ')[1] for line in lines[1:]) == sorted(
        fr'\x1b[2J\n{name}\u202e' for name in LABELS)
    assert main([*command, '--csv']) == 0
    assert {row['label'] for row in csv.DictReader(io.StringIO(capsys.readouterr().out, newline=''))} == set(names)
    assert main([*command, '--json']) == 0
    assert {item['label'] for item in json.loads(capsys.readouterr().out)[0]['predictions']} == set(names)


def test_weights_are_not_read_for_files_that_are_not_there(tmp_path, capsys):
    assert main(['predict', str(tmp_path / 'none.mp4'), '--checkpoint', str(tmp_path / 'none.safetensors')]) == 1
    err = capsys.readouterr().err
    assert err == f'flatzoo predict: error: {tmp_path / "none.mp4"}: no such file. Check the path.\n'


@pytest.mark.parametrize('options, protocol', [
    ([], EvalProtocol(num_crops=3)),
    (['--views', 'repository'], EvalProtocol(num_clips=3, num_crops=3)),
    (['--views', 'fast'], EvalProtocol()),
    (['--views', 'fast', '--num-crops', '3'], EvalProtocol(num_crops=3)),
    (['--num-clips', '2'], EvalProtocol(num_clips=2, num_crops=3)),
])
def test_views_follow_the_protocol(options, protocol, trained, model, clip, capsys, monkeypatch):
    monkeypatch.setitem(record._RECORDS, 'sifar_swin_tiny.untrained', record.tag_record('sifar_swin_b14.ibm_k400'))
    assert main(['predict', str(clip), *trained, '--json', '--batch-size', '2', *options]) == 0
    [entry] = json.loads(capsys.readouterr().out)
    got = {item['index']: item['probability'] for item in entry['predictions']}
    want = expected(model, clip, protocol)
    assert got == pytest.approx(dict(enumerate(want.tolist())), abs=1e-5)


def test_protocols_are_those_of_the_weights():
    meta = timm.create_model('sifar_swin_b14.ibm_ssv2', device='meta')
    assert flatzoo.eval_protocol(meta) == EvalProtocol(num_crops=3)
    assert flatzoo.eval_protocol(meta, 'repository') == EvalProtocol(num_clips=3, num_crops=3)


def test_views_that_the_weights_do_not_have_are_refused(trained, clip, capsys):
    assert main(['predict', str(clip), *trained, '--views', 'repository']) == 1
    told = capsys.readouterr().err
    assert "there is no evaluation protocol 'repository' of these weights, only paper, or fast" in told


@pytest.mark.parametrize('workers, batch_size', [(1, 1), (3, 4), (2, 100)])
def test_many_files_are_answered_in_order(workers, batch_size, model, tmp_path):
    paths = [write_clip(tmp_path / f'{i}.mp4', seed=i) for i in range(5)]
    paths.insert(2, tmp_path / 'missing.mp4')
    protocol = EvalProtocol(num_crops=3)
    answers = list(classify_files(model, paths, protocol, topk=1, batch_size=batch_size, workers=workers))
    assert [path for path, _ in answers] == paths
    for path, answer in answers:
        if path.name == 'missing.mp4':
            assert isinstance(answer, VideoError)
        else:
            [best] = classify_file(model, path, protocol, topk=1)
            assert answer[0].index == best.index and answer[0].probability == pytest.approx(best.probability, abs=1e-5)


def test_classify_file(model, clip, tmp_path):
    model.train()
    predictions = classify_file(model, clip, topk=99)
    assert not model.training
    assert len(predictions) == 4 and sorted(p.index for p in predictions) == [0, 1, 2, 3]
    assert predictions[0].label == f'class {predictions[0].index}'  # these weights have no names
    with pytest.raises(VideoError, match='no such file'):
        classify_file(model, tmp_path / 'none.mp4')


def test_weights_that_give_nan_are_an_error(model, clip, tmp_path, capsys):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state['backbone.head.fc.bias'][0] = float('nan')
    safetensors.torch.save_file(state, tmp_path / 'nan.safetensors')
    options = ['--model', 'sifar_swin_tiny', '--checkpoint', str(tmp_path / 'nan.safetensors'), '--num-classes', '4']
    assert main(['predict', str(clip), *options, '--json']) == 1
    assert 'not finite' in json.loads(capsys.readouterr().out)[0]['error']


# Files

def broken_files(folder):
    clip = write_clip(folder / 'whole.mp4').read_bytes()
    files = {
        'empty.mp4': b'', 'text.mp4': b'Dear diary,\n' * 500, 'noise.mp4': os.urandom(20_000),
        'truncated.mp4': clip[:60], 'header.mp4': clip[clip.index(b'moov') - 4:][:120],
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    write_sound(folder / 'sound.mp4')
    with open(folder / 'huge.mp4', 'wb') as file:
        file.truncate(3 * 2 ** 30)  # a hole: nothing but zeros
    return [*files, 'sound.mp4', 'huge.mp4', 'missing.mp4']


def test_broken_files_do_not_stop_the_others(trained, tmp_path, capfd):
    names = broken_files(tmp_path)
    paths = [str(tmp_path / name) for name in ['whole.mp4', *names, 'whole2.mp4']]
    write_clip(tmp_path / 'whole2.mp4', seed=2)
    assert main(['predict', *paths, *trained, '--json', '--workers', '3']) == 1
    out, err = capfd.readouterr()  # of the file descriptors: FFmpeg is silent, too
    entries = json.loads(out)
    assert [entry['path'] for entry in entries] == paths
    assert [entry['path'] for entry in entries if 'error' in entry] == paths[1:-1]
    errors = [line for line in err.splitlines() if line.startswith('flatzoo predict: error: ')]
    assert errors == [f'flatzoo predict: error: {entry["error"]}' for entry in entries if 'error' in entry]
    for name, line in zip(names, errors, strict=True):
        assert name in line
    assert 'Traceback' not in err


def test_wrong_suffix_is_tried_if_named(trained, clip, tmp_path, capsys):
    renamed = clip.rename(tmp_path / 'clip.jpeg')
    assert main(['predict', str(renamed), *trained]) == 0
    assert main(['predict', str(tmp_path), *trained]) == 1  # but not found in a folder
    assert 'no video in this folder' in capsys.readouterr().err


def test_decoder_that_fails_in_an_unknown_way(trained, clip, capsys, monkeypatch):
    def load_views(self, path, *args):
        raise KeyError('surprise')
    monkeypatch.setattr(EvalProtocol, 'load_views', load_views)
    assert main(['predict', str(clip), *trained]) == 1
    assert capsys.readouterr().err == f"flatzoo predict: error: {clip}: KeyError: 'surprise'\n"


def test_folders_are_searched(tmp_path):
    for name in ('b.mp4', 'a.MKV', 'sub/deep/c.webm', '.hidden.mp4', '.git/d.mp4', 'notes.txt', 'sub/e.jpg'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / 'sub' / 'circle').symlink_to(tmp_path)
    (tmp_path / 'none').mkdir()
    found = find_videos([str(tmp_path), str(tmp_path / 'b.mp4'), str(tmp_path / 'none')])
    assert [os.path.relpath(path, tmp_path) for path, _ in found] == ['a.MKV', 'b.mp4', 'sub/deep/c.webm', 'none']
    assert [error is None for _, error in found] == [True, True, True, False]


def test_folder_that_cannot_be_opened(tmp_path, monkeypatch):
    (tmp_path / 'closed').mkdir()
    (tmp_path / 'a.mp4').touch()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith('closed'):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', refuse)
    (file, no_error), (closed, error) = find_videos([str(tmp_path)])
    assert file.endswith('a.mp4') and no_error is None
    assert closed.endswith('closed') and 'Permission denied' in error


@pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() == 0, reason='root may read everything')
def test_file_that_may_not_be_read(trained, clip, capsys):
    clip.chmod(0)
    assert main(['predict', str(clip), *trained]) == 1
    assert 'permission' in capsys.readouterr().err


def test_patterns(tmp_path):
    for name in ('1.mp4', '2.mp4', 'sub/3.mp4', '[4].mp4'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern):
        return [os.path.relpath(path, tmp_path) for path, error in find_videos([str(tmp_path / pattern)]) if not error]
    assert found('[12].mp4') == ['1.mp4', '2.mp4']
    assert found('**/*.mp4') == ['1.mp4', '2.mp4', '[4].mp4', 'sub/3.mp4']
    assert found('s*') == ['sub/3.mp4']
    assert found('[4].mp4') == ['[4].mp4']  # a file of that very name
    [(path, error)] = find_videos([str(tmp_path / '*.avi')])
    assert path.endswith('*.avi') and 'matches nothing' in error


def test_nothing_to_answer_builds_no_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, 'answering_model', None)
    assert main(['predict', str(tmp_path / '*.mp4'), str(tmp_path), '--json']) == 1
    assert len(json.loads(capsys.readouterr().out)) == 2


@pytest.mark.parametrize('count, terminal', [(MANY - 1, True), (MANY, True), (MANY, False)])
def test_bars_only_on_terminals_and_of_many_files(count, terminal, trained, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal)
    for i in range(count - 1):
        (tmp_path / f'{i}.mp4').write_bytes(clip.read_bytes())
    assert main(['predict', str(tmp_path), *trained, '--json']) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == count
    assert (f'{count}/{count}' in err) == (count >= MANY and terminal)
    assert terminal or err == ''


def test_a_log_gets_lines_in_place_of_a_bar(capsys, monkeypatch):
    clock = iter([0, 10, 31, 40, 62])
    monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
    with progress.Progress(400, 'clip') as bar:
        for _ in range(4):
            bar.update(50, 'top-1 50.0 %')
    assert capsys.readouterr().err == (
        'clip 100/400: top-1 50.0 %, 3.2 clip/s, 0:00:31 passed, 0:01:33 left\n'
        'clip 200/400: top-1 50.0 %, 3.2 clip/s, 0:01:02 passed, 0:01:02 left\n')


@pytest.mark.parametrize('path, says', [
    ('https://site.org/clip.mp4', 'Download it first: curl -LO'), ('rtsp://camera/1', 'record a part of it first'),
    ('0', 'If the camera 0 is meant'), ('none.mp4', 'Check the path')])
def test_what_is_no_file_is_told_what_to_do(path, says, capsys):
    for command in ('predict', 'show'):
        assert main([command, path]) == 1
        out, err = capsys.readouterr()
        assert out == '' and err.count('\n') == 1 and says in err
        assert err.startswith(f'flatzoo {command}: error: {path}')


def test_a_long_video_gets_a_note(trained, clip, capsys, monkeypatch):
    monkeypatch.setattr(predict, 'LARGE', 1)
    assert main(['predict', str(clip), *trained, '--num-clips', '2']) == 0
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(predict, 'LONG', 0.4)
    assert main(['predict', str(clip), *trained, '--num-clips', '2', '--json']) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) and err.startswith(f'note: {clip} (') and 'from 16 frames of it' in err


def test_a_folder_is_a_model_wherever_a_name_is(folder, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'mine').symlink_to(folder)
    answers = []
    for name in ('runs/mine', 'runs/mine/', './runs/mine', str(folder), f'local-dir:{folder}'):
        assert main(['predict', str(clip), '--model', name, '--json']) == 0
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 1
    (tmp_path / 'sifar_swin_tiny').symlink_to(folder)
    assert model_name('sifar_swin_tiny') == 'sifar_swin_tiny'  # that of the registered model
    assert model_name('./sifar_swin_tiny') == 'local-dir:./sifar_swin_tiny'
    assert main(['predict', str(clip), '--model', 'runs']) == 1
    assert 'runs: this folder holds no config.json' in capsys.readouterr().err
    (tmp_path / 'clips' / 'walks').mkdir(parents=True)
    shutil.copy(clip, tmp_path / 'clips' / 'walks')
    assert main(['data', 'check', 'folder', 'clips', '--model', 'runs/mine', '--num-frames', '2']) == 1
    assert 'one class' in capsys.readouterr().out  # the model is taken; it is the data that is found fault with
    assert main(['validate', 'folder', 'clips', '--split', 'all', '--model', 'runs/mine', '--workers', '0']) == 0
    out = capsys.readouterr().out
    assert 'top-1' in out and 'top-5' not in out  # of four classes
    assert main(['export', 'runs', '--format', 'torchscript']) == 1


def test_names_that_no_encoding_has(trained, clip, tmp_path, capsys):
    odd = clip.rename(os.fsdecode(os.fsencode(tmp_path) + b'/\xff\xe4.mp4'))
    for form in ([], ['--json'], ['--csv']):
        assert main(['predict', str(odd), *trained, *form]) == 0
    assert main(['predict', str(odd) + 'x', *trained]) == 1


# Models

def test_untrained_head_is_refused(clip, capsys):
    assert main(['predict', str(clip), '--model', 'sifar_swin_tiny']) == 1
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1
    assert 'never trained' in err and '--allow-untrained' in err and 'sifar_swin_b14.ibm_k400' in err


@pytest.mark.parametrize('name, options', [
    ('sifar_swin_b12', []), ('sifar_swin_b14.ibm_k400', ['--num-classes', '51'])])
def test_untrained_head_is_refused_before_any_download(name, options, clip, capsys, monkeypatch):
    monkeypatch.setattr(timm, 'create_model', None)
    assert main(['predict', str(clip), '--model', name, *options]) == 1
    assert 'never trained' in capsys.readouterr().err


def test_allow_untrained(clip, capsys):
    options = ['--model', 'sifar_swin_tiny', '--num-classes', '7', '--allow-untrained', '--json', '--topk', '9']
    assert main(['predict', str(clip), *options]) == 0
    out, err = capsys.readouterr()
    [entry] = json.loads(out)
    assert sorted(item['label'] for item in entry['predictions']) == [f'class {i}' for i in range(7)]
    assert err.startswith('warning: ') and 'never trained' in err


def test_checkpoint(model, folder, clip, capsys):
    options = ['--model', 'sifar_swin_tiny', '--checkpoint', str(folder / 'checkpoint.safetensors')]
    assert main(['predict', str(clip), *options, '--num-classes', '4', '--json']) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert {p['index']: p['probability'] for p in entry['predictions']} == pytest.approx(
        dict(enumerate(expected(model, clip).tolist())), abs=1e-5)
    assert main(['predict', str(clip), *options]) == 1  # 400 classes by default
    assert 'no trained head for 400 classes' in capsys.readouterr().err


@pytest.mark.parametrize('file', ['missing.pth', 'garbage.pth', 'other.safetensors'])
def test_checkpoint_that_cannot_be_loaded(file, clip, tmp_path, capsys):
    (tmp_path / 'garbage.pth').write_bytes(b'garbage')
    safetensors.torch.save_file({'backbone.other': torch.zeros(2)}, tmp_path / 'other.safetensors')
    options = ['--model', 'sifar_swin_tiny', '--checkpoint', str(tmp_path / file)]
    assert main(['predict', str(clip), *options]) == 1
    out, err = capsys.readouterr()
    assert out == '' and file in err and err.count('\n') == 1


@pytest.mark.parametrize('name, says', [
    ('sifar_swin_b77', 'sifar_swin_b7'),
    ('sifar_swin_b14.ibm_k40', 'sifar_swin_b14.ibm_k400'),
    ('resnet18', 'is an image model'),
    ('org/name', 'hf-hub:org/name'),
    ('local-dir:/nowhere/at/all', '/nowhere/at/all'),
    ('local-dir:', 'no model id'),
    ('', 'no model'),
])
def test_unknown_models(name, says, clip, capsys):
    assert main(['predict', str(clip), '--model', name]) == 1
    out, err = capsys.readouterr()
    assert out == '' and says in err and err.count('\n') == 1


@pytest.mark.parametrize('name', ['sifar_swin_b14.ibm_k400', 'hf-hub:flatzoo/none'])
def test_no_network(name, clip, capsys, monkeypatch, tmp_path):
    def urlopen(*args, **kwargs):
        raise importlib.import_module('urllib.error').URLError('no network')
    monkeypatch.setattr('urllib.request.urlopen', urlopen)
    monkeypatch.setattr('torch.hub.urlopen', urlopen)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    assert main(['predict', str(clip), '--model', name]) == 1
    out, err = capsys.readouterr()
    assert out == '' and 'cannot be downloaded' in err and name in err and '--model FOLDER' in err
    assert ('--checkpoint FILE' in err) == (':' not in name) and 'pretrained_cfg' not in err


def test_image_model_in_a_folder(clip, tmp_path, capsys):
    save_for_hf(timm.create_model('test_resnet'), tmp_path / 'image', safe_serialization=True)
    assert main(['predict', str(clip), '--model', f'local-dir:{tmp_path / "image"}']) == 1
    assert 'is an image model' in capsys.readouterr().err


@pytest.mark.parametrize('device', ['cuda:99', 'toaster', 'meta'])
def test_device_that_is_not_there(device, clip, trained, capsys):
    assert main(['predict', str(clip), *trained, '--device', device]) == 1
    assert f'--device {device}' in capsys.readouterr().err


def test_default_model_names_actions(clip, capsys):
    assert main(['predict', str(clip), '--json', '--topk', '99']) == 0
    out, err = capsys.readouterr()
    [entry] = json.loads(out)
    assert {item['index']: item['label'] for item in entry['predictions']} == dict(enumerate(ACTIONS)) and err == ''


def test_label_names_go_with_their_weights():
    """A weight file may be of other classes, as many as those of a tag, unless the user says that it is the tag's."""
    file = timm.get_pretrained_cfg('sifar_resnet10t').file
    named, unnamed = load_model('sifar_resnet10t.actions16', file), load_model('sifar_resnet10t', file)
    assert tuple(named.pretrained_cfg['label_names']) == ACTIONS
    assert unnamed.pretrained_cfg.get('label_names') is None and unnamed.head_trained


# The command itself

@pytest.mark.parametrize('argv', [
    ['predict'], ['predict', 'a.mp4', '--no-such-option'], ['predict', 'a.mp4', '--topk', '0'], [], ['no-such-command'],
    ['predict', 'a.mp4', '--json', '--csv'], ['predict', 'a.mp4', '--num-crops', '2'], ['list', '--topk'],
])
def test_usage_errors(argv, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    out, err = capsys.readouterr()
    assert exit_info.value.code == 2 and out == '' and 'usage: flatzoo' in err


@pytest.mark.parametrize('argv, says', [
    (['--help'], 'Name the action in video files'), (['predict', '--help'], '--allow-untrained'),
    (['list', '--help'], 'PATTERN'), (['--version'], flatzoo.__version__),
])
def test_help(argv, says, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    assert exit_info.value.code == 0 and says in capsys.readouterr().out


def test_interrupt(clip, trained, capsys, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(EvalProtocol, 'load_views', interrupt)
    assert main(['predict', str(clip), *trained]) == 130
    assert capsys.readouterr() == ('', '')


def test_reader_of_the_output_has_gone(monkeypatch, capsys):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, 'w') as pipe:
        monkeypatch.setattr(sys, 'stdout', pipe)
        assert main(['list', 'sifar_swin_tiny']) == 141
    assert capsys.readouterr().err == ''


def run_as_module(folder, arguments):
    os.chdir(folder)
    sys.argv = ['flatzoo', *arguments]
    runpy.run_module('flatzoo', run_name='__main__')


def test_end_to_end(clip, folder, tmp_path):
    (tmp_path / 'broken.mp4').write_bytes(b'')
    command = ['predict', '*.mp4', '--model', f'local-dir:{folder}', '--json']
    result = Process(tmp_path / 'log', run_as_module, tmp_path, command).wait()
    assert result.returncode == 1
    failed, answered = json.loads(result.stdout)
    assert (failed['path'], answered['path']) == ('broken.mp4', 'clip.mp4') and len(answered['predictions']) == 4
    assert result.stderr == f'flatzoo predict: error: {failed["error"]}\n'


# flatzoo list

def test_list_table(capsys):
    assert main(['list', 'sifar_swin_b14*']) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert re.split('  +', header)[:6] == ['name', 'frames', 'size', 'layout', 'params (M)', 'classes']
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert list(rows) == sorted(rows) and len(rows) == 6
    assert rows['sifar_swin_b14_16f.ibm_ssv2'][:6] == ['16', '224', 'grid', '87.3', '174', 'apache-2.0']
    assert rows['sifar_swin_b14.ms_in22k'][4] == '-'


def test_list_json(capsys):
    assert main(['list', 'sifar_swin_*', '--json']) == 0
    rows = {row['name']: row for row in json.loads(capsys.readouterr().out)}
    model = timm.create_model('sifar_swin_tiny')
    assert rows['sifar_swin_tiny'] == {
        'name': 'sifar_swin_tiny', 'num_frames': 8, 'img_size': [32, 32], 'layout': 'grid',
        'params': sum(parameter.numel() for parameter in model.parameters()), 'classes': None, 'task': None,
        'data': None, 'licence': None, 'source': None, 'origin': None, 'bytes': None, 'sha256': None,
    }
    assert rows['sifar_swin_b14.ibm_k400']['params'] == 87_425_864  # with its position embedding of frames
    assert rows['sifar_swin_b14.ibm_k400']['source'].startswith('https://')


def test_list_pretrained(capsys):
    assert main(['list', 'sifar_swin_*', '--pretrained', '--json']) == 0
    names = [row['name'] for row in json.loads(capsys.readouterr().out)]
    assert names and all('.' in name for name in names) and not any('tiny' in name for name in names)


def test_list_pretrained_says_where_weights_come_from(capsys):
    assert main(['list', '*_s*.*', '--pretrained']) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert re.split('  +', header) == [
        'name', 'frames', 'size', 'classes', 'task', 'data', 'licence', 'MB', 'source']
    rows = {cells[0]: cells[1:] for cells in (re.split('  +', line) for line in lines)}
    assert rows['flatten_uniformer_s.in1k'] == [
        '8', '128', '-', 'image classification', 'ImageNet-1k', 'mit', '86.3', 'huggingface.co/Sense-X/uniformer_image']
    assert rows['videomae_vit_s.mcg_ssv2'][2:6] == [
        '174', 'action recognition', 'Something-Something v2', 'cc-by-nc-4.0']
    assert main(['list', 'sifar_resnet10t', '--pretrained', '--json']) == 0
    found = {row['name']: row for row in json.loads(capsys.readouterr().out)}
    assert {row['source'] for row in found.values()} == {'in the package'}
    row = found['sifar_resnet10t.actions16']
    assert len(row['sha256']) == 64 and row['bytes'] == 2_487_160


@pytest.mark.parametrize('argv', [['nothing*'], ['resnet50'], ['sifar_swin_tiny', '--pretrained']])
def test_list_without_a_match(argv, capsys):
    assert main(['list', *argv]) == 1
    out, err = capsys.readouterr()
    assert out == '' and 'no model' in err


def test_no_default_is_shown_as_nothing(capsys):
    for command in ('predict', 'train', 'validate', 'show', 'data'):
        with pytest.raises(SystemExit):
            main([command, '--help'])
    assert '(default: )' not in capsys.readouterr().out
