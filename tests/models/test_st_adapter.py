"""ST-Adapter: the official code's numbers, timm's contract, the sizes of its table, and its files."""
import pytest
import timm
import torch
from adapter_cases import BACKBONES, VIT, assert_golden, golden, load, sizes, without_adapters
from base import NUM_CLASSES, AdapterTester, assert_close, build, perturb, random_clip

from flatzoo.hub.convert import convert_state_dict
from flatzoo.layers.bottleneck import ConvBottleneck
from flatzoo.models.adapter_builder import model_from_adapters

TINY = dict(BACKBONES['clip'], model_name='st_adapter_clip_b', bottleneck=8)
BOTH = dict(
    BACKBONES['dinov2_reg'], model_name='st_adapter_dinov2_b', bottleneck=8, places=('attn', 'mlp'),
    kernel_size=(3, 3, 3), adapter_layers=2)


class TestSTAdapter(AdapterTester):
    cases = {'clip': TINY, 'dinov2_both': BOTH}


@pytest.mark.parametrize('name, args, grads', [
    ('st_adapter_pre_mlp_3x1x1', dict(bottleneck=24), {
        'transformer.resblocks.1.adapter_pre_mlp.conv.weight': 'adapters.1.mlp.conv.weight',
        'transformer.resblocks.0.adapter_pre_mlp.fc1.weight': 'adapters.0.mlp.down.weight'}),
    ('st_adapter_both_3x3x3', dict(bottleneck=12, kernel_size=(3, 3, 3), places=('mlp', 'attn')), {}),
])
def test_is_the_official_network(name, args, grads):
    tensors, weights, twin = golden(name)
    assert_golden(load('st_adapter_clip_b', weights, **twin, **args), tensors, grads)


@pytest.mark.parametrize('args', BACKBONES.values(), ids=list(BACKBONES))
@torch.no_grad()
def test_untrained_adapters_leave_the_backbone_as_it_is(args):
    model = without_adapters(perturb(build(dict(TINY, **args))))
    clip = random_clip(model)
    frames = model.forward_intermediates(clip, indices=1, norm=True, intermediates_only=True)[0]
    expected = model.backbone.forward_intermediates(
        model.super_image(clip), indices=1, norm=True, intermediates_only=True)[0]
    assert_close(frames.flatten(0, 1), expected)
    assert model(clip).shape == (2, NUM_CLASSES)


@torch.no_grad()
def test_only_patches_of_frames_in_reach_change():
    """Class token and registers pass an adapter, and a kernel of 3 frames reaches one frame to each side."""
    model = perturb(build(dict(BOTH, kernel_size=(3, 1, 1))))
    x = torch.randn(8, model.num_prefix_tokens + 16, 32)
    adapted = model._adapt('mlp', 1, x)
    assert torch.equal(adapted[:, :5], x[:, :5]) and (adapted[:, 5:] != x[:, 5:]).any(2).all()
    assert model._adapt('mlp', 0, x) is x  # only the last two blocks have adapters
    changed = x.clone()
    changed[0, 5] += 1
    moved = (model._adapt('mlp', 1, changed) - adapted).abs().amax(2) > 1e-6
    assert moved.nonzero().tolist() == [[0, 5], [1, 5]]


def test_a_convolution_over_time_alone_is_that_of_three_dimensions():
    adapter = ConvBottleneck(6, 4, (3, 1, 1), dtype=torch.float64)
    torch.nn.init.normal_(adapter.conv.weight)
    x = torch.randn(2, 5, 6, 6, dtype=torch.float64)
    conv = adapter.conv(adapter.down(x).unflatten(2, (2, 3)).permute(0, 4, 1, 2, 3))
    assert_close(adapter(x, (2, 3)), adapter.up(conv.permute(0, 2, 3, 4, 1).flatten(2, 3)))


def test_frames_may_be_wide():
    model = build(dict(TINY, kernel_size=(1, 3, 3), img_size=(16, 32)))
    assert model(random_clip(model)).shape == (2, NUM_CLASSES)


@pytest.mark.parametrize('name, args, expected', [
    ('st_adapter_clip_b', {}, (7.110, 7.418, 93.217)), ('st_adapter_clip_b_ssv2', {}, (14.220, 14.354, 100.154)),
    ('st_adapter_clip_l', {}, (18.945, 19.355, 322.535)), ('st_adapter_dinov2_b', {}, (7.110, 7.418, 93.143)),
    ('st_adapter_clip_l', dict(places=('attn', 'mlp'), num_classes=174), (37.890, 38.068, 341.248)),
])
def test_sizes(name, args, expected):
    assert sizes(name, **args) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize('args, message', [
    (dict(kernel_size=(2, 1, 1)), 'odd numbers'), (dict(kernel_size=(3, 3)), 'odd numbers'),
    (dict(places=('head',)), "accepted are 'attn', 'mlp'"), (dict(places=()), 'at least one'),
    (dict(adapter_layers=4), '3 blocks'), (dict(adapter_layers=0), 'at least 1'),
    (dict(bottleneck=1.5), 'bottleneck=1.5'), (dict(layout='grid'), "'time:1' is the only one"),
    (dict(backbone='hiera_tiny_224'), 'ST-Adapter cannot run a Hiera: its tokens'),
    (dict(backbone='swin_tiny_patch4_window7_224'), 'which ST-Adapter cannot run: it attends in shifted windows'),
])
def test_refuses(args, message):
    args = {**TINY, **args}
    if not args['backbone'].startswith('vit'):
        args = {key: args[key] for key in ('model_name', 'backbone')}
    with pytest.raises(ValueError, match=message):
        build(args)


# Files


def released(weights):
    """As the official code saves: what is trained, beside the state of the training."""
    kept = {key: tensor for key, tensor in weights.items() if 'adapter' in key or key.startswith('fc.')}
    return dict(model=kept, lr_sched={'last_epoch': 3}, next_epoch=4)


@pytest.fixture
def published(monkeypatch):
    """Stands for timm's image weights on the Hub; returns what was asked for."""
    asked, create = [], timm.create_model

    def create_model(model_name, pretrained=False, **kwargs):
        if pretrained and model_name.startswith('vit_'):
            asked.append(model_name)
            args = dict(img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=4)
            torch.manual_seed(0)
            return create(model_name, **args, **kwargs)
        return create(model_name, pretrained=pretrained, **kwargs)

    monkeypatch.setattr(timm, 'create_model', create_model)
    return asked


def test_released_files_are_joined_with_the_image_weights(published):
    _, weights, twin = golden('st_adapter_pre_mlp_3x1x1')
    file = released(weights)
    conversion = convert_state_dict(file, 'st_adapter_clip_b', bottleneck=24, **twin)
    assert published == ['vit_base_patch16_clip_quickgelu_224.openai']
    assert sorted(conversion.taken) == sorted(file['model']) and not conversion.dropped
    assert all(name.startswith('backbone.') and 'image weights' in why for name, why in conversion.new.items())
    assert conversion.beside == ['lr_sched', 'next_epoch']
    model = timm.create_model('st_adapter_clip_b', bottleneck=24, **twin)
    model.load_state_dict(conversion.state_dict)
    image = timm.create_model('vit_base_patch16_clip_quickgelu_224.openai', pretrained=True, num_classes=0)
    assert torch.equal(model.backbone.blocks[0].attn.qkv.weight, image.blocks[0].attn.qkv.weight)
    up = weights['transformer.resblocks.0.adapter_pre_mlp.fc2.weight']
    assert torch.equal(model.adapters[0]['mlp'].up.weight, up)


def test_released_files_without_their_image_weights_are_refused():
    _, weights, twin = golden('st_adapter_pre_mlp_3x1x1')
    with pytest.raises(RuntimeError, match='only what ST-Adapter trains.*quickgelu_224.openai, which cannot be loaded'):
        convert_state_dict(released(weights), 'st_adapter_clip_b', bottleneck=24, **twin)


def test_files_of_another_shape_are_refused():
    _, weights, twin = golden('st_adapter_both_3x3x3')
    with pytest.raises(RuntimeError, match=r'adapters\.0\.attn'):
        convert_state_dict(weights, 'st_adapter_clip_b', bottleneck=12, **twin)
    with pytest.raises(ValueError, match='has 7 classes.* num_classes=7'):
        convert_state_dict(
            weights, 'st_adapter_clip_b', bottleneck=12, places=('attn', 'mlp'), kernel_size=(3, 3, 3),
            **{**twin, 'num_classes': 5})


@torch.no_grad()
def test_adapter_files(tmp_path):
    model = perturb(build(TINY))
    model.save_adapters(tmp_path / 'mine.safetensors')
    images = dict(state_dict={name: t for name, t in model.backbone.state_dict().items()})
    twin = model_from_adapters(tmp_path / 'mine.safetensors', pretrained_cfg_overlay=images).eval()
    assert torch.equal(twin(random_clip(model)), model(random_clip(model)))
    assert VIT['num_frames'] == twin.num_frames
