"""Augmentations: whatever is drawn, all frames of a clip get the same."""
import pickle
import random

import numpy as np
import pytest
import torch
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from flatzoo.data.transforms import EvalTransform
from flatzoo.train.augment import AutoAugment, ClipErasing, train_crop

POLICIES = ['rand-m7-n4-mstd0.5-inc1', 'rand-m9-mstd101', 'augmix-m3-w2', '3a', 'original']


def seed(number):
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def pictures(count=3, size=24):
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('policy', POLICIES)
def test_policies_do_the_same_to_every_frame(policy):
    augment = AutoAugment(policy, 24)
    picture = pictures(1)
    changed = set()
    for number in range(6):
        seed(number)
        clip = augment(picture.expand(4, -1, -1, -1))
        assert clip.dtype == torch.uint8 and (clip == clip[:1]).all()
        changed.add(clip[0].numpy().tobytes())
    assert len(changed) > 2  # draws differ from clip to clip


def test_a_policy_is_timms_with_one_draw_for_the_clip():
    clip = pictures()
    for number in range(4):
        seed(number)
        result = AutoAugment(POLICIES[0], 24, (0.4, 0.5, 0.6))(clip)
        image = rand_augment_transform(POLICIES[0], dict(translate_const=10, img_mean=(102, 128, 153)))
        for frame, ours in zip(clip, result):
            seed(number)
            assert torch.equal(pil_to_tensor(image(to_pil_image(frame))), ours)


def test_policies_that_do_not_fit_are_refused():
    for unknown in ('rand-m9-x3', 'best', ''):
        with pytest.raises(ValueError, match='no augmentation policy'):
            AutoAugment(unknown, 24)
    with pytest.raises(ValueError, match='depth'):
        AutoAugment(POLICIES[0], 24)(torch.zeros(4, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize('mode', ['const', 'rand', 'pixel'])
def test_erasing_takes_the_same_rectangle_out_of_every_frame(mode):
    seed(0)
    clips = torch.randn(8, 3, 5, 24, 20) + 10
    before = clips.clone()
    erased = ClipErasing(1.0, mode)(clips)
    assert torch.equal(clips, before)
    gone = erased != clips  # [B, C, T, H, W]
    assert (gone == gone[:, :1, :1]).all()
    area = gone[:, 0, 0].flatten(1).double().mean(1)
    assert ((area > 0.005) & (area < 0.4)).all() and len(area.unique()) > 1
    for clip, mask in zip(erased, gone[:, 0, 0]):
        filling = clip[:, :, mask]  # [C, T, pixels]
        assert (filling == filling[:, :1]).all()
        spread = filling[:, 0].std(1)
        assert (spread == 0).all() if mode != 'pixel' else (spread > 0.5).all()
        assert (filling == 0).all() == (mode == 'const')


def test_erasing_leaves_the_share_that_was_asked_for():
    seed(0)
    clips = torch.ones(200, 1, 2, 8, 8)
    share = (ClipErasing(0.25, 'const', 2)(clips) != 1).flatten(1).any(1).double().mean()
    assert 0.15 < share < 0.35
    assert torch.equal(ClipErasing(0.0)(clips), clips)


@pytest.mark.parametrize('options', [{}, {'scale': (0.1, 1.0)}, {'scale': (0.1, 1.0), 'ratio': (1.0, 1.0)}])
def test_crops_are_random_alike_for_all_frames_and_survive_a_worker(options):
    crop = pickle.loads(pickle.dumps(train_crop((16, 20), 0.5, **options)))
    frames = pictures(1, 40).expand(3, -1, -1, -1)
    results = []
    for number in range(8):
        torch.manual_seed(number)
        results.append(crop(frames))
        assert results[-1].shape == (3, 3, 16, 20) and (results[-1] == results[-1][:1]).all()
    assert len({result.numpy().tobytes() for result in results}) > 4


def test_flips_come_as_often_as_asked_and_not_at_all_without():
    frames = pictures(1, 16)
    for share, low, high in ((0.0, 0, 0), (0.5, 20, 80), (1.0, 100, 100)):
        torch.manual_seed(0)
        crop = train_crop(16, share, scale=(1.0, 1.0), ratio=(1.0, 1.0))
        flipped = sum(torch.equal(crop(frames), frames.flip(-1)) for _ in range(100))
        assert low <= flipped <= high


def test_no_aug_is_the_crop_of_the_evaluation():
    frames = pictures(2, 30)
    crop = train_crop(16, 0.5, (0.1, 1.0), no_aug=True)
    assert torch.equal(crop(frames), EvalTransform(16)(frames)[0]) and torch.equal(crop(frames), crop(frames))
