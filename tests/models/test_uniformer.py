"""UniFormer: parity with recorded outputs of the authors' code, exact sizes, and timm's contract for image models."""

import copy
import fnmatch
import inspect
import json
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_files import DATA, read_golden
from timm.layers import set_fused_attn, use_fused_attn
from timm.models import GraphExtractNet, save_for_hf
from timm.models._manipulate import group_parameters
from timm.optim import param_groups_layer_decay

from flatzoo.models.record import tag_record
from flatzoo.models.uniformer import AttentionBlock, ConvBlock, UniFormer, checkpoint_filter_fn
from flatzoo.runtime.cost import MultiplyAdds

TAGS = [
    'uniformer_small.in1k', 'uniformer_small_plus.in1k', 'uniformer_small_plus_dim64.untrained',
    'uniformer_base.in1k', 'uniformer_base_ls.untrained',
]
MODELS = [tag.split('.')[0] for tag in TAGS]
TINY = dict(depths=(1, 1, 4, 1), embed_dims=(16, 32, 64, 96), head_dim=32)
# one model of each kind: both stems, layer scale, windows
KINDS = {
    'patch': dict(),
    'conv': dict(conv_stem=True),
    'layer_scale': dict(init_values=0.5),
    'window': dict(attn='window', window_size=(2, 3)),
    'hybrid': dict(attn='hybrid', window_size=2),
}
kinds = pytest.mark.parametrize('kind', KINDS)


def tiny(kind: str = 'patch', **kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model('uniformer_small', **{**TINY, **KINDS[kind], **kwargs}).eval()


def images(*size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, *(size or (64, 96)), generator=torch.Generator().manual_seed(1))


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    """Gives every parameter and running statistic a value that matters."""
    generator = torch.Generator().manual_seed(2)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(noise + 0.5 if tensor.ndim == 1 else (noise - 0.5) * 2 / math.sqrt(tensor[0].numel()))
    return module


@pytest.fixture(params=[True, False], ids=['fused', 'eager'])
def fused(request):
    before = use_fused_attn()
    set_fused_attn(request.param)
    yield request.param
    set_fused_attn(before)


# --- parity with the authors' code ------------------------------------------------------------------------------------


def load_golden(name: str):
    """Returns the recorded tensors, the authors' state dict, and our arguments for their configuration."""
    tensors = read_golden(f'uniformer_{name}')
    config = json.loads((DATA / f'uniformer_{name}.json').read_text())['config']
    state_dict = {k.removeprefix('state_dict.'): v for k, v in tensors.items() if k.startswith('state_dict.')}
    args = dict(
        depths=config.get('depth') or config['layers'],
        embed_dims=config['embed_dim'],
        head_dim=config['head_dim'],
        conv_stem=config.get('conv_stem', False),
        init_values=1e-6 if config.get('layer_scale') else None,
    )
    return tensors, state_dict, args


def load_pretrained(state_dict, args, **kwargs):
    """Creates a model through timm's own path for pretrained weights."""
    overlay = dict(state_dict=dict(state_dict), num_classes=10)
    if args['conv_stem']:
        overlay['first_conv'] = 'stages.0.downsample.0'
    kwargs.setdefault('num_classes', 10)
    return timm.create_model('uniformer_small', pretrained=True, pretrained_cfg_overlay=overlay, **args, **kwargs)


def assert_close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize('name', ['patch', 'convstem_ls'])
def test_parity_eval(name, fused):
    golden, state_dict, args = load_golden(name)
    model = load_pretrained(state_dict, args).eval()
    with torch.no_grad():
        x = golden['input']
        for i, stage in enumerate(model.stages, start=1):
            assert_close(stage.downsample(x), golden[f'feat.patch_embed{i}'], atol=5e-5)
            x = stage(x)
            assert_close(x, golden[f'feat.stage{i}'], atol=5e-5)
        features = model.forward_features(golden['input'])
        assert_close(features, golden['feat.norm'], atol=5e-5)
        assert_close(model.forward_head(features, pre_logits=True), golden['pooled'], atol=2e-5)
        assert_close(model(golden['input']), golden['logits'], atol=2e-5)
        assert_close(model(golden['input_rect']), golden['logits_rect'], atol=2e-5)
        # double precision leaves no room for a wrong epsilon or an approximate GELU
        assert_close(model.double()(golden['input'].double()), golden['logits_fp64'], atol=1e-12)


@pytest.mark.parametrize('name', ['patch', 'convstem_ls'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_parity_train(name, dtype, fused):
    golden, state_dict, args = load_golden(name)
    model = load_pretrained(state_dict, args).to(dtype).train()
    norm = model.stages[0].blocks[0].norm1
    seen = []
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    image = golden['input'].to(dtype, copy=True).requires_grad_()
    logits = model(image)
    logits.square().sum().backward()

    # gradients reach 7, where single precision is off by 2e-5 on either side; double precision needs no allowance
    rtol = 1e-5 if dtype == torch.float32 else 0
    stem = model.stages[0].downsample[0] if args['conv_stem'] else model.stages[0].downsample.proj
    for actual, key in (
            (logits, 'logits'),
            (image.grad, 'input_grad'),
            (stem.weight.grad, 'grad.patch_embed1_weight'),
            (model.stages[2].blocks[0].attn.qkv.weight.grad, 'grad.blocks3.0.attn.qkv.weight'),
    ):
        torch.testing.assert_close(actual, golden[f'train.{key}'].to(dtype), rtol=rtol, atol=2e-5)

    # by definition: the file's 'running_mean_after' was taken before the update and equals the mean in its state dict
    before = state_dict['blocks1.0.norm1.running_mean'].to(dtype)
    assert_close(norm.running_mean, 0.9 * before + 0.1 * seen[0].mean((0, 2, 3)), atol=1e-6)


def test_parity_dense_hybrid(fused):
    golden, state_dict, args = load_golden('det_hybrid')
    model = load_pretrained(state_dict, args, num_classes=0, features_only=True, attn='hybrid', window_size=4).eval()
    with torch.no_grad():
        features = model(golden['input'])
    assert features[2].shape[-2:] == (6, 10)  # windows of 4 have to be padded
    for i, x in enumerate(features, start=1):
        weight, bias = state_dict[f'norm{i}.weight'], state_dict[f'norm{i}.bias']
        x = F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps=1e-6).permute(0, 3, 1, 2)
        assert_close(x, golden[f'feat.out{i}'], atol=5e-5)


def reference_conv_block(p, x, eps=1e-5, approximate='none'):
    def conv(name, x, padding=0, groups=1):
        return F.conv2d(x, p[f'{name}.weight'], p[f'{name}.bias'], padding=padding, groups=groups)

    def norm(name, x):
        scale = p[f'{name}.weight'] / torch.sqrt(p[f'{name}.running_var'] + eps)
        return (x - p[f'{name}.running_mean'].view(-1, 1, 1)) * scale.view(-1, 1, 1) + p[f'{name}.bias'].view(-1, 1, 1)

    dim = x.shape[1]
    x = x + conv('pos_embed', x, 1, dim)
    x = x + conv('conv2', conv('attn', conv('conv1', norm('norm1', x)), 2, dim))
    return x + conv('mlp.fc2', F.gelu(conv('mlp.fc1', norm('norm2', x)), approximate=approximate))


def reference_attention_block(p, x, head_dim, eps=1e-6, approximate='none'):
    def norm(name, x):
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + eps)
        return x * p[f'{name}.weight'] + p[f'{name}.bias']

    def linear(name, x):
        return x @ p[f'{name}.weight'].T + p[f'{name}.bias']

    B, C, H, W = x.shape
    x = x + F.conv2d(x, p['pos_embed.weight'], p['pos_embed.bias'], padding=1, groups=C)
    x = x.flatten(2).transpose(1, 2)
    q, k, v = linear('attn.qkv', norm('norm1', x)).split(C, dim=-1)
    heads = []
    for i in range(0, C, head_dim):
        head = slice(i, i + head_dim)
        affinity = (q[..., head] @ k[..., head].transpose(1, 2) / math.sqrt(head_dim)).softmax(-1)
        heads.append(affinity @ v[..., head])
    x = x + p['ls1.gamma'] * linear('attn.proj', torch.cat(heads, -1))
    hidden = F.gelu(linear('mlp.fc1', norm('norm2', x)), approximate=approximate)
    x = x + p['ls2.gamma'] * linear('mlp.fc2', hidden)
    return x.transpose(1, 2).reshape(B, C, H, W)


def test_blocks_match_their_definition(fused):
    """Against the formulas in double precision, on maps so faint that the epsilons decide."""
    x = torch.randn(2, 32, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e-3

    block = randomize(ConvBlock(32, dtype=torch.float64)).eval()
    block.norm1.running_var.mul_(1e-5)
    params = block.state_dict()
    with torch.no_grad():
        assert_close(block(x), reference_conv_block(params, x), atol=1e-12)
        for wrong in (dict(eps=1e-6), dict(approximate='tanh')):
            assert (block(x) - reference_conv_block(params, x, **wrong)).abs().max() > 1e-6

    block = randomize(AttentionBlock(32, head_dim=8, init_values=1., dtype=torch.float64)).eval()
    block.pos_embed.bias.data.zero_()
    params = block.state_dict()
    with torch.no_grad():
        assert_close(block(x), reference_attention_block(params, x, 8), atol=1e-12)
        for wrong in (dict(eps=1e-5), dict(approximate='tanh')):
            assert (block(x) - reference_attention_block(params, x, 8, **wrong)).abs().max() > 1e-6


def test_downsample_norm_epsilon():
    downsample = tiny(dtype=torch.float64).stages[1].downsample
    x = torch.randn(1, 16, 4, 6, dtype=torch.float64) * 1e-3
    with torch.no_grad():
        tokens = F.conv2d(x, downsample.proj.weight, stride=2).permute(0, 2, 3, 1)
        downsample.proj.bias.zero_()
        actual = downsample(x).permute(0, 2, 3, 1)
    assert_close(actual, F.layer_norm(tokens, (32,), eps=1e-5), atol=1e-12)
    assert (actual - F.layer_norm(tokens, (32,), eps=1e-6)).abs().max() > 1e-2


def test_dropout_and_drop_path_rates():
    model = tiny(drop_path_rate=0.6, drop_rate=0.1, proj_drop_rate=0.2, attn_drop_rate=0.3)
    blocks = [block for stage in model.stages for block in stage.blocks]
    rates = [getattr(block.drop_path1, 'drop_prob', 0.) for block in blocks]
    assert rates == pytest.approx([0., 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert rates == [getattr(block.drop_path2, 'drop_prob', 0.) for block in blocks]
    assert all(block.mlp.drop1.p == block.mlp.drop2.p == 0.2 for block in blocks)
    assert all((block.attn.attn_drop.p, block.attn.proj_drop.p) == (0.3, 0.2) for block in blocks[2:])
    assert model.head.drop.p == 0.1


def test_position_encoding_is_never_dropped():
    block = randomize(AttentionBlock(32, head_dim=16, drop_path=1 - 1e-9)).train()
    x = torch.randn(2, 32, 4, 4)
    assert_close(block(x), x + block.pos_embed(x), atol=0)


def test_fused_attention_flag(fused, monkeypatch):
    calls = []
    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(F, 'scaled_dot_product_attention', lambda *a, **k: (calls.append(1), attention(*a, **k))[1])
    with torch.no_grad():
        tiny()(images())
    assert len(calls) == (5 if fused else 0)


# --- size and cost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name, params, giga_macs', [
    ('uniformer_small', 21_545_256, 3.63),
    ('uniformer_small_plus', 24_032_552, 4.20),
    ('uniformer_small_plus_dim64', 24_032_552, 4.20),
    ('uniformer_base', 49_776_552, 8.25),
    ('uniformer_base_ls', 49_796_520, 8.25),
])
def test_parameters_and_multiply_adds(name, params, giga_macs):
    model = timm.create_model(name, device='meta').eval()
    assert sum(p.numel() for p in model.parameters()) == params
    assert round(count_giga_macs(model, 224), 2) == giga_macs


@pytest.mark.parametrize('attn, at_448, at_896', [
    ('window', 14.6, 59.9),
    ('hybrid', 15.2, 71.7),
    ('global', 17.0, 107.1),
])
def test_multiply_adds_of_attention_modes(attn, at_448, at_896, fused):
    model = timm.create_model('uniformer_small', attn=attn, window_size=14, device='meta').eval()
    assert round(count_giga_macs(model, 448), 1) == at_448
    assert round(count_giga_macs(model, 896), 1) == at_896


def count_giga_macs(model: torch.nn.Module, size: int) -> float:
    with MultiplyAdds() as counter, torch.no_grad():
        model(torch.empty(1, 3, size, size, device='meta'))
    return counter.macs / 1e9


def test_head_dims():
    heads = {name: [b[0].attn.num_heads for b in blocks] for name, blocks in (
        (name, [stage.blocks for stage in timm.create_model(name, device='meta').stages[2:]]) for name in MODELS)}
    assert heads.pop('uniformer_small_plus') == [10, 16]
    assert all(counts == [5, 8] for counts in heads.values())


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('attn, stage3', [
    ('global', [None] * 9),
    ('window', [(2, 3)] * 9),
    ('hybrid', [(2, 3)] * 3 + [None] + [(2, 3)] * 3 + [None] + [(2, 3)]),
])
def test_window_schedule(attn, stage3):
    model = timm.create_model('uniformer_small_plus', attn=attn, window_size=(2, 3), device='meta')
    assert [block.window_size for block in model.stages[2].blocks] == stage3
    assert [block.window_size for block in model.stages[3].blocks] == [None] * 3


def test_windows_are_crops(fused):
    """Attention in windows is attention on each window alone, and on a window of the whole map it is global."""
    block = randomize(AttentionBlock(32, head_dim=16)).eval()
    x = torch.randn(2, 4, 9, 32)
    with torch.no_grad():
        whole = block.attend(x)
        crops = torch.cat([torch.cat([block.attend(col) for col in row.split(3, 2)], 2) for row in x.split(2, 1)], 1)
        block.window_size = (4, 9)
        assert_close(block.attend(x), whole, atol=1e-6)
        block.window_size = (2, 3)
        assert_close(block.attend(x), crops, atol=1e-6)
    assert (crops - whole).abs().max() > 1e-3


def test_padding_zeros_take_part_as_keys():
    block = randomize(AttentionBlock(32, head_dim=16, window_size=(4, 4))).eval()
    x = torch.randn(1, 3, 2, 32)
    with torch.no_grad():
        padded = F.pad(x, (0, 0, 0, 2, 0, 1))
        assert_close(block.attend(x), block.attend(padded)[:, :3, :2], atol=1e-6)
        block.window_size = None
        assert (block.attend(x) - block.attend(padded)[:, :3, :2]).abs().max() > 1e-3


def test_attention_modes_share_weights():
    x, models = images(), {attn: tiny(attn=attn, window_size=2) for attn in ('global', 'window', 'hybrid')}
    for model in models.values():
        model.load_state_dict(models['global'].state_dict())
    with torch.no_grad():
        features = {attn: model.forward_features(x) for attn, model in models.items()}
    assert (features['global'] - features['window']).abs().max() > 1e-4
    assert (features['global'] - features['hybrid']).abs().max() > 1e-4
    assert (features['window'] - features['hybrid']).abs().max() > 1e-4


def test_set_input_size():
    model, x = tiny('hybrid'), images()
    weights = copy.deepcopy(model.state_dict())
    model.set_input_size(img_size=448)
    assert model.img_size == (448, 448) and model.window_size == (2, 2)
    model.set_input_size(img_size=(64, 96), window_size=(4, 2))
    assert model.stages[2].blocks[0].window_size == (4, 2) and model.stages[2].blocks[3].window_size is None
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    fresh = tiny('hybrid', img_size=(64, 96), window_size=(4, 2))
    with torch.no_grad():
        assert_close(model(x), fresh(x), atol=0)


@pytest.mark.parametrize('kwargs, message', [
    (dict(attn='local'), "'local'.*global, window, hybrid"),
    (dict(window_size=0), 'window_size=0 must be a positive side'),
    (dict(window_size=(7, 7, 7)), 'must be a positive side or'),
    (dict(window_size=3.5), 'must be a positive side or'),
    (dict(head_dim=48), r'head_dim=48 must divide .*\(64, 96\)'),
])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('wrapper', [None, 'model', 'model_state', 'state_dict'])
@pytest.mark.parametrize('layout', ['official', 'ours'])
def test_checkpoint_layouts(wrapper, layout):
    golden, official, args = load_golden('patch')
    state_dict = official if layout == 'official' else load_pretrained(official, args).state_dict()
    model = load_pretrained({wrapper: state_dict} if wrapper else state_dict, args).eval()
    with torch.no_grad():
        assert_close(model(golden['input']), golden['logits'], atol=2e-5)


def test_checkpoint_accounts_for_every_key():
    for name in ('patch', 'convstem_ls'):
        _, official, args = load_golden(name)
        model = UniFormer(num_classes=10, device='meta', **args)
        converted = checkpoint_filter_fn(official, model)
        assert converted.keys() == model.state_dict().keys() and len(converted) == len(official)


def test_checkpoint_refusals():
    _, official, args = load_golden('convstem_ls')
    model = UniFormer(num_classes=10, device='meta', **args)
    for name in ('aux_head.weight', 'blocks1.0.gamma_1'):
        with pytest.raises(ValueError, match='token labelling'):
            checkpoint_filter_fn({**official, name: torch.zeros(1)}, model)
    video = {'model_state': {'patch_embed1.proj.weight': torch.zeros(16, 3, 3, 4, 4)}}
    with pytest.raises(ValueError, match='3D'):
        checkpoint_filter_fn(video, model)
    for wrong in ({'epoch': 3, **official}, {'model': {'epoch': 3, **official}}, {'epoch': 3, 'weights': official}):
        with pytest.raises(ValueError, match="not a state dict: 'epoch' is a int, not a tensor.*under 'model'"):
            checkpoint_filter_fn(wrong, model)
    with pytest.raises(ValueError, match="'model' is a str, not a tensor"):
        checkpoint_filter_fn({'model': 'uniformer_small', **official}, model)


@pytest.mark.parametrize('name', ['patch', 'convstem_ls'])
def test_checkpoint_adapts_channels_and_classes(name):
    golden, official, args = load_golden(name)
    model = load_pretrained(official, args, num_classes=5, in_chans=1).eval()
    gray = golden['input'][:, :1]
    full = load_pretrained(official, args, num_classes=0).eval()
    with torch.no_grad():
        assert model(gray).shape == (2, 5)
        pooled = model.forward_head(model.forward_features(gray), pre_logits=True)
        assert_close(pooled, full(gray.expand(-1, 3, -1, -1)), atol=5e-5)


@pytest.mark.parametrize('kind', ['conv', 'hybrid'])
def test_save_and_load(kind, tmp_path):
    torch.manual_seed(0)
    name = 'uniformer_small_plus' if kind == 'conv' else 'uniformer_base_ls'
    model = timm.create_model(name, num_classes=7, **TINY, **KINDS[kind]).eval()
    randomize(model).set_input_size(img_size=(64, 96), window_size=(2, 3))
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert (loaded.attn_mode, loaded.window_size, loaded.img_size) == (model.attn_mode, (2, 3), (64, 96))
    with torch.no_grad():
        assert_close(loaded(images()), model(images()), atol=0)


# --- timm's contract for image models ---------------------------------------------------------------------------------


def test_registration():
    assert set(timm.list_models('uniformer*')) >= set(MODELS)
    assert timm.list_models(module='uniformer') == sorted(MODELS)
    assert timm.list_pretrained('uniformer*') == [tag for tag in sorted(TAGS) if tag.endswith('.in1k')]
    for tag in TAGS:
        cfg = timm.get_pretrained_cfg(tag)
        assert cfg.license == 'mit' and cfg.origin_url and cfg.crop_pct == 0.875 and cfg.interpolation == 'bicubic'
        assert timm.get_pretrained_cfg(tag.split('.')[0]).tag == tag.split('.')[1]
        if cfg.has_weights:
            assert cfg.hf_hub_id == 'Sense-X/uniformer_image'
            assert cfg.hf_hub_filename == f'{cfg.architecture}_in1k.pth'
            assert len(bytes.fromhex(tag_record(tag).sha256)) == 32


@pytest.mark.parametrize('tag', TAGS)
def test_default_cfg(tag):
    """timm's test of configurations, on the meta device at full size."""
    model = timm.create_model(tag, device='meta', dtype=torch.float32).eval()
    cfg = model.default_cfg
    assert all(t.device.type == 'meta' for t in model.state_dict().values())
    assert model.num_classes == cfg['num_classes'] == 1000 and model.in_chans == cfg['input_size'][0]
    assert {f'{cfg["classifier"]}.weight', f'{cfg["first_conv"]}.weight'} <= model.state_dict().keys()

    x = torch.empty(1, *cfg['input_size'], device='meta')
    features = model.forward_features(x)
    assert features.shape == (1, model.num_features, *cfg['pool_size'])
    pre_logits = model.forward_head(features, pre_logits=True)
    assert pre_logits.shape == (1, model.head_hidden_size)
    assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    model.float()

    model.reset_classifier(0)
    assert model.num_classes == 0 and model.forward_head(features).shape == pre_logits.shape
    model.reset_classifier(0, '')
    assert model.forward_head(features).shape == features.shape
    model = timm.create_model(tag, num_classes=0, device='meta').eval()
    assert model.forward_head(features).shape == pre_logits.shape
    model = timm.create_model(tag, num_classes=0, global_pool='', device='meta').eval()
    assert model.forward_head(features).shape == features.shape


def test_api_contract():
    with pytest.raises(TypeError):
        tiny(not_a_model_arg=1)
    model = tiny()
    assert inspect.signature(model.reset_classifier).parameters['global_pool'].default is None
    names = [name for name, _ in model.named_parameters()]
    assert all(any(fnmatch.fnmatch(name, pattern) for name in names) for pattern in model.no_weight_decay())
    for coarse, count in ((False, 9), (True, 6)):  # stem, 7 blocks or 4 stages, head
        groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
        assert set(groups) == set(names)
        assert sorted(set(groups.values())) == list(range(count))
        assert groups['stages.0.downsample.proj.weight'] == 0 and groups['head.fc.weight'] == count - 1
        assert groups['stages.1.downsample.norm.weight'] == groups['stages.1.blocks.0.norm1.weight'] == 2
        assert groups['norm.weight'] == groups['stages.3.blocks.0.mlp.fc2.weight'] == count - 2


def test_layer_decay():
    groups = param_groups_layer_decay(timm.create_model('uniformer_small', device='meta'), layer_decay=0.75)
    assert len(groups) == 40  # stem, 18 blocks and head, with and without weight decay
    assert groups[0]['lr_scale'] == pytest.approx(0.75 ** 19) and groups[-1]['lr_scale'] == 1.


@kinds
def test_forward_and_gradient_checkpointing(kind):
    model, x = tiny(kind), images()

    def run():
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.shape), t)[1], lambda t: t):
            logits = model(x)
        model.zero_grad()
        logits.square().sum().backward()
        return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}, len(saved)

    logits, grads, num_saved = run()
    assert logits.shape == (2, 1000) and logits.isfinite().all()
    model.set_grad_checkpointing()
    logits_ckpt, grads_ckpt, num_saved_ckpt = run()
    assert num_saved_ckpt < num_saved / 4
    assert_close(logits_ckpt, logits, atol=1e-6)
    torch.testing.assert_close(grads_ckpt, grads, rtol=1e-4, atol=1e-6)
    model.set_grad_checkpointing(False)
    assert run()[2] == num_saved


@kinds
def test_backward(kind):
    model = tiny(kind, num_classes=42).train()
    logits = model(images())
    logits.mean().backward()
    assert logits.shape == (2, 42) and logits.isfinite().all()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_reset_classifier_keeps_device_dtype_mode_and_pooling():
    model = tiny(global_pool='max').train().to(device='meta', dtype=torch.float64)
    model.reset_classifier(0)
    model.reset_classifier(2)
    assert model.get_classifier().weight.device.type == 'meta'
    assert model.get_classifier().weight.dtype == torch.float64
    assert all(module.training for module in model.modules())
    assert model.head.global_pool.pool_type == 'max'


def test_frozen_stays_frozen():
    model = tiny().requires_grad_(False)
    model.reset_classifier(0)
    model.reset_classifier(0, '')
    model.set_input_size(img_size=(448, 448))
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize('pool, width', [('avg', 96), ('max', 96), ('avgmax', 96), ('catavgmax', 192)])
def test_global_pool(pool, width):
    model = tiny(global_pool=pool, num_classes=3)
    with torch.no_grad():
        features = model.forward_features(images())
        pooled = model.forward_head(features, pre_logits=True)
        assert model(images()).shape == (2, 3)
    assert pooled.shape == (2, width) and model.head_hidden_size == width
    mean, maximum = features.mean((2, 3)), features.amax((2, 3))
    expected = dict(avg=mean, max=maximum, avgmax=(mean + maximum) / 2, catavgmax=torch.cat([mean, maximum], 1))
    assert_close(pooled, expected[pool], atol=1e-6)


@pytest.mark.parametrize('kwargs', [dict(in_chans=1), dict(in_chans=6), dict(dtype=torch.float64)])
def test_factory_arguments(kwargs):
    model = tiny(**kwargs)
    dtype = kwargs.get('dtype', torch.float32)
    floats = [t for t in model.state_dict().values() if t.is_floating_point()]
    assert all(t.dtype == dtype for t in floats)
    x = torch.randn(1, kwargs.get('in_chans', 3), 32, 32, dtype=dtype)
    assert model(x).dtype == dtype


@pytest.mark.parametrize('kind', ['patch', 'conv', 'hybrid'])
@pytest.mark.parametrize('size', [(32, 32), (50, 70), (33, 97), (1, 40)])
def test_any_input_size(kind, size):
    model = tiny(kind)
    with torch.no_grad():
        final, features = model.forward_intermediates(images(*size))
        assert model(images(*size)).isfinite().all()
    shapes = [(math.ceil(size[0] / r), math.ceil(size[1] / r)) for r in (4, 8, 16, 32)]
    assert [tuple(f.shape[-2:]) for f in features] == shapes
    assert tuple(final.shape[-2:]) == shapes[-1]


def test_padding_is_zeros_on_the_right_and_bottom():
    model, x = tiny(), images(50, 70)
    with torch.no_grad():
        assert_close(model.stages[0](x), model.stages[0](F.pad(x, (0, 2, 0, 2))), atol=0)


@kinds
@pytest.mark.parametrize('feature_cls', ['list', 'dict', 'hook', 'fx', 'getter'])
def test_features_only(kind, feature_cls):
    model = tiny(kind)
    wrapped = tiny(kind, features_only=True, feature_cls=feature_cls)
    x = images()
    with torch.no_grad():
        expected = model.forward_intermediates(x, intermediates_only=True)
        features = wrapped(x)
    features = list(features.values()) if isinstance(features, dict) else features
    assert wrapped.feature_info.channels() == [f.shape[1] for f in features] == [16, 32, 64, 96]
    assert wrapped.feature_info.reduction() == [64 // f.shape[2] for f in features] == [4, 8, 16, 32]
    for feature, tap in zip(features, expected, strict=True):
        assert_close(feature, tap, atol=1e-5)


@pytest.mark.parametrize('feature_cls', ['list', 'getter'])
def test_features_only_out_indices(feature_cls):
    wrapped = tiny(features_only=True, feature_cls=feature_cls, out_indices=(1, 2))
    assert [f.shape[1:] for f in wrapped(images())] == [(32, 8, 12), (64, 4, 6)]
    assert not [name for name, _ in wrapped.named_parameters() if 'stages.3' in name or 'stages_3' in name]


@kinds
def test_forward_intermediates(kind):
    model, x = tiny(kind), images()
    with torch.no_grad():
        final, taps = model.forward_intermediates(x)
        assert_close(final, model.forward_features(x), atol=0)
        assert_close(model.forward_intermediates(x, norm=True)[1][-1], final, atol=0)
        assert_close(model.norm(taps[-1]), final, atol=0)
        last_two = model.forward_intermediates(x, indices=2, intermediates_only=True)
        assert len(last_two) == 2 and torch.equal(last_two[0], taps[2])
        for i in range(4):
            stopped, selected = model.forward_intermediates(x, indices=[i], stop_early=True)
            assert torch.equal(selected[0], taps[i])
            assert torch.equal(stopped, final if i == 3 else taps[i])
    with pytest.raises(AssertionError, match='NCHW'):
        model.forward_intermediates(x, output_fmt='NHWC')


@pytest.mark.parametrize('index', range(4))
def test_prune_intermediate_layers(index):
    model, x = tiny('hybrid'), images()
    with torch.no_grad():
        expected, taps = model(x), model.forward_intermediates(x, intermediates_only=True)
        pruned = copy.deepcopy(model)
        assert pruned.prune_intermediate_layers([3], prune_head=False) == [3]
        assert_close(pruned(x), expected, atol=0)

    pruned = copy.deepcopy(model)
    indices = pruned.prune_intermediate_layers([index], prune_norm=True)
    pruned.set_input_size(window_size=2)
    assert indices == [index] and pruned.num_features == pruned.head_hidden_size == taps[index].shape[1]
    selected = pruned.forward_intermediates(x, indices=indices, intermediates_only=True)
    features = pruned.forward_features(x)
    assert_close(selected[0], taps[index], atol=0)
    assert_close(features, taps[index], atol=0)
    features.sum().backward()
    assert [name for name, p in pruned.named_parameters() if p.grad is None] == []
    pruned.reset_classifier(0, 'avg')
    assert_close(pruned(x), features.mean((2, 3)), atol=1e-6)


@kinds
def test_torchscript(kind, fused):
    model, x = tiny(kind), images(50, 70)
    getter = tiny(kind, features_only=True, feature_cls='getter', out_indices=(1, 2))
    with torch.no_grad():
        scripted = torch.jit.script(model)
        assert_close(scripted(x), model(x), atol=1e-6)
        assert_close(scripted(images()), model(images()), atol=1e-6)
        torch.testing.assert_close(torch.jit.script(getter)(x), getter(x))


@kinds
def test_fx(kind):
    model, x = tiny(kind, num_classes=42), images()
    graph = GraphExtractNet(model, {'head.fc': 'logits'})
    logits = graph(x)
    assert_close(logits, model(x), atol=1e-5)
    logits.mean().backward()
    assert [name for name, p in graph.named_parameters() if p.grad is None] == []


def test_channels_last_and_autocast():
    model, x = tiny('hybrid'), images()
    with torch.no_grad():
        expected = model(x)
        last = model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
        assert_close(last, expected, atol=1e-5)
        with torch.autocast('cpu', torch.bfloat16):
            mixed = model(x)
    assert mixed.dtype == torch.bfloat16
    assert F.cosine_similarity(mixed.float(), expected).min() > 0.99
