"""The AM Flow benchmark scripts, on sizes that take seconds."""
import csv
import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = dict(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=4)


@pytest.fixture
def script(monkeypatch):
    """Imports a script and runs its main with the given command line."""
    monkeypatch.syspath_prepend(ROOT)

    def run(name, *options):
        module = importlib.import_module(name)
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *map(str, options)])
        module.main()
        return module

    return run


@pytest.fixture
def vit(script, monkeypatch, tmp_path):
    """A tiny ViT of the first script."""
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr(importlib.import_module('benchmarks.learning.train_frames_vit'), 'ARCHITECTURE', TINY)
    path = tmp_path / 'vit.safetensors'
    script(
        'benchmarks.learning.train_frames_vit', '--steps', 2, '--train-frames', 16, '--eval-frames', 16,
        '--batch-size', 8, '--out', path,
        '--results', path.with_suffix('.json'))
    return path


def test_train_frames_vit(vit):
    results = json.loads(vit.with_suffix('.json').read_text())
    for measured in results['held_out'].values():
        assert set(measured) == set(results['classes']) == {'object', 'texture', 'place'}
        assert measured['object']['frames'] == 16 > measured['place']['frames']  # two kinds have no class
        assert all(0 <= row['accuracy'] <= 1 for row in measured.values())


def test_augmented_frames_show_the_same(script, monkeypatch):
    """Without shift and flip, a frame keeps its pixels but for contrast and brightness."""
    import torch

    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module('benchmarks.learning.train_frames_vit')
    frames = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8) / 384
    out = module.augment(frames, torch.Generator().manual_seed(0), shift=0)
    assert out.shape == frames.shape
    views = [(frames, frames.flip(-1), frames.flip(-2), frames.flip(-1, -2))[i] for i in range(4)]
    for image, seen in enumerate(out):
        errors = []
        for view in views:
            gain = (seen - seen.mean()).norm() / (view[image] - view[image].mean()).norm()
            errors.append((seen - seen.mean() - gain * (view[image] - view[image].mean())).abs().max())
        assert min(errors) < 1e-5


def test_amflow_on_actions(script, vit, monkeypatch, tmp_path):
    module = importlib.import_module('benchmarks.learning.amflow_on_actions')
    monkeypatch.setattr(module, 'ARCHITECTURE', TINY)
    monkeypatch.setattr(module, 'ProcessPoolExecutor', importlib.import_module('concurrent.futures').ThreadPoolExecutor)
    out = tmp_path / 'results.json'
    options = [
        '--vit', vit, '--seeds', 0, '--variants', 'aligned', 'fine-tuned', '--epochs', 2, '--train-clips', 16,
        '--eval-clips', 16, '--targets', 0, 1, '--cache', tmp_path / 'cache', '--out', out]
    script('benchmarks.learning.amflow_on_actions', *options)
    results = json.loads(out.read_text())
    frozen, tuned = sorted(results['runs'], key=lambda r: r['variant'])
    assert frozen['parameters'] == tuned['parameters'] == tuned['trained'] > frozen['trained']
    assert all(len(r['epochs']) == 2 and module.epochs_to(r, 0) == 1 for r in (frozen, tuned))
    assert '| fine-tuned |' in out.with_suffix('.md').read_text()

    script('benchmarks.learning.amflow_on_actions', *options)
    again = json.loads(out.read_text())
    assert again['runs'] == results['runs'] and len(again['commands']) == 2  # nothing is run twice
    with pytest.raises(SystemExit):
        script('benchmarks.learning.amflow_on_actions', *options, '--epochs', 3)


def test_scenes_are_trained_on_in_both_directions(script, monkeypatch, tmp_path):
    import torch

    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module('benchmarks.learning.amflow_on_actions')
    clips, labels = module.clips_of(8, 3, 0.05, 0, 'train', tmp_path)
    assert clips.shape[:3] == (8, 3, 3) and labels.tolist() == list(range(8))
    assert torch.equal(clips[1::2], clips[::2].flip(2))


@pytest.mark.parametrize('case', ['full fine-tuning, backbone alone', 'frozen + adapters, checkpointing'])
def test_amflow_training_cost(case, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    module = importlib.import_module('benchmarks.cost.amflow_training_cost')
    options = dict(
        model='amflow_dinov2_s_tcn_lite', backbone='test_vit', img_size=32, frames=2, batch_size=1, steps=1,
        device='cpu', dtype='float32', threads=1)
    row = module.measure(case, module.argparse.Namespace(**options))
    assert row['saved_mb'] > 0 and row['seconds'] > 0
    assert (row['trained_m'] < row['parameters_m']) == ('frozen' in case)
    assert len(module.table({case: row, 'other': row})) == 4


def test_attention_flow(script, tmp_path):
    script('benchmarks.speed.attention_flow', '--tokens', 12, '--frames', 2, '--rounds', 2, '--out', tmp_path)
    path = tmp_path / 'data/attention_flow.csv'
    with path.open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row['pass'] for row in rows} == {'forward', 'forward + backward'}
    for row in rows:
        assert float(row['ms']) > 0
        assert (row['variant'] == 'block of ViT-B') <= (row['of_block'] == '100.0%')
    assert (tmp_path / 'attention_flow.md').read_text().count('\n| 12 | 2 |') == 12
