"""The benchmark scripts of models, curves and throughput, on sizes that take seconds."""
import csv
from pathlib import Path

import pytest
import torch
from torch import nn

import flatzoo
from flatzoo.zoo.comparison import read_measured

ROOT = Path(__file__).parents[2]
pytest.importorskip('transformers')


def rows_of(folder: Path, pattern: str) -> list[dict[str, str]]:
    [path] = folder.glob(pattern)
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


class TinyPeer(nn.Module):
    """A peer of two layers."""

    attention = ''

    def __init__(self, frames: int, size: int, channels: int = 4):
        super().__init__()
        self.num_frames, self.img_size, self.in_chans = frames, (size, size), 3
        self.conv, self.head = nn.Conv3d(3, channels, 3, 2, 1), nn.Linear(channels, 400)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(clip).mean((2, 3, 4)))


def test_medians_and_ratios_are_taken_round_by_round(script):
    timing = script('benchmarks.common.timing')
    assert timing.ratio([2, 4, 100], [1, 1, 100]) == 2
    assert timing.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    assert timing.slope([1, 2], [3, 12]) is None


def test_turns_come_in_another_order_each_round(script):
    turns = []
    runs = {name: lambda name=name: turns.append(name) for name in 'abcd'}
    times = script('benchmarks.common.timing').in_turn(runs, 6, 'cpu')
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys('abcd', 6)
    rounds = [tuple(turns[start:start + 4]) for start in range(0, 24, 4)]
    assert all(sorted(turn) == list('abcd') for turn in rounds) and len(set(rounds)) > 2


def test_memory_is_what_a_run_needs_at_once(script):
    timing = script('benchmarks.common.timing')
    kept = torch.ones(1_000_000)

    def run():
        for _ in range(3):
            (kept.new_ones(10_000_000) + 1).sum()  # twice 40 MB, one after the other

    peak = timing.peak_bytes(run, 'cpu')
    if peak is None:
        pytest.skip('no resident set to look at')
    assert 60e6 < peak < 110e6


def test_rows_of_other_runs_are_kept(script, tmp_path):
    timing = script('benchmarks.common.timing')
    path = tmp_path / 'rows.csv'
    timing.save(path, [dict(model='a', ms=1), dict(model='b', ms=2)], ('model',))
    assert timing.save(path, [dict(model='b', ms=3)], ('model',)) == [
        dict(model='a', ms='1'), dict(model='b', ms='3')] == rows_of(tmp_path, '*.csv')


def test_stock_timm_is_the_backbone_behind_the_official_layout(script):
    import timm

    peers = script('benchmarks.common.peers')
    model = timm.create_model('sifar_swin_tiny', depths=(2, 2, 4, 2)).eval()
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        assert torch.equal(peers.StockTimm(model).eval()(clip), model(clip))


@pytest.mark.parametrize('name', ['torchvision:mvit_v2_s', 'torchvision:swin3d_t', 'transformers:timesformer_b'])
def test_peers_take_our_clips(script, name):
    peer = script('benchmarks.common.peers').build_peer(name, 4, 64, 'meta').eval()
    assert peer(torch.empty(2, 3, 4, 64, 64, device='meta')).shape == (2, 400)


def test_models(script, monkeypatch, tmp_path):
    models = script('benchmarks.speed.models')
    monkeypatch.setattr(script('benchmarks.common.models'), 'STOCK_OF', 'sifar_swin_tiny')
    monkeypatch.setitem(models.PEERS, 'torchvision:s3d', (32, 14, lambda *args: TinyPeer(*args)))
    monkeypatch.setitem(models.PEERS, 'torchvision:r3d_18', (32, 2, lambda *args: TinyPeer(*args)))
    options = ['--frames', '8', '--rounds', '2', '--out', str(tmp_path)]
    names = ['sifar_swin_tiny', 'torchvision:r3d_18', 'torchvision:s3d']
    models.main(['--models', *names, '--profile', *options])
    rows = rows_of(tmp_path, 'data/*.csv')
    assert [(row['model'], row['variant']) for row in rows] == [
        ('sifar_swin_tiny', 'plain'), (script('benchmarks.common.models').STOCK, 'plain'), ('sifar_swin_tiny', 'fused'),
        ('sifar_swin_tiny', 'optimized'), ('torchvision:r3d_18', 'plain')]
    assert float(rows[1]['error']) == 0 and float(rows[1]['of_stock_sifar']) == 1
    assert all(float(row['error']) < 1e-5 for row in rows[2:4])
    [page] = tmp_path.glob('models.md')
    assert 'clips of at least 14 frames' in page.read_text() and 'other logits' not in page.read_text()
    assert 'aten::' in next(tmp_path.glob('*_profile.md')).read_text()

    [path] = tmp_path.glob('data/*.csv')
    models.main(['--models', 'sifar_swin_tiny', '--passes', 'train', *options])
    rows = rows_of(tmp_path, 'data/*.csv')
    assert {row['pass'] for row in rows} == {'forward', 'train'}
    assert 'selective' in {row['variant'] for row in rows if row['pass'] == 'train'}
    measured = read_measured([path])['sifar_swin_tiny']
    assert [row['variant'] for row in measured] == ['plain', 'fused', 'optimized']


def test_other_logits_are_reported(script, monkeypatch, tmp_path):
    models = script('benchmarks.speed.models')
    monkeypatch.setattr(script('benchmarks.common.models'), 'STOCK_OF', 'sifar_swin_tiny')
    monkeypatch.setattr(flatzoo, 'optimize', lambda model: TinyPeer(8, 32).eval())
    models.main(['--models', 'sifar_swin_tiny', '--frames', '8', '--rounds', '1', '--out', str(tmp_path)])
    assert 'sifar_swin_tiny, optimized gives other logits' in (tmp_path / 'models.md').read_text()


def test_curves(script, monkeypatch, tmp_path):
    pytest.importorskip('matplotlib')
    curves = script('benchmarks.speed.curves')
    monkeypatch.setattr(curves, 'FRAMES', (4, 8, 16))
    monkeypatch.setattr(curves, 'SIZES', (32, 33, 64, 128))
    monkeypatch.setattr(curves, 'BATCHES', (1, 2, 4))
    monkeypatch.setattr(curves, 'MODELS', {
        'sifar_swin_b12': (32, curves._zoo('sifar_swin_tiny')),
        'other:tiny': (16, lambda frames, size, device: TinyPeer(frames, size).to(device))})
    curves.main(['--limit', '0.2', '--out', str(tmp_path)])
    rows = rows_of(tmp_path, 'data/*.csv')
    sizes = {row['size'] for row in rows if row['model'] == 'sifar_swin_b12' and row['axis'] == 'size'}
    assert '33' not in sizes and {'32', '64'} <= sizes  # what windows do not divide is left out
    assert all((float(row['gmacs']) <= 0.2) == bool(row['ms']) for row in rows)
    x, y = curves.curve(rows, 'other:tiny', 'frames', 'gmacs')
    assert x == [4, 8, 16] and curves.slope(x, y) == pytest.approx(1, abs=0.05)
    x, y = curves.curve(rows, 'sifar_swin_b12', 'frames', 'gmacs')
    growth = y[-1] / y[0] / 4
    text = next(tmp_path.glob('*.md')).read_text()
    assert '**sifar_swin_b12** is ' in text and f'{growth:.2f} times as much' in text
    assert next(tmp_path.glob('*.png')).stat().st_size > 10_000


def test_throughput(script, monkeypatch, tmp_path):
    monkeypatch.setattr(script('benchmarks.common.videos'), 'LENGTH', 40)
    throughput = script('benchmarks.speed.throughput')
    throughput.main([
        '--model', 'sifar_swin_tiny', '--key-frames', '12', '--rounds', '1', '--out', str(tmp_path)])
    rows = {row['tools']: row for row in rows_of(tmp_path, 'data/throughput.csv')}
    assert set(rows) == {'flatzoo', 'transformers', 'torchvision'}
    assert float(rows['transformers']['grey_levels_apart']) < 1  # the same frames, cropped and resized alike
    assert float(rows['torchvision']['grey_levels_apart']) < 20
    [feed] = rows_of(tmp_path, 'data/throughput_loader.csv')
    assert float(feed['times_16']) == pytest.approx(16 * float(feed['clips_per_s_and_core']), rel=0.02)
    assert '16 times a core, and was not measured' in next(tmp_path.glob('*.md')).read_text()


def test_windows_that_share_frames(script, tmp_path):
    windows = script('benchmarks.speed.windows')
    windows.MODELS = {'mean': ('superimage', dict(backbone='test_resnet', layout='time:1'))}
    [row] = windows.main(['--img-size', '32', '--windows', '4', '--rounds', '1', '--out', str(tmp_path)])
    assert (row['frames_alone'], row['frames_shared']) == ('32', '8') and float(row['logits_apart']) < 1e-4
    assert rows_of(tmp_path / 'data', 'windows.csv') == [row] and 'Windows that share' in (
        tmp_path / 'windows.md').read_text()


@pytest.mark.skipif(not Path('/proc/thread-self/schedstat').exists(), reason='Linux counts what threads wait')
def test_many_files(script, tmp_path):
    many = script('benchmarks.speed.many_files')
    many.CASES = many.CASES[:1]
    [row] = many.main(['--files', '8', '--rounds', '1', '--out', str(tmp_path)])
    assert rows_of(tmp_path / 'data', 'many_files.csv') == [row]
    rates = {part: float(row[f'{part}_files_per_s']) for part in ('decode', 'model', 'together')}
    alone = min(rates['decode'], rates['model'])
    assert float(row['of_slower']) == pytest.approx(rates['together'] / alone, abs=0.2) and alone > 0


def test_long_memory(script, tmp_path):
    long = script('benchmarks.speed.long_memory')
    first, second = long.main(['--minutes', '1', '2', '--suffixes', '.ts', '--every', '10', '--out', str(tmp_path)])
    assert int(second['windows']) == pytest.approx(2 * int(first['windows']), abs=2)
    assert rows_of(tmp_path / 'data', 'long_memory.csv') == [first, second]


def test_start(script, monkeypatch):
    start = script('benchmarks.speed.start')
    monkeypatch.delenv('FLATZOO_PRECISION', raising=False)
    row = start.one('bf16')
    assert row['took'] == 'bf16' and all(row[part] >= 0 for part in start.PARTS)
    assert start.one('fp32')['took'] == 'fp32'


def test_from_file_to_label(script, tmp_path):
    end = script('benchmarks.speed.end_to_end')
    [row] = end.main(['sifar_resnet10t', '--files', '3', '--rounds', '2', '--out', str(tmp_path)])
    assert int(row['same answers']) == 3 and float(row['times as fast']) > 0
    assert rows_of(tmp_path / 'data', 'end_to_end.csv') == [row]


def test_training_in_bf16(script, tmp_path):
    training = script('benchmarks.speed.training_precision')
    training.CASES = {'tiny': ('sifar_resnet10t', dict(num_frames=4, img_size=32), 2)}
    [row] = training.main(['tiny', '--rounds', '2', '--out', str(tmp_path)])
    exact, low = map(float, row['losses of the first step'].split(' / '))
    assert low == pytest.approx(exact, abs=0.1) and float(row['ratio']) >= float(row['at least'])
    assert rows_of(tmp_path / 'data', 'training_precision.csv') == [row]
