"""The scripts of the pre-training on verbs: scenes, labels in the mirror, a miniature run, the page of the transfer."""
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flatzoo.data.actions import VERBS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f'benchmarks.learning.{name}')


def test_training_scenes_are_even_verbs_or_nothing(script):
    verbs = script('train_verbs')
    made = [verbs.training_scene(0, index, 16, 4) for index in range(24)]
    assert all(clip.shape == (4, 3, 16, 16) and clip.dtype == torch.uint8 for clip, _ in made)
    labels = {label for _, label in made}
    assert verbs.NONE in labels and len(labels) > 8 and all(label % 2 == 0 for label in labels)
    assert torch.equal(made[3][0], verbs.training_scene(0, 3, 16, 4)[0])


def test_a_mirrored_clip_gets_the_label_of_the_mirror(script):
    verbs = script('train_verbs')
    clip = torch.full((8, 3, 32, 32), 60, dtype=torch.uint8)
    for t in range(8):
        clip[t, :, 12:20, 22 - 2 * t:28 - 2 * t] = 250
    left, right = VERBS.index('moves left'), VERBS.index('moves right')
    clips, labels = verbs.augment(
        clip.repeat(64, 1, 1, 1, 1), torch.full((64,), left), torch.Generator().manual_seed(0))
    assert set(labels.tolist()) == {left, right}
    shown = clips.float().mean(2)  # [B, T, H, W]
    weight = (shown - shown.flatten(1).median(1).values[:, None, None, None]).abs()
    place = (weight * torch.arange(32)).sum((2, 3)) / weight.sum((2, 3))
    moved = place[:, 6:].mean(1) - place[:, :2].mean(1)
    assert ((moved > 0) == (labels == right)).float().mean() > 0.95  # noise hides a few
    tick = torch.full((8,), VERBS.index('draws a tick'))
    assert torch.equal(verbs.augment(clip.repeat(8, 1, 1, 1, 1), tick, torch.Generator())[1], tick)


def test_a_miniature_run(script, monkeypatch, tmp_path):
    verbs = script('train_verbs')
    monkeypatch.setattr(verbs, 'FILES', ((32, 8, 8, 0.0),))
    monkeypatch.setattr(sys, 'argv', [
        'train_verbs.py', '--scenes', '8', '--steps', '2', '--batch-size', '8', '--fp32', '--eval-clips', '49',
        '--work', str(tmp_path), '--out', str(tmp_path / 'w.safetensors'), '--results', str(tmp_path / 'r.json')])
    verbs.main()
    results = json.loads((tmp_path / 'r.json').read_text())
    assert results['eval']['still_camera']['clips'] == 49 and len(results['eval']['files']) == 1
    state, cached = (tmp_path / 'w.safetensors').stat().st_size, np.load(tmp_path / '0-32-8-0.npz')
    assert state < 6e6 and cached['clips'].shape == (8, 8, 3, 32, 32)


def test_transfer_links_few_clips_and_writes_its_page(script, tmp_path):
    transfer = script('transfer')
    for split, count in (('train', 6), ('val', 3)):
        for name in 'ab':
            (tmp_path / 'data' / split / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / 'data' / split / name / f'{i}.mp4').touch()
    folder = transfer.subset(tmp_path / 'data', 2, 1, tmp_path / 'few')
    assert [len(list((folder / split / 'a').iterdir())) for split in ('train', 'val')] == [2, 3]
    rows = [dict(
        set='s', clips=2, start=start, seed=seed, early=40.0, last=50.0 + seed, epochs=9, cpu_seconds=60,
        command=f'c {seed}', machine='m', versions={'torch': '2'}) for start in ('actions49', 'scratch')
        for seed in (0, 2)]
    text = transfer.report(rows)
    assert '| s | 2 | actions49 | 40.0, 40.0 | 50.0, 52.0 | 51.0 | 0, 2 | 9 | 1.0 [1] |' in text
    assert '\n[1]: m, shared' in text and text.count('c 2') == 1
