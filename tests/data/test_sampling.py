"""Frame indices against those of the official SIFAR code (1-based there)."""
import json
from pathlib import Path

import pytest
import torch

from flatzoo.data.sampling import dense_indices, span_indices, uniform_indices

GOLDEN = json.loads((Path(__file__).parents[1] / 'recorded' / 'sifar_sampling.json').read_text())


def official(case):
    return (torch.tensor(case['idx']) - GOLDEN['index_base']).view(-1, case['num_frames'])


def case_id(case):
    return '-'.join(str(value) for key, value in case.items() if key.startswith(('video', 'num', 'sampling', 'np')))


@pytest.mark.parametrize('case', GOLDEN['uniform_val'], ids=case_id)
def test_uniform_evaluation(case):
    length, num_frames, num_clips = case['video_length'], case['num_frames'], case['num_clips']
    assert torch.equal(uniform_indices(length, num_frames, num_clips, short='random'), official(case))
    if length > num_frames:
        assert torch.equal(uniform_indices(length, num_frames, num_clips), official(case))


@pytest.mark.parametrize('case', GOLDEN['dense_val'], ids=case_id)
def test_dense_evaluation(case):
    indices = dense_indices(case['video_length'], case['num_frames'], case['sampling_rate'], case['num_clips'])
    assert torch.equal(indices, official(case))


@pytest.mark.parametrize(
    'case', [case for case in GOLDEN['uniform_train'] if case['video_length'] >= case['num_frames']], ids=case_id)
def test_uniform_training_makes_the_official_draws(case):
    length, num_frames = case['video_length'], case['num_frames']
    draws = uniform_indices(length, num_frames, 2000, training=True, generator=torch.Generator().manual_seed(0))
    segment = length // num_frames
    assert (draws.diff(dim=1) == segment).all()  # one offset for all segments
    assert draws[:, 0].unique().tolist() == list(range(segment))  # any offset in the segment
    assert (draws == official(case)).all(dim=1).any()


def test_even_sampling_of_short_videos():
    assert uniform_indices(8, 8, 3).tolist() == [list(range(8))] * 3
    assert uniform_indices(4, 8).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    assert uniform_indices(5, 8).tolist() == [[0, 0, 1, 2, 2, 3, 4, 4]]
    assert uniform_indices(1, 8, 2).tolist() == [[0] * 8] * 2


@pytest.mark.parametrize('length', [1, 5, 15, 23, 100])
@pytest.mark.parametrize('share', [(0.5, 0.75), (1.0, 1.0)])
def test_a_random_part_of_the_video(length, share):
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([span_indices(length, 8, share, generator=generator) for _ in range(2000)])
    assert rows.shape == (2000, 8) and rows.dtype == torch.int64
    assert (rows.diff(dim=1) >= 0).all() and rows.min() >= 0 and rows.max() == length - 1  # the end is seen, too
    lengths = rows[:, -1] - rows[:, 0]  # of the seven steps
    assert lengths.max() <= 7 / 8 * share[1] * length + 1 and lengths.min() >= 7 / 8 * share[0] * length - 1
    steps = rows.diff(dim=1)
    assert (steps.amax(1) - steps.amin(1) <= 1).all()  # as equal as whole frames can be
    again = span_indices(length, 8, share, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again[0], rows[0])


@pytest.mark.parametrize('share', [(0, 1), (0.9, 0.8), (0.5, 1.5)])
def test_parts_that_are_none_are_refused(share):
    with pytest.raises(ValueError, match='share must be'):
        span_indices(10, 8, share)


@pytest.mark.parametrize('short', ['even', 'random'])
@pytest.mark.parametrize('length', [1, 3, 7, 8, 9, 100])
def test_training_indices_are_valid_and_seeded(length, short):
    first, again, other = (
        uniform_indices(length, 8, 50, training=True, short=short, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1))
    assert first.shape == (50, 8) and first.dtype == torch.int64
    assert first.min() >= 0 and first.max() < length and (first.diff(dim=1) >= 0).all()
    assert torch.equal(first, again)
    if length not in (1, 8, 9):  # there is nothing to choose
        assert not torch.equal(first, other)
    if length < 8 and short == 'even':
        counts = torch.stack([row.bincount(minlength=length) for row in first])
        assert counts.max() - counts.min() <= 1 and (counts > 0).all()


def test_dense_training():
    indices = dense_indices(100, 8, 4, 500, training=True, generator=torch.Generator().manual_seed(0))
    assert (indices.diff(dim=1) == 4).all()
    assert indices[:, 0].min() == 0 and indices[:, 0].max() == 68  # up to the last start that fits
    assert dense_indices(10, 8, 4, training=True).tolist() == [[0, 4, 8, 2, 6, 0, 4, 8]]


def test_default_generator():
    torch.manual_seed(3)
    first = uniform_indices(100, 8, 4, training=True)
    torch.manual_seed(3)
    assert torch.equal(first, uniform_indices(100, 8, 4, training=True))


@pytest.mark.parametrize('call, message', [
    (lambda: uniform_indices(0, 8), 'length must be an integer of at least 1, got 0'),
    (lambda: uniform_indices(10, 8.0), 'num_frames must be'),
    (lambda: uniform_indices(10, 8, 0), 'num_clips must be'),
    (lambda: uniform_indices(10, 8, short='loop'), "short must be 'even' or 'random', got 'loop'"),
    (lambda: dense_indices(10, 8, 0), 'stride must be'),
])
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
