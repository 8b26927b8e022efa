"""The command that runs on a machine with a GPU, rehearsed on a CPU."""
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, 'killpg'), reason='parts are ended by group')
def test_rehearsal(tmp_path):
    """The whole plan: every part ends by itself and leaves its results, in at most 8 files."""
    done = subprocess.run(  # it takes one minute; a machine that is busy with other work needs more
        [sys.executable, ROOT / 'benchmarks' / 'gpu.py', '--rehearse', '--minutes', '20', '--out', tmp_path],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / 'log.txt').read_text()
    facts = json.loads((tmp_path / 'facts.json').read_text())
    assert list(facts['parts']) == [
        'card', 'kernel', 'tests', 'sifar', 'inference', 'training', 'layout', 'compiled', 'learn']
    assert {part['ended'] for part in facts['parts'].values()} == {'done'}, log
    assert not [note for note in facts.get('notes', []) if note['kind'] == 'failed'], log
    assert facts['card']['matrix_tflops'] > 0 and facts['card']['copy_gb_per_s'] > 0
    assert facts['tests'] and all('test_full_size' in name for name in facts['tests'])
    assert facts['learn']['steps'] > 0 and 0 <= facts['learn']['top1'] <= 1
    rows = {}
    for path in tmp_path.glob('*.csv'):
        with path.open(newline='') as file:
            rows[path.stem] = list(csv.DictReader(file))
    assert set(rows) == {'kernel_errors', 'kernel_speed', 'models', 'layout'}
    for row in (row for table in rows.values() for row in table):
        assert all(row[column] for column in ('hardware', 'precision', 'torch', 'matrix_tflops')) and 'driver' in row
    measured = {(row['variant'], row['pass']) for row in rows['models']}
    assert {('plain', 'forward'), ('optimized', 'forward'), ('compiled', 'forward'), ('plain', 'train')} <= measured
    assert len(list(tmp_path.iterdir())) <= 8
    assert 'A rehearsal' in (tmp_path / 'gpu.md').read_text()
    assert (tmp_path / 'gpu.md').read_text() in done.stdout
