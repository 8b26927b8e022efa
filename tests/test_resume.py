"""Runs that are killed at any moment end with the bits of those that were not."""
import csv
import random
import time
from pathlib import Path

import pytest
import safetensors.torch
from train_runs import finish, same, small_recipe, start, train, weights, write_clips

from flatzoo.train.checkpoint import load_last

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


@pytest.mark.parametrize(('name', 'call'), [
    ('save_last', 1), ('save_last', 4), ('save_model', 1), ('write_csv', 2), ('write_file', 1)])
def test_killed_while_a_file_is_written(root, straight, tmp_path, name, call):
    folder = tmp_path / 'run'
    process = start(small_recipe(root, folder, **OPTIONS), tmp_path, kill=(name, call))
    process.join(120)
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
