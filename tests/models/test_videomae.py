"""VideoMAE: the same numbers as transformers' implementation, weights of every origin, and timm's contract.

`tests/recorded/videomae_tiny.safetensors` holds a small model of transformers with random weights (under the names of
its version 5), and what it makes of a clip of 16 and one of 8 frames. `python tests/models/test_videomae.py` writes it
anew, with transformers.
"""
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from base import NUM_CLASSES, ConfigTester, ModelTester, assert_close, build, random_clip
from golden import load_case
from safetensors import safe_open
from safetensors.torch import save_file
from timm.layers import set_fused_attn
from timm.models import save_for_hf
from torch import Tensor, nn

from flatzoo import eval_protocol
from flatzoo.hub.convert import convert_state_dict
from flatzoo.layers import TimeLayer
from flatzoo.models.builder import label_names
from flatzoo.models.videomae.tubelet_embed import TubeletEmbed, sinusoidal_positions

GOLDEN = Path(__file__).parents[1] / 'recorded' / 'videomae_tiny.safetensors'
CONFIG = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=[32, 48],
    num_labels=10,
)
TINY = dict(model_name='videomae_vit_b', embed_dim=24, depth=2, num_heads=3, img_size=(32, 48))
SMALL = dict(model_name='videomae_vit_b', embed_dim=32, depth=4, num_heads=4, img_size=32)


def golden_clip(num_frames: int) -> Tensor:
    """Two clips `[2, 3, T, 32, 48]` in -1...1 that need no file."""
    size = (2, 3, num_frames, 32, 48)
    return torch.arange(math.prod(size), dtype=torch.float64).mul(0.37).sin().float().view(size)


def from_transformers(
        num_frames: int = 16,
        attention: str = 'eager',
        cls: str = 'ForVideoClassification',
        **config: Any,
) -> Any:
    """A small VideoMAE of transformers with weights large enough that every one of them matters."""
    transformers = pytest.importorskip('transformers')
    config = transformers.VideoMAEConfig(
        num_frames=num_frames, attn_implementation=attention, **{**CONFIG, 'decoder_num_hidden_layers': 1, **config})
    model = getattr(transformers, f'VideoMAE{cls}')(config).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        is_gain = 'norm' in name and name.endswith('weight')
        nn.init.normal_(parameter, mean=float(is_gain), std=0.2, generator=generator)
    return model


def load(weights: dict[str, Tensor], num_classes: int = 10, **kwargs: Any) -> nn.Module:
    overlay = dict(state_dict=weights, num_classes=num_classes)
    return build(TINY, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **kwargs)


@pytest.fixture(scope='module')
def golden() -> dict[str, Any]:
    with safe_open(GOLDEN, 'pt') as file:
        assert json.loads(file.metadata()['config']) == CONFIG
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    weights = {name.removeprefix('weights/'): t for name, t in tensors.items() if name.startswith('weights/')}
    return dict(tensors, weights=weights)


@pytest.fixture(params=[False, True], ids=['eager', 'fused'])
def attention(request):
    """The attention of the models built in the test, of ours and of transformers."""
    set_fused_attn(request.param)
    yield 'sdpa' if request.param else 'eager'
    set_fused_attn(True)


def transformers_4(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of transformers 4, in which the Hub's files are."""
    short = {'query.bias': 'q_bias', 'value.bias': 'v_bias'}
    return {re.sub(r'(query|value)\.bias$', lambda m: short[m[0]], key): tensor for key, tensor in weights.items()}


def official(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of the official fine-tuned model."""
    weights, names = transformers_4(weights), {}
    for key, tensor in weights.items():
        if 'key.weight' in key or 'value.weight' in key:
            continue
        if 'query.weight' in key:
            tensor = torch.cat([weights[key.replace('query', name)] for name in ('query', 'key', 'value')])
        for old, new in (
                ('videomae.embeddings.patch_embeddings.projection', 'patch_embed.proj'),
                ('videomae.encoder.layer', 'blocks'),
                ('attention.attention.query', 'attn.qkv'), ('attention.attention', 'attn'),
                ('attention.output.dense', 'attn.proj'), ('intermediate.dense', 'mlp.fc1'), ('output.dense', 'mlp.fc2'),
                ('layernorm_before', 'norm1'), ('layernorm_after', 'norm2'), ('classifier', 'head')):
            key = key.replace(old, new)
        names[key] = tensor
    return names


def pretrained(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The encoder as in a pre-training checkpoint, with a norm and a decoder that fine-tuning drops."""
    head = ('fc_norm.', 'classifier.', 'head.')
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith(head)}
    if prefix == 'encoder.':
        weights = {f'encoder.{key}': tensor for key, tensor in weights.items()}
    norm = 'encoder.norm' if prefix == 'encoder.' else 'videomae.layernorm'
    extra = (f'{norm}.weight', f'{norm}.bias', 'mask_token', 'encoder_to_decoder.weight', 'decoder.norm.weight')
    return {**weights, **{name: torch.ones(24) for name in extra}}


# Parity

@torch.no_grad()
@pytest.mark.parametrize('num_frames', [16, 8])
def test_golden(golden, attention, num_frames):
    model = load(golden['weights'], num_frames=num_frames)
    clip = golden_clip(num_frames)
    tokens = model.forward_features(clip)
    assert model.head_trained
    assert_close(tokens, golden[f'tokens_{num_frames}'], atol=1e-4)
    assert (model(clip) - golden[f'logits_{num_frames}']).abs().max() < 1e-5
    assert golden[f'logits_{num_frames}'].std() > 0.1  # the file tells models apart
    model.set_input_size(num_frames=24 - num_frames)  # 16 <-> 8
    assert (model(golden_clip(24 - num_frames)) - golden[f'logits_{24 - num_frames}']).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize('num_frames', [16, 8])
def test_transformers(attention, num_frames):
    reference = from_transformers(num_frames, attention)
    model = load(reference.state_dict(), num_frames=num_frames)
    clip = torch.randn(2, 3, num_frames, 32, 48, generator=torch.Generator().manual_seed(3))
    assert (model(clip) - reference(clip.transpose(1, 2)).logits).abs().max() < 1e-5


def test_transformers_gradients():
    reference = from_transformers(8)
    model = load(reference.state_dict(), num_frames=8)
    clip = golden_clip(8)
    reference(clip.transpose(1, 2)).logits.square().sum().backward()
    model(clip).square().sum().backward()
    expected = model.filter_checkpoint({name: p.grad for name, p in reference.named_parameters()})
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, expected[name], atol=1e-4 * expected[name].abs().max().item() + 1e-5)


@torch.no_grad()
@pytest.mark.parametrize('cls', ['ForPreTraining', 'Model'])
def test_transformers_encoder(cls):
    reference = from_transformers(cls=cls, use_mean_pooling=cls == 'Model')
    model = load(reference.state_dict())
    encoder = getattr(reference, 'videomae', reference)
    encoder.layernorm = None  # the model's last norm comes after pooling
    clip = golden_clip(16)
    assert_close(model.forward_features(clip), encoder(clip.transpose(1, 2)).last_hidden_state, atol=1e-4)
    assert not model.head_trained


def test_parameters():
    """As transformers counts them, and the key biases."""
    counts = {'videomae_vit_s': (384, 12, 22_033_936), 'videomae_vit_b': (768, 12, 86_534_800),
              'videomae_vit_l': (1024, 24, 304_270_736)}
    for name, (dim, depth, count) in counts.items():
        model = timm.create_model(name, device='meta')
        assert sum(p.numel() for p in model.parameters()) == count + depth * dim


# Weights

@torch.no_grad()
@pytest.mark.parametrize('rename', [transformers_4, official], ids=lambda f: f.__name__)
@pytest.mark.parametrize('wrap', [None, 'model', 'module'])
def test_names_of_fine_tuned_weights(golden, rename, wrap):
    weights = rename(golden['weights'])
    assert weights.keys() != golden['weights'].keys()
    model = load(weights if wrap is None else {wrap: weights, 'epoch': torch.tensor(1)})
    assert_close(model.state_dict(), load(golden['weights']).state_dict(), atol=0)
    assert not model.backbone.blocks[0].attn.qkv.bias[24:48].any()  # the keys


@torch.no_grad()
@pytest.mark.parametrize('rename, prefix', [(dict, 'videomae.'), (transformers_4, 'videomae.'), (official, 'encoder.')])
def test_names_of_pretrained_weights(golden, rename, prefix):
    model = load(pretrained(rename(golden['weights']), prefix))
    assert_close(model.forward_features(golden_clip(16)), golden['tokens_16'], atol=1e-4)
    assert not model.head_trained
    assert (model.backbone.fc_norm.weight == 1).all()  # new, not the norm of the encoder
    assert load(pretrained(rename(golden['weights']), prefix), num_classes=0).num_classes == 0


def test_key_bias_has_no_effect(golden):
    weights = dict(golden['weights'])
    for key in list(weights):
        if key.endswith('query.bias'):
            weights[key.replace('query', 'key')] = torch.linspace(-2, 2, 24)
    model = load(weights)
    assert model.backbone.blocks[0].attn.qkv.bias[24] == -2
    logits = model(golden_clip(16))
    assert_close(logits, golden['logits_16'])
    logits.sum().backward()
    grad = model.backbone.blocks[0].attn.qkv.bias.grad
    assert grad[24:48].abs().max() < 1e-5 * grad.abs().max()


def test_weights_with_another_classifier(golden):
    model = load(golden['weights'], num_classes=7)
    assert model(golden_clip(16)).shape == (2, 7) and not model.head_trained
    assert load(golden['weights'], num_classes=0)(golden_clip(16)).shape == (2, 24)


def test_weights_that_do_not_fit(golden):
    weights = golden['weights']
    model = build(TINY)
    with pytest.raises(RuntimeError, match=r'are not wanted \(backbone.surplus\)'):
        model.filter_checkpoint({**weights, 'surplus': torch.zeros(1)})
    for key in weights:
        if not key.startswith('classifier.'):
            with pytest.raises(RuntimeError, match='missing'):
                model.filter_checkpoint({k: t for k, t in weights.items() if k != key})
    first_token = {key.replace('fc_norm', 'videomae.layernorm'): tensor for key, tensor in weights.items()}
    with pytest.raises(RuntimeError, match='reads the first token'):
        model.filter_checkpoint(first_token)


@pytest.mark.parametrize('own', [False, True])
def test_weights_of_other_channels(golden, own):
    """What would leave the embedding random is refused; one channel gets the sum of three."""
    weights = load(golden['weights']).state_dict() if own else golden['weights']
    for in_chans in (2, 4, 6):
        with pytest.raises(RuntimeError, match=rf'reads 3 channel\(s\).*in_chans={in_chans}: .*in_chans=3, or .*=1'):
            load(weights, in_chans=in_chans)
    assert load(weights, in_chans=1).head_trained
    assert build(TINY, in_chans=4)(torch.zeros(1, 4, 16, 32, 48)).shape == (1, 10)


def test_saved_model_of_other_channels_is_rebuilt(tmp_path):
    model = build(SMALL, in_chans=4)
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f'local-dir:{tmp_path}', pretrained=True).eval()
    assert_close(loaded.state_dict(), model.state_dict(), atol=0)
    with pytest.raises(RuntimeError, match=r'reads 4 channel\(s\)'):
        timm.create_model(f'local-dir:{tmp_path}', pretrained=True, in_chans=3)


def test_hub():
    licences = {name: timm.get_pretrained_cfg(name).license for name in timm.list_pretrained('videomae_vit_*')}
    assert all(licence == ('apache-2.0' if '.v2_' in name else 'cc-by-nc-4.0') for name, licence in licences.items())
    assert 'videomae_vit_b.mcg_k400' in timm.list_pretrained('videomae*')
    assert timm.get_pretrained_cfg('videomae_vit_b').hf_hub_id == 'MCG-NJU/videomae-base-finetuned-kinetics'
    assert eval_protocol('videomae_vit_b.mcg_k400').views == 15
    assert eval_protocol('videomae_vit_s.mcg_ssv2').views == 6


@pytest.mark.network
@torch.no_grad()
def test_hub_weights():
    model = timm.create_model('videomae_vit_b', pretrained=True).eval()
    assert model.head_trained and model(torch.zeros(1, 3, 16, 224, 224)).shape == (1, 400)


# The embedding

def test_sinusoidal_positions():
    table = sinusoidal_positions(50, 12)
    for position, channel in ((0, 0), (0, 1), (7, 4), (49, 11), (31, 10)):
        angle = position / 10000 ** (2 * (channel // 2) / 12)
        assert table[position, channel].item() == pytest.approx((math.sin, math.cos)[channel % 2](angle), abs=1e-12)


@torch.no_grad()
@pytest.mark.parametrize('tubelet_size, in_chans', [(2, 3), (4, 1), (1, 2)])
def test_tubelets_are_a_convolution_over_space_and_time(tubelet_size, in_chans):
    torch.manual_seed(0)
    embed = TubeletEmbed((32, 48), 16, in_chans, 20, num_frames=8, tubelet_size=tubelet_size)
    conv = nn.Conv3d(in_chans, 20, (tubelet_size, 16, 16), stride=(tubelet_size, 16, 16))
    embed.proj.weight.copy_(conv.weight.transpose(1, 2).flatten(1, 2))
    embed.proj.bias.copy_(conv.bias)
    clip = torch.randn(2, in_chans, 8, 32, 48)
    tokens = conv(clip).flatten(2).transpose(1, 2)
    assert embed.num_patches == tokens.shape[1] == 8 // tubelet_size * 6
    assert_close(embed(clip.transpose(1, 2).flatten(0, 1)), tokens + sinusoidal_positions(tokens.shape[1], 20).float())


def test_refusals_of_the_embedding():
    with pytest.raises(ValueError, match='7 frames is not a whole number of tubelets of 2 frames'):
        TubeletEmbed(32, num_frames=7)
    with pytest.raises(ValueError, match='100x224 pixels .* use 96x224'):
        TubeletEmbed((100, 224))
    embed = TubeletEmbed(32, embed_dim=8, num_frames=4)
    for wrong in (torch.zeros(6, 3, 32, 32), torch.zeros(4, 3, 32, 48), torch.zeros(4, 1, 32, 32)):
        with pytest.raises(ValueError, match='Expected frames of shape'):
            embed(wrong)
    with pytest.raises(ValueError, match='use 16x16'):
        embed.set_input_size(img_size=20, num_frames=8)
    assert embed(torch.zeros(4, 3, 32, 32)).shape == (1, 8, 8)  # as before


# The model

@torch.no_grad()
@pytest.mark.parametrize('arrangement', ['spatial', 'temporal'])
@pytest.mark.parametrize('n', [1, 2])
def test_time_layouts_are_the_time_layer(n, arrangement):
    model = build(SMALL, layout=f'time:{n}:{arrangement}', num_frames=8 * n * n)
    plain = build(SMALL, num_frames=8)
    clip = random_clip(model)
    assert_close(model(clip), plain(TimeLayer(n, arrangement)(clip)))


def test_refusals():
    with pytest.raises(ValueError, match='even number of frames.* multiple of 2 N'):
        build(SMALL, num_frames=15)
    with pytest.raises(ValueError, match='even number of frames'):
        build(SMALL, num_frames=16, layout='grid')
    with pytest.raises(ValueError, match='use 32x48'):
        build(SMALL, img_size=(30, 50))
    model = build(SMALL)
    clip = random_clip(model)
    logits = model(clip)
    for change in (dict(num_frames=9), dict(img_size=40), dict(layout='time:4')):
        with pytest.raises(ValueError):
            model.set_input_size(**change)
        assert torch.equal(model(clip), logits)  # nothing has changed
    with pytest.raises(ValueError, match='NCTHW'):
        model.forward_intermediates(clip, output_fmt='NHWC')


@torch.no_grad()
def test_input_size():
    model = build(SMALL)
    model.set_input_size(img_size=(48, 32), num_frames=32, layout='time:2')
    fresh = build(SMALL, img_size=(48, 32), num_frames=32, layout='time:2')
    assert_close(model(random_clip(fresh)), fresh(random_clip(fresh)))
    assert model._model_args['num_frames'] == 32 and model._model_args['layout'] == 'time:2:spatial'
    assert 'backbone.patch_embed.pos_embed' not in model.state_dict()


class VideoMAETester(ModelTester):
    """The shared checks, where clips of tubelets differ from images."""

    def test_pretrained(self, args):
        """As of every model; frames of a tubelet are summed over their channels one by one."""
        source = build(args)

        def load(**kwargs: Any) -> nn.Module:
            overlay = dict(state_dict=source.state_dict(), num_classes=NUM_CLASSES)
            return build(args, pretrained=True, pretrained_cfg_overlay=overlay, **kwargs)

        model = load()
        assert model.head_trained
        assert_close(model.state_dict(), source.state_dict(), atol=0)
        depth = load(in_chans=1, num_classes=5)
        assert not depth.head_trained and depth(random_clip(depth)).shape == (2, 5)
        kernel = source.backbone.patch_embed.proj.weight
        assert_close(depth.backbone.patch_embed.proj.weight, kernel.unflatten(1, (2, 3)).sum(2))
        clip = random_clip(source)
        with torch.no_grad():
            assert_close(load(num_classes=0)(clip), source.forward_head(source.forward_features(clip), pre_logits=True))
            assert_close(load(features_only=True)(clip)[-1], build(args, features_only=True)(clip)[-1])

    def test_features_only(self, args):
        """Maps of tubelets, one after the other in the batch."""
        model = build(args, features_only=True)
        tubelets = model.model.super_image.num_images // 2
        height, width = (side // 16 for side in model.model.img_size)
        outputs = model(random_clip(model.model))
        assert [output.shape for output in outputs] == [(2 * tubelets, 32, height, width)] * 4
        assert model.feature_info.channels() == [32] * 4 and model.feature_info.reduction() == [16] * 4
        assert len(build(args, features_only=True, out_indices=(0, 1))(random_clip(model.model))) == 2

    @torch.no_grad()
    def test_maps_of_frames(self, args):
        model = build(args)
        clip = random_clip(model)
        tokens, maps, folded, frames = (
            model.forward_intermediates(clip, indices=[2], intermediates_only=True, **kwargs)[0]
            for kwargs in (dict(output_fmt='NLC'), dict(output_fmt='NCTHW'), {}, dict(per_frame=True)))
        tubelets = model.super_image.num_images // 2
        height, width = (side // 16 for side in model.img_size)
        assert maps.shape == (2, 32, tubelets, height, width)
        assert_close(tokens.transpose(1, 2), maps.flatten(2), atol=0)
        assert_close(folded.unflatten(0, (2, tubelets)).transpose(1, 2), maps, atol=0)
        rows, cols = model.grid_size
        assert frames.shape == (2, model.num_frames, 32, height // rows, width // cols)
        for k, image in enumerate(model.super_image.index):
            cells = maps[:, :, k // 2].unflatten(3, (cols, -1)).unflatten(2, (rows, -1))  # [B, D, rows, h, cols, w]
            for r, row in enumerate(image):
                for c, frame in enumerate(row):
                    assert torch.equal(frames[:, frame], cells[:, :, r, :, c])
        with pytest.raises(ValueError, match='NCHW'):
            model.forward_intermediates(clip, output_fmt='NCTHW', per_frame=True)


class TestVideoMAE(VideoMAETester):
    cases = {
        'tiny': SMALL,
        '8f': dict(SMALL, num_frames=8, img_size=(32, 48)),
        'time': dict(SMALL, num_frames=16, layout='time:2'),
    }


@pytest.mark.parametrize('name', ['videomaev2_4f', 'videomaev2_2f_tall'])
def test_version_2(name):
    """The official network under its names, in the DeepSpeed checkpoint that was released."""
    config, tensors, weights = load_case(name)
    args = {key: config[key] for key in ('embed_dim', 'depth', 'num_heads', 'num_frames', 'img_size', 'num_classes')}
    conversion = convert_state_dict({'module': weights}, 'videomae_vit_s.v2_k710', **args)
    assert not conversion.dropped and not conversion.new and set(conversion.taken) == set(weights)
    model = timm.create_model('videomae_vit_s.v2_k710', **args).eval()
    assert model.backbone.fc_norm.eps == 1e-6
    model.load_state_dict(conversion.state_dict)
    with torch.no_grad():
        logits = model(tensors['input'])
    torch.testing.assert_close(logits, tensors['logits'], rtol=0, atol=4e-6)
    if 'subset' in tensors:
        torch.testing.assert_close(logits[:, tensors['subset']], tensors['logits_subset'], rtol=0, atol=4e-6)


def test_version_2_is_cut_to_kinetics_400():
    args = dict(embed_dim=48, depth=1, num_heads=3, num_frames=4, img_size=32)
    whole = timm.create_model('videomae_vit_s.v2_k710', **args).eval()
    weights = {'module': {  # as the official file has it
        key.removeprefix('backbone.'): tensor for key, tensor in whole.state_dict().items()}}
    cut = timm.create_model(
        'videomae_vit_s.v2_k710_k400', pretrained=True, pretrained_cfg_overlay=dict(state_dict=weights), **args).eval()
    assert cut.head_trained and cut.num_classes == 400 and whole.num_classes == 710
    names, of_710 = cut.pretrained_cfg['label_names'], whole.pretrained_cfg['label_names']
    rows = [int(row) for row in label_names('kinetics710_rows_of_kinetics400')]
    assert sum(name == of_710[row] for name, row in zip(names, rows, strict=True)) == 387  # 13 were renamed
    assert len(set(rows)) == 400
    clip = random_clip(cut)
    with torch.no_grad():
        torch.testing.assert_close(cut(clip), whole(clip)[:, rows])
    fresh = timm.create_model(
        'videomae_vit_s.v2_k710_k400', pretrained=True, pretrained_cfg_overlay=dict(state_dict=weights), num_classes=5,
        **args)
    assert not fresh.head_trained


class TestConfigs(ConfigTester):
    names = ('videomae_vit_s', 'videomae_vit_b', 'videomae_vit_l')

    def test_config(self, name):
        """As of every model; the features are tokens."""
        model = timm.create_model(name, device='meta')
        cfg = model.pretrained_cfg
        assert (model.in_chans, *model.img_size) == tuple(cfg['input_size'])
        assert model.num_classes == cfg['num_classes'] and model.num_frames == 16
        assert model.get_submodule(cfg['first_conv']).weight.shape == (model.num_features, 6, 16, 16)
        assert model._traits['first_conv'] == cfg['first_conv']
        assert {f'{cfg["classifier"]}.weight', f'{cfg["classifier"]}.bias'} == model.classifier_keys()
        clip = torch.empty(2, 3, 16, 224, 224, device='meta')
        assert model.forward_features(clip).shape == (2, 8 * 14 * 14, model.num_features)
        assert model(clip).shape == (2, 400)


def write_golden() -> None:
    tensors = {}
    for num_frames in (16, 8):
        model = from_transformers(num_frames)
        clip = golden_clip(num_frames).transpose(1, 2)
        with torch.no_grad():
            tensors[f'logits_{num_frames}'] = model(clip).logits
            tensors[f'tokens_{num_frames}'] = model.videomae(clip).last_hidden_state
    tensors.update({f'weights/{name}': tensor for name, tensor in model.state_dict().items()})
    save_file(tensors, GOLDEN, metadata={'config': json.dumps(CONFIG)})


if __name__ == '__main__':
    write_golden()
