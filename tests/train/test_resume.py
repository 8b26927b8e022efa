"""Runs that are killed at any moment end with the bits of those that were not."""
import csv
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
from processes import Process
from train_runs import finish, same, small_recipe, start, train, weights, write_clips

from flatzoo.cli import main
from flatzoo.hub.staging import staging_folder
from flatzoo.train.checkpoint import load_last
from flatzoo.train.loop import Trainer, TrainingInterrupted

OPTIONS = dict(epochs=3, recovery_interval=1, model_ema=True, reprob=0.3, hflip=0.5, model_ema_decay=0.9)
CHANGING = ('clips_per_second', 'waiting')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp('clips'))


@pytest.fixture(scope='module')
def straight(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('straight') / 'run'
    train(root, folder, **OPTIONS)
    return folder


def rows_of(folder):
    with open(folder / 'summary.csv', newline='') as file:
        return [{name: value for name, value in row.items() if name not in CHANGING} for row in csv.DictReader(file)]


def check_same_end(folder, straight):
    assert same(weights(folder), weights(straight))
    best = [safetensors.torch.load_file(path / 'model.safetensors') for path in (folder, straight)]
    assert same(*best)
    assert rows_of(folder) == rows_of(straight)
    assert not list(Path(folder).glob('.*'))


def go_on(root, folder, errors):
    errors.mkdir(exist_ok=True)
    finish([start(small_recipe(root, folder, resume='auto', **OPTIONS), errors)], errors)


@pytest.mark.parametrize(('name', 'call', 'names'), [
    ('save_last', 1, 1), ('save_last', 4, 1), ('save_last', 4, 2), ('save_last', 4, 3), ('save_model', 1, 1),
    ('save_model', 1, 4), ('write_csv', 2, 1), ('write_csv', 3, 1), ('write_file', 1, 1)])
def test_killed_while_a_file_is_written(root, straight, tmp_path, name, call, names):
    folder = tmp_path / 'run'
    process = start(small_recipe(root, folder, **OPTIONS), tmp_path, kill=(name, call, names))
    process.join(600)
    assert process.exitcode == -9
    go_on(root, folder, tmp_path / 'second')
    check_same_end(folder, straight)


def test_killed_at_random_moments(root, straight, tmp_path):
    chance = random.Random()  # other moments each time; the outcome must not depend on them
    folder, done = tmp_path / 'run', []
    for _ in range(4):
        process = start(small_recipe(root, folder, resume='auto', **OPTIONS), tmp_path)
        before = done[-1] if done else -1
        while process.is_alive() and updates(folder) <= before:  # so that each attempt gets further
            time.sleep(0.002)
        process.join(chance.uniform(0, 0.3))
        process.kill()
        process.join()
        done.append(updates(folder))
    assert done[0] < 9 and done[-1] > 0  # killed on the way
    go_on(root, folder, tmp_path / 'last')
    check_same_end(folder, straight)


def updates(folder):
    """Updates that the checkpoint holds; it is whole at any time."""
    last = folder / 'last.pt'
    return load_last(last)['update'] if last.exists() else -1


def train_until_signalled(config, number):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    step = Trainer._step

    def signalled(self, batch):
        if self.update == 4:
            os.kill(os.getpid(), number)
        step(self, batch)

    Trainer._step = signalled
    sys.exit(main(['train', '--config', str(config)]))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('workers', [0, 1])
def test_interrupted_it_says_where_and_goes_on_there(root, straight, tmp_path, number, workers):
    folder = tmp_path / 'run'
    options = {**OPTIONS, 'recovery_interval': 0, 'workers': workers}
    recipe = small_recipe(root, folder, **options)
    (tmp_path / 'args.yaml').write_text(recipe.to_yaml())
    done = Process(tmp_path / 'log', train_until_signalled, tmp_path / 'args.yaml', number).wait()
    assert done.returncode == 128 + number
    last = done.stderr.splitlines()[-1]
    assert last == (
        'flatzoo train: interrupted at update 5, --resume auto goes on there, from ' + str(folder / 'last.pt') + '.')
    assert 'Traceback' not in done.stderr and updates(folder) == 5
    go_on(root, folder, tmp_path / 'second')
    check_same_end(folder, straight)


def test_a_second_signal_does_not_wait_and_others_are_left_alone(root, tmp_path, monkeypatch):
    def twice(self, batch):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError('it went on')

    monkeypatch.setattr(Trainer, '_step', twice)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(TrainingInterrupted, match='at update 0, --resume auto goes on from the start') as caught:
        train(root, tmp_path / 'run')
    assert caught.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not(tmp_path):
    for name in ('.saving-a', '.pulling-b', '.best-c'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'model.safetensors').write_bytes(b'half')
    with staging_folder(tmp_path, '.saving-') as staging:
        with staging_folder(tmp_path, '.pulling-') as other:
            assert {path for path in tmp_path.iterdir() if path.suffix != '.lock'} == {staging, other}
        assert staging.is_dir()
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match='No space left') as caught, staging_folder(tmp_path, '.saving-'):
        raise safetensors.SafetensorError('I/O error: No space left on device (os error 28)')
    assert caught.value.errno == 28 and not list(tmp_path.iterdir())
