"""The benchmark scripts, on sizes that take seconds."""
import importlib
import sys
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
MODEL_ARGS = {
    'time_resnet50': '{"backbone": "test_resnet", "img_size": 64}',
    'time_videomae_b': '{"backbone": "test_vit", "img_size": 32}',
}


@pytest.fixture
def time_diagnostic(monkeypatch, tmp_path):
    """Runs the script with a model of random weights and returns the table that it wrote."""
    monkeypatch.syspath_prepend(ROOT)
    script = importlib.import_module('benchmarks.learning.time_diagnostic')

    def run(name, *options):
        model = timm.create_model(name, num_classes=16, **script.json.loads(MODEL_ARGS[name]))
        save_file(model.state_dict(), tmp_path / 'weights.safetensors')
        monkeypatch.setattr(sys, 'argv', [
            'time_diagnostic.py', '--model', name, '--model-args', MODEL_ARGS[name], '--weights',
            str(tmp_path / 'weights.safetensors'), '--eval-clips', '16', '--new-frames', '2',
            '--out', str(tmp_path / 'table.md'), *options])
        script.main()
        return (tmp_path / 'table.md').read_text()

    return run


@pytest.mark.parametrize('name', MODEL_ARGS)
def test_time_diagnostic(time_diagnostic, name, capsys):
    """N = 3 divides neither 64 nor 32 pixels, so that all N shrink whole grids."""
    table = time_diagnostic(name)
    rows = [line.split(' | ') for line in table.splitlines() if line.startswith('| ') and line[2].isdecimal()]
    assert [(row[0], row[1]) for row in rows] == [('| 1', '2'), ('| 2', '8'), ('| 3', '18'), ('| 4', '32')]
    assert all(0 <= float(cell.split()[0]) <= 100 for row in rows for cell in row[3:])
    assert 'scale=composite' in table
    assert all(line in table for line in capsys.readouterr().out.splitlines())


def test_time_diagnostic_shrinks_frames_where_every_n_divides(time_diagnostic):
    assert 'scale=cell' in time_diagnostic('time_resnet50', '--n', '1', '4')


def test_time_diagnostic_keeps_the_rows_that_it_has(time_diagnostic, tmp_path, monkeypatch):
    from benchmarks.learning import time_diagnostic as script

    measure, calls = script.measure_orders, []

    def fails_at_the_second(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    monkeypatch.setattr(script, 'measure_orders', fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        time_diagnostic('time_resnet50', '--n', '1', '2')
    assert (tmp_path / 'table.md').read_text().splitlines()[-1].startswith('| 1 | 2 | 64 | ')
