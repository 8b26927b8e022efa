"""The benchmark of long videos, on one that takes seconds."""
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_long_videos(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(ROOT)
    script = importlib.import_module('benchmarks.learning.long_videos')
    table = tmp_path / 'table.md'
    command = ['long_videos.py', '--videos', '1', '--seconds', '6', '--every', '1', '--out', str(table)]
    monkeypatch.setattr(sys, 'argv', command)
    script.main()
    row = table.read_text().splitlines()[6].split(' | ')
    assert row[0] == '| 1 s' and row[-1] == 'yes |' and 'seeds 1000 to 1000' in table.read_text()
    assert all(0 <= float(cell.rstrip(' %')) <= 100 for cell in row[2:5]) and row[0] in capsys.readouterr().out
    monkeypatch.setattr(sys, 'argv', [*command, '--choose'])
    monkeypatch.setattr(script, 'GRID', dict(smooth=(None, 1), high=(0.5,), low=(0.3,), min_seconds=(0.0,)))
    script.main()
    lines = table.read_text().splitlines()
    assert sum('**' in line for line in lines) == 1 and len([line for line in lines if line.startswith('|')]) == 4
    assert 'of 2.' in table.read_text() and 'seeds 5000 to 5000' in table.read_text()
