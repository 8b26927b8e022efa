"""TALL: the contract, its layout by hand, and the mask of training."""
import pytest
import timm
import torch
import torch.nn.functional as F
from base import ModelTester, assert_close, build, random_clip

from flatzoo.models.tall import mask_square

TALL = dict(model_name='tall', backbone='test_convnext', num_frames=8, img_size=64, mask_size=8)


class TestTALL(ModelTester):
    cases = {'convnext': TALL, 'vit': dict(TALL, backbone='test_vit', num_frames=4)}
    compiled = ('convnext',)


@torch.no_grad()
def test_thumbnails():
    model = build(TALL)
    clip = random_clip(model)
    images = []
    for four in clip.split(4, dim=2):
        a, b, c, d = four.unbind(2)
        image = torch.cat([torch.cat([a, b], dim=3), torch.cat([c, d], dim=3)], dim=2)
        images.append(F.interpolate(image, (64, 64), mode='bilinear', antialias=True))
    expected = torch.stack([model.backbone(image) for image in images]).mean(0)
    assert_close(model(clip), expected)


def test_mask():
    clip = torch.ones(5, 3, 4, 20, 30)
    torch.manual_seed(0)
    masked = mask_square(clip, 8)
    for one in masked:
        assert (one == one[:1, :1]).all()  # the same place in all frames and channels
        rows, cols = (one[0, 0] == 0).nonzero(as_tuple=True)
        assert len(rows) == 64 and rows.max() - rows.min() == cols.max() - cols.min() == 7
    assert len({str(one[0, 0]) for one in masked}) > 1 and (clip == 1).all()
    assert (mask_square(clip, 20)[..., 0, :] == 0).sum() == 5 * 3 * 4 * 20


@torch.no_grad()
def test_mask_is_of_training_and_of_normalised_pixels():
    model = build(TALL)
    clip = torch.randint(0, 256, (2, 3, 8, 40, 56), dtype=torch.uint8)
    images = []
    model.backbone.register_forward_pre_hook(lambda module, args: images.append(args[0]))
    model(clip)
    model.super_image.eval(), model.backbone.eval()
    model.training = True
    model(clip)
    plain, masked = images
    changed = (plain != masked).any(1).flatten(1).float().mean(1)
    assert ((changed > 0.015) & (changed < 0.05)).all()  # 8 x 8 of 64 x 64, and the seams of the resizing
    model.training = True
    build(dict(TALL, mask_size=0)).train()(clip)


def test_refusals():
    for size in (-1, 65, 1.5):
        with pytest.raises(ValueError, match='0 to the 64 of a frame'):
            build(dict(TALL, mask_size=size))
    model = build(dict(TALL, mask_size=48))
    with pytest.raises(ValueError, match='smaller than mask_size'):
        model.set_input_size(32)
    assert timm.create_model('tall', device='meta').num_classes == 2
