"""The scripts that compare precisions: what they count."""
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_accuracy_in_pairs(script, monkeypatch, tmp_path):
    precision = script('benchmarks.learning.precision')
    monkeypatch.setattr(precision, 'has_onnx', lambda: False)
    rows = precision.main(['--model', 'sifar_resnet10t.actions16', '--clips', '32', '--out', str(tmp_path)])
    assert [row['precision'] for row in rows] == ['bf16', 'int8'] and rows[1]['int8 layers'] == '1 of 1'
    for row in rows:
        changed = int(row['became right']) - int(row['became wrong'])
        assert float(row['points']) == pytest.approx(100 * changed / 32, abs=0.01)
        assert float(row['fp32 top-1']) > 85 and 0 < float(row['logits apart']) < 0.1
    assert (tmp_path / 'precision.md').read_text().count('\n| sifar_resnet10t.actions16 |') == 2


def test_training_runs_are_paired_by_their_seeds(script):
    mixed = script('benchmarks.learning.mixed_precision')
    rows = [
        dict(
            model='one', set='clips', seed=seed, top1=top1, precision=way, hardware=machine, threads='1', torch='2')
        for machine, way, seed, top1 in (
            ('A', 'fp32', '0', '80'), ('A', 'bf16', '0', '82'), ('A', 'fp32', '1', '90'), ('A', 'bf16', '1', '89'),
            ('A', 'fp32', '2', '0'), ('B', 'fp32', '0', '70'))]
    [line] = mixed.table(rows)  # the other machine has no pair
    assert (line['seeds'], line['points'], line['hardware']) == ('0 1', '+0.50', 'A')
    assert line['fp32, top-1'] == '80.0 90.0' and line['bf16, top-1'] == '82.0 89.0'
