"""Clips of a data set: what they hold, that their randomness is their own, and what becomes of broken files."""
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from flatzoo.data.actions import write_action
from flatzoo.data.clips import ClipDataset, clip_span, collate_clips, open_clip
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.data.lists import Clip, VideoList
from flatzoo.data.protocol import EvalProtocol


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('clips')
    return [
        write_action(folder / f'{label}.mp4', label, label, size=size, num_frames=20, fps=10)
        for label, size in ((0, 32), (1, 48), (2, 64), (3, 32))
    ]


@pytest.fixture(scope='module')
def videos(files):
    clips = [Clip(str(path), label % 2) for label, path in enumerate(files)]
    return VideoList('test', clips, ['a', 'b'])


def same(one, other):
    return all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one.keys() | other.keys())


@pytest.mark.parametrize('options', [{}, {'sampling': 'dense', 'stride': 3}, {'span': (0.5, 1)}])
@pytest.mark.parametrize('img_size', [24, (16, 40)])
def test_training_clip(videos, img_size, options):
    dataset = ClipDataset(videos, 6, img_size, **options)
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    for index, item in enumerate(dataset):
        assert item['clip'].shape == (3, 6, height, width)
        assert item['clip'].dtype == torch.uint8 and item['clip'].is_contiguous()
        assert (item['index'], item['label']) == (index, index % 2)


@pytest.mark.parametrize('protocol', [
    None, EvalProtocol(num_clips=3, num_crops=3), EvalProtocol('dense', 2, 1, stride=2), EvalProtocol(scale_up=True)])
def test_views_are_those_of_the_protocol(videos, protocol):
    dataset = ClipDataset(videos, 5, (16, 24), train=False, protocol=protocol)
    for clip, item in zip(videos.clips, dataset):
        expected = (protocol or EvalProtocol()).load_views(clip.path, 5, (16, 24))
        assert torch.equal(item['clip'], expected)


def test_frames_come_from_one_crop(tmp_path, videos):
    """A still video gives equal frames, however many are cropped at a time."""
    path = write_action(tmp_path / 'still.mp4', 0, 0, size=64, num_frames=1)
    dataset = ClipDataset(VideoList('still', [Clip(str(path), 0)] * 8, ['a']), 11, 24)
    for item in dataset:
        assert (item['clip'] == item['clip'][:, :1]).all()
    reader = VideoReader(videos.clips[2].path)
    frames = reader.get_frames(range(20))
    moving = ClipDataset(VideoList('m', [videos.clips[2]], ['a']), 20, 24, sampling='dense', stride=1)
    torch.manual_seed(0)
    item = moving[0]
    crops = {dataset_crop(moving, frames, seed) for seed in range(400)}
    assert item['clip'].numpy().tobytes() in crops  # the whole clip cropped at once gives the same as a few at a time


def dataset_crop(dataset, frames, seed):
    torch.manual_seed(seed)
    return dataset.crop(frames).transpose(0, 1).contiguous().numpy().tobytes()


def test_randomness_is_that_of_seed_epoch_and_index(videos):
    dataset, again = ClipDataset(videos, 6, 24), ClipDataset(videos, 6, 24)
    first = [dataset[index] for index in range(4)]
    torch.rand(5), random.random()
    assert all(same(first[index], again[index]) for index in (3, 1, 0, 2))
    again.set_epoch(1)
    assert again.epoch == 1 and not any(same(first[index], again[index]) for index in range(4))
    again.set_epoch(0)
    assert same(first[2], again[2])
    assert not same(first[2], ClipDataset(videos, 6, 24, seed=1)[2])
    twice = VideoList('twice', [videos.clips[2]] * 6, ['a', 'b'])
    assert len({item['clip'].numpy().tobytes() for item in ClipDataset(twice, 6, 24)}) > 1


def test_default_generators_are_left_as_they_were(videos):
    def draw():
        return torch.rand(()).item(), np.random.rand(), random.random()

    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = draw()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    ClipDataset(videos, 4, 24)[0]
    assert draw() == expected


def test_transform_draws_from_the_item(videos):
    def transform(clip):
        assert clip.shape == (4, 3, 24, 24) and clip.dtype == torch.uint8
        return clip * 0 + torch.tensor([random.randrange(200), np.random.randint(200), int(torch.randint(200, ()))],
                                       dtype=torch.uint8).view(3, 1, 1)

    dataset = ClipDataset(videos, 4, 24, transform=transform)
    colours = [tuple(item['clip'][:, 0, 0, 0].tolist()) for item in dataset]
    assert len(set(colours)) == 4
    assert colours == [tuple(item['clip'][:, 0, 0, 0].tolist()) for item in dataset]


def test_errors_of_a_transform_are_raised(videos):
    with pytest.raises(ZeroDivisionError):
        ClipDataset(videos, 4, 24, transform=lambda clip: clip // (1 // 0))[0]


def test_flip_follows_the_list(videos):
    assert ClipDataset(videos, 4, 24).crop.flip
    assert not ClipDataset(VideoList('x', videos.clips, ['a', 'b'], flip=False), 4, 24).crop.flip


@pytest.mark.parametrize('context', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])  # spawn imports torch anew
def test_workers_give_the_same_and_see_the_epoch(videos, context):
    dataset = ClipDataset(videos, 4, 24)
    loader = DataLoader(
        dataset, 3, num_workers=2, collate_fn=collate_clips, persistent_workers=True, multiprocessing_context=context)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        clips = torch.cat([batch['clip'] for batch in loader])
        assert torch.equal(clips, torch.stack([item['clip'] for item in dataset]))


@pytest.fixture
def broken(tmp_path, files):
    (tmp_path / 'empty.mp4').touch()
    (tmp_path / 'garbage.mp4').write_bytes(bytes(range(256)) * 40)
    (tmp_path / 'folder').mkdir()
    thin = write_action(tmp_path / 'thin.mp4', 0, 0, size=16)
    paths = [files[0], tmp_path / 'empty.mp4', tmp_path / 'garbage.mp4', tmp_path / 'no  such.mp4', tmp_path / 'folder']
    late = Clip(str(files[0]), 0, 30, 40)
    return VideoList('broken', [*(Clip(str(path), 0) for path in paths), late, Clip(str(thin), 0)], ['a'])


@pytest.mark.parametrize('train', [True, False])
def test_broken_files_raise_nothing(broken, train):
    items = list(ClipDataset(broken, 4, 24, train=train))
    assert ['error' in item for item in items] == [False, True, True, True, True, True, False]
    for item, clip in zip(items, broken.clips):
        if 'error' in item:
            assert item.keys() == {'index', 'label', 'error'}
            assert clip.path in item['error'] and '\n' not in item['error']
    assert 'frames' in items[5]['error'] and 'outside of the 20 frames' in items[5]['error']
    batch = collate_clips(items)
    assert batch['index'].tolist() == [0, 6] and len(batch['clip']) == len(batch['label']) == 2
    assert [index for index, _ in batch['broken']] == [1, 2, 3, 4, 5]
    assert collate_clips(items[1:3])['clip'] is None


def test_frames_that_fit_no_crop_are_an_error(tmp_path):
    from PIL import Image
    (tmp_path / 'clip').mkdir()
    Image.new('RGB', (640, 8)).save(tmp_path / 'clip/1.png')
    videos = VideoList('long', [Clip(str(tmp_path / 'clip'), 0)], ['a'])
    assert 'too long' in ClipDataset(videos, 2, 8, train=False)[0]['error']


@pytest.mark.parametrize('clip, expected', [
    (dict(), (0, 20)),
    (dict(start=3, end=9), (3, 9)),
    (dict(start=3, end=90), (3, 20)),
    (dict(start=0.5, end=1.0, unit='seconds'), (5, 10)),  # 10 frames a second
    (dict(start=0.55, unit='seconds'), (6, 20)),
])
def test_part_of_a_file(files, clip, expected):
    clip = Clip(str(files[0]), 0, **clip)
    with open_clip(clip) as reader:
        assert clip_span(clip, reader) == expected
        frames = reader.get_frames(range(*expected))
    videos = VideoList('part', [clip], ['a'])
    views = ClipDataset(videos, len(frames), 32, train=False)[0]['clip']
    assert torch.equal(views[0].transpose(0, 1), frames)


def test_seconds_of_a_folder_of_frames(tmp_path):
    from PIL import Image
    Image.new('RGB', (16, 16)).save(tmp_path / '1.png')
    clip = Clip(str(tmp_path), 0, 0, 1.5, 'seconds')
    with pytest.raises(VideoError, match='Give start and end in frames'), open_clip(clip) as reader:
        clip_span(clip, reader)


@pytest.mark.parametrize('options, message', [
    (dict(num_frames=0), 'num_frames'),
    (dict(sampling='random'), "'uniform' or 'dense'"),
    (dict(sampling='dense'), 'stride'),
    (dict(span=(0, 1)), 'share must be'),
    (dict(span=(0.5, 1), sampling='dense', stride=2), 'span is for uniform sampling'),
    (dict(protocol=EvalProtocol()), 'train=False'),
    (dict(train=False, transform=abs), 'leave transform'),
    (dict(img_size=0), 'positive integer'),
])
def test_bad_arguments(videos, options, message):
    with pytest.raises(ValueError, match=message):
        ClipDataset(videos, **{'num_frames': 4, 'img_size': 24} | options)


def test_index_outside(videos):
    with pytest.raises(IndexError):
        ClipDataset(videos, 4, 24)[4]
