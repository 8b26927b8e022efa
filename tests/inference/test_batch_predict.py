"""Answers for many files: spread over processes by Ray Data, written as Parquet, and gone on with after a cut."""
import functools
import json
import os

import pytest
import timm
import torch

import flatzoo
from flatzoo.cli import main
from flatzoo.data.actions import ACTIONS, write_action
from flatzoo.inference import parquet as batch

pyarrow = pytest.importorskip('pyarrow', reason="needs pip install 'flatzoo[ray]'")


def load_double(factor):
    return factor


def double(model, files, wrong='none'):
    for file in files:
        if wrong in file:
            yield file, ValueError(f'{file}:\nno video')
        else:
            yield file, [(f'class {i}', i, 1 / (i + model)) for i in range(2)]


def rows_of(folder):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(folder).to_pylist()  # as any reader of Parquet folders does


def test_table_of_answers():
    answers = [(os.fsencode(path), answer) for path, answer in double(1, ['/a.mp4', '/none.mp4'])]
    answers.append((b'/\xff.mp4', [('b', 1, 0.5)]))
    table = batch._table(answers).to_pylist()
    assert table[0] == {
        'path': '/a.mp4', 'labels': ['class 0', 'class 1'], 'indices': [0, 1], 'probabilities': [1.0, 0.5],
        'error': None}
    assert table[1]['error'] == 'ValueError: /none.mp4: no video' and table[1]['labels'] == []
    assert table[2]['path'] == '/\\xff.mp4' == batch.file_key(os.fsdecode(b'/\xff.mp4'))


def test_folder_keeps_to_one_kind_of_answers(tmp_path):
    folder = batch.open_folder(tmp_path / 'new' / 'answers', {'model': 'a', 'topk': 5})
    assert batch.open_folder(folder, {'topk': 5, 'model': 'a'}) == folder
    with pytest.raises(ValueError, match='answers of another run.*"a"'):
        batch.open_folder(folder, {'model': 'b', 'topk': 5})
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'thesis.txt').touch()
    with pytest.raises(ValueError, match='not empty'):
        batch.open_folder(tmp_path / 'other', {})


def test_parts_that_were_not_finished_do_not_count(tmp_path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(batch._table([(b'/a.mp4', [])]), tmp_path / 'one.parquet')
    (tmp_path / '_two.parquet.partial').write_bytes(b'PAR1 and then the power went')
    assert batch.answered_files(tmp_path) == {'/a.mp4': None}
    assert len(rows_of(tmp_path)) == 1


def test_a_list_of_files_and_no_files(tmp_path, capsys):
    clip = write_action(tmp_path / 'a b.mp4', 0, 0, size=32, num_frames=8)
    (tmp_path / 'list.txt').write_text(f'{clip}\n\n{tmp_path}/none.mp4\n')
    assert main(['predict', '--files-from', str(tmp_path / 'list.txt'), '--json']) == 1
    assert [entry['path'] for entry in json.loads(capsys.readouterr().out)] == [str(clip), f'{tmp_path}/none.mp4']
    assert main(['predict', '--files-from', str(tmp_path / 'nolist.txt')]) == 1
    assert '--files-from' in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(['predict'])
    assert caught.value.code == 2 and 'give a CLIP' in capsys.readouterr().err


def test_without_ray(tmp_path, capsys, monkeypatch):
    clip = write_action(tmp_path / 'clip.mp4', 0, 0, size=32, num_frames=8)

    def missing():
        raise ImportError
    monkeypatch.setattr(batch, 'import_ray', missing)
    assert main(['predict', str(clip), '--parquet', str(tmp_path / 'answers')]) == 1
    assert "pip install 'flatzoo[ray]'" in capsys.readouterr().err


@pytest.fixture(scope='module')
def cluster():
    """Ray for two processes, started once."""
    ray = pytest.importorskip('ray', reason="needs pip install 'flatzoo[ray]'")
    batch.import_ray()
    tests = os.path.dirname(__file__)  # where Ray finds the functions of this file
    ray.init(
        'local', num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level='error',
        object_store_memory=100 * 2 ** 20, runtime_env={'env_vars': {'PYTHONPATH': tests}})
    yield
    ray.shutdown()


def test_two_processes_and_a_run_that_is_cut_off(cluster, tmp_path, monkeypatch):
    folder = batch.open_folder(tmp_path / 'answers', {})
    files = [f'/videos/{i}.mp4' for i in range(20)] + ['/videos/wrong.mp4']
    monkeypatch.setattr(batch, 'BLOCK', 2)
    monkeypatch.setattr(batch, 'ROWS', 4)
    load, answer = functools.partial(load_double, 2), functools.partial(double, wrong='wrong')

    answers = batch.run_batches(files, folder, load, answer, processes=2)
    seen = [next(answers) for _ in range(7)]
    answers.close()  # as Ctrl-C does
    before = batch.answered_files(folder)
    assert {path for path, _ in seen} <= before.keys() and len(before) < len(files)

    rest = [file for file in files if file not in before]
    assert sorted(path for path, _ in batch.run_batches(rest, folder, load, answer, processes=2)) == sorted(rest)
    rows = rows_of(folder)
    assert sorted(row['path'] for row in rows) == sorted(files)  # each once
    assert {row['path'] for row in rows if row['error']} == {'/videos/wrong.mp4'}
    assert all(row['probabilities'] == [0.5, pytest.approx(1 / 3)] for row in rows if not row['error'])
    assert len(list(folder.glob('*.parquet'))) > 2


def test_processes_that_fail_are_one_clear_error(cluster, tmp_path):
    with pytest.raises(RuntimeError, match='the processes of Ray failed'):
        list(batch.run_batches(['/a.mp4'], tmp_path, functools.partial(load_double, None), double))


@pytest.mark.slow
def test_predict_to_parquet(cluster, tmp_path, capsys):
    clips = [
        write_action(tmp_path / f'{label}.mp4', label, 7, size=64, num_frames=16, split='test') for label in range(4)]
    broken = tmp_path / 'broken.mp4'
    broken.write_bytes(b'Dear diary,\n' * 500)
    out = tmp_path / 'answers'
    options = ['--parquet', str(out), '--processes', '2', '--workers', '1', '--topk', '2']

    assert main(['predict', str(clips[0]), str(broken), str(clips[1]), *options]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == f'{out}\n' and 'error: VideoError' in stderr and str(broken) in stderr
    assert '2 files answered, 1 not; 0 were done before' in stderr

    options[3] = '1'
    assert main(['predict', str(tmp_path), *options]) == 1  # the broken one still has no answer
    assert '2 files answered, 0 not; 3 were done before, 1 of them without' in capsys.readouterr().err
    rows = {row['path']: row for row in rows_of(out)}
    assert len(rows) == len(rows_of(out)) == 5
    assert [rows[str(clip)]['labels'][0] for clip in clips] == list(ACTIONS[:4])
    assert all(len(rows[str(clip)]['probabilities']) == 2 for clip in clips)
    assert main(['predict', *map(str, clips), *options]) == 0
    assert '0 files answered, 0 not; 4 were done before' in capsys.readouterr().err

    assert main(['predict', str(clips[0]), *options, '--num-clips', '2']) == 1
    assert 'answers of another run' in capsys.readouterr().err


@pytest.mark.parametrize('options', [
    ['--csv', 'answers.csv'], ['--every', '1', '--json-lines', 'answers.jsonl'],
    ['--every', '1', '--parquet', 'answers']])
def test_a_model_that_was_trained_again_does_not_keep_its_old_answers(tmp_path, monkeypatch, capsys, options):
    """A run that goes on would mix answers of two models that have one name."""
    monkeypatch.chdir(tmp_path)
    write_action(tmp_path / 'clip.mp4', 0, 1, size=32, num_frames=8)
    model = timm.create_model('sifar_resnet10t', pretrained=True)
    flatzoo.save_pretrained(model, 'mine')
    command = ['predict', 'clip.mp4', '--model', 'mine', *options]
    assert main(command) == 0 == main(command)
    err = capsys.readouterr().err
    assert options[0] != '--csv' or '1 of 1 files were answered before' in err
    with torch.no_grad():
        model.get_classifier().weight.neg_()
    flatzoo.save_pretrained(model, 'mine')
    before = (tmp_path / options[-1]).stat().st_mtime_ns
    assert main(command) == 1
    assert f'{options[-1]}: holds the answers of other weights of local-dir:mine' in capsys.readouterr().err
    assert (tmp_path / options[-1]).stat().st_mtime_ns == before


def test_the_error_of_other_answers_says_what_differs(tmp_path):
    folder = batch.open_folder(tmp_path / 'answers', {'model': 'a', 'weights': 'sha256:1', 'topk': 5})
    with pytest.raises(ValueError, match='other weights of a. Give another file or folder'):
        batch.open_folder(folder, {'model': 'a', 'weights': 'sha256:2', 'topk': 5})
    with pytest.raises(ValueError, match='answers of another run'):
        batch.open_folder(folder, {'model': 'a', 'weights': 'sha256:2', 'topk': 1})
