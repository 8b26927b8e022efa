"""DualPath: the official code's numbers, timm's contract, what its paths see, its sizes, and its files."""
import pytest
import timm
import torch
from adapter_cases import BACKBONES, assert_golden, golden, load, sizes, without_adapters
from base import NUM_CLASSES, AdapterTester, assert_close, build, perturb, random_clip

from flatzoo.hub.convert import convert_state_dict
from flatzoo.models.dualpath import frame_table

TINY = dict(BACKBONES['clip'], model_name='dualpath_clip_b', num_frames=16, proj_dim=24)
GRIDS = dict(BACKBONES['dinov2_reg'], model_name='dualpath_clip_b', num_frames=32, num_spatial_frames=4)
VITS = {key: args for key, args in BACKBONES.items() if key not in ('dinov3', 'eva02', 'pe')}


class TestDualPath(AdapterTester):
    cases = {'clip': TINY, 'dinov2_32f': GRIDS}


@pytest.mark.parametrize('name, args', [
    ('dualpath_16f', dict(proj_dim=24)), ('dualpath_16f_noaa', dict(proj_dim=32, layout='dualpath,antialias=false'))])
def test_is_the_official_network(name, args):
    tensors, weights, twin = golden(name)
    model = load('dualpath_clip_b', weights, **twin, **args)
    assert_golden(model, tensors, {
        'transformer.resblocks.0.t_adapter_attn_b.down_proj.weight': 'adapters.0.t_attn_in.down.weight'})
    assert_close(model._images(tensors['input']), tensors['images'].flatten(0, 1))
    assert_close(model.frame_table, tensors['pos_table'])
    conversion = convert_state_dict(weights, 'dualpath_clip_b', **twin, **args)
    assert sorted(conversion.taken) == sorted(weights) and not conversion.dropped and not conversion.new
    with pytest.raises(ValueError, match='classes.* num_classes='):
        convert_state_dict(weights, 'dualpath_clip_b', **{**twin, 'num_classes': 3}, **args)


@pytest.mark.parametrize('args', VITS.values(), ids=list(VITS))
@torch.no_grad()
def test_untrained_paths(args):
    """The spatial one is the backbone, the temporal one the identity; grids lie first."""
    model = without_adapters(perturb(build(dict(TINY, **args | dict(num_frames=32)))))
    clip = random_clip(model)
    features, tokens = model.forward_features(clip), model._embed(model._images(clip))[0].unflatten(0, (2, 10))
    frames = clip[:, :, ::4].transpose(1, 2).flatten(0, 1)
    assert_close(features[:, 2:].flatten(0, 1), model.backbone.forward_features(frames))
    assert_close(features[:, :2], model.backbone.norm(tokens[:, :2]))
    assert model(clip).shape == (2, NUM_CLASSES)


def test_table_of_frame_numbers():
    """With 16 x 16 patches no number is mixed, and the second grid goes on counting."""
    table = frame_table(2, (16, 16), 1, 8, antialias=True)
    assert table.shape == (2, 257, 8) and table[:, 0].tolist() == 2 * [[0, 1] * 4]
    number = torch.tensor(16 + 6.)  # frame in the second row, second column of the second grid
    patch = table[1, 1 + 4 * 16 + 4]
    assert_close(patch[:2].float(), torch.stack([number.sin(), number.cos()]))
    assert_close(patch[2:4].float(), torch.stack([(number / 10).sin(), (number / 10).cos()]))


@torch.no_grad()
def test_other_sizes():
    model = perturb(build(TINY))
    model.set_input_size(img_size=64, num_frames=32)
    clip = random_clip(model)
    assert model.grid_embed.shape == (1, 65, 32) and model.num_images == 10
    twin = build(TINY, img_size=64, num_frames=32)
    twin.load_state_dict(model.state_dict())
    assert_close(twin(clip), model(clip))


@torch.no_grad()
def test_image_weights_bring_the_projection_of_clip():
    args = {key: TINY[key] for key in ('embed_dim', 'depth', 'num_heads', 'patch_size', 'img_size')}
    image = timm.create_model(TINY['backbone'], num_classes=24, **args)
    model = build(TINY, pretrained=True, pretrained_cfg_overlay=dict(state_dict=image.state_dict()))
    assert torch.equal(model.backbone.proj.weight, image.head.weight)
    model.freeze_backbone()
    trained = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith('backbone.')}
    assert trained == {'backbone.pos_embed', 'backbone.cls_token'}


@pytest.mark.parametrize('name, args, expected', [
    ('dualpath_clip_b', {}, (17.75, 18.79, 104.83)), ('dualpath_clip_l', {}, (63.07, 65.08, 368.79))])
def test_sizes(name, args, expected):
    assert sizes(name, **args) == pytest.approx(expected, abs=6e-3)


@pytest.mark.parametrize('args, message', [
    (dict(num_frames=8), 'a multiple of 16 frames'), (dict(num_spatial_frames=5), 'such as 80'),
    (dict(layout='time:1'), "DualPath takes 'dualpath'"), (dict(ratio=0), 'ratio=0'),
    (dict(BACKBONES['dinov3'], num_frames=16), 'an Eva has its positions in the attention'),
    (dict(backbone='hiera_tiny_224'), 'DualPath cannot run a Hiera'),
])
def test_refuses(args, message):
    args = {**TINY, **args}
    if not args['backbone'].startswith('vit'):
        args = {key: args[key] for key in ('model_name', 'backbone')}
    with pytest.raises(ValueError, match=message):
        build(args)
