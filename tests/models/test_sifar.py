"""SIFAR: parity with the official code, exact sizes, and weights from official checkpoints."""
import argparse
import logging
import os
from pathlib import Path

import pytest
import timm
import torch
from golden_files import read_golden
from safetensors.torch import save_file

import flatzoo
from flatzoo.data.protocol import EvalProtocol

TINY = dict(num_classes=10, depths=(1, 1, 2, 2), num_heads=(1, 2, 4, 8))
# recorded outputs of the official code, and the same model here
GOLDEN = {
    'c_4x4_16f': dict(TINY, embed_dim=24, num_frames=16, img_size=48, window_size=(4, 4, 4, 6)),
    'e_3x3_8f_resize_ape': dict(TINY, embed_dim=16, num_frames=8, img_size=64, window_size=(4, 4, 4, 6), ape=True),
}
APE = GOLDEN['e_3x3_8f_resize_ape']
SMALL = dict(model_name='sifar_swin_b12', num_classes=5, embed_dim=16, depths=(1, 1, 2, 2), num_heads=(1, 2, 4, 8))
FRAME_EMBED = 'backbone.patch_embed.frame_pos_embed'


def golden(name):
    """Recorded tensors, and the official state dict with its buffers."""
    tensors = read_golden(f'sifar_{name}')
    return tensors, {key.removeprefix('model.'): value for key, value in tensors.items() if key.startswith('model.')}


def load(weights, args, **kwargs):
    """Through timm's own path for pretrained weights: a state dict, a file or an address."""
    source = 'state_dict' if isinstance(weights, dict) else 'url' if '://' in str(weights) else 'file'
    return timm.create_model(
        'sifar_swin_b12', pretrained=True, pretrained_cfg_overlay={source: weights}, **{**args, **kwargs}).eval()


def as_clip(tensors):
    """The official code packs frames into channels, t * 3 + c."""
    return tensors['input'].unflatten(1, (-1, 3)).transpose(1, 2)


def small(**kwargs):
    torch.manual_seed(0)
    return timm.create_model(**{**SMALL, **kwargs}).eval()


# parity with the official code


@torch.no_grad()
@pytest.mark.parametrize('name', GOLDEN)
@pytest.mark.parametrize('wrap', [lambda sd: sd, lambda sd: {'model': sd, 'epoch': 3},
                                  lambda sd: {'model': {f'module.{k}': v for k, v in sd.items()}}],
                         ids=['raw', 'wrapped', 'distributed'])
def test_parity(name, wrap):
    tensors, state_dict = golden(name)
    model = load(wrap(state_dict), GOLDEN[name])
    clip = as_clip(tensors)
    tokens = model.backbone.patch_embed(model.super_image(clip)[:1]).flatten(1, 2)
    for actual, key in (
            (model.super_image(clip)[:1], 'super_image_b0'),
            (tokens, 'tokens_stage0_in_b0'),
            (model.forward_head(model.forward_features(clip), pre_logits=True), 'pre_logits'),
            (model(clip), 'logits'),
    ):
        torch.testing.assert_close(actual, tensors[key], rtol=0, atol=1e-5)
    assert model.head_trained


@torch.no_grad()
def test_parity_of_uint8_grey():
    """Frames that are missing are the mean colour, which uint8 clips meet after normalisation."""
    model = load(golden('e_3x3_8f_resize_ape')[1], APE)
    clip = torch.randint(0, 256, (1, 3, 8, 56, 56), dtype=torch.uint8)
    assert (model.super_image(clip)[:, :, 128:, 128:] == 0).all()


# conversion and checkpoints


def release(path, state_dict, **more):
    """A checkpoint as the official training script leaves it."""
    ema = {key: torch.zeros_like(value) for key, value in state_dict.items()}
    args = argparse.Namespace(model='sifar_base_patch4_window14_224_3x3', duration=8, lr=1e-4)
    torch.save({'model': state_dict, 'model_ema': ema, 'state_dict_ema': ema, 'epoch': 29, 'args': args, **more}, path)
    return path


@torch.no_grad()
@pytest.mark.parametrize('address', [Path.as_uri, str], ids=['url', 'file'])
@pytest.mark.parametrize('num_classes', [10, 7, 0])
def test_release_file(tmp_path, monkeypatch, address, num_classes):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    tensors, state_dict = golden('e_3x3_8f_resize_ape')
    file = release(tmp_path / 'official.pth', state_dict)
    model = load(address(file), APE, num_classes=num_classes)
    torch.testing.assert_close(
        model.forward_head(model.forward_features(as_clip(tensors)), pre_logits=True), tensors['pre_logits'],
        rtol=0, atol=1e-5)
    assert model.head_trained == (num_classes == 10)
    if num_classes == 10:
        torch.testing.assert_close(model(as_clip(tensors)), tensors['logits'], rtol=0, atol=1e-5)
    elif num_classes:
        head = model.get_classifier()
        assert head.weight.std() > 0.005 and (head.bias == 0).all()  # fresh, neither empty nor the file's


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('num_classes', [5, 3])
def test_own_weight_file(tmp_path, suffix, num_classes):
    model = small(img_size=32, window_size=(3, 3, 3, None))
    file = tmp_path / f'weights{suffix}'
    (save_file if suffix == '.safetensors' else torch.save)(model.state_dict(), file)
    loaded = small(img_size=32, window_size=(3, 3, 3, None), num_classes=num_classes, pretrained=True,
                   pretrained_cfg_overlay=dict(file=str(file)))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor) or (num_classes == 3 and '.head.' in name)
    assert loaded.head_trained == (num_classes == 5)


class Evil:
    def __reduce__(self):
        return os.system, (f'touch {Evil.trace}',)


@pytest.mark.parametrize('address', [Path.as_uri, str], ids=['url', 'file'])
def test_pickled_code_is_refused(tmp_path, monkeypatch, address):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    Evil.trace = tmp_path / 'trace'
    file = release(tmp_path / 'evil.pth', golden('e_3x3_8f_resize_ape')[1], optimizer=Evil())
    with pytest.raises(ValueError, match='cannot be loaded safely.*posix.system.*argparse.Namespace'):
        load(address(file), APE)
    assert not Evil.trace.exists()
    torch.load(file, weights_only=False)  # the file does what it says
    assert Evil.trace.exists()


@pytest.mark.parametrize('content', [b'', b'no weights', b'PK\x03\x04 cut off'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_damaged_files(tmp_path, content, suffix):
    file = tmp_path / f'weights{suffix}'
    file.write_bytes(content)
    with pytest.raises(ValueError, match='weights.*damaged or not a weight file.*Accepted: safetensors'):
        load(file, APE)
    with pytest.raises(FileNotFoundError, match='no such weight file'):
        load(tmp_path / 'missing.pth', APE)
    torch.save(torch.zeros(3), tmp_path / 'tensor.pth')
    with pytest.raises(ValueError, match='holds a Tensor.*state dict'):
        load(tmp_path / 'tensor.pth', APE)


def test_unwanted_frame_embedding():
    with pytest.raises(RuntimeError, match=r'1 are not wanted \(backbone.patch_embed.frame_pos_embed\).*ape'):
        load(golden('e_3x3_8f_resize_ape')[1], dict(APE, ape=False))


@torch.no_grad()
def test_missing_frame_embedding(caplog):
    tensors, state_dict = golden('c_4x4_16f')
    args = GOLDEN['c_4x4_16f']
    with caplog.at_level(logging.WARNING):
        model = load(state_dict, args, ape=True)
    assert 'position embedding of frames (APE), these weights have none' in caplog.text
    assert (model.get_parameter(FRAME_EMBED) == 0).all()
    torch.testing.assert_close(model(as_clip(tensors)), tensors['logits'], rtol=0, atol=1e-5)


def test_image_weights(caplog):
    """A Swin of timm with other windows and another number of classes: the start of training."""
    image = timm.create_model(
        'swin_tiny_patch4_window7_224', embed_dim=16, depths=(1, 1, 2, 2), num_heads=(1, 2, 4, 8), num_classes=21)
    with caplog.at_level(logging.INFO):
        model = load(image.state_dict(), dict(APE, num_classes=5))
    assert 'The head for 5 classes' in caplog.text
    assert not model.head_trained
    assert torch.equal(model.backbone.layers[2].blocks[1].mlp.fc1.weight, image.layers[2].blocks[1].mlp.fc1.weight)
    assert model.backbone.layers[0].blocks[0].attn.relative_position_bias_table.shape == (7 ** 2, 1)
    assert 0.01 < model.get_parameter(FRAME_EMBED).std() < 0.03  # not in an image model, so fresh and without a warning


def test_incomplete_weights():
    _, state_dict = golden('e_3x3_8f_resize_ape')
    del state_dict['norm.weight']
    with pytest.raises(RuntimeError, match=r'1 keys are missing \(backbone.norm.weight\)'):
        load(state_dict, APE)
    state_dict = {**golden('e_3x3_8f_resize_ape')[1], 'temporal.weight': torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r'1 are not wanted \(backbone.temporal.weight\)'):
        load(state_dict, APE)


def test_image_weights_of_a_resnet():
    image = timm.create_model('resnetv2_18', num_classes=21)
    model = timm.create_model(
        'sifar_resnet50_c7', backbone='resnetv2_18', num_classes=5, groups=128, img_size=32, pretrained=True,
        pretrained_cfg_overlay=dict(state_dict=image.state_dict(), first_conv='backbone.stem.conv'))
    kernel = model.backbone.stages[-1].blocks[-1].conv2.weight
    assert kernel.shape == (128, 1, 7, 7) and 0 < kernel.std() < 1 and not model.head_trained
    assert torch.equal(model.backbone.stages[0].blocks[0].conv1.weight, image.stages[0].blocks[0].conv1.weight)


def test_official_tags():
    for arch in ('sifar_swin_b14', 'sifar_swin_b14_16f'):
        for tag, labels in (('ibm_k400', 400), ('ibm_ssv2', 174)):
            model = timm.create_model(f'{arch}.{tag}', device='meta')
            assert model.num_classes == len(model.pretrained_cfg['label_names']) == labels
            assert model.get_parameter(FRAME_EMBED).shape == (1, 16 if arch.endswith('16f') else 9, 128)
            assert model.pretrained_cfg['custom_load'] and '_pe_' in model.pretrained_cfg['url']
            assert flatzoo.eval_protocol(f'{arch}.{tag}') == EvalProtocol(num_crops=3)  # the paper's "Inference"
            assert flatzoo.eval_protocol(f'{arch}.{tag}', 'repository') == EvalProtocol(num_clips=3, num_crops=3)
        assert not hasattr(timm.create_model(arch, device='meta').backbone.patch_embed, 'frame_pos_embed')


# the paper's models


@pytest.mark.parametrize('name, embed, params, maps, windows', [
    ('sifar_swin_b7', 128, 87_153_224, (168, 84, 42, 21), (7, 7, 7, 7)),
    ('sifar_swin_b12', 128, 87_333_128, (144, 72, 36, 18), (12, 12, 12, 18)),
    ('sifar_swin_b14', 128, 87_424_712, (168, 84, 42, 21), (14, 14, 14, 21)),
    ('sifar_swin_b12_16f', 128, 87_396_104, (192, 96, 48, 24), (12, 12, 12, 24)),
    ('sifar_swin_b14_16f', 128, 87_510_728, (224, 112, 56, 28), (14, 14, 14, 28)),
    ('sifar_swin_b12_384', 128, 87_577_352, (288, 144, 72, 36), (12, 12, 12, 36)),
    ('sifar_swin_l14_16f', 192, 196_146_532, (224, 112, 56, 28), (14, 14, 14, 28)),
    ('sifar_swin_l12_384', 192, 196_246_468, (288, 144, 72, 36), (12, 12, 12, 36)),
])
def test_swin_rows(name, embed, params, maps, windows):
    """Tables 1 to 4."""
    model = timm.create_model(name, device='meta', num_classes=400)
    assert sum(p.numel() for p in model.parameters()) == params
    for stage, (size, window) in zip(model.backbone.layers, zip(maps, windows, strict=True), strict=True):
        for i, block in enumerate(stage.blocks):
            assert block.input_resolution == (size, size) and block.window_size == (window, window)
            assert block.shift_size == ((window // 2,) * 2 if i % 2 and window < size else (0, 0))
    with_ape = timm.create_model(name, device='meta', num_classes=400, ape=True)
    assert sum(p.numel() for p in with_ape.parameters()) == params + embed * (16 if '16f' in name else 9)


@pytest.mark.parametrize('name, params', [
    # 1x1, k x k and 1x1 convolutions of 2048 -> 512 -> 512 -> 2048 channels, and their norms, for every kernel k
    ('sifar_resnet50', 24_319_952), ('sifar_resnet101', 43_312_080), ('sifar_resnet152x2', 233_877_008),
    *((f'sifar_resnet50_{name}', 24_319_952 + sum(2_103_296 + 512 * 512 * k * k for k in kernels))
      for name, kernels in (('c7', (7,)), ('c11', (11,)), ('c21', (21,)), ('c21_11', (21, 11)))),
    *((f'sifar_resnet101_{name}', 43_312_080 + sum(2_103_296 + 512 * 512 * k * k for k in kernels))
      for name, kernels in (('c21', (21,)), ('c21_11', (21, 11)))),
])
def test_resnet_rows(name, params):
    """Table 7."""
    model = timm.create_model(name, device='meta', num_classes=400)
    assert sum(p.numel() for p in model.parameters()) == params
    assert model.image_size == (672, 672)
    if '_c' in name:
        blocks = model.backbone.stages[-1].blocks
        assert f'{blocks[-1].conv2.kernel_size[0]}' == name.split('_')[-1].removeprefix('c')
        grouped = timm.create_model(name, device='meta', num_classes=400, groups=512)
        assert grouped.backbone.stages[-1].blocks[-1].conv2.groups == 512
        with pytest.raises(ValueError, match='groups=3 must divide'):
            timm.create_model(name, device='meta', groups=3)
        with pytest.raises(ValueError, match='kernel_size=4 must be odd'):
            timm.create_model(name, device='meta', large_kernels=(4,))
