"""The TIME layer: against the index maps, and its entry points."""
import pytest
import timm
import torch
from base import ModelTester, build, random_clip

from flatzoo.layers import SuperImage, TimeLayer

VIT = dict(model_name='time_vit_b', backbone='test_vit', img_size=32, num_new_frames=2)
VIDEOMAE = dict(model_name='time_videomae_b', backbone='test_vit', img_size=32, num_new_frames=4)


class TestTime(ModelTester):
    cases = {
        'resnet': dict(model_name='time_resnet50', backbone='test_resnet', img_size=64, num_new_frames=2),
        'resnet_temporal': dict(
            model_name='time_resnet50', backbone='test_resnet', img_size=64, num_new_frames=2, arrangement='temporal'),
        'vit': VIT,
        'vit_n3': dict(VIT, n=3, img_size=48),
    }
    compiled = ('resnet', 'vit_n3')


@pytest.mark.parametrize('arrangement', ['spatial', 'temporal'])
@pytest.mark.parametrize('resize', ['cell', 'composite'])
@pytest.mark.parametrize('n', [2, 3])
def test_layer_makes_the_pictures_of_the_layout(n, arrangement, resize):
    clip = torch.randn(2, 3, 2 * n * n, 24, 12)
    new = TimeLayer(n, arrangement, resize)(clip)
    assert new.shape == (2, 3, 2, 24, 12)
    images = SuperImage(2 * n * n, f'time:{n}:{arrangement},scale={resize}', (24, 12))(clip)
    assert torch.equal(new, images.unflatten(0, (2, 2)).transpose(1, 2))


def test_which_frame_lies_where():
    clip = torch.arange(8.).view(1, 1, 8, 1, 1).expand(1, 1, 8, 2, 2)
    spatial, temporal = (TimeLayer(2, arrangement)(clip)[0, 0] for arrangement in ('spatial', 'temporal'))
    assert spatial.tolist() == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]
    assert temporal.tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_n_1_is_the_identity_and_depth_and_uint8_are_taken():
    clip = torch.randn(1, 3, 5, 7, 7)
    assert TimeLayer(1)(clip) is clip
    depth = torch.randn(1, 1, 8, 8, 8)
    assert TimeLayer(2)(depth).shape == (1, 1, 2, 8, 8)
    assert TimeLayer(2)((depth * 100).clamp(0, 255).to(torch.uint8)).dtype == torch.uint8


def test_gradients_and_compilation():
    clip = torch.randn(1, 1, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(TimeLayer(2), clip)
    layer = TimeLayer(2, 'temporal', 'composite')
    clip = torch.randn(2, 3, 8, 16, 16)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend='eager')(clip), layer(clip))
    assert torch.equal(torch.jit.script(layer)(clip), layer(clip))


@pytest.mark.parametrize('arguments, shape, message', [
    (dict(n=0), None, 'at least one row'),
    (dict(arrangement='diagonal'), None, "neither 'spatial' nor 'temporal'"),
    (dict(resize='no'), None, "neither 'cell' nor 'composite'"),
    (dict(n=2), (1, 3, 6, 8, 8), 'takes a multiple of 4 frames, got 6'),
    (dict(n=2), (1, 3, 4, 7, 8), "resize='composite'"),
])
def test_errors(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        TimeLayer(**arguments)(torch.zeros(shape))


def test_number_of_new_frames_stays_fixed_over_n():
    for n in (1, 2, 3, 4):
        model = timm.create_model('time_resnet50', n=n, device='meta')
        assert (model.num_images, model.num_frames) == (8, 8 * n * n)
        assert model.image_size == (224, 224)
        video = timm.create_model('time_videomae_b', n=n, device='meta')
        assert video.num_frames == 16 * n * n


def test_logits_of_new_frames_are_averaged():
    model = build(VIT)
    clip = random_clip(model)
    with torch.no_grad():
        new = TimeLayer(2)(clip)  # [B, C, T*, H, W]
        frames = torch.stack([model.backbone(new[:, :, i]) for i in range(2)])
        torch.testing.assert_close(model(clip), frames.mean(0))


def test_videomae_sees_the_new_frames_as_a_clip():
    model = build(VIDEOMAE)
    plain = build(dict(model_name='videomae_vit_b', backbone='test_vit', img_size=32, num_frames=4))
    plain.load_state_dict(model.state_dict())
    clip = random_clip(model)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), plain(TimeLayer(2)(clip)))


def test_depth_clips():
    model = build(dict(VIT, in_chans=1))
    assert model(random_clip(model)).shape == (2, 10)
    assert model(torch.zeros(1, 1, 8, 32, 32, dtype=torch.uint8)).shape == (1, 10)
