"""Mixup and CutMix of clips: every frame alike, and labels that say what is in the pixels."""
import numpy as np
import pytest
import torch

from flatzoo.train.mixing import ClipMixup

SHAPE = (3, 5, 16, 12)  # C, T, H, W


def numbered(count):
    """Clips whose pixels all hold the number of the clip, and the labels that are this number."""
    return torch.arange(float(count)).view(-1, 1, 1, 1, 1).expand(count, *SHAPE).clone(), torch.arange(count)


def shares(clips, count):
    """Share of the pixels of each clip that came from each clip, `[B, count]`, after CutMix."""
    return torch.stack([(clips == number).flatten(1).double().mean(1) for number in range(count)], dim=1)


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_cutmix_labels_are_shares_of_pixels_and_boxes_span_all_frames(mode):
    np.random.seed(0)
    mix = ClipMixup(mixup_alpha=0, cutmix_alpha=1, mode=mode, label_smoothing=0, num_classes=6)
    mixed = 0
    for _ in range(10):
        clips, labels = mix(*numbered(6))
        assert torch.allclose(shares(clips, 6), labels.double(), atol=1e-6)
        assert (clips == clips[:, :1, :1]).all()  # the same box in every frame and channel
        mixed += (labels.max(1).values < 1).sum()
    assert mixed > 20


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_mixup_labels_are_weights_of_clips(mode):
    np.random.seed(0)
    mix = ClipMixup(mixup_alpha=0.8, mode=mode, label_smoothing=0, num_classes=6)
    clips, labels = mix(*numbered(6))
    assert (clips == clips[:, :1, :1, :1, :1]).all()
    assert torch.allclose(clips[:, 0, 0, 0, 0], labels @ torch.arange(6.), atol=1e-5)
    assert (labels.max(1).values < 1).any()


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
@pytest.mark.parametrize('count', [1, 5])
def test_the_last_clip_of_an_odd_batch_stays(mode, count):
    np.random.seed(1)
    mix = ClipMixup(mixup_alpha=0.8, cutmix_alpha=1, mode=mode, label_smoothing=0.1, num_classes=5)
    before, numbers = numbered(count)
    clips, labels = mix(before.clone(), numbers)
    assert torch.equal(clips[-1], before[-1])
    assert labels.shape == (count, 5) and torch.allclose(labels.sum(1), torch.ones(count))
    assert torch.allclose(labels[-1].max(), torch.tensor(0.92))  # smoothed: 0.9 + 0.1 / 5


def test_clips_that_are_not_contiguous_are_mixed_in_place_too():
    np.random.seed(0)
    mix = ClipMixup(mixup_alpha=0, cutmix_alpha=1, label_smoothing=0, num_classes=4)
    clips, labels = numbered(4)
    clips = clips.transpose(1, 2).contiguous().transpose(1, 2)
    result, labels = mix(clips, labels)
    assert result is clips and torch.allclose(shares(clips, 4), labels.double(), atol=1e-6)


def test_images_and_uint8_clips_are_refused():
    mix = ClipMixup(num_classes=2)
    for wrong in (torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.zeros(2, 3, 8, 8)):
        with pytest.raises(ValueError, match='floating point'):
            mix(wrong, torch.tensor([0, 1]))
