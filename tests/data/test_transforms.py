"""Crops and resizes against those of the official SIFAR code, which works on Pillow images."""

import pytest
import torch
from golden_files import read_golden
from torchvision.transforms import v2

from flatzoo.data import transforms
from flatzoo.data.transforms import (
    EvalTransform,
    TrainTransform,
    center_crop,
    multi_scale_crop,
    random_horizontal_flip,
    resize,
    resize_short_side,
    three_crop,
)


@pytest.fixture(scope='module')
def golden():
    return read_golden('sifar_transforms')  # views are kept as the grey levels that normalisation made floats of


@pytest.fixture(scope='module')
def clip(golden):
    return golden['frames_uint8_THWC'].permute(0, 3, 1, 2)  # [8, 3, 72, 96], permuted as the reader gives it


def coordinates(height, width):
    """A clip [1, 3, H, W] whose pixels tell their row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    return torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)[None]


@pytest.mark.parametrize('name, num_crops, scale_up', [
    ('val_center_noscaleup', 1, False),
    ('val_center_scaleup', 1, True),
    ('val_3crop_noscaleup', 3, False),
    ('val_3crop_scaleup', 3, True),
])
def test_evaluation_views_are_the_official_ones(golden, clip, name, num_crops, scale_up):
    expected = golden[name].view(num_crops, 8, 3, 48, 48)
    views = EvalTransform(48, num_crops, scale_up)(clip)
    assert views.shape == (num_crops, 8, 3, 48, 48) and views.dtype == torch.uint8
    difference = (views.int() - expected.int()).abs()
    # Same crops; Pillow rounds its resizing weights and intermediate rows differently, by one grey level at most.
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.005


def test_crops_without_resizing_are_exact():
    clip = coordinates(48, 64)
    assert torch.equal(EvalTransform(48)(clip)[0], clip[..., 8:56])
    views = EvalTransform(48, 3)(clip)
    assert [view[0, 1, 0, 0].item() for view in views] == [0, 16, 8]  # left, right, centre
    views = three_crop(coordinates(64, 48), 48)
    assert [view[0, 0, 0, 0].item() for view in views] == [0, 16, 8]  # top, bottom, centre
    views = three_crop(coordinates(55, 73), 48)
    assert [tuple(view[0, :2, 0, 0].tolist()) for view in views] == [(0, 0), (4, 24), (2, 12)]
    assert torch.equal(center_crop(clip, (10, 20)), clip[..., 19:29, 22:42])


def test_views_are_views_of_every_frame():
    clip = torch.stack([coordinates(48, 64)[0], 255 - coordinates(48, 64)[0]])
    views = EvalTransform(48, 3)(clip)
    assert torch.equal(views[:, 0, :2], 255 - views[:, 1, :2])


@pytest.mark.parametrize('shape, size, expected', [
    ((72, 96), 48, (48, 64)),
    ((96, 72), 48, (64, 48)),
    ((20, 30), 48, (48, 72)),  # enlarged
    ((7, 10), 9, (9, 12)),  # 12.86 is rounded down
    ((50, 50), 50, (50, 50)),
    ((72, 96), (30, 60), (45, 60)),
    ((96, 72), (30, 60), (80, 60)),
    ((1, 1), 16, (16, 16)),
    ((1, 32), 4, (4, 128)),
])
def test_resize_short_side(shape, size, expected):
    clip = torch.randint(256, (2, 3, *shape), dtype=torch.uint8)
    resized = resize_short_side(clip, size)
    assert resized.shape == (2, 3, *expected) and resized.dtype == torch.uint8
    # torchvision's resize to the same size is the same operation
    assert torch.equal(resized, v2.functional.resize(clip, list(expected), antialias=True))


def test_leading_dimensions_and_memory_format(clip):
    flat = resize(clip, 20)
    assert torch.equal(resize(clip[0], 20), flat[0])
    assert torch.equal(resize(clip.unflatten(0, (2, 4)), 20), flat.unflatten(0, (2, 4)))
    assert torch.equal(resize(clip.contiguous(), 20), flat)
    assert resize(clip.float(), 20).dtype == torch.float32
    assert resize(clip, (72, 96)) is clip


def test_rectangular_frames(clip):
    assert EvalTransform((32, 40), 3, scale_up=True)(clip).shape == (3, 8, 3, 32, 40)
    assert TrainTransform((32, 40))(clip).shape == (8, 3, 32, 40)


def test_multi_scale_crop_sizes_and_places(monkeypatch):
    clip = coordinates(100, 200)
    boxes = set()
    monkeypatch.setattr(transforms, 'resize', lambda frames, size: frames)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        crop = multi_scale_crop(clip, 60, generator=generator)
        boxes.add((*crop[0, :2, 0, 0].tolist(), *crop.shape[2:]))
    sides = [100, 87, 75, 66]
    pairs = {(a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1}
    assert {box[2:] for box in boxes} == pairs and len(pairs) == 10
    # in quarters of the free room, 34 // 4 and 125 // 4 pixels
    places = {(y // 8, x // 31) for y, x, *size in boxes if size == [66, 75]}
    corners_and_centres = {(y, x) for y in (0, 2, 4) for x in (0, 2, 4)}
    assert places == corners_and_centres | {(1, 1), (1, 3), (3, 1), (3, 3)}
    # a side within two pixels of the wanted one becomes it
    assert {multi_scale_crop(clip, 64, (0.66,)).shape[2:]} == {(64, 64)}
    assert {multi_scale_crop(clip, 63, (0.66,)).shape[2:]} == {(66, 66)}


def test_training_is_the_same_for_all_frames_and_seeded(clip):
    frames = clip[:1].expand(8, -1, -1, -1)
    transform = TrainTransform(24)
    results = [transform(frames, generator=torch.Generator().manual_seed(seed)) for seed in range(20)]
    for seed, result in enumerate(results):
        assert result.shape == (8, 3, 24, 24) and result.dtype == torch.uint8
        assert (result == result[:1]).all()
        assert torch.equal(result, transform(frames, generator=torch.Generator().manual_seed(seed)))
    assert len({result.numpy().tobytes() for result in results}) > 15
    torch.manual_seed(5)
    first = transform(frames)
    torch.manual_seed(5)
    assert torch.equal(first, transform(frames))


def test_flip(clip):
    assert torch.equal(random_horizontal_flip(clip, 1.0), clip.flip(-1))
    assert torch.equal(random_horizontal_flip(clip, 0.0), clip)
    generator = torch.Generator().manual_seed(0)
    small = coordinates(2, 4)
    flips = sum(not torch.equal(random_horizontal_flip(small, generator=generator), small) for _ in range(400))
    assert 160 < flips < 240
    whole = TrainTransform((72, 96), flip=False, scales=(1.0,))  # the only crop is 72 x 72
    assert all(whole(coordinates(72, 72))[0, 1, 0, 0] == 0 for _ in range(20))


@pytest.mark.parametrize('call, message', [
    (lambda: EvalTransform(48, num_crops=5), 'num_crops must be 1 or 3, got 5'),
    (lambda: EvalTransform(0), 'positive integer or'),
    (lambda: EvalTransform((4, 4, 4)), 'positive integer or'),
    (lambda: EvalTransform(48)(torch.zeros(2, 3, 64, 64)), 'uint8 frames .T, C, H, W., got torch.float32'),
    (lambda: EvalTransform(48)(torch.zeros(3, 64, 64, dtype=torch.uint8)), r'shape \[3, 64, 64\]'),
    (lambda: EvalTransform(48)(torch.zeros(2, 3, 1, 640, dtype=torch.uint8)), r'640x1 pixels .* at most 32:1'),
    (lambda: EvalTransform(48)(torch.zeros(2, 3, 0, 640, dtype=torch.uint8)), 'without an empty dimension'),
    (lambda: center_crop(torch.zeros(2, 3, 40, 60), 48), '40x60 pixels are smaller than the crop of 48x48'),
    (lambda: three_crop(torch.zeros(2, 3, 60, 40), 48), 'smaller than the crop'),
    (lambda: multi_scale_crop(torch.zeros(2, 3, 60, 40), 48, (1.5,)), 'scales must be'),
])
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_training_crop_of_extreme_frames():
    assert TrainTransform(16)(torch.zeros(2, 3, 1, 640, dtype=torch.uint8)).shape == (2, 3, 16, 16)
