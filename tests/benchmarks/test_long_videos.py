"""The benchmark of long videos, on one that takes seconds."""
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_long_videos(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(ROOT)
    script = importlib.import_module('benchmarks.learning.long_videos')
    monkeypatch.setattr(sys, 'argv', [
        'long_videos.py', '--videos', '1', '--seconds', '6', '--every', '1', '--out', str(tmp_path / 'table.md')])
    script.main()
    row = (tmp_path / 'table.md').read_text().splitlines()[6].split(' | ')
    assert row[0] == '| sifar_resnet10t' and row[-1] == 'yes |'
    assert all(0 <= float(cell.rstrip(' %')) <= 100 for cell in row[1:4]) and 'times as fast' in capsys.readouterr().out
