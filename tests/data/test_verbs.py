"""The verbs: what their seeds determine, reversal by construction, what the stretch shows, 'nothing'."""
import random

import pytest
import torch

from flatzoo.data.actions import (
    ACTIONS,
    NOTHING,
    VERBS,
    VerbClips,
    mirrored_verb,
    paint_verb,
    render_verb,
    reversed_verb,
    spliced_frames,
)

PAIRS = range(len(VERBS) // 2)
NEW = range(len(ACTIONS) // 2, len(VERBS) // 2)


def test_the_classes():
    assert len(VERBS) == len(set(VERBS)) == 49 and VERBS[:16] == ACTIONS and VERBS[-1] == NOTHING
    assert [reversed_verb(name) for name in ('throws', 'catches', NOTHING)] == [
        VERBS.index('catches'), VERBS.index('throws'), 48]
    assert mirrored_verb('moves left') == VERBS.index('moves right')
    assert mirrored_verb('sits down') == VERBS.index('sits down')
    assert mirrored_verb('draws a tick') is None  # it becomes another drawing


@pytest.mark.parametrize('pair', PAIRS)
def test_odd_class_is_even_class_backwards(pair):
    for seed, shake in ((3, 0.0), (4, 0.05)):
        even, odd = (render_verb(2 * pair + k, seed, 6, 24, camera_shake=shake) for k in range(2))
        assert even.shape == (6, 3, 24, 24) and even.dtype == torch.uint8
        assert torch.equal(odd, even.flip(0))
        if seed == 3:
            assert len({frame.numpy().tobytes() for frame in even}) >= 3  # motion, not a jump


def test_same_seed_same_bytes_on_any_thread_count():
    threads, clips = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(count)  # the global generators play no part
            random.seed(count)
            clips.append([render_verb(label, 11, 4, 40, camera_shake=0.05) for label in (2, 17, 41, 46, 48)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*clips, strict=True))
    assert not torch.equal(render_verb(18, 1, 2, 24), render_verb(18, 2, 2, 24))
    assert not torch.equal(render_verb(18, 1, 2, 24), render_verb(18, 1, 2, 24, split='test'))


@pytest.mark.parametrize('pair', NEW)
def test_a_frame_does_not_depend_on_its_neighbours(pair):
    """Long videos are painted piece by piece; the middle of three frames is the one of a clip of one frame."""
    [alone], three = (render_verb(2 * pair, 9, count, 32, camera_shake=0.03) for count in (1, 3))
    # grains of noise are drawn per clip, so that frames are compared after a blur
    blur = torch.nn.AvgPool2d(4)
    same, other = ((blur(alone.float()) - blur(three[i].float())).abs().max() for i in (1, 0))
    assert same < 0.5 * other


def test_the_stretch_rests_before_and_after_the_action():
    quiet = next(seed for seed in range(50) if _rests(seed))
    clip = render_verb('bends down', quiet, 12, 32, stretch=(-1.0, 2.0)).float()
    steps = (clip[1:] - clip[:-1]).abs().mean((1, 2, 3))
    assert steps[4:7].max() > 3 * max(steps[:3].max(), steps[-3:].max())
    part = render_verb('straightens up', quiet, 12, 32, stretch=(-1.0, 2.0))
    assert torch.equal(part, clip.to(torch.uint8).flip(0))


def _rests(seed: int) -> bool:
    """Whether the scene of a seed has no grain, which would cover the rest."""
    clip = render_verb('bends down', seed, 2, 32, stretch=(-2.0, -1.9)).float()
    return (clip[1] - clip[0]).abs().mean() < 0.5


def test_nothing_is_no_slow_verb():
    """Without a camera that moves, most clips of nothing stand nearly still, or are cut once."""
    calm = 0
    for seed in range(20):
        clip = render_verb(NOTHING, seed, 8, 24).float()
        steps = (clip[1:] - clip[:-1]).abs().mean((1, 2, 3)).sort().values
        calm += int(steps[-2] < 12)  # the largest may be a cut
    assert calm >= 17


def test_a_long_video_of_verbs_has_known_times():
    pieces = list(spliced_frames(6, 3, 16, 8, gap_seconds=(0.5, 1), names=VERBS[:-1], paint=paint_verb))
    found = [(segment, len(frames)) for frames, segment in pieces if segment is not None]
    assert len(found) >= 2 and {segment.label for segment, _ in found} <= set(VERBS[:-1])
    assert all(round((segment.end - segment.start) * 8) == count for segment, count in found)
    passed, starts = 0, []
    for frames, segment in pieces:
        starts += [] if segment is None else [passed / 8 == segment.start]
        passed += len(frames)
    assert all(starts)


def test_data_set():
    data = VerbClips(60, num_frames=2, size=16, seed=1, split='test')
    assert len(data) == 60 and data.classes is VERBS
    clip, label = data[50]
    assert clip.shape == (3, 2, 16, 16) and label == 1
    assert torch.equal(clip, VerbClips(51, 2, 16, seed=1, split='test')[50][0])
    with pytest.raises(IndexError):
        data[60]


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(label='dances'), "unknown verb 'dances': give a label from 0 to 48 or one of moves left"),
    (dict(label=49), 'unknown verb 49'), (dict(label=True), 'unknown verb True'),
    (dict(label=0, size=8), 'at least 16 pixels'), (dict(label=0, stretch=(1, 0)), 'begins before it ends'),
    (dict(label=0, camera_shake=0.5), 'camera_shake must be from 0 to 0.25'),
    (dict(label=0, split='val'), "unknown split 'val': give 'train' or 'test'")])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_verb(**dict(dict(seed=0, num_frames=2, size=16), **arguments))
