"""The procedural actions: determinism, time reversal by construction, disjoint splits, files."""

import random

import pytest
import torch
from processes import FORKSERVER

from flatzoo.data.actions import (
    ACTIONS,
    ActionClips,
    ActionFrames,
    render_action,
    reversed_label,
    scene_labels,
    scenes as _scenes,
    write_action,
    write_action_folder,
    write_action_splits,
)

PAIRS = range(len(ACTIONS) // 2)


def frame_set(clip: torch.Tensor) -> list[bytes]:
    """The frames of a clip without their order."""
    return sorted(frame.numpy().tobytes() for frame in clip)


def test_sixteen_actions_in_pairs():
    assert len(ACTIONS) == len(set(ACTIONS)) == 16
    assert [reversed_label(label) for label in range(4)] == [1, 0, 3, 2]
    assert reversed_label('joins') == ACTIONS.index('separates')


@pytest.mark.parametrize('label', range(16))
def test_shape_and_type(label):
    clip = render_action(label, seed=3, num_frames=5, size=32)
    assert clip.shape == (5, 3, 32, 32)
    assert clip.dtype == torch.uint8
    assert clip.float().std() > 5  # something is to be seen


@pytest.mark.parametrize('camera_shake', [0.0, 0.05])
def test_same_seed_same_bytes_on_any_thread_count(camera_shake):
    threads = torch.get_num_threads()
    try:
        clips = []
        for n in (1, 2):
            torch.set_num_threads(n)
            torch.manual_seed(n)  # the global generators play no part
            random.seed(n)
            clips.append([render_action(2 * p, 11, 8, 72, camera_shake=camera_shake) for p in (0, 4, 6)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*clips, strict=True))


def test_seeds_differ():
    assert not torch.equal(render_action(0, 1, 2, 32), render_action(0, 2, 2, 32))


@pytest.mark.parametrize('camera_shake', [0.0, 0.05])
@pytest.mark.parametrize('pair', PAIRS)
def test_odd_class_is_even_class_backwards(pair, camera_shake):
    even, odd = (render_action(2 * pair + k, 5, 8, 32, camera_shake=camera_shake) for k in range(2))
    assert torch.equal(odd, even.flip(0))
    assert not torch.equal(odd, even)  # there is motion to tell the order by


@pytest.mark.parametrize('pair', PAIRS)
def test_frames_without_order_are_the_same_in_both_classes(pair):
    for seed in range(4):
        even, odd = (render_action(2 * pair + k, seed, 6, 24) for k in range(2))
        assert frame_set(even) == frame_set(odd)


@pytest.mark.parametrize('pair', PAIRS)
def test_the_action_is_longer_than_one_step(pair):
    """At least three different frames: the motion is spread over the clip, not one jump that shuffling seldom harms."""
    different = [len(set(frame_set(render_action(2 * pair, seed, 8, 24)))) for seed in range(3)]
    assert sorted(different)[1] >= 3


def test_frames_are_samples_of_continuous_time():
    """The middle frame of each third of a 9-frame clip is the frame of a 3-frame clip."""
    short, long = (render_action('turns clockwise', 7, n, 32, camera_shake=0.05) for n in (3, 9))
    torch.testing.assert_close(short, long[1::3], atol=1, rtol=0)


@pytest.mark.parametrize(('name', 'axis', 'sign'), [('moves right', 2, 1), ('moves down', 1, 1), ('moves up', 1, -1)])
def test_names_say_what_is_seen(name, axis, sign):
    """The centre of what changes moves where the class name says."""
    agree = 0
    for seed in range(8):
        clip = render_action(name, seed, 9, 32).float().mean(1)  # [T, H, W]
        background = clip.median(0).values
        changed = (clip - background).abs() > 12
        places = torch.arange(32.0).view([-1 if d == axis else 1 for d in range(3)])
        centre = (changed * places).sum((1, 2)) / changed.sum((1, 2)).clamp(min=1)
        agree += int((centre[-3:].mean() - centre[:3].mean()) * sign > 0)
    assert agree >= 7


def test_camera_shake_moves_the_background():
    still, shaken = (render_action('appears', 2, 8, 48, camera_shake=s) for s in (0.0, 0.1))
    first_steps = [(clip[1].float() - clip[0].float()).abs().mean() for clip in (still, shaken)]
    assert first_steps[1] > first_steps[0] + 1


def test_splits_are_disjoint(monkeypatch):
    assert not torch.equal(render_action(0, 1, 2, 32, split='train'), render_action(0, 1, 2, 32, split='test'))
    # With the halves of the real clip black and white, no texture of a split holds a pixel of the other's half.
    halves = torch.zeros(6, 3, 144, 176)
    halves[..., 88:] = 1
    monkeypatch.setattr(_scenes, '_real_frames', lambda: halves)
    for seed in range(30):
        assert _scenes._texture(random.Random(seed), 16, 'train', 'real').max() == 0
        assert _scenes._texture(random.Random(seed), 16, 'test', 'real').min() > 0.999


def test_dataset():
    data = ActionClips(20, num_frames=3, size=24, seed=1, split='test')
    assert len(data) == 20 and data.classes is ACTIONS
    items = [data[i] for i in range(20)]
    assert [label for _, label in items] == [i % 16 for i in range(20)]
    assert all(clip.shape == (3, 3, 24, 24) and clip.dtype == torch.uint8 for clip, _ in items)
    assert torch.equal(items[17][0], ActionClips(18, 3, 24, seed=1, split='test')[17][0])
    assert not torch.equal(items[0][0], ActionClips(1, 3, 24, seed=2, split='test')[0][0])
    with pytest.raises(IndexError):
        data[20]


def test_dataset_transform_sees_frames_first():
    seen = []
    data = ActionClips(1, 4, 32, transform=lambda clip: seen.append(clip.shape) or clip[..., :16, :24])
    assert data[0][0].shape == (3, 4, 16, 24)
    assert seen == [(4, 3, 32, 32)]


@pytest.mark.parametrize('pair', PAIRS)
def test_scene_labels(pair, monkeypatch):
    """The labels are what the painter draws: the background first, then bystanders, then the actors."""
    surfaces, shapes, texture, distance = [], [], _scenes._texture, _scenes._distance
    monkeypatch.setattr(_scenes, '_texture', lambda *args: surfaces.append(args[3]) or texture(*args))
    monkeypatch.setattr(_scenes, '_distance', lambda shape, *args: shapes.append(shape) or distance(shape, *args))
    acting = {'passes behind from the left': slice(-2, -1), 'is picked up': slice(-2, -1), 'joins': slice(-2, None)}
    for seed in range(6):
        surfaces.clear(), shapes.clear()
        labels = scene_labels(2 * pair, seed, 'test')
        assert labels['place'] == surfaces[0]
        drawn = list(zip(shapes, surfaces[1:], strict=True))[acting.get(ACTIONS[2 * pair], slice(-1, None))]
        assert (labels['object'], labels['texture']) in drawn
        assert labels == scene_labels(2 * pair + 1, seed, 'test')


def test_scene_labels_vary_and_have_names():
    seen = [scene_labels(label, seed, 'test') for label in range(0, 16, 2) for seed in range(20)]
    for name, classes in ActionFrames.classes.items():
        values = {labels[name] for labels in seen}
        assert values <= set(classes) and len(values) >= 7
    training = [scene_labels(label, seed, 'train') for label in range(0, 16, 2) for seed in range(20)]
    assert not {'marble', 'waves'} & {labels[name] for labels in training for name in ('texture', 'place')}
    with pytest.raises(ValueError, match='unknown split'):
        scene_labels(0, 0, 'val')


@pytest.mark.parametrize('pair', PAIRS)
def test_painted_frame_is_a_frame_of_the_clip(pair):
    for size, split in ((24, 'train'), (48, 'test')):
        frame, labels = _scenes.paint_frame(pair, 3, 0.5, size, 0.05, split)
        assert torch.equal(frame, render_action(2 * pair, 3, 3, size, camera_shake=0.05, split=split)[1])
        assert labels == scene_labels(2 * pair, 3, split)  # whatever the size


def test_zoom_moves_in_on_the_object():
    """A magnified frame is a part of the picture: what it shows is found there again."""
    pose = _scenes._object(_scenes._scene(2, 3, 64, 'train')).pose(0.2)
    plain, labels = _scenes.paint_frame(2, 3, 0.2, 64, 0.0, 'train')
    near, near_labels = _scenes.paint_frame(2, 3, 0.2, 64, 0.0, 'train', zoom=2.0)
    assert near_labels == labels
    x, y = pose.x * 0.75, pose.y * 0.75  # the window's centre
    grid = torch.nn.functional.affine_grid(torch.tensor([[[0.5, 0, x], [0, 0.5, y]]]), (1, 3, 64, 64), False)
    part = torch.nn.functional.grid_sample(plain[None].float(), grid, align_corners=False)[0]
    errors = [(near.float() - picture.float()).abs().mean() for picture in (part, plain)]
    assert errors[0] < errors[1] / 2
    whole, _ = _scenes.paint_frame(2, 3, 1.0, 64, 0.0, 'train', zoom=50.0)
    assert torch.isfinite(whole.float()).all() and whole.float().std() > 5


def test_frames():
    data = ActionFrames(20, size=24, seed=1, split='test')
    assert len(data) == 20
    items = [data[i] for i in range(20)]
    assert all(frame.shape == (3, 24, 24) and frame.dtype == torch.uint8 for frame, _ in items)
    assert len({frame.numpy().tobytes() for frame, _ in items}) == 20
    assert all(0 <= labels[name] < len(data.classes[name]) for _, labels in items for name in data.classes)
    assert torch.equal(items[17][0], ActionFrames(18, 24, seed=1, split='test')[17][0])
    assert items[17][1] == data[17][1]
    assert not torch.equal(items[0][0], ActionFrames(1, 24, seed=2, split='test')[0][0])
    with pytest.raises(IndexError):
        data[20]
    with pytest.raises(ValueError, match='unknown split'):
        ActionFrames(1, split='val')
    with pytest.raises(ValueError, match='zoom'):
        ActionFrames(1, zoom=0.5)


def test_mp4_round_trip(tmp_path):
    av = pytest.importorskip('av')
    path = write_action(tmp_path / 'clip.mp4', 'moves right', 4, size=64, num_frames=10, fps=5, crf=10)
    assert [p.name for p in tmp_path.iterdir()] == ['clip.mp4']  # the temporary file is gone
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.width) == ('h264', 5, 64)
        frames = [torch.from_numpy(frame.to_ndarray(format='rgb24')) for frame in container.decode(stream)]
    decoded = torch.stack(frames).permute(0, 3, 1, 2)
    rendered = render_action('moves right', 4, 10, 64)
    assert decoded.shape == rendered.shape
    errors = [(decoded.float() - clip.float()).abs().mean() for clip in (rendered, rendered.flip(0))]
    assert errors[0] < 12 and errors[0] < errors[1]


def test_folder(tmp_path):
    paths = write_action_folder(tmp_path / 'set', 1, size=16, num_frames=2)
    assert len(paths) == 16 and all(path.is_file() for path in paths)
    assert {path.parent.name for path in paths} == {name.replace(' ', '_') for name in ACTIONS}
    assert len({path.read_bytes() for path in paths}) == 16


@pytest.mark.parametrize('label', [-1, 16, True, 1.0, None, 'moves sideways'])
def test_unknown_label(label):
    with pytest.raises(ValueError, match='unknown action .* moves left'):
        render_action(label, 0)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'num_frames': 0}, 'at least 1 frame'),
        ({'size': 8}, 'at least 16 pixels'),
        ({'camera_shake': -0.1}, 'camera_shake'),
        ({'camera_shake': 0.5}, 'camera_shake'),
        ({'split': 'val'}, 'unknown split'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_action(0, 0, **arguments)


def test_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='even size'):
        write_action(tmp_path / 'odd.mp4', 0, 0, size=33)
    with pytest.raises(ValueError, match='unknown split'):
        write_action(tmp_path / 'split.mp4', 0, 0, split='val')
    assert not list(tmp_path.iterdir())


def test_splits_are_the_same_files_in_one_process_and_in_several(tmp_path, monkeypatch):
    seen = []
    options = dict(actions=ACTIONS[:2], size=16, num_frames=4)
    paths = write_action_splits(tmp_path / 'one', 2, **options, done=seen.append)
    assert [str(path.relative_to(tmp_path / 'one')) for path in paths] == [
        'train/moves_left/00000.mp4', 'train/moves_right/00000.mp4', 'val/moves_left/00000.mp4',
        'val/moves_right/00000.mp4']
    assert seen == paths
    monkeypatch.setattr('multiprocessing.get_context', lambda kind: FORKSERVER)  # spawned ones would import torch
    others = write_action_splits(tmp_path / 'two', 2, **options, workers=2)
    assert [path.read_bytes() for path in others] == [path.read_bytes() for path in paths]
    with pytest.raises(ValueError, match='train and val need a clip'):
        write_action_splits(tmp_path / 'three', 1)
