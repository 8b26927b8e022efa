"""`benchmarks/speed/cpu_inference.py` on small models."""
import csv
import importlib.util
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / 'benchmarks/speed/cpu_inference.py'


@pytest.fixture
def benchmark(tmp_path):
    spec = importlib.util.spec_from_file_location('cpu_inference', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()

    def run(*options: str) -> tuple[list[dict], str]:
        module.main([*options, '--rounds', '1', '--out', str(tmp_path)])
        [path] = tmp_path.glob('data/*.csv')
        with path.open() as file:
            return list(csv.DictReader(file)), (tmp_path / 'cpu_inference.md').read_text()

    yield run
    torch.set_num_threads(threads)


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, '_linear_pointwise'), reason='torch was built without oneDNN')
def test_rows_of_other_models_are_kept(benchmark):
    rows, table = benchmark('sifar_swin_tiny')
    assert [row['variant'] for row in rows] == ['stock', 'sdpa', 'optimized', 'floor']
    for row in rows:
        assert float(row['ms']) > 0 and row['threads'] == '1' and row['torch'] == torch.__version__
        assert float(row['error'] or 0) < 2e-6
    assert [float(row['speedup']) for row in rows][0] == 1
    both, table = benchmark('superimage:resnet10t')
    assert both[:4] == rows
    assert [row['variant'] for row in both[4:]] == ['stock', 'optimized', 'floor']
    assert table.count('| float32 |') == 2


@pytest.mark.slow
def test_compiled_models_have_columns(benchmark):
    rows, table = benchmark('superimage:resnet10t', '--compile')
    assert [row['variant'] for row in rows] == ['stock', 'optimized', 'compiled', 'compile', 'floor']
    assert [row['compile_seconds'] != '' for row in rows] == [False, False, True, False, False]
    titles, _, cells = ([cell.strip() for cell in line.split('|')] for line in table.splitlines() if line[:1] == '|')
    line = dict(zip(titles, cells))
    compiled, compile = (float(row['speedup']) for row in rows[2:4])
    assert line['compiled against stock'] == f'**{compiled:.2f}**'
    assert line['compiled against torch.compile'] == f'{compiled / compile:.2f}'
