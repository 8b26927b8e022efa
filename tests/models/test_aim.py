"""AIM: the official code's numbers, timm's contract, the sizes of its table, and its files."""
import pytest
import timm
import torch
from adapter_cases import BACKBONES, assert_golden, golden, load, sizes, without_adapters
from base import NUM_CLASSES, AdapterTester, assert_close, build, perturb, random_clip

from flatzoo.hub.convert import convert_state_dict

TINY = dict(BACKBONES['clip'], model_name='aim_clip_b')
TWO = dict(BACKBONES['dinov3'], model_name='aim_clip_b_ssv2')


class TestAIM(AdapterTester):
    cases = {'clip': TINY, 'dinov3_two': TWO}


@pytest.mark.parametrize('name, args, grads', [
    ('aim_clip_1t_4f', {}, {
        'backbone.transformer.resblocks.0.T_Adapter.D_fc1.weight': 'adapters.0.time.down.weight',
        'backbone.temporal_embedding': 'temporal_embed'}),
    ('aim_imagenet_2t_2f', dict(backbone='vit_base_patch16_224', time_adapters=2), {}),
])
def test_is_the_official_network(name, args, grads):
    tensors, weights, twin = golden(name)
    model = load('aim_clip_b', weights, **twin, **args)
    assert_golden(model, tensors, grads)
    conversion = convert_state_dict(weights, 'aim_clip_b', **twin, **args)
    assert sorted(conversion.taken) == sorted(weights) and not conversion.dropped and not conversion.new
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, conversion.state_dict[key])


@pytest.mark.parametrize('args', BACKBONES.values(), ids=list(BACKBONES))
@torch.no_grad()
def test_untrained_adapters_leave_the_backbone_as_it_is(args):
    model = without_adapters(perturb(build(dict(TINY, **args, time_adapters=2))))
    model.temporal_embed.zero_()
    clip = random_clip(model)
    expected = model.backbone.forward_features(model.super_image(clip))
    assert_close(model.forward_features(clip).flatten(0, 1), expected)
    assert model(clip).shape == (2, NUM_CLASSES)


@torch.no_grad()
def test_stochastic_depth_drops_whole_clips_of_the_branches_that_are_trained():
    torch.manual_seed(0)
    model = perturb(build(TINY, drop_path_rate=0.5)).train()
    assert [path.drop_prob for path in model.drop_paths] == [0, 0.25, 0.5]
    dropped = model._drop(2, torch.ones(32 * 4, 17, 32)).unflatten(0, (32, 4)).flatten(1)
    assert set(dropped.unique().tolist()) == {0, 2} and (dropped == dropped[:, :1]).all()
    assert not any(getattr(block.drop_path1, 'drop_prob', 0) for block in model.backbone.blocks)


@torch.no_grad()
def test_frames_of_another_number_get_the_embedding_in_between():
    model = perturb(build(TINY))
    embed = model.temporal_embed.clone()
    model.set_input_size(num_frames=8)
    assert model.temporal_embed.shape == (1, 8, 32) and model(random_clip(model)).shape == (2, NUM_CLASSES)
    assert_close(model.temporal_embed[:, 1:3].mean(1), embed[:, 0] * 0.5 + embed[:, 1] * 0.5)
    weights = {**model.state_dict(), 'temporal_embed': embed}
    longer = build(TINY, num_frames=8, pretrained=True, pretrained_cfg_overlay=dict(state_dict=weights))
    assert_close(longer.temporal_embed, model.temporal_embed)


def test_the_last_norm_is_trained_and_saved_with_the_adapters(tmp_path):
    model = perturb(build(TINY))
    model.freeze_backbone()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if name.startswith('backbone.')} == {'backbone.norm.weight', 'backbone.norm.bias'}
    model.save_adapters(tmp_path / 'mine.safetensors')
    twin = build(TINY)
    weights = {name: t for name, t in model.backbone.state_dict().items() if not name.startswith('norm.')}
    twin.backbone.load_state_dict(weights, strict=False)
    twin.load_adapters(tmp_path / 'mine.safetensors')  # another last norm is no other backbone
    with torch.no_grad():
        assert torch.equal(twin(random_clip(model)), model(random_clip(model)))


@pytest.mark.parametrize('name, args, expected', [
    ('aim_clip_b', {}, (10.967, 96.765)), ('aim_clip_b', dict(num_frames=32), (10.678 + 0.308, 96.783)),
    ('aim_clip_b_ssv2', {}, (14.343, 100.141)), ('aim_clip_l', {}, (38.261, 341.439)),
    ('aim_clip_l', dict(num_classes=174, time_adapters=2), (50.643, 353.821)), ('aim_dinov2_b', {}, (10.967, 96.690)),
])
def test_sizes(name, args, expected):
    assert sizes(name, **args)[1:] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize('args, message', [
    (dict(time_adapters=3), '1 or 2'), (dict(bottleneck_ratio=0), 'bottleneck_ratio=0'),
    (dict(mlp_scale=-1), 'mlp_scale=-1'), (dict(layout='2x2'), "AIM looks at frames one by one.*'time:1'"),
    (dict(backbone='hiera_tiny_224'), 'AIM cannot run a Hiera: its attention within windows'),
    (dict(backbone='resnet18'), 'which AIM cannot run'),
])
def test_refuses(args, message):
    args = {**TINY, **args}
    if not args['backbone'].startswith('vit'):
        args = {key: args[key] for key in ('model_name', 'backbone')}
    with pytest.raises(ValueError, match=message):
        build(args)


def test_a_wrong_number_of_time_adapters_is_named():
    _, weights, twin = golden('aim_clip_1t_4f')
    with pytest.raises(RuntimeError, match=r'adapters\.0\.time_in\.down\.weight'):
        timm.create_model(
            'aim_clip_b', pretrained=True, time_adapters=2, pretrained_cfg_overlay=dict(state_dict=weights), **twin)
