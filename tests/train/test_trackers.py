"""Curves go where the user wants them, resumed runs go on with them, and a server that is away stops no run."""
import importlib.util
import json

import pytest
from train_runs import PLAIN, train, write_clips

from flatzoo.train import trackers
from flatzoo.train.recipe import TRACKERS, RecipeError


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp('clips'), train=2, val=1)


class Noted(trackers._Tracker):
    """Notes what it is given; its server is away after so many rows."""
    kept: list
    rows = 9

    def __init__(self, recipe, folder, update, ids):
        ids.setdefault('wandb', 'abc')
        self.kept.append(('open', recipe.tracker_project, update, ids['wandb']))

    def log(self, numbers, update):
        print('a library that talks')
        if len(self.kept) > self.rows:
            raise ConnectionError('the server\nis away')
        self.kept.append((update, numbers))

    def close(self):
        self.kept.append('closed')


@pytest.fixture
def noted(monkeypatch):
    kind = type('Kind', (Noted,), {'kept': []})
    monkeypatch.setitem(trackers._KINDS, 'wandb', kind)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *args: name == 'wandb' or find(name, *args))
    return kind


def test_there_is_a_tracker_for_every_name():
    assert {*trackers._KINDS, 'none'} == set(TRACKERS)


def test_a_run_and_its_resumption_are_one_curve(root, tmp_path, noted, capsys):
    train(root, tmp_path / 'run', epochs=1, tracker=('wandb',), tracker_project='mine', **PLAIN)
    train(root, tmp_path / 'run', epochs=2, tracker=('wandb',), resume='auto', **PLAIN)  # also another project may be
    opened, first, closed, again, second, _ = noted.kept
    assert opened == ('open', 'mine', 0, 'abc') and again == ('open', 'flatzoo', 1, 'abc') and closed == 'closed'
    assert (first[0], second[0]) == (1, 2) and first[1]['epoch'] == 1 and 0 < first[1]['train/loss'] < 9
    assert json.loads((tmp_path / 'run' / trackers.IDS).read_text()) == {'wandb': 'abc'}
    out, err = capsys.readouterr()
    assert not out and 'a library that talks' in err  # standard output is for results


def test_a_server_that_is_away_is_named_once_and_training_goes_on(root, tmp_path, noted):
    noted.rows = 1
    row, lines = train(root, tmp_path / 'run', epochs=3, tracker=('wandb',), **PLAIN)
    assert row['epoch'] == 3
    warnings = [line for line in lines if 'wandb' in line]
    assert warnings == ['warning: wandb does not take the curves any more: the server is away']


def test_what_cannot_be_opened_or_is_not_installed_ends_the_run_before_it_begins(root, tmp_path, noted, monkeypatch):
    monkeypatch.setattr(noted, '__init__', lambda *_: (_ for _ in ()).throw(PermissionError('no key')))
    with pytest.raises(RecipeError, match='tracker wandb cannot be opened: no key'):
        train(root, tmp_path / 'run', tracker=('wandb',))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *_: None)
    with pytest.raises(RecipeError, match="tracker mlflow: mlflow is not installed: pip install 'flatzoo.mlflow.'"):
        train(root, tmp_path / 'other', tracker=('mlflow',))
    assert not (tmp_path / 'other').exists()
    with pytest.raises(RecipeError, match='tracker takes one of tensorboard, wandb, mlflow, trackio, none'):
        train(root, tmp_path / 'other', tracker=('neptune',))


def test_none_writes_no_curves(root, tmp_path):
    train(root, tmp_path / 'run', epochs=1, tracker=('none',))
    assert not list((tmp_path / 'run').glob('events*')) and not (tmp_path / 'run' / trackers.IDS).exists()


def test_trackio_itself(root, tmp_path, monkeypatch):
    monkeypatch.setenv('TRACKIO_DIR', str(tmp_path / 'trackio'))  # which is read when it is imported
    pytest.importorskip('trackio')
    for epochs in (1, 2):
        _, lines = train(root, tmp_path / 'run', epochs=epochs, tracker=('trackio',), resume='auto', **PLAIN)
        assert not any('warning' in line for line in lines)
    assert list((tmp_path / 'trackio').rglob('*.db'))


def test_wandb_itself(root, tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    _, lines = train(root, tmp_path / 'run', epochs=1, tracker=('wandb',), **PLAIN)
    assert not any('warning' in line for line in lines) and list((tmp_path / 'run' / 'wandb').glob('offline-run-*'))


def test_mlflow_itself(root, tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    pytest.importorskip('sqlalchemy')
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f'sqlite:///{tmp_path}/mlflow.db')
    try:
        for epochs in (1, 2):
            train(root, tmp_path / 'run', epochs=epochs, tracker=('mlflow',), resume='auto', **PLAIN)
        run_id = json.loads((tmp_path / 'run' / trackers.IDS).read_text())['mlflow']
        curve = mlflow.MlflowClient().get_metric_history(run_id, 'train/loss')
    finally:
        mlflow.set_tracking_uri(before)
    assert [point.step for point in curve] == [1, 2]
