"""TSM: the contract, official logits, streams, and what the shift must and must not do."""
import pytest
import timm
import torch
from base import ModelTester, assert_close, build, perturb, random_clip
from golden import load_case

from flatzoo.hub.convert import convert_state_dict
from flatzoo.models.tsm import TemporalShift, temporal_shift

RESNET = dict(model_name='tsm_resnet50', backbone='test_resnet', num_frames=4, img_size=32)
MOBILENET = dict(model_name='tsm', backbone='mobilenetv2_035', num_frames=4, img_size=32)
NON_LOCAL = dict(
    model_name='tsm_resnet50_nl', layers=(1, 3, 5, 1), channels=(8, 8, 8, 16), num_frames=3, img_size=64)


class TestTSM(ModelTester):
    cases = {
        'resnet': RESNET,
        'mobilenet_past': dict(MOBILENET, shift='past'),
        'convnext_block': dict(RESNET, model_name='tsm', backbone='test_convnext', shift_place='block'),
        'non_local': NON_LOCAL,
    }
    compiled = ('resnet', 'mobilenet_past')


RESNET50 = dict(backbone='resnet50', layers=(2, 1, 2, 1), channels=(8, 16, 16, 32))
GOLDEN = {
    'tsm_r50_8f': RESNET50,
    'tsm_r50_causal': dict(RESNET50, shift='past'),
    'tsm_r18_block': dict(backbone='resnet18', layers=(1, 2, 1, 1), channels=(16, 16, 32, 32), shift_place='block'),
    'tsm_r50_nonlocal': dict(
        backbone='resnet50', layers=(1, 4, 6, 1), channels=(8, 8, 8, 16), non_local=True),
    'tsm_mnv2_4f': dict(backbone='mobilenetv2_100'),
    'tsm_online_mnv2_6f': dict(backbone='mobilenetv2_100', shift='past'),
}


def official(name: str) -> tuple:
    config, tensors, weights = load_case(name)
    args = {key: config[key] for key in ('num_classes', 'num_frames', 'img_size')} | GOLDEN[name]
    return args, tensors, weights


@pytest.mark.parametrize('name', GOLDEN)
def test_official_code(name):
    """Through `flatzoo convert`, which accounts for every key."""
    args, tensors, weights = official(name)
    conversion = convert_state_dict({'state_dict': {f'module.{key}': w for key, w in weights.items()}}, 'tsm', **args)
    assert not conversion.dropped and not conversion.new and set(conversion.taken) == set(weights)
    model = timm.create_model('tsm', **args).eval()
    model.load_state_dict(conversion.state_dict)
    logits = model(tensors['input'])
    torch.testing.assert_close(logits, tensors['logits'], rtol=0, atol=2e-5)
    with torch.no_grad():
        pooled = model.backbone.forward_head(model.forward_features(tensors['input']), pre_logits=True)
    if 'feat.pooled' in tensors:
        torch.testing.assert_close(pooled, tensors['feat.pooled'], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('name', ['tsm_r50_causal', 'tsm_online_mnv2_6f'])
@torch.no_grad()
def test_stream_is_the_clip(name):
    args, tensors, weights = official(name)
    model = timm.create_model('tsm', **args).eval()
    model.load_state_dict(model.filter_checkpoint(weights))
    logits, state = [], None
    for frame in tensors['input'].unbind(2):
        one, state = model.step(frame, state)
        logits.append(one)
    logits = torch.stack(logits, dim=1)
    torch.testing.assert_close(logits.mean(1), tensors['logits'], rtol=0, atol=2e-5)
    torch.testing.assert_close(logits, tensors.get('frame_logits', logits), rtol=0, atol=2e-5)
    for key, buffer in tensors.items():
        if key.startswith('buffer_last.'):
            torch.testing.assert_close(state[int(key.rpartition('.')[2])], buffer, rtol=0, atol=2e-5)
    assert_close(model(tensors['input']), logits.mean(1))  # a stream leaves nothing behind


@torch.no_grad()
def test_streams_of_bytes_side_by_side_and_exported():
    model = build(dict(MOBILENET, shift='past', img_size=48))
    clip = torch.randint(0, 256, (2, 3, 4, 40, 56), dtype=torch.uint8)
    state, logits = None, []
    for frame in clip.unbind(2):
        one, state = model.step(frame, state)
        logits.append(one)
    assert_close(torch.stack(logits).mean(0), model(clip))

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, frame, state):
            return self.model.step(frame, state)

    _, start = model.step(clip[:, :, 0])
    program = torch.export.export(Step(), (clip[:, :, 1], start)).module()
    assert_close(program(clip[:, :, 1], start)[0], logits[1])


def test_refusals_of_streams():
    frame = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="shift='past'"):
        build(RESNET).step(frame)
    model = build(dict(RESNET, shift='past'))
    _, state = model.step(frame)
    with pytest.raises(ValueError, match='list of 4 tensors, got 1'):
        model.step(frame, state[:1])
    with pytest.raises(ValueError, match='one batch and image size'):
        model.step(frame.expand(2, -1, -1, -1), state)
    for wrong, says in ((frame[0], 'shape'), (frame[:, :1], 'shape'), (frame.long(), 'int64')):
        with pytest.raises(ValueError, match=says):
            model.step(wrong, state)
    model(torch.zeros(1, 3, 4, 32, 32))  # still takes clips


def test_shift():
    x = torch.arange(1., 13).view(3, 4, 1, 1)  # 3 frames of 4 channels
    both, past = (temporal_shift(x, 3, 1, causal).view(3, 4).tolist() for causal in (False, True))
    assert both == [[5, 0, 3, 4], [9, 2, 7, 8], [0, 6, 11, 12]]
    assert past == [[0, 2, 3, 4], [1, 6, 7, 8], [5, 10, 11, 12]]
    assert temporal_shift(x, 1, 1, False).view(3, 4)[:, :2].abs().max() == 0


@torch.no_grad()
def test_past_alone_reaches_a_frame():
    model = perturb(build(dict(RESNET, shift='past', layout='time:1')))
    clip = random_clip(model, 1)
    features = model.forward_features(clip)
    clip[:, :, 2] += 1
    changed = (model.forward_features(clip) - features).abs().amax((1, 2, 3))
    assert (changed[:2] == 0).all() and (changed[2:] > 0).all()


def test_places():
    """ResNet-101 shifts every other block of a stage, MobileNetV2 where it expands and has a shortcut."""
    def places(name, **args):
        model = timm.create_model(name, device='meta', **args)
        return [path.removeprefix('backbone.') for path, m in model.named_modules() if isinstance(m, TemporalShift)]

    assert len(places('tsm_resnet50')) == 16
    found = places('tsm_resnet101')
    assert len(found) == 2 + 2 + 12 + 2 and found[:3] == ['layer1.0.conv1', 'layer1.2.conv1', 'layer2.0.conv1']
    assert len(places('tsm_resnet101', shift_place='block')) == 33
    assert places('tsm_mobilenetv2_100') == [f'blocks.{s}.{b}.conv_pw' for s, b in (
        (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 1), (4, 2), (5, 1), (5, 2))]
    assert 0 < len(places('tsm', backbone='regnetx_002')) <= 13


def test_image_weights_and_other_shifts():
    image = timm.create_model('test_resnet', num_classes=10)
    model = build(dict(RESNET))
    model.load_state_dict(model.filter_checkpoint(image.state_dict()))
    assert torch.equal(model.backbone.layer1[0].conv1.net.weight, image.layer1[0].conv1.weight)
    args, _, weights = official('tsm_r50_8f')
    plain = {key.replace('.net.', '.'): weight for key, weight in weights.items()}  # a network without shifts
    with pytest.raises(RuntimeError, match=r'conv1\.net\.weight'):
        timm.create_model('tsm', **args).filter_checkpoint(plain)
    with pytest.raises(RuntimeError, match=r'layer1\.0\.net\.conv1\.weight'):
        timm.create_model('tsm', **args, shift_place='block').filter_checkpoint(weights)


def test_weights_of_mmaction():
    args, tensors, weights = official('tsm_r50_8f')
    theirs = {}
    for key, tensor in weights.items():
        key = key.replace('base_model.', 'backbone.').replace('new_fc.', 'cls_head.fc_cls.')
        key = key.replace('downsample.0.', 'downsample.conv.').replace('downsample.1.', 'downsample.bn.')
        for i in '123':
            key = key.replace(f'.conv{i}.', f'.conv{i}.conv.').replace(f'.bn{i}.', f'.conv{i}.bn.')
        theirs[key] = tensor
    model = timm.create_model('tsm', **args).eval()
    model.load_state_dict(model.filter_checkpoint({'state_dict': theirs}))
    with torch.no_grad():
        torch.testing.assert_close(model(tensors['input']), tensors['logits'], rtol=0, atol=2e-5)


@pytest.mark.parametrize('args, says', [
    (dict(shift='future'), "shift='future' is none of 'both', 'past'"),
    (dict(shift_place='stage'), "shift_place='stage' is none of"),
    (dict(shift_div=1), 'at least 2'),
    (dict(layout='grid'), "layout='time:1' is the only one"),
    (dict(non_local=True), 'no place for non_local=True'),
    (dict(non_local=True, shift='past'), 'future frames'),
    (dict(backbone='test_vit'), 'no residual blocks .* Accepted are ResNets'),
])
def test_refusals(args, says):
    with pytest.raises(ValueError, match=says):
        timm.create_model(**{**RESNET, **args})


def test_another_number_of_frames():
    model = build(RESNET)
    model.set_input_size(num_frames=6)
    clip = random_clip(model)
    assert_close(model(clip), build(dict(RESNET, num_frames=6))(clip))
    with pytest.raises(ValueError, match='time:1'):
        model.set_input_size(layout='grid')
