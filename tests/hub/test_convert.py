"""Conversions of weight files: every key accounted for, the same logits, and back again."""
import argparse
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from golden_files import DATA, read_golden
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import flatzoo  # noqa: F401 - registers the models
from flatzoo.cli import main
from flatzoo.hub.convert import convert, convert_state_dict
from flatzoo.models.sifar import SifarSwin

SIFAR = dict(
    num_classes=10, embed_dim=16, depths=(1, 1, 2, 2), num_heads=(1, 2, 4, 8), num_frames=8, img_size=64,
    window_size=(4, 4, 4, 6), ape=True)
VIDEOMAE = dict(num_classes=10, embed_dim=24, depth=2, num_heads=3, img_size=(32, 48))


def golden(tensors: dict[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Recorded tensors, and the official state dict among them."""
    return tensors, {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def sifar() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return golden(read_golden('sifar_e_3x3_8f_resize_ape'), 'model.')


def uniformer(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    tensors, weights = golden(read_golden(f'uniformer_{name}'), 'state_dict.')
    config = json.loads((DATA / f'uniformer_{name}.json').read_text())['config']
    return tensors, weights, dict(
        num_classes=10, depths=tuple(config['depth']), embed_dims=tuple(config['embed_dim']),
        head_dim=config['head_dim'], conv_stem=config.get('conv_stem', False),
        init_values=1e-6 if config.get('layer_scale') else None)


def videomae() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return golden(load_file(DATA / 'videomae_tiny.safetensors'), 'weights/')


def load(file: Path, name: str, **args) -> nn.Module:
    """A model with the converted file as its own weights, every one of them."""
    model = timm.create_model(name, **args).eval()
    model.load_state_dict(load_file(file), strict=True)
    return model


def accounted(conversion, weights: dict[str, Tensor]) -> bool:
    return {*conversion.taken, *conversion.dropped} == set(weights) and not set(conversion.taken) & set(
        conversion.dropped)


# official -> flatzoo


@torch.no_grad()
def test_sifar_release_file(tmp_path, capsys):
    tensors, weights = sifar()
    release = {
        'model': weights, 'model_ema': weights, 'epoch': 29, 'args': argparse.Namespace(model='sifar_base', lr=1e-4)}
    torch.save(release, tmp_path / 'release.pth')
    conversion = convert(tmp_path / 'release.pth', tmp_path / 'ours.safetensors', 'sifar_swin_b12', **SIFAR)
    model = load(tmp_path / 'ours.safetensors', 'sifar_swin_b12', **SIFAR)
    clip = tensors['input'].unflatten(1, (-1, 3)).transpose(1, 2)
    torch.testing.assert_close(model(clip), tensors['logits'], rtol=0, atol=1e-5)

    assert accounted(conversion, weights)
    assert conversion.beside == ['model_ema', 'epoch', 'args'] and not conversion.new and not conversion.resized
    assert {key.rpartition('.')[2] for key in conversion.dropped} == {'attn_mask', 'relative_position_index'}
    assert 'frame_pos_embed' in conversion.taken
    with safe_open(tmp_path / 'ours.safetensors', 'pt') as file:
        metadata = file.metadata()
    assert metadata['architecture'] == 'sifar_swin_b12' and metadata['source'] == 'release.pth'
    assert json.loads(metadata['model_args'])['num_classes'] == 10
    assert [path.name for path in tmp_path.iterdir() if 'partial' in path.name] == []


@torch.no_grad()
@pytest.mark.parametrize('name', ['patch', 'convstem_ls'])
@pytest.mark.parametrize('wrapper', [None, 'model'])
def test_uniformer(tmp_path, name, wrapper):
    tensors, weights, args = uniformer(name)
    torch.save({wrapper: weights} if wrapper else weights, tmp_path / 'official.pth')
    conversion = convert(tmp_path / 'official.pth', tmp_path / 'ours.safetensors', 'uniformer_small', **args)
    model = load(tmp_path / 'ours.safetensors', 'uniformer_small', **args)
    torch.testing.assert_close(model(tensors['input']), tensors['logits'], rtol=0, atol=2e-5)
    assert accounted(conversion, weights) and not conversion.dropped and not conversion.new


def test_norms_of_a_detector_are_named():
    _, weights, args = uniformer('patch')
    weights['norm3.weight'] = torch.ones(4)
    conversion = convert_state_dict(weights, 'uniformer_small', **args)
    assert conversion.dropped == {'norm3.weight': 'norm of a dense prediction model'}


@torch.no_grad()
def test_videomae(tmp_path, capsys):
    tensors, weights = videomae()
    save_file(weights, tmp_path / 'model.safetensors')
    conversion = convert(tmp_path, tmp_path / 'ours.safetensors', 'videomae_vit_b', **VIDEOMAE)  # the folder
    model = load(tmp_path / 'ours.safetensors', 'videomae_vit_b', **VIDEOMAE)
    clip = torch.arange(2 * 3 * 16 * 32 * 48, dtype=torch.float64).mul(0.37).sin().float().view(2, 3, 16, 32, 48)
    torch.testing.assert_close(model(clip), tensors['logits_16'], rtol=1e-4, atol=1e-5)
    assert accounted(conversion, weights) and not conversion.dropped and not conversion.new


def test_pretrained_videomae_names_what_goes_and_what_is_new():
    weights = {key: value for key, value in videomae()[1].items() if not key.startswith(('fc_norm', 'classifier'))}
    extra = ('videomae.layernorm.weight', 'videomae.layernorm.bias', 'mask_token', 'decoder.norm.weight')
    weights |= {key: torch.ones(24) for key in extra}
    conversion = convert_state_dict(weights, 'videomae_vit_b', **VIDEOMAE)
    assert set(conversion.dropped) == set(extra) and accounted(conversion, weights)
    assert set(conversion.new) == {f'backbone.{key}' for key in (
        'fc_norm.weight', 'fc_norm.bias', 'head.weight', 'head.bias')}
    assert 'backbone.head.weight' not in conversion.state_dict
    assert (conversion.state_dict['backbone.fc_norm.weight'] == 1).all()
    report = conversion.report()
    assert all(key in report for key in (*extra, *conversion.new))


def test_image_weights_become_a_video_model():
    backbone = timm.create_model(
        'swin_base_patch4_window7_224', embed_dim=16, depths=(1, 1, 2, 2), num_heads=(1, 2, 4, 8), num_classes=33)
    weights = backbone.state_dict()
    args = dict(SIFAR, num_classes=0)
    conversion = convert_state_dict(weights, 'sifar_swin_b12', **args)
    assert set(conversion.dropped) == {'head.fc.weight', 'head.fc.bias'} and accounted(conversion, weights)
    assert set(conversion.new) == {'backbone.patch_embed.frame_pos_embed'}
    assert len(conversion.resized) == 6 and all('bias_table' in key for key in conversion.resized)
    again = convert_state_dict(weights, 'sifar_swin_b12', **args)
    assert all(torch.equal(tensor, again.state_dict[key]) for key, tensor in conversion.state_dict.items())
    model = timm.create_model('sifar_swin_b12', **args)
    assert set(conversion.state_dict) == set(model.state_dict())
    for key, tensor in model.filter_checkpoint(weights).items():  # watching it changes nothing
        assert torch.equal(tensor, conversion.state_dict[key])


def test_large_kernels_are_new():
    args = dict(backbone='resnetv2_18', img_size=32, num_classes=0, large_kernels=(7,), groups=128)
    weights = timm.create_model('resnetv2_18', num_classes=7).state_dict()
    conversion = convert_state_dict(weights, 'sifar_resnet50_c7', **args)
    assert conversion.new and all('stages.3.blocks.2.' in key for key in conversion.new)
    assert accounted(conversion, weights)


@pytest.mark.parametrize('wrap', [
    lambda weights: weights, lambda weights: {'state_dict': weights, 'epoch': 3},
    lambda weights: {'model': {f'module.{key}': value for key, value in weights.items()}}])
def test_checkpoints_of_ours(tmp_path, wrap):
    weights = timm.create_model('sifar_swin_tiny', num_classes=5).state_dict()
    torch.save(wrap(weights), tmp_path / 'last.pth')
    conversion = convert(tmp_path / 'last.pth', tmp_path / 'out.safetensors', 'sifar_swin_tiny', num_classes=5)
    assert len(conversion.taken) == len(weights) and not conversion.dropped and not conversion.new
    assert all(torch.equal(load_file(tmp_path / 'out.safetensors')[key], value) for key, value in weights.items())


# flatzoo -> official


def test_sifar_and_back():
    _, weights = sifar()
    ours = convert_state_dict(weights, 'sifar_swin_b12', **SIFAR).state_dict
    back = convert_state_dict(ours, 'sifar_swin_b12', to='official', **SIFAR)
    buffers = ('attn_mask', 'relative_position_index')
    assert set(back.state_dict) == {key for key in weights if not key.endswith(buffers)}
    assert all(torch.equal(tensor, weights[key]) for key, tensor in back.state_dict.items())
    assert not back.dropped and back.metadata['names'] == 'official'


@pytest.mark.parametrize('name', ['patch', 'convstem_ls'])
def test_uniformer_and_back(name):
    _, weights, args = uniformer(name)
    ours = convert_state_dict(weights, 'uniformer_small', **args).state_dict
    back = convert_state_dict(ours, 'uniformer_small', to='official', **args)
    assert set(back.state_dict) == set(weights)
    assert all(torch.equal(tensor, weights[key]) for key, tensor in back.state_dict.items())
    flatten = convert_state_dict(weights, 'flatten_uniformer_s', **args).state_dict
    back = convert_state_dict(flatten, 'flatten_uniformer_s', to='official', **args)
    assert set(back.state_dict) == set(weights)


def test_videomae_and_back():
    _, weights = videomae()
    ours = convert_state_dict(weights, 'videomae_vit_b', **VIDEOMAE).state_dict
    ours['backbone.blocks.0.attn.qkv.bias'][24:48] = 3.  # of keys: no logit depends on it
    back = convert_state_dict(ours, 'videomae_vit_b', to='official', **VIDEOMAE)
    assert 'backbone.blocks.0.attn.qkv.bias (keys)' in back.dropped
    assert {'patch_embed.proj.weight', 'blocks.1.attn.q_bias', 'fc_norm.weight', 'head.bias'} <= set(back.state_dict)
    assert not any('qkv.bias' in key or key.startswith('backbone.') for key in back.state_dict)
    kernel = weights['videomae.embeddings.patch_embeddings.projection.weight']
    assert torch.equal(back.state_dict['patch_embed.proj.weight'], kernel)
    again = convert_state_dict(back.state_dict, 'videomae_vit_b', **VIDEOMAE).state_dict
    ours['backbone.blocks.0.attn.qkv.bias'][24:48] = 0.
    assert all(torch.equal(again[key], tensor) for key, tensor in ours.items())


def test_models_without_official_code():
    weights = timm.create_model('sifar_resnet10t').state_dict()
    with pytest.raises(ValueError, match=r'sifar_resnet10t has no official code .* videomae_\*'):
        convert_state_dict(weights, 'sifar_resnet10t', to='official')


# refusals


def test_unknown_keys_are_refused():
    _, weights = sifar()
    with pytest.raises(RuntimeError, match='layers.0.temporal.weight'):
        convert_state_dict(weights | {'layers.0.temporal.weight': torch.zeros(1)}, 'sifar_swin_b12', **SIFAR)
    _, weights, args = uniformer('patch')
    with pytest.raises(RuntimeError, match='extra.weight'):
        convert_state_dict(weights | {'extra.weight': torch.zeros(1)}, 'uniformer_small', **args)


def test_missing_keys_are_refused():
    _, weights, args = uniformer('patch')
    del weights['blocks1.0.conv1.weight']
    for name in ('uniformer_small', 'flatten_uniformer_s'):
        with pytest.raises(RuntimeError, match='missing.*stages.0.blocks.0.conv1.weight'):
            convert_state_dict(weights, name, **args)


def test_tensors_that_a_filter_drops_without_a_reason_are_refused(monkeypatch):
    """A filter that forgets a tensor does not go unnoticed, even where the model has no use for it."""
    _, weights = sifar()
    def forgetful(self, state_dict, filter_checkpoint=SifarSwin.filter_checkpoint):
        return filter_checkpoint(self, {key: value for key, value in state_dict.items() if key != 'extra.weight'})

    monkeypatch.setattr(SifarSwin, 'filter_checkpoint', forgetful)
    with pytest.raises(RuntimeError, match='1 keys of the file are not accounted for .* extra.weight'):
        convert_state_dict(weights | {'extra.weight': torch.zeros(1)}, 'sifar_swin_b12', **SIFAR)


@pytest.mark.parametrize('num_classes', [None, 7])
def test_classifier_of_another_size(num_classes):
    _, weights = sifar()
    args = {key: value for key, value in SIFAR.items() if key != 'num_classes'}
    with pytest.raises(ValueError, match=r'head\.\w+\) has 10 classes.*num_classes=10 .*or 0'):
        convert_state_dict(weights, 'sifar_swin_b12', num_classes=num_classes, **args)
    conversion = convert_state_dict(weights, 'sifar_swin_b12', num_classes=0, **args)
    assert conversion.dropped['head.weight'] == 'classifier, as num_classes=0 asks'


def test_tensors_of_another_shape():
    _, weights = sifar()
    with pytest.raises(RuntimeError):
        convert_state_dict(weights, 'sifar_swin_b12', **dict(SIFAR, embed_dim=24))
    weights['layers.0.blocks.0.mlp.fc1.bias'] = torch.zeros(3)
    with pytest.raises(RuntimeError, match=r'fc1.bias \[3\] in place of \[64\]'):
        convert_state_dict(weights, 'sifar_swin_b12', **SIFAR)


@pytest.mark.parametrize('name, says', [('resnet50', 'no model of flatzoo'), ('sifar_swin_b99', 'there is no model')])
def test_models_that_are_not_ours(name, says):
    with pytest.raises(ValueError, match=says):
        convert_state_dict({}, name)


class Evil:
    def __reduce__(self):
        return print, ('code of the file runs',)


def test_files_that_cannot_be_used(tmp_path, capsys):
    torch.save({'model': sifar()[1], 'optimizer': Evil()}, tmp_path / 'evil.pth')
    (tmp_path / 'cut.safetensors').write_bytes(b'\x08\0\0')
    save_file({'a': torch.zeros(1)}, tmp_path / 'other.safetensors')
    target = tmp_path / 'out.safetensors'
    target.write_text('kept')
    for source, says in (
            ('evil.pth', 'cannot be loaded safely'), ('cut.safetensors', 'damaged'),
            ('none.pth', 'no such weight file'), ('other.safetensors', 'missing')):
        argv = ['convert', str(tmp_path / source), str(target), '--model', 'sifar_swin_tiny']
        assert main(argv) == 1
        out, err = capsys.readouterr()
        assert out == '' and says in err and err.startswith('flatzoo convert: error: ') and err.count('\n') == 1
    assert target.read_text() == 'kept' and 'code of the file' not in err
    for target, says in (('out.pth', 'ends in .safetensors'), ('no/out.safetensors', 'no such folder')):
        argv = ['convert', str(tmp_path / 'other.safetensors'), str(tmp_path / target), '--model', 'sifar_swin_tiny']
        assert main(argv) == 1
        assert says in capsys.readouterr().err


def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch):
    weights = timm.create_model('sifar_swin_tiny', num_classes=5).state_dict()
    save_file(weights, tmp_path / 'in.safetensors')
    (tmp_path / 'out.safetensors').write_text('kept')

    def fails(tensors, filename, metadata):
        Path(filename).write_text('half')
        raise OSError('disk full')

    monkeypatch.setattr('flatzoo.hub.convert.save_file', fails)
    with pytest.raises(OSError, match='disk full'):
        convert(tmp_path / 'in.safetensors', tmp_path / 'out.safetensors', 'sifar_swin_tiny', num_classes=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['in.safetensors', 'out.safetensors']
    assert (tmp_path / 'out.safetensors').read_text() == 'kept'


# the command


def test_command(tmp_path, capsys):
    _, weights, args = uniformer('patch')
    torch.save(weights, tmp_path / 'official.pth')
    kwargs = [f'{key}={value}' for key, value in args.items() if key != 'num_classes']
    argv = ['convert', str(tmp_path / 'official.pth'), str(tmp_path / 'ours.safetensors'), '--model',
            'flatten_uniformer_s', '--num-classes', '0', '--model-kwargs', *kwargs]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert re.search(r'^\d+ tensors taken, \d+ written\ndropped: classifier.* \(2\)\n    head.(weight|bias)\n', out)
    converted = load_file(tmp_path / 'ours.safetensors')
    assert torch.equal(converted['backbone.stages.0.downsample.proj.weight'], weights['patch_embed1.proj.weight'])
    with pytest.raises(SystemExit):
        main([*argv, '--model-kwargs', 'depths'])
    assert 'KEY=VALUE' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['show', 'clip.mp4', '--model-kwargs', 'device=cpu'])
    assert "'device=cpu' is said by the options of the command" in capsys.readouterr().err
