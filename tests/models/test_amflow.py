"""AM Flow: timm's contract on small transformers, the method's own properties, freezing, adapter files."""
import copy
import json
import logging

import pytest
import safetensors.torch
import timm
import torch
from amflow_cases import EVA, HIERA, HYPER, SIGLIP, VIT, WIDTHS
from base import NUM_CLASSES, AdapterTester, ConfigTester, assert_close, build, grad_names, perturb, random_clip
from safetensors import safe_open
from timm.models import group_parameters, save_for_hf
from timm.optim import create_optimizer_v2
from torch import nn
from torch.overrides import TorchFunctionMode

import flatzoo
from flatzoo.data.protocol import EvalProtocol
from flatzoo.layers.attention_flow import attention_map_flow
from flatzoo.models.amflow import AMFlow, amflow_from_adapters
from flatzoo.weights.adapter_file import weight_digest


class TestAMFlow(AdapterTester):
    cases = {
        'vit': VIT, 'eva_vanilla_lstm': EVA, 'siglip_serial_transformer': SIGLIP, 'hyper': HYPER, 'hiera': HIERA,
        'no_flow': dict(VIT, flow='none'),
    }
    compiled = ('vit', 'eva_vanilla_lstm')

    @torch.no_grad()
    def test_forward_is_features_and_head(self, args):
        """The head scores the last frame; `forward` fuses in the temporal units, here silenced."""
        model = perturb(build(args))
        clip = random_clip(model)
        features = model.forward_features(clip)
        assert features.shape[:2] == (2, model.num_frames)
        last = model.forward_head(features)
        assert_close(last, model.forward_head(features[:, -1:]))
        nn.init.zeros_(model.side_head.weight)
        nn.init.zeros_(model.side_head.bias)
        count = 2 * len(model.am_blocks) + 1
        weight = 1 / count if model.fusion.weight is None else model.fusion.weight[-1]
        assert_close(model(clip), weight * last)


class TestAMFlowConfigs(ConfigTester):
    names = [  # the others differ from these in nothing but widths
        name if name in (
            'amflow_dinov2_s_tcn_lite', 'amflow_dinov2_b_tcn', 'amflow_dinov2_b_smarthome', 'amflow_clip_b_transformer',
        ) else pytest.param(name, marks=pytest.mark.slow)
        for name in flatzoo.list_models('amflow*')]

    def of_images(self, features):
        return features.flatten(0, 1)


def test_entry_points():
    names = [f'amflow_{backbone}_{unit}{size}' for backbone in ('dinov2_s', 'dinov2_b', 'dinov2_l', 'clip_b')
             for unit in ('tcn', 'lstm', 'transformer') for size in ('', '_lite')]
    assert flatzoo.list_models('amflow*') == sorted([*names, 'amflow_dinov2_b_smarthome'])
    for name in names:
        assert timm.model_entrypoint(name).__doc__ and timm.model_entrypoint(name).__module__ == AMFlow.__module__


# What the model computes


def without_adapters(model):
    """W_up as it starts, at zero."""
    for name, parameter in model.named_parameters():
        if '.up.' in name:
            nn.init.zeros_(parameter)
    return model


@torch.no_grad()
@pytest.mark.parametrize('args', [VIT, EVA, SIGLIP, HYPER, HIERA], ids=['vit', 'eva', 'siglip', 'hyper', 'hiera'])
def test_untrained_adapters_leave_the_backbone_as_it_is(args):
    """W_up starts at zero; everything else may be what it wants."""
    model = without_adapters(perturb(build(args)))
    clip = random_clip(model)
    images = model.super_image(clip)
    expected = model.backbone.forward_features(images)
    assert torch.equal(model.forward_features(clip).flatten(0, 1), expected)
    pooled = model.backbone(images).unflatten(0, (2, -1))
    model.reset_classifier(0)
    assert_close(model(clip), pooled[:, -1])  # the last frame
    maps = model.forward_intermediates(clip, intermediates_only=True)
    assert_close(model.forward_intermediates(clip, [-1, 0], intermediates_only=True), [maps[0], maps[-1]])
    for actual, wanted in zip(maps, model.backbone.forward_intermediates(images, intermediates_only=True), strict=True):
        assert actual.shape[:2] == (2, model.num_frames)  # the clip is the batch
        assert torch.equal(actual.flatten(0, 1), wanted)


@torch.no_grad()
def test_plain_logits_of_the_backbone():
    """A second pass of the last frame without adapters; all else stays."""
    adapted, plain = (perturb(build(dict(VIT, backbone_logits=kind))) for kind in ('adapted', 'plain'))
    clip = random_clip(plain)
    features, last = plain.forward_features(clip), plain.backbone.forward_features(clip[:, :, -1])
    assert_close(features, adapted.forward_features(clip))
    change = plain.head(plain.backbone.forward_head(last, pre_logits=True)) - adapted.forward_head(features)
    assert change.abs().max() > 1e-3
    assert_close(plain(clip) - adapted(clip), change / (2 * len(plain.am_blocks) + 1))


def test_dropout_in_front_of_the_classifier_does_not_sleep_with_the_backbone():
    model = build(VIT, drop_rate=0.9).train()
    model.freeze_backbone()
    features = model.forward_features(random_clip(model))
    assert (model.forward_head(features, pre_logits=True) == 0).float().mean() > 0.5


@torch.no_grad()
def test_equations():
    """Equations 1 and 6 in a plain loop over a plain ViT."""
    model = perturb(build(dict(VIT, flow='vanilla', am_blocks=(0, 2))))
    clip = random_clip(model)
    backbone, vectors = model.backbone, []
    x = backbone.norm_pre(backbone._pos_embed(backbone.patch_embed(clip.transpose(1, 2).flatten(0, 1))))
    for i, block in enumerate(backbone.blocks):
        ln = block.norm1(x)
        inputs = ln
        if i != 1:
            q, k, _ = block.attn.qkv(ln).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
            flow = attention_map_flow(q.unflatten(0, (2, 4)), k.unflatten(0, (2, 4)), implementation='reference')
            inputs = torch.cat([ln, flow.flatten(0, 1)], -1)
        attn, mlp = model.adapters[i]['attn'], model.adapters[i]['mlp']
        hidden = attn.down(inputs).relu()
        x = x + block.ls1(block.attn(ln)) + attn.scale * attn.up(hidden)
        ln = block.norm2(x)
        seen = mlp.down(ln).relu()
        x = x + block.ls2(block.mlp(ln)) + mlp.scale * mlp.up(seen)
        if i != 1:
            for place, h in (('attn', hidden), ('mlp', seen)):
                vectors.append(model.temporal[str(i)][place](h.mean(1).unflatten(0, (2, 4))))
    x = backbone.norm(x).unflatten(0, (2, 4))
    assert_close(model.forward_features(clip), x)
    logits = [model.head(backbone.forward_head(x[:, -1]))]
    logits += [v @ w.mT + b for v, w, b in zip(
        vectors, model.side_head.weight.unbind(1), model.side_head.bias.unbind(1), strict=True)]
    assert_close(model(clip), torch.stack(logits).mean(0))


@torch.no_grad()
@pytest.mark.parametrize('args', [VIT, EVA, HIERA], ids=['vit', 'eva', 'hiera'])
def test_flow_of_a_still_clip(args):
    """Where nothing moves vanilla flow is 1 everywhere and aligned flow 0; else the mean of the former stays 1."""
    still = random_clip(build(args))[:, :, :1].expand(-1, -1, args['num_frames'], -1, -1)
    model = without_adapters(perturb(build(dict(args, flow='vanilla'))))
    for flow in model.attention_flows(still):
        assert (flow == 1).all()
    moving = still.clone()
    moving[:, :, 2:, :8, :8] += 1
    for flow in model.attention_flows(moving):
        assert_close(flow.mean(2), torch.ones_like(flow.mean(2)))
        assert (flow[:, 0] == 1).all() and flow[:, 1].std() > 1e-4  # only frames 1 and 2 differ
        assert (flow[:, 2:] == 1).all()
    aligned = without_adapters(perturb(build(dict(args, flow='aligned'))))
    for still_flow, flow in zip(aligned.attention_flows(still), aligned.attention_flows(moving)):
        assert (still_flow == 0).all() and flow[:, 1].abs().max() > 1e-5


@torch.no_grad()
@pytest.mark.parametrize('args', [VIT, HIERA], ids=['vit', 'hiera'])
def test_flow_for_pictures_lies_on_the_patches(args):
    model = build(dict(args, flow='vanilla'))
    flows = model.attention_flows(random_clip(model))
    assert len(flows) == len(model.am_blocks) == len(model.patch_grids)
    for flow, (rows, cols), index in zip(flows, model.patch_grids, model.am_blocks, strict=True):
        heads = model.runner.num_heads(model.backbone.blocks[index])
        assert flow.shape == (2, 4, model.num_prefix_tokens + rows * cols, heads)
        assert not flow.requires_grad
    assert model.patch_grid == model.patch_grids[-1]
    with pytest.raises(ValueError, match="flow='none'"):
        build(dict(args, flow='none')).attention_flows(random_clip(model))


def test_patches_of_hiera_are_put_into_rows():
    """Its tokens are stored window by window."""
    model = build(HIERA)
    numbers = torch.arange(256.).view(1, 256, 1)
    stored = model.backbone.unroll(numbers)
    assert not torch.equal(stored, numbers)
    assert torch.equal(model.runner.in_rows(model.backbone, stored, 0), numbers)


@torch.no_grad()
def test_frames_are_compared_with_the_next_one_only():
    """A change of the last frame reaches the flow, and so the tokens, of the last two frames alone."""
    model = perturb(build(VIT))
    clip = random_clip(model)
    changed = clip.clone()
    changed[:, :, -1] += 1
    before, after = model.forward_features(clip), model.forward_features(changed)
    assert (before != after).flatten(2).any(2).all()  # a frame further back per block
    model = perturb(build(dict(VIT, am_blocks=(1,))))
    before, after = model.forward_features(clip), model.forward_features(changed)
    assert (before != after).flatten(2).any(2).tolist() == 2 * [[False, False, True, True]]


@pytest.mark.parametrize('squeeze', ['before', 'after'])
def test_recomputed_blocks_count_a_batch_once(squeeze):
    """The running statistics of the units' norms are those of a run that keeps everything."""
    args = dict(VIT, am_blocks=(0, -1), squeeze=squeeze)
    plain, recomputed = perturb(build(args)).train(), perturb(build(args)).train()
    recomputed.set_grad_checkpointing()
    clip = random_clip(plain)
    for model in (plain, recomputed):
        model(clip).sum().backward()
    norms = [{name: value for name, value in model.named_buffers() if '.input_norm.' in name}
             for model in (plain, recomputed)]
    assert len(norms[0]) == 4 * 3 and any((value != 0).any() for value in norms[0].values())
    for name, value in norms[0].items():
        assert_close(norms[1][name], value)
    assert all(value == 1 for name, value in norms[1].items() if name.endswith('num_batches_tracked'))


def test_weights_from_before_the_norm(tmp_path):
    """A file without the argument is one of `unit_norm='none'`; the model that loads it becomes one, too."""
    old = perturb(build(dict(VIT, unit_norm='none')))
    old.save_adapters(tmp_path / 'old.safetensors')
    with safe_open(tmp_path / 'old.safetensors', 'pt') as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        meta = file.metadata()
    key = next(key for key, value in meta.items() if 'unit_norm' in value)
    header = json.loads(meta[key])
    for part in (header, header.get('adapter_args', {}), header.get('model_args', {})):
        part.pop('unit_norm', None)
    safetensors.torch.save_file(tensors, tmp_path / 'old.safetensors', {**meta, key: json.dumps(header)})
    clip = random_clip(old)
    new = build(VIT)
    new.backbone.load_state_dict(old.backbone.state_dict())
    new.load_adapters(tmp_path / 'old.safetensors')
    assert new.adapter_args['unit_norm'] == new._model_args['unit_norm'] == 'none'
    assert torch.equal(new.eval()(clip), old.eval()(clip))
    whole = build(VIT)
    whole.load_state_dict(whole.filter_checkpoint(old.state_dict()))
    assert torch.equal(whole.eval()(clip), old.eval()(clip))


def test_units_with_and_without_norm_are_not_mistaken(tmp_path):
    build(dict(VIT, unit_norm='none')).save_adapters(tmp_path / 'none.safetensors')
    with pytest.raises(ValueError, match=r"unit_norm='none' \(here 'batch'\)"):
        build(VIT).load_adapters(tmp_path / 'none.safetensors')


def test_flow_grad():
    """With flow_grad=False no gradient comes back from the flow through queries and keys."""
    for flow_grad in (True, False):
        model = perturb(build(dict(VIT, flow='vanilla', flow_grad=flow_grad, am_blocks=(-1,))))
        with torch.no_grad():
            model.adapters[-1]['attn'].down.weight[:, :32] = 0  # this adapter sees nothing but the flow
        seen, _ = model._run_blocks(model.super_image(random_clip(model)), seen=True)[2][-1]
        seen[:, 0].sum().backward()  # of the adapter beside attention
        grad = model.backbone.blocks[0].mlp.fc1.weight.grad
        assert (grad is not None and bool(grad.any())) == flow_grad


def test_blocks_without_flow_have_plain_adapters():
    model = build(dict(VIT, am_blocks=(0, -1)))
    assert model.am_blocks == [0, 2]
    assert list(model.aligners) == list(model.temporal) == ['0', '2']
    assert [places['attn'].flow_dim for places in model.adapters] == [2, 0, 2]
    assert model.fusion.num_logits == 5 and model.side_head.weight.shape == (NUM_CLASSES, 4, 16)
    assert len(build(HIERA).am_blocks) == 5  # 8 blocks, 3 of which pool
    assert [list(places) for places in build(HIERA).adapters] == [
        ['attn', 'mlp'], ['attn', 'mlp'], ['mlp'], ['mlp'], ['attn', 'mlp'], ['attn', 'mlp'], ['mlp'], ['attn', 'mlp']]


@pytest.mark.parametrize('frames', [8, 16, 24, 32])
@pytest.mark.parametrize('name', ['tcn', 'lstm', 'transformer'])
def test_any_number_of_frames(name, frames):
    model = build(dict(VIT, model_name=f'amflow_dinov2_b_{name}', num_frames=frames))
    assert model(random_clip(model, 1)).shape == (1, NUM_CLASSES)


@torch.no_grad()
def test_other_sizes():
    model = perturb(build(VIT))
    model.set_input_size(img_size=(35, 42), num_frames=6)
    assert model(random_clip(model)).shape == (2, NUM_CLASSES) and model.patch_grid == (5, 6)
    twin = build(dict(VIT, img_size=(35, 42), num_frames=6))
    twin.load_state_dict(model.state_dict())
    assert_close(twin(random_clip(model)), model(random_clip(model)))


@pytest.mark.parametrize('args, message', [
    (dict(num_frames=1), 'AM flow compares frames'),
    (dict(layout='grid'), "layout='time:1' is the only one"),
    (dict(img_size=30), 'Frame sizes that fit: 28, 56'),
    (dict(flow='optical'), "'aligned', 'vanilla', 'none'"),
    (dict(temporal='gru'), "'tcn', 'lstm', 'transformer'"),
    (dict(am_blocks=1), 'am_blocks=1 must be a list'),
    (dict(tcn_dilations=2), 'tcn_dilations=2 must be a list'),
    (dict(tcn_dilations=(1, 0)), r'tcn_dilations=\[1, 0\]: whole numbers of at least 1'),
    (dict(bottleneck=0), 'bottleneck=0: whole numbers'),
    (dict(lstm_depth=1.5), 'lstm_depth=1.5: whole numbers'),
    (dict(adapter='lora'), "'parallel', 'serial', 'hyper'"),
    (dict(fusion='max'), "'mean', 'linear', 'random'"),
    (dict(squeeze='never'), "'before', 'after'"),
    (dict(am_blocks=()), 'at least one block'),
    (dict(am_blocks=(0, 3)), r'blocks 0 to 2 \(or -3 to -1\)'),
    (dict(am_blocks=(0, -3)), 'each once'),
    (dict(temporal='transformer', num_frames=40), 'max_frames=40'),
    (dict(backbone='swin_tiny_patch4_window7_224', embed_dim=16), 'shifted windows'),
    (dict(global_pool=''), 'num_classes=0'),
    (dict(patch_drop_rate=0.5), 'patch_drop_rate=0'),
])
def test_refuses(args, message):
    args = {**VIT, **args}
    if args['backbone'].startswith('swin'):
        args = {key: args[key] for key in ('model_name', 'backbone')}
    with pytest.raises(ValueError, match=message):
        build(args)


def test_refuses_sizes_later():
    model = build(dict(VIT, model_name='amflow_dinov2_b_transformer', max_frames=8))
    for kwargs, message in (
            (dict(num_frames=1), 'AM flow compares frames'), (dict(num_frames=9), 'max_frames=9'),
            (dict(layout='grid'), 'time:1'), (dict(img_size=30), 'Frame sizes that fit')):
        with pytest.raises(ValueError, match=message):
            model.set_input_size(**kwargs)
    assert model.num_frames == 4 and model.img_size == (28, 28)
    assert model(random_clip(model)).shape == (2, NUM_CLASSES)


def test_refuses_hyper_adapters_for_blocks_of_many_widths():
    with pytest.raises(ValueError, match='one width'):
        build(dict(HIERA, adapter='hyper'))
    with pytest.raises(ValueError, match='but 2, 3, 6, which pool'):
        build(dict(HIERA, am_blocks=(2,)))


def test_pruned_models_keep_what_their_blocks_have():
    model = perturb(build(dict(VIT, fusion='linear')))
    clip = random_clip(model)
    features = model.forward_intermediates(clip, indices=[1], norm=True, output_fmt='NLC', intermediates_only=True)[0]
    model.prune_intermediate_layers([1], prune_head=False)
    assert list(model.temporal) == list(model.aligners) == ['0', '1'] and len(model.adapters) == 2
    assert model.fusion.weight.shape == (5,) and model.side_head.weight.shape == (NUM_CLASSES, 4, 16)
    assert model(clip).shape == (2, NUM_CLASSES)
    assert_close(model.forward_features(clip)[:, :, 5:], features)
    model(clip).sum().backward()
    assert grad_names(model) == {name for name, _ in model.named_parameters()}
    model = build(dict(VIT, am_blocks=(-1,)))
    model.prune_intermediate_layers([1], prune_head=False)
    assert model(clip).shape == (2, NUM_CLASSES) and not model.temporal
    model = build(VIT)
    model.prune_intermediate_layers([1])
    assert model.prune_intermediate_layers([0], prune_head=False) == [0] and model.fusion(1) == 1
    assert model.num_classes == 0 and not model.temporal and not model.classifier_keys()


# Sizes


@pytest.mark.parametrize('name, num_classes, rest, aligners, temporal', [
    ('tcn', 174, 26_530_000, 45_066_000, 54_106_000),
    ('transformer', 174, 26_530_000, 45_066_000, 102_961_000),
    ('lstm', 174, 28_133_000, 45_066_000, 365_298_000),
    ('transformer', 400, 30_180_000, 45_066_000, 102_961_000),
    ('lstm', 400, 33_867_000, 45_066_000, 365_298_000),
])
def test_parameters_of_the_paper_size(name, num_classes, rest, aligners, temporal):
    """The preset that comes closest to the columns of the paper's tables; see benchmarks/cost/amflow_parameters.py."""
    model = timm.create_model(f'amflow_dinov2_b_{name}', num_classes=num_classes, device='meta')
    count = {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in (
        'adapters', 'head', 'side_head', 'fusion', 'aligners', 'temporal', 'backbone')}
    assert count['adapters'] == 23_718_936 and count['backbone'] == 85_724_928
    assert count['adapters'] + count['head'] + count['side_head'] == pytest.approx(rest, abs=500)
    assert count['aligners'] == pytest.approx(aligners, abs=500)
    assert count['temporal'] == pytest.approx(temporal, abs=500)
    assert sum(count.values()) == sum(p.numel() for p in model.parameters())


class _Drawn(TorchFunctionMode):
    """Counts the elements that are allocated, and those that are drawn at random."""

    def __init__(self):
        super().__init__()
        self.empty = self.random = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.empty:
            self.empty += result.numel()
        if func.__name__ in ('uniform_', 'normal_', 'kaiming_uniform_'):
            self.random += result.numel()
        return result


def test_the_backbone_is_built_once(monkeypatch):
    built = []
    create = timm.create_model
    monkeypatch.setattr(timm, 'create_model', lambda *args, **kwargs: built.append(1) or create(*args, **kwargs))
    image_args = {key: VIT[key] for key in ('embed_dim', 'depth', 'num_heads', 'img_size', 'patch_size')}
    with _Drawn() as of_image:
        image = create(VIT['backbone'], num_classes=0, **image_args)
    with _Drawn() as of_model:
        model = create(**VIT)
    others = sum(p.numel() for name, p in model.named_parameters() if not name.startswith('backbone.'))
    assert len(built) == 1 and of_image.empty >= sum(p.numel() for p in image.parameters())
    assert of_model.empty - of_image.empty < 1.1 * others
    assert of_model.random - of_image.random < 1.1 * others
    with _Drawn() as loaded:
        create(**VIT, pretrained=True, pretrained_cfg_overlay=dict(state_dict=image.state_dict()))
    assert len(built) == 2 and loaded.random <= others  # nothing is drawn for weights that come from a file


# Weights


@pytest.mark.parametrize(
    'backbone', ['vit_base_patch14_reg4_dinov2', 'deit3_base_patch16_224', 'eva02_base_patch14_224'])
def test_image_weights(backbone, caplog):
    """Those of another size, with a classifier, as the Hub has them."""
    args = dict(VIT, backbone=backbone)
    small = {key: VIT[key] for key in ('embed_dim', 'depth', 'num_heads', 'patch_size')}
    image = timm.create_model(backbone, img_size=42, num_classes=7, **small)
    with caplog.at_level(logging.INFO):
        model = build(args, pretrained=True, pretrained_cfg_overlay=dict(state_dict=image.state_dict()))
    assert 'are untrained' in caplog.text and not model.head_trained
    for name, tensor in model.backbone.state_dict().items():
        if name != 'pos_embed' and tensor.shape == image.state_dict()[name].shape:
            assert torch.equal(tensor, image.state_dict()[name]), name
    assert all((places['mlp'].up.weight == 0).all() for places in model.adapters)
    assert model(random_clip(model)).isfinite().all()
    broken = {name: tensor for name, tensor in image.state_dict().items() if 'blocks.1.' not in name}
    with pytest.raises(RuntimeError, match='keys are missing'):
        build(args, pretrained=True, pretrained_cfg_overlay=dict(state_dict=broken))


def test_another_backbone_brings_its_normalisation_and_weights():
    model = build(dict(VIT, backbone='vit_base_patch16_clip_224.openai'))
    cfg = timm.get_pretrained_cfg('vit_base_patch16_clip_224.openai')
    assert (model.pretrained_cfg['mean'], model.pretrained_cfg['hf_hub_id']) == (cfg.mean, cfg.hf_hub_id)
    model = timm.create_model('amflow_clip_b_tcn', device='meta')
    timms = timm.get_pretrained_cfg('vit_base_patch16_clip_quickgelu_224.openai')
    assert model.pretrained_cfg['hf_hub_id'] == timms.hf_hub_id == 'timm/vit_base_patch16_clip_224.openai'
    assert build(VIT, pretrained_cfg_overlay=dict(mean=(.1, .2, .3))).pretrained_cfg['mean'] == (.1, .2, .3)


def test_backbones_in_folders(tmp_path):
    image = perturb(build(dict(model_name='test_vit', img_size=32)))
    save_for_hf(image, tmp_path, safe_serialization=True)
    args = {key: VIT[key] for key in (*WIDTHS, 'model_name', 'num_frames')}
    for pretrained in (True, False):
        model = build(args, backbone=f'local-dir:{tmp_path}', img_size=32, pretrained=pretrained)
        assert tuple(model.pretrained_cfg['mean']) == (0.5, 0.5, 0.5)
        loaded = torch.equal(model.backbone.patch_embed.proj.weight, image.patch_embed.proj.weight)
        assert loaded == pretrained and model(random_clip(model)).isfinite().all()
    with pytest.raises(ValueError, match="'vit_bas' is no timm model"):
        build(VIT, backbone='vit_bas')


def test_layer_groups():
    """What hangs on a block learns at its rate."""
    model = build(VIT)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    for index in range(3):
        of_block = {group for name, group in groups.items() if f'.{index}.' in name.replace('blocks.', '.', 1)
                    and name.split('.')[0] in ('adapters', 'aligners', 'temporal') and name.split('.')[1] == str(index)}
        assert of_block == {groups[f'backbone.blocks.{index}.norm1.weight']}
    assert groups['head.weight'] == groups['side_head.weight'] == max(groups.values())


# Freezing


def test_freezing():
    model = build(VIT, drop_path_rate=0.5).train()
    model.freeze_backbone()
    assert model.training and not any(module.training for module in model.backbone.modules())
    assert model.train().adapters.training and not model.backbone.training
    assert copy.deepcopy(model).train().backbone.training is False
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = create_optimizer_v2(model, 'sgd', lr=0.1, weight_decay=0.1)
    taken = {id(p) for group in optimizer.param_groups for p in group['params']}
    assert taken == {id(p) for name, p in model.named_parameters() if not name.startswith('backbone.')}
    for _ in range(2):
        optimizer.zero_grad()
        model(random_clip(model)).square().sum().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        if name.startswith('backbone.'):
            assert parameter.grad is None and torch.equal(parameter, before[name])
    assert all(p.grad.abs().max() > 0 for name, p in model.named_parameters() if '.down.weight' in name)
    model.reset_classifier(3)
    model.set_input_size(num_frames=6)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    model.freeze_backbone(False)
    assert model.backbone.training and all(p.requires_grad for p in model.parameters())


def test_freezing_after_a_backward_pass():
    """Gradients from before do not move a frozen backbone."""
    model = build(VIT).train()
    model(random_clip(model)).sum().backward()
    model.freeze_backbone()
    before = weight_digest(model.backbone)
    torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1).step()
    assert weight_digest(model.backbone) == before and model.head.weight.grad is not None


def test_a_frozen_backbone_keeps_less_for_the_backward_pass():
    def saved(**kwargs):
        model = build(dict(VIT, **kwargs)).train()
        clip, sizes = random_clip(model), {}
        model.freeze_backbone(kwargs.get('flow', '') != 'none')
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def keep(tensor):
            if tensor.untyped_storage().data_ptr() not in own:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(clip)
        return sum(sizes.values())

    with_flow_grad, without = saved(), saved(flow_grad=False)
    assert without <= with_flow_grad


# Adapter files


@pytest.fixture
def trained(tmp_path):
    """A model with a frozen backbone, moved adapters, and their file."""
    model = perturb(build(VIT))
    model.save_adapters(tmp_path / 'adapters.safetensors')
    return model, tmp_path / 'adapters.safetensors'


def twin_of(model, **kwargs):
    """The same backbone with fresh adapters."""
    twin = build(dict(VIT, **kwargs))
    twin.backbone.load_state_dict(model.backbone.state_dict())
    return twin


@torch.no_grad()
def test_adapter_files(trained, tmp_path):
    model, path = trained
    assert sorted(file.name for file in tmp_path.iterdir()) == ['adapters.safetensors']
    (tmp_path / 'plain').touch()
    assert path.stat().st_mode == (tmp_path / 'plain').stat().st_mode  # safetensors itself shuts others out
    twin = twin_of(model)
    clip = random_clip(model)
    assert (twin(clip) - model(clip)).abs().max() > 1e-3
    twin.load_adapters(path)
    assert torch.equal(twin(clip), model(clip)) and twin.head_trained
    names = set(safetensors.torch.load_file(path))
    assert names == {name for name in model.state_dict() if not name.startswith('backbone.')}
    header = json.loads(safe_open(path, 'pt').metadata()['flatzoo_adapters_v1'])
    assert header['model'] == VIT['model_name'] and header['backbone'] == VIT['backbone']
    assert header['backbone_digest'] == weight_digest(model.backbone)
    longer = twin_of(model, num_frames=8)  # frames are free
    longer.load_adapters(path)


def test_adapter_files_keep_names_and_protocol(trained):
    model, path = trained
    names, protocol = [f'action {i}' for i in range(NUM_CLASSES)], EvalProtocol(num_clips=2, num_crops=3)
    model.pretrained_cfg = {**model.pretrained_cfg, 'label_names': names}
    model.saved_protocol = protocol
    model.save_adapters(path)
    twin = twin_of(model)
    twin.load_adapters(path)
    assert twin.pretrained_cfg['label_names'] == names and flatzoo.eval_protocol(twin) == protocol


@torch.no_grad()
def test_models_from_adapter_files(trained):
    """The image weights come from the Hub in earnest, here from memory."""
    model, path = trained
    weights = dict(state_dict=dict(model.backbone.state_dict()))
    twin = amflow_from_adapters(path, pretrained_cfg_overlay=weights).eval()
    assert torch.equal(twin(random_clip(model)), model(random_clip(model)))
    with pytest.raises(ValueError, match='sha256'):
        amflow_from_adapters(path, pretrained=False)


@pytest.mark.parametrize('kwargs, message', [
    (dict(), r'sha256:\w{64}, this model has weights of sha256:\w{64}'),
    (dict(backbone='vit_base_patch14_dinov2'), "trained on backbone='vit_base_patch14_reg4_dinov2'"),
    (dict(flow='vanilla'), r"flow='aligned' \(here 'vanilla'\)"),
    (dict(tcn_dilations=(1, 2, 3)), 'tcn_dilations='),
    (dict(backbone_logits='plain'), r"backbone_logits='adapted' \(here 'plain'\)"),
    (dict(am_blocks=(0, 1)), 'am_blocks='),
    (dict(num_classes=3), 'num_classes=10'),
])
def test_adapters_of_something_else(trained, kwargs, message):
    model, path = trained
    other = build(dict(VIT, **kwargs))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    for parameter in other.backbone.parameters():
        parameter.data += 1
    with pytest.raises(ValueError, match=message):
        other.load_adapters(path)
    for name, tensor in other.state_dict().items():
        assert name.startswith('backbone.') or torch.equal(tensor, before[name])  # nothing is loaded by halves


def test_damaged_and_foreign_files(trained, tmp_path):
    model, path = trained
    with pytest.raises(FileNotFoundError, match='no such'):
        model.load_adapters(tmp_path / 'none')
    damaged = tmp_path / 'damaged.safetensors'
    damaged.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match='damaged'):
        model.load_adapters(damaged)
    foreign = tmp_path / 'foreign.safetensors'
    safetensors.torch.save_file(model.state_dict(), foreign)
    with pytest.raises(ValueError, match='not an adapter file'):
        model.load_adapters(foreign)
    with pytest.raises(RuntimeError, match='adapters without their backbone.* model_from_adapters'):
        build(VIT, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))


def test_files_of_other_arguments_than_lists_and_in_new_folders(tmp_path):
    model = build(dict(VIT, am_blocks=range(2), tcn_dilations=range(1, 3)))
    path = tmp_path / 'runs' / 'mine' / 'adapters.safetensors'
    model.save_adapters(path)
    build(dict(VIT, am_blocks=(0, -2), tcn_dilations=[1, 2])).load_adapters(path)
    save_for_hf(model, tmp_path / 'whole', safe_serialization=True)
    assert timm.create_model(f'local-dir:{tmp_path}/whole').am_blocks == [0, 1]


def test_a_failed_save_leaves_the_old_file(trained, monkeypatch):
    model, path = trained
    old = path.read_bytes()

    def fail(tensors, partial, metadata):
        partial.write_bytes(b'half')
        raise OSError('disk full')

    monkeypatch.setattr('flatzoo.weights.adapter_file.save_file', fail)
    with pytest.raises(OSError, match='disk full'):
        model.save_adapters(path)
    assert path.read_bytes() == old and [file.name for file in path.parent.iterdir()] == [path.name]


def test_weight_digest():
    module = nn.Linear(2, 3)
    digest = weight_digest(module)
    assert weight_digest(copy.deepcopy(module)) == digest
    assert weight_digest(module.to(torch.bfloat16).float()) != digest
    nn.init.zeros_(module.weight)
    assert len({weight_digest(module), weight_digest(module.double()), digest}) == 3


@torch.no_grad()
def test_the_whole_model_saves_and_loads_as_any_other(tmp_path):
    model = perturb(build(dict(EVA, model_name='amflow_dinov2_b_tcn')))
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert tuple(loaded.pretrained_cfg['mean']) == model.pretrained_cfg['mean']
    assert torch.equal(loaded(random_clip(model)), model(random_clip(model)))
