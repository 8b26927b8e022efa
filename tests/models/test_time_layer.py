"""The TIME layer: against the index maps, and its entry points."""
import pytest
import timm
import torch
from base import ModelTester, build, random_clip
from test_videomae import VideoMAETester
from timm.models import save_for_hf

from flatzoo.layers import SuperImage, TimeLayer
from flatzoo.models.time_layer import time_layout

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


class TestTimeVideoMAE(VideoMAETester):
    cases = {
        'videomae': dict(VIDEOMAE, embed_dim=32, depth=4, num_heads=4),
        'videomae_temporal': dict(VIDEOMAE, embed_dim=32, depth=4, num_heads=4, arrangement='temporal'),
    }
    compiled = ('videomae',)


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
    (dict(n=0), None, 'n=0: .* whole number of at least 1'),
    (dict(n=2.0), None, r'n=2\.0: .* whole number of at least 1'),
    (dict(n=True), None, 'n=True: .* whole number of at least 1'),
    (dict(arrangement='diagonal'), None, "neither 'spatial' nor 'temporal'"),
    (dict(resize='no'), None, "neither 'cell' nor 'composite'"),
    (dict(n=2), (1, 3, 6, 8, 8), 'takes a multiple of 4 frames, got 6: use 4 or 8 frames'),
    (dict(n=3), (1, 3, 6, 9, 9), 'takes a multiple of 9 frames, got 6: use 9 frames'),
    (dict(n=2), (1, 3, 0, 8, 8), 'takes a multiple of 4 frames, got 0: use 4 frames'),
    (dict(n=1), (1, 3, 0, 8, 8), 'takes a multiple of 1 frames, got 0'),
    (dict(n=2), (1, 3, 4, 7, 8), "resize='composite'"),
    (dict(n=2), (3, 4, 8, 8), r'shape \(B, C, T, H, W\), got \[3, 4, 8, 8\]'),
    (dict(n=1), (3, 4, 8, 8), r'shape \(B, C, T, H, W\), got \[3, 4, 8, 8\]'),
])
def test_errors(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        TimeLayer(**arguments)(torch.zeros(shape))


@pytest.mark.parametrize('n', [1, 2])
def test_whole_numbers_other_than_uint8_are_refused(n):
    with pytest.raises(ValueError, match='floating-point or uint8 clips, got torch.int64'):
        TimeLayer(n)(torch.zeros(1, 3, 4, 8, 8, dtype=torch.int64))


def test_scripted_layer_takes_any_number_of_frames_and_keeps_its_errors():
    layer = TimeLayer(2)
    scripted = torch.jit.script(layer)
    compiled = torch.compile(layer, fullgraph=True, backend='eager', dynamic=True)
    for frames in (4, 8, 20):
        clip = torch.randn(1, 3, frames, 8, 8)
        assert torch.equal(scripted(clip), layer(clip)) and torch.equal(compiled(clip), layer(clip))
    with pytest.raises(torch.jit.Error, match='use 4 or 8 frames'):
        scripted(torch.zeros(1, 3, 6, 8, 8))


def test_layout_of_a_frame_size():
    assert time_layout() == 'time:2:spatial'
    assert time_layout(3, 'temporal', (48, 96)) == 'time:3:temporal'
    assert time_layout(3, img_size=(48, 64)) == 'time:3:spatial,scale=composite'
    assert time_layout(2, img_size=64, among=(1, 4)) == 'time:2:spatial'
    assert time_layout(2, img_size=64, among=(1, 3)) == 'time:2:spatial,scale=composite'
    for arguments in (dict(n=0), dict(among=(2, 0)), dict(n=2.0), dict(arrangement='diagonal')):
        with pytest.raises(ValueError, match='at least 1|neither'):
            time_layout(**arguments)


@pytest.mark.parametrize('arguments, num_frames, layout', [
    (dict(), 32, 'time:2:spatial'),
    (dict(n=1), 8, 'time:1:spatial'),
    (dict(n=3), 72, 'time:3:spatial,scale=composite'),
    (dict(num_frames=16), 16, 'time:2:spatial'),
    (dict(n=3, num_new_frames=2, num_frames=18, img_size=96), 18, 'time:3:spatial'),
    (dict(layout='time:4:temporal'), 128, 'time:4:temporal'),
    (dict(layout='time:4', n=4, arrangement='spatial', num_new_frames=1), 16, 'time:4:spatial'),
    (dict(layout='time:2,scale=composite', n=2), 32, 'time:2:spatial,scale=composite'),
])
def test_arguments_say_frames_and_layout(arguments, num_frames, layout):
    model = timm.create_model('time_resnet50', device='meta', **arguments)
    assert (model.num_frames, model.layout) == (num_frames, layout)
    again = timm.create_model('time_resnet50', device='meta', **model._model_args)
    assert (again.num_frames, again.layout, again.img_size) == (num_frames, layout, model.img_size)


@pytest.mark.parametrize('arguments, message', [
    (dict(n=0), 'n=0: .* whole number of at least 1'),
    (dict(n=1.5), r'n=1\.5: .* whole number of at least 1'),
    (dict(arrangement='diagonal'), "neither 'spatial' nor 'temporal'"),
    (dict(n=3, layout='time:2'), "n=3 contradicts layout='time:2:spatial'.*either"),
    (dict(n=2, layout='2x4', num_frames=8), "n=2 contradicts layout='2x4'"),
    (dict(arrangement='temporal', layout='time:2'), "arrangement='temporal' contradicts layout='time:2:spatial'"),
    (dict(num_frames=32, num_new_frames=4), 'num_frames=32 contradicts num_new_frames=4, which with N=2 takes 16'),
    (dict(num_frames=30), 'use a multiple of 4, such as 28 or 32 frames'),
])
@pytest.mark.parametrize('name', ['time_resnet50', 'time_videomae_b'])
def test_contradictions_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(name, device='meta', **arguments)


@pytest.mark.parametrize('args', [VIT, VIDEOMAE], ids=['vit', 'videomae'])
def test_changed_model_is_rebuilt_as_it_is(args, tmp_path):
    """What it was built with, N = 2, does not contradict what it became."""
    model = build(args, n=2, arrangement='temporal')
    model.set_input_size(num_frames=4 * 9, layout=time_layout(3, 'spatial', model.img_size))
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert (loaded.num_frames, loaded.layout) == (36, 'time:3:spatial,scale=composite')
    clip = random_clip(model)
    with torch.no_grad():
        assert torch.equal(loaded(clip), model(clip))


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
