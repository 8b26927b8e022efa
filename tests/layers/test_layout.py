"""Layouts as index maps and as strings."""
import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from flatzoo import Layout

MAPS = json.loads((Path(__file__).parents[1] / 'recorded/layouts.json').read_text())
# the layout that makes each recorded map
SPECS = {
    'row_major/T4_2x2': '2x2', 'row_major/T8_3x3': '3x3', 'row_major/T9_3x3': '3x3', 'row_major/T32_4x8': '4x8',
    'col_major/T4_2x2': '2x2:column', 'col_major/T8_2x4': '2x4:column', 'col_major/T9_3x3': '3x3:column',
    'col_major/T16_4x4': '4x4:column', 'snake/T16_4x4': '4x4:snake',
    'nested/T16_2x2_of_2x2': 'nested:2x2/2x2', 'nested/T8_2x1_of_2x2': 'nested:2x1/2x2',
    'nested/T8_1x2_of_2x2': 'nested:1x2/2x2', 'random/T16_4x4_seed0': 'random:4x4',
    'time_spatial/T8_N1': 'time:1', 'time_spatial/T8_N2': 'time:2:spatial', 'time_spatial/T16_N4': 'time:4',
    'time_spatial/T32_N2': 'time:2', 'time_spatial/T36_N3': 'time:3:spatial', 'time_temporal/T8_N2': 'time:2:temporal',
    'time_temporal/T16_N2': 'time:2:temporal', 'time_temporal/T32_N2': 'time:2:temporal',
    'time_temporal/T32_N4': 'time:4:temporal', 'igvlm/T6': '3x2', 'dualpath/T16': 'dualpath',
}
# every kind and every option, in canonical form
CANONICAL = [
    'grid', 'grid:column', '2x4', '1x8', '3x3:column', '4x4:snake', 'nested:2x2/2x2', 'nested:2x1/2x2:strided',
    'random', 'random:4x4', 'random:always', 'random:4x4:always', 'time:2:spatial', 'time:2:temporal', 'tall',
    'dualpath',
    'index:[[0,1],[2,-1]]', 'index:[[[0,1]],[[2,3]]]', '2x4,scale=cell', '2x4,scale=composite', 'tall,scale=none',
    'time:2:spatial,scale=none', 'grid,pad=last', 'grid,pad=0', 'grid,pad=-2.118', 'grid,pad=0.12345678901',
    'grid,antialias=true', 'tall,antialias=false', '3x3:snake,scale=cell,pad=1,antialias=false',
    'index:[[0,-1]],scale=cell,pad=0.5',
]


def index_of(spec, num_frames):
    return Layout(spec).index(num_frames).tolist()


@pytest.mark.parametrize('name', MAPS)
def test_recorded_maps(name):
    golden = MAPS[name]
    num_frames = int(name.split('/T')[1].split('_')[0])
    generator = np.random.default_rng(0) if name.startswith('random') else None
    index = Layout(SPECS[name]).index(num_frames, generator)
    assert index.dtype == torch.int64
    assert index.tolist() == golden['index']
    assert Layout(SPECS[name]).shape(num_frames) == (golden['K'], golden['rows'], golden['cols'])
    assert Layout(golden['index']).index(num_frames).tolist() == golden['index']  # and written down explicitly


@pytest.mark.parametrize('num_frames, grid', [
    (1, (1, 1)), (2, (1, 2)), (3, (2, 2)), (4, (2, 2)), (5, (2, 3)), (6, (2, 3)), (7, (3, 3)), (8, (3, 3)), (9, (3, 3)),
    (12, (3, 4)), (13, (4, 4)), (14, (4, 4)), (16, (4, 4)), (17, (4, 5)), (20, (4, 5)), (21, (5, 5)), (25, (5, 5)),
])
def test_grid_rule(num_frames, grid):
    """SIFAR, Section 3.1."""
    assert Layout('grid').shape(num_frames) == (1, *grid)
    cells = [frame for row in index_of('grid', num_frames)[0] for frame in row]
    assert cells == list(range(num_frames)) + [-1] * (grid[0] * grid[1] - num_frames)


@pytest.mark.parametrize('spec, num_frames, index', [
    ('1x8', 8, [[list(range(8))]]),
    ('3x3:snake', 8, [[[0, 1, 2], [5, 4, 3], [6, 7, -1]]]),
    ('nested:2x2/2x2:strided', 16, [[[0, 4, 1, 5], [8, 12, 9, 13], [2, 6, 3, 7], [10, 14, 11, 15]]]),
    ('nested:2x2/2x2', 14, [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, -1, -1]]]),
    ('tall', 8, [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]),
    ('tall', 6, [[[0, 1], [2, 3]], [[4, 5], [-1, -1]]]),
    ('random:2x2', 3, [[[0, 1], [2, -1]]]),  # not shuffled without a generator
    ('time:2', 16, [[[0, 4], [8, 12]], [[1, 5], [9, 13]], [[2, 6], [10, 14]], [[3, 7], [11, 15]]]),
])
def test_index(spec, num_frames, index):
    assert index_of(spec, num_frames) == index


@pytest.mark.parametrize('generator', [np.random.default_rng, torch.Generator().manual_seed], ids=['numpy', 'torch'])
def test_random_is_reproducible(generator):
    layout = Layout('random:3x3')
    first = layout.index(8, generator(0))
    assert torch.equal(first, layout.index(8, generator(0)))
    assert not torch.equal(first, layout.index(8, generator(1)))
    assert first[0, 2, 2] == -1
    assert sorted(first.flatten().tolist()) == [-1, *range(8)]


@pytest.mark.parametrize('spec', CANONICAL)
def test_round_trips(spec):
    layout = Layout(spec)
    assert str(layout) == spec
    for twin in (
            Layout(str(layout)), Layout(layout), Layout(eval(repr(layout))), copy.deepcopy(layout),
            pickle.loads(pickle.dumps(layout)), Layout(json.loads(json.dumps({'layout': layout}))['layout']),
    ):
        assert isinstance(twin, Layout) and twin == layout and hash(twin) == hash(layout)
        for name in ('kind', 'scale', 'pad', 'antialias', 'shuffles', 'shuffles_in_eval'):
            assert getattr(twin, name) == getattr(layout, name)
    if layout.kind == 'index':
        assert torch.equal(Layout(layout.index(9)).index(9), layout.index(9))


@pytest.mark.parametrize('spec, canonical', [
    (' GRID ', 'grid'), ('grid:row', 'grid'), ('3x3:col', '3x3:column'), ('03x3', '3x3'),
    ('nested:02x2/2x2', 'nested:2x2/2x2'), ('time:2', 'time:2:spatial'), ('random:training', 'random'),
    ('tall,scale=composite,antialias=true', 'tall'),
    ('grid,scale=none,antialias=false', 'grid'), ('grid,pad=0.50', 'grid,pad=0.5'),
    ('grid,antialias=true,pad=0,scale=cell', 'grid,scale=cell,pad=0'),
    ('index:[[0, 1], [2, -1]]', 'index:[[0,1],[2,-1]]'),
    ([[0, 1], [2, -1]], 'index:[[0,1],[2,-1]]'), ([[[0, 1]]], 'index:[[0,1]]'), (((0, 1),), 'index:[[0,1]]'),
    (torch.tensor([[0, 1]]), 'index:[[0,1]]'), (np.array([[[0], [1]]]), 'index:[[0],[1]]'),
    ([[np.int64(0)]], 'index:[[0]]'),
])
def test_other_spellings(spec, canonical):
    assert str(Layout(spec)) == canonical
    assert Layout(spec) == Layout(canonical)


@pytest.mark.parametrize('spec, scale, antialias, pad', [
    ('grid', 'none', False, None), ('2x4,scale=cell', 'cell', True, None),
    ('2x4,scale=composite', 'composite', True, None), ('time:2', 'cell', True, None),
    ('tall', 'composite', True, None), ('dualpath,antialias=false', 'composite', False, None),
    ('grid,pad=1', 'none', False, 1.0), ('grid,pad=last', 'none', False, 'last'),
])
def test_defaults(spec, scale, antialias, pad):
    layout = Layout(spec)
    assert (layout.scale, layout.antialias, layout.pad) == (scale, antialias, pad)


@pytest.mark.parametrize('spec', [
    '', 'gird', '3', '3x', 'x3', '0x3', '3x3x3', '3x3:diagonal', '3x3:row:column', 'grid:3x3', 'nested', 'nested:2x2',
    'nested:2x2/0x2', 'nested:2x2/2x2:random', 'random:3', 'random:3x3:sometimes', 'time', 'time:0', 'time:x',
    'time:2:row', 'tall:2', 'index', 'index:', 'index:[]', 'index:[[]]', 'index:[0,1]', 'index:[[0,1],[2]]',
    'index:[[0],1]', 'index:[[[0]],1]',
    'index:[[0.5]]', 'index:[[-1]]', 'index:[[-2,0]]', 'index:[[true]]', 'index:[["0"]]', 'index:[[0', 'grid,pad=',
    'grid,pad=first',
    'grid,pad=nan', 'grid,pad=inf', 'grid,scale=half', 'grid,antialias=1', 'grid,color=red', 'grid,scale', 'grid pad=0',
    5, None, 1.5, [[0.5]], [], [[0], [1, 2]], object(), torch.tensor([0, 1]), torch.tensor([[0.5]]),
])
def test_unreadable_specs(spec):
    with pytest.raises(ValueError) as caught:
        Layout(spec)
    message = str(caught.value)
    assert message.startswith('Cannot read the layout')
    assert "'nested:2x2/2x2'" in message and 'pad=VALUE' in message  # the accepted forms
    assert caught.value.__suppress_context__
    for python_says in ('pop from', 'has no len', 'not subscriptable', 'unpack', 'NoneType'):
        assert python_says not in message


@pytest.mark.parametrize('spec, num_frames, message', [
    ('2x4', 9, r"'2x4' has 8 cells and 9 frames.*at most 8 frames.*chooses 3x3"),
    ('random:2x2', 5, 'at most 4 frames.*chooses 2x3'),
    ('nested:2x2/1x1', 5, 'at most 4 frames'),
    ('time:2', 10, 'multiple of 4, such as 8 or 12 frames'),
    ('time:3', 8, 'multiple of 9, such as 9 frames'),
    ([[0, 9]], 9, 'names frame 9, .* frames 0 to 8: use num_frames=10'),
    ('grid', 0, 'at least 1 frame, got 0'),
    ('grid', -1, 'at least 1 frame, got -1'),
])
def test_wrong_number_of_frames(spec, num_frames, message):
    with pytest.raises(ValueError, match=message):
        Layout(spec).index(num_frames)


def test_no_device_of_its_own():
    with torch.device('meta'):
        assert index_of('grid', 4) == [[[0, 1], [2, 3]]]
