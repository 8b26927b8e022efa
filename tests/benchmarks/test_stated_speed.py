"""Speed beside stated accuracy: which rows count, whose accuracy stands there, and that the copies are true."""
import csv
import re
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
CSV, PAGE = ROOT / 'benchmarks/results/data/models.csv', ROOT / 'benchmarks/results/stated_speed.md'


def row(model: str, clips_per_s: float, frames: int = 8, variant: str = 'plain', **others: str) -> dict[str, str]:
    """A row of `models.csv`."""
    return {
        'model': model, 'variant': variant, 'pass': 'forward', 'clips_per_s': str(clips_per_s), 'hardware': 'A CPU',
        'precision': 'float32', 'torch': '2', 'batch': '1', 'frames': str(frames), 'size': '224', 'error': '', **others}


def tables(text: str) -> list[list[list[str]]]:
    """The cells of the rows of every table of speeds in a page, without the titles."""
    found = []
    for block in re.split(r'\n\n', text):
        lines = [line.strip('| ').split(' | ') for line in block.splitlines() if line.startswith('|')]
        if lines and lines[0][:2] == ['model', 'clips/s']:
            found.append(lines[2:])
    return found


def test_the_rows_that_count(script, tmp_path):
    stated = script('benchmarks.common.stated')
    stated.write_stated(tmp_path / 'page.md', [
        row('sifar_swin_b12', 9, variant='compiled'), row('sifar_swin_b12', 2, variant='optimized'),  # ours: optimize
        row('timm:sifar_swin_b12', 8),
        row('flatten_uniformer_s', 6, variant='optimized'),
        row('flatten_uniformer_s', 7, variant='optimized, compiled'),
        row('torchvision:swin3d_t', 7, 8), row('torchvision:swin3d_t', 1, 32),  # the length of the accuracy
        row('torchvision:swin3d_t', 1.5, 32, 'compiled'), row('torchvision:swin3d_t', 5, 32, 'compiled', error='0.3'),
        row('torchvision:mvit_v2_s', 4, 8),  # another length, where there is none else
        row('torchvision:mvit_v2_s', 40, 8, batch='4'), row('torchvision:mvit_v2_s', 50, 8, **{'pass': 'train'}),
        row('transformers:vjepa2_l', 0.1234, 16), row('sifar_swin_b14', 3, variant='optimized', hardware='A GPU'),
        row('sifar_resnet50', 3, error='0.06', variant='optimized', hardware='Another GPU')])
    text = (tmp_path / 'page.md').read_text()
    assert re.findall('^## (.*)', text, re.M) == ['A CPU, float32, torch 2', 'A GPU, float32, torch 2']
    cpu, gpu = tables(text)
    assert [line[:6] for line in cpu] == [
        ['`flatten_uniformer_s`', '7', 'optimize, compile=True', '8 x 224', '-', '-'],
        ['torchvision mvit_v2_s', '4', 'eager', '8 x 224', '80.8 ‡', '16 x 5'],
        ['`sifar_swin_b12` †', '2', 'optimize', '8 x 224', '80.0', '8 x 3'],
        ['torchvision swin3d_t', '1.5', 'torch.compile', '32 x 224', '77.7', '32 x 12'],
        ['transformers vjepa2_l', '0.123', 'eager', '16 x 224', '-', '-']]
    assert gpu[0][0] == '`sifar_swin_b14.ibm_k400`' and gpu[0][4:] == [
        '80.2', '8 x 3', 'arXiv:2106.14104, Tables 2 and 3']


def test_every_model_at_the_length_of_its_accuracy(script, monkeypatch, tmp_path):
    pytest.importorskip('transformers')
    models, peers = script('benchmarks.speed.models'), script('benchmarks.common.peers')

    class Peer(nn.Module):
        attention = ''

        def __init__(self, frames, size, wrong=0.0):
            super().__init__()
            self.num_frames, self.img_size, self.in_chans, self.wrong = frames, (size, size), 3, wrong
            self.conv, self.head = nn.Conv3d(3, 4, 3, 2, 1), nn.Linear(4, 400)

        def forward(self, clip):
            logits = self.head(self.conv(clip).mean((2, 3, 4)))
            return logits + self.wrong if clip.dtype == torch.bfloat16 else logits

    monkeypatch.setitem(peers.PEERS, 'torchvision:swin3d_t', (32, 2, Peer))
    monkeypatch.setitem(peers.PEERS, 'torchvision:r3d_18', (32, 2, lambda *args: Peer(*args, wrong=1.)))
    models.main([
        '--models', 'sifar_resnet10t', 'torchvision:swin3d_t', 'torchvision:r3d_18', '--stated', '--dtype', 'bfloat16',
        '--rounds', '1', '--out', str(tmp_path)])
    with (tmp_path / 'data/models.csv').open(newline='') as file:
        rows = {(row['model'], row['variant']): row for row in csv.DictReader(file)}
    assert {key: row['frames'] for key, row in rows.items()} == {
        ('sifar_resnet10t', 'plain'): '8', ('sifar_resnet10t', 'optimized'): '8',
        ('torchvision:swin3d_t', 'plain'): '32', ('torchvision:r3d_18', 'plain'): '16'}
    assert {row['group'] for row in rows.values()} == {'stated'}
    wrong = float(rows['torchvision:r3d_18', 'plain']['error'])
    assert all(0 < float(row['error']) < 0.05 for row in rows.values() if float(row['error']) != wrong) and wrong > 1
    page = (tmp_path / 'models.md').read_text()
    assert '## Frames of the stated accuracy, inference' in page
    assert page.count('is wrong in bfloat16') == page.count('torchvision:r3d_18, plain is wrong in bfloat16') == 1
    (table,) = tables((tmp_path / 'stated_speed.md').read_text())
    assert {line[0] for line in table} == {'`sifar_resnet10t`', 'torchvision swin3d_t'}  # what is wrong has no speed


def test_s3d_runs_in_bfloat16(script):
    model = script('benchmarks.common.peers').build_peer('torchvision:s3d', 16, 224).eval()
    pool = model.model.avgpool
    x = torch.randn(1, 2, 2, 7, 7)
    assert torch.equal(pool(x), nn.AvgPool3d((2, 7, 7), 1)(x)) and pool(x.bfloat16()).dtype == torch.bfloat16


def test_the_page_is_that_of_the_rows(script, tmp_path):
    """Made anew by `python benchmarks/regenerate.py`."""
    with CSV.open(newline='') as file:
        script('benchmarks.common.stated').write_stated(tmp_path / 'page.md', list(csv.DictReader(file)))
    assert (tmp_path / 'page.md').read_text() == PAGE.read_text()


@pytest.mark.parametrize('page', ['README.md', 'docs/speed.md'])
def test_copies_are_true(page):
    """Every row of the tables, in their order; the columns of a copy are the first ones, or the accuracy in one."""
    want = [table for table in tables(PAGE.read_text())]
    copies = tables((ROOT / page).read_text())
    assert copies, page
    for copy in copies:
        assert any(copy in ([line[:len(copy[0])] for line in table], [
            [line[0], line[1], line[3], line[4] if line[5] == '-' else f'{line[4]} ({line[5]})'] for line in table])
            for table in want), copy
