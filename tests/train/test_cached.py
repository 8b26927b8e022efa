"""Small data sets are decoded once: what is kept is bounded, and items are the same with and without it."""
import multiprocessing

import pytest
import torch
from torch.utils.data import DataLoader
from train_runs import PLAIN, same, small_recipe, train, weights, write_clips

from flatzoo.data import clips as clips_module
from flatzoo.data.clip_cache import ClipCache
from flatzoo.data.clips import ClipDataset, collate_clips
from flatzoo.data.lists import read_videos
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.survey import ClipFacts, survey
from flatzoo.train import build
from flatzoo.train.cached import Shrink, make_caches


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp('clips'), train=3, val=1)


def test_the_cache_is_bounded_and_shared(monkeypatch):
    cache = ClipCache(4, 100)
    assert cache.put(1, torch.arange(60, dtype=torch.uint8).view(3, 4, 5)) and not cache.put(2, torch.zeros(41).byte())
    assert cache.put(3, torch.full((1, 1, 2, 4, 5), 7, dtype=torch.uint8)) and cache.used == 100 == cache.max_bytes
    assert cache.get(0) is cache.get(2) is None and not cache.has_room(1)
    assert torch.equal(cache.get(1).flatten(), torch.arange(60, dtype=torch.uint8)) and cache.get(3).ndim == 5
    with pytest.raises(ValueError, match='kept are uint8 tensors of 1 to 5 dimensions, got torch.float32'):
        cache.put(0, torch.zeros(3))


@pytest.mark.parametrize('train_clips', [True, False])
@pytest.mark.parametrize('max_bytes', [10 ** 7, 60_000])  # all of them, and one or two
def test_items_are_the_same_and_files_are_opened_once(root, monkeypatch, train_clips, max_bytes):
    videos = read_videos('folder', root, 'train')
    options = dict(shrink=Shrink(40, 'crop')) if train_clips else dict(protocol=EvalProtocol(num_clips=2))
    plain = ClipDataset(videos, 4, 32, train_clips, seed=1, **options)
    kept = ClipDataset(videos, 4, 32, train_clips, seed=1, cache=ClipCache(len(videos), max_bytes), **options)
    opened = []
    real = clips_module.open_clip
    for epoch in range(2):
        for data in (plain, kept):
            data.set_epoch(epoch)
        expected = [plain[i]['clip'] for i in range(len(videos))]
        with monkeypatch.context() as patch:
            patch.setattr(clips_module, 'open_clip', lambda clip, *rest: (opened.append(clip), real(clip, *rest))[1])
            found = [kept[i]['clip'] for i in range(len(videos))]
        assert all(torch.equal(*pair) for pair in zip(expected, found))
    assert 0 < kept.cache.used <= max_bytes
    assert len(opened) == len(videos) if max_bytes > 10 ** 6 else len(videos) < len(opened) < 2 * len(videos)


@pytest.mark.parametrize('start', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_processes_share_what_each_has_decoded(root, start):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f'no {start} here')
    videos = read_videos('folder', root, 'train')
    data = ClipDataset(videos, 4, 32, cache=ClipCache(len(videos), 10 ** 7))
    loader = DataLoader(data, 1, num_workers=2, collate_fn=collate_clips, multiprocessing_context=start)
    batches = [batch['clip'][0] for batch in loader]
    assert all(data.cache.get(i) is not None and data.cache.get(i).shape == (8, 3, 48, 48) for i in range(len(videos)))
    plain = ClipDataset(videos, 4, 32)
    assert all(torch.equal(plain[i]['clip'], clip) for i, clip in enumerate(batches))


def test_a_frame_that_no_item_needs_may_be_broken(tmp_path):
    from PIL import Image

    folder = tmp_path / 'c0/clip'
    folder.mkdir(parents=True)
    for number in range(4):
        Image.new('RGB', (16, 16), (number, 0, 0)).save(folder / f'{number}.png')
    (folder / '3.png').write_bytes(b'no picture')
    videos = read_videos('frames', tmp_path, 'all')
    data = ClipDataset(videos, 1, 16, cache=ClipCache(1, 10 ** 6), seed=0)
    items = []
    for epoch in range(12):
        data.set_epoch(epoch)
        items.append(data[0])
    assert any('clip' in item for item in items) and any('error' in item for item in items) and not data.cache.used


def test_a_run_is_the_same_with_and_without(root, tmp_path):
    _, lines = train(root, tmp_path / 'kept', epochs=2, **PLAIN)
    assert any(line.startswith('clips are decoded once and kept in about') for line in lines)
    _, lines = train(root, tmp_path / 'plain', epochs=2, cache_gb=0, **PLAIN)
    assert not any('decoded' in line for line in lines)
    assert same(weights(tmp_path / 'kept'), weights(tmp_path / 'plain'))  # frames are no larger than crops can show


def test_what_does_not_fit_is_not_kept_and_sizes_follow_the_smallest_crop(root, tmp_path):
    videos = read_videos('folder', root, 'train')
    recipe = small_recipe(root, tmp_path, fit='crop', scale=(0.25, 1.0))
    model = build.build_model(recipe, videos)
    caches = make_caches(recipe, model, videos, None, survey(videos))
    assert caches.shrink.size(480, 640) == (64, 85) and caches.shrink.size(48, 48) == (48, 48)
    assert Shrink(64, 'letterbox').size(480, 640) == (48, 64)
    long = make_caches(recipe, model, videos, None, [ClipFacts(10 ** 6, 480, 640)])
    assert long.train is long.shrink is None and 'more than --cache-gb 1' in long.line
