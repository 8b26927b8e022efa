"""Probes: the contract, official logits, what their order of frames is worth, and files of the probe alone."""
import pytest
import timm
import torch
from base import ModelTester, assert_close, build, perturb, random_clip
from golden import load_case

from flatzoo.models.probe import AttentivePooler

VIT = dict(model_name='probe', backbone='test_vit', num_frames=3, img_size=32, probe_depth=2, probe_heads=4)
CNN = dict(model_name='probe', backbone='test_resnet', num_frames=3, img_size=32)
ATTENTIVE, STEP, LINEAR = VIT, dict(CNN, probe='step'), dict(CNN, probe='linear')


class TestProbe(ModelTester):
    cases = {'attentive': VIT, 'sincos': dict(CNN, positions='sincos', probe_depth=1), 'step': STEP, 'linear': LINEAR}
    compiled = ('attentive', 'step')

    @torch.no_grad()
    def test_forward(self, args):
        """As of every model, but that some probes do not see the order of the frames."""
        model = perturb(build(args))
        clip = random_clip(model)
        logits = model(clip)
        assert logits.shape == (2, 10) and logits.isfinite().all()
        assert_close(model(clip[1:]), logits[1:])
        change = (model(clip.flip(2)) - logits).abs().max()
        assert (change > 1e-4) if args.get('probe') == 'step' or args.get('positions') else (change < 1e-4)
        with pytest.raises(ValueError, match=rf'\(B, C, T={model.num_frames}, H, W\)'):
            model(clip[:, :, 1:])

    def test_fx(self, args):
        if args is VIT:
            pytest.skip('exempt: fx wraps what timm keeps from it only in networks that are called as a whole')
        super().test_fx(args)


def official(name, **args):
    config, tensors, weights = load_case(name)
    model = timm.create_model(
        'probe', backbone=config['timm_backbone'], **config['backbone_args'], num_frames=config['num_frames'],
        num_classes=config['num_classes'], probe_heads=config['num_heads'], probe_depth=config['depth'], **args)
    model.load_state_dict(model.filter_checkpoint(weights))
    return model.eval(), tensors


def test_official_pooler():
    _, tensors, weights = load_case('probe_tokens_d1')
    pooler = AttentivePooler(64, 4, depth=1)
    pooler.load_state_dict({k.removeprefix('pooler.'): w for k, w in weights.items() if k.startswith('pooler.')})
    logits = pooler(tensors['tokens']) @ weights['linear.weight'].T + weights['linear.bias']
    torch.testing.assert_close(logits, tensors['logits'], rtol=0, atol=4e-6)


@torch.no_grad()
@pytest.mark.parametrize('name, args', [
    ('probe_vit_d4', dict(class_token=True)), ('probe_vit_pos', dict(positions='sincos'))])
def test_official_code(name, args):
    model, tensors = official(name, **args)
    logits = model.forward_head(model.forward_features(tensors['input']), frame_indices=tensors.get('frame_indices'))
    torch.testing.assert_close(logits, tensors['logits'], rtol=0, atol=4e-6)


@torch.no_grad()
def test_tokens_are_a_set():
    """Any order, and each token twice: attention halves its weights."""
    pooler = AttentivePooler(24, 3, depth=3)
    x = torch.randn(2, 7, 24)
    for same in (x[:, torch.randperm(7)], x.repeat(1, 2, 1)):
        assert_close(pooler(same), pooler(x))


def test_sizes():
    """Parameters as the papers count them: 12 D^2 per block of the probe, a third of it for STEP."""
    def trained(**args):
        model = timm.create_model('probe_dinov2_b', device='meta', **args)
        model.freeze_backbone()
        return sum(p.numel() for p in model.parameters() if p.requires_grad)

    assert trained() == 28_069_264 and trained(probe_depth=1) == 6_805_648
    dim, frames, classes = 768, 8, 400
    assert trained(probe='step') == 4 * dim**2 + 4 * dim + frames * dim + dim + 2 * dim + classes * (dim + 1)
    assert trained(probe='linear') == classes * (dim + 1)


@torch.no_grad()
def test_step_knows_frames_and_not_patches():
    model = perturb(build(STEP)).double()
    x = torch.randn(2, 3, 5, 64, dtype=torch.float64)
    pooler = model.pooler = type(model.pooler)(64, 3, 4).double()
    y = pooler(x)
    torch.testing.assert_close(pooler(x[:, :, torch.randperm(5)]), y)
    order = torch.tensor([1, 0, 2])
    assert (pooler(x[:, order]) - y).abs().max() > 1e-6
    embed = pooler.frame_embed.data.clone()
    pooler.frame_embed.data = embed[order]
    torch.testing.assert_close(pooler(x[:, order]), y)
    pooler.frame_embed.data = embed[:1].expand(3, -1)
    torch.testing.assert_close(pooler(x[:, order]), pooler(x))


def test_step_tells_a_clip_from_its_reversal():
    """On frozen features, where the probe without positions cannot."""
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 4).view(1, 4, 1, 1, 1).expand(64, 4, 1, 1, 16) + 0.1 * torch.randn(64, 4, 1, 1, 16)
    x = torch.cat([ramp, ramp.flip(1)]).squeeze(2)
    labels = torch.arange(128) // 64
    accuracy = {}
    for frames in (True, False):
        step = build(dict(STEP, num_frames=4)).pooler.__class__(16, 4, 2)
        if not frames:
            torch.nn.init.zeros_(step.frame_embed).requires_grad_(False)
        head = torch.nn.Linear(16, 2)
        optimizer = torch.optim.AdamW([*step.parameters(), *head.parameters()], 1e-2)
        for _ in range(100):
            loss = torch.nn.functional.cross_entropy(head(step(x)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy[frames] = (head(step(x)).argmax(1) == labels).float().mean()
    assert accuracy[True] > 0.95 and accuracy[False] == 0.5


@torch.no_grad()
@pytest.mark.parametrize('args', [ATTENTIVE, STEP, LINEAR], ids=['attentive', 'step', 'linear'])
def test_files_of_the_probe(args, tmp_path):
    model = build(args)
    model.freeze_backbone()
    assert {name.partition('.')[0] for name, p in model.named_parameters() if p.requires_grad} <= {'pooler', 'head'}
    perturb(model.pooler), perturb(model.head)
    model.save_adapters(tmp_path / 'mine.safetensors')
    other = build(args)
    other.load_adapters(tmp_path / 'mine.safetensors')
    clip = random_clip(model)
    assert torch.equal(other(clip), model(clip))
    with pytest.raises(ValueError, match='built with|has the shape'):
        build(dict(args, probe='attentive', probe_depth=3)).load_adapters(tmp_path / 'mine.safetensors')


def test_image_weights():
    image = timm.create_model('test_vit', num_classes=10, img_size=32)
    model = build(VIT)
    weights = model.filter_checkpoint(image.state_dict())
    assert set(weights) == {name for name in model.state_dict() if name.startswith('backbone.')}
    with pytest.raises(RuntimeError, match='probe without its backbone'):
        model.filter_checkpoint({name: w for name, w in model.state_dict().items() if name.startswith('pooler.')})


@pytest.mark.parametrize('args, says', [
    (dict(probe='mlp'), "none of 'attentive', 'step', 'linear'"),
    (dict(probe_heads=7), 'probe_heads=7 does not divide the 64 channels: .*4'),
    (dict(probe_depth=0), 'probe_depth=0'),
    (dict(positions='learned'), "positions='learned'"),
    (dict(probe='step', positions='sincos'), "for probe='attentive'"),
    (dict(layout='grid'), "layout='time:1' is the only one"),
    (dict(model_name='probe_dinov2_b'), "use 'probe'"),
])
def test_refusals(args, says):
    with pytest.raises(ValueError, match=says):
        build({**VIT, **args})


def test_another_number_of_frames():
    model = build(VIT)
    model.set_input_size(num_frames=5)
    assert model(random_clip(model)).shape == (2, 10)
    with pytest.raises(ValueError, match='num_frames=5'):
        build(STEP).set_input_size(num_frames=5)
    model = build(dict(VIT, positions='sincos'))
    with pytest.raises(ValueError, match='0 to 127'):
        model.forward_head(model.forward_features(random_clip(model)), frame_indices=torch.tensor([0, 1, 128]))
