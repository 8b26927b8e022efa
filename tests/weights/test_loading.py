"""Weights that come from files quickly: nothing is drawn in vain, nothing is copied that can be mapped."""
import hashlib
import json
import sys
import warnings

import pytest
import timm
import torch
from processes import Process, run_code
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

import flatzoo  # noqa: F401 - registers the models
from flatzoo.weights.checkpoint import map_weights

CLIP = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


class Calls(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name != 'copy_' or args[0].data_ptr() != args[1].data_ptr():  # a copy to itself does nothing
            self.names.append(name)
        return func(*args, **(kwargs or {}))

    def random(self) -> int:
        return sum(name in ('uniform_', 'normal_', 'bernoulli_', 'erfinv_') for name in self.names)


@pytest.fixture(scope='module')
def source():
    torch.manual_seed(0)
    return timm.create_model('sifar_swin_tiny', num_classes=5).eval()


@pytest.fixture(scope='module', params=['safetensors', 'pth'])
def file(request, source, tmp_path_factory):
    path = tmp_path_factory.mktemp('weights') / f'weights.{request.param}'
    (save_file if request.param == 'safetensors' else torch.save)(source.state_dict(), path)
    return path


def load(file, **kwargs):
    kwargs = dict(dict(num_classes=5), **kwargs)
    overlay = dict(file=str(file), num_classes=5)
    return timm.create_model('sifar_swin_tiny', pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


@pytest.mark.parametrize('mmap', [False, True])
def test_weights_are_bit_equal(file, source, mmap):
    model = load(file, mmap=mmap)
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    for (key, value), (_, wanted) in zip(model.named_buffers(), source.named_buffers(), strict=True):
        assert torch.equal(value, wanted), key
    assert model.head_trained and all(parameter.requires_grad for parameter in model.parameters())
    assert 'mmap' not in model._model_args
    difference = (model(CLIP) - source(CLIP)).abs().max()
    assert difference == 0 if not mmap else difference < 1e-5


@pytest.mark.parametrize('mmap', [False, True])
def test_only_what_is_missing_is_drawn(file, mmap):
    with Calls() as calls:
        load(file, mmap=mmap)
    assert calls.random() == 0
    with Calls() as calls:
        model = load(file, mmap=mmap, num_classes=7)
    assert calls.random() == 2  # trunc_normal_ of one weight: uniform_ and erfinv_
    assert 0.01 < model.get_classifier().weight.std() < 0.03 and not model.head_trained


def test_mapped_weights_are_not_copied(file):
    with Calls() as copied:
        load(file)
    with Calls() as mapped:
        model = load(file, mmap=True)
    tensors = len(model.state_dict())
    assert copied.names.count('copy_') - mapped.names.count('copy_') >= tensors
    assert mapped.names.count('set_') - copied.names.count('set_') == tensors  # readers of files use it, too
    model.load_state_dict(load(file).state_dict())  # the hook is gone
    with Calls() as calls:
        model.load_state_dict(load(file).state_dict())
    assert 'copy_' in calls.names


def test_training_leaves_the_file_alone(file):
    before = hashlib.sha256(file.read_bytes()).digest()
    model = load(file, mmap=True)
    optimizer = torch.optim.SGD(model.parameters(), 1.)
    model(CLIP).square().sum().backward()
    weight = model.get_classifier().weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.get_classifier().weight, weight)
    assert hashlib.sha256(file.read_bytes()).digest() == before


def test_mapped_weights_keep_dtype(source, tmp_path):
    half = {key: value.half() if value.is_floating_point() else value for key, value in source.state_dict().items()}
    save_file(half, tmp_path / 'half.safetensors')
    model = load(tmp_path / 'half.safetensors', mmap=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.get_classifier().weight, source.get_classifier().weight.half().float())
    with pytest.raises((RuntimeError, ValueError), match='frame_pos_embed|size|keys'):
        load(tmp_path / 'half.safetensors', mmap=True, embed_dim=48)


def test_mapped_weights_stay_tied():
    model = torch.nn.ModuleDict(dict(first=torch.nn.Linear(3, 3), second=torch.nn.Linear(3, 3)))
    model['second'].weight = weight = model['first'].weight
    state = {key: torch.randn_like(value) for key, value in model.state_dict().items()}
    state['second.weight'] = state['first.weight'].clone()
    model.register_load_state_dict_pre_hook(map_weights)
    model.load_state_dict(state)
    assert model['first'].weight is model['second'].weight is weight
    assert torch.equal(weight, state['first.weight'])
    assert weight.data_ptr() == state['second.weight'].data_ptr()
    assert model['first'].bias.data_ptr() == state['first.bias'].data_ptr()


@pytest.mark.parametrize('backbone', ['swinv2_tiny_window8_256', 'swinv2_cr_tiny_224'])
def test_blocks_of_swin_v2_share_masks(backbone):
    args = dict(
        backbone=backbone, window_size=(4, 4), num_frames=4, img_size=32, embed_dim=16, depths=(4, 2), num_heads=(1, 2))
    backbones = [
        timm.create_model('sifar_swin_tiny', **args, **strict).backbone for strict in ({}, dict(strict_img_size=True))]
    masks, wanted = ([getattr(m, 'attn_mask', None) for m in b.modules()] for b in backbones)
    assert [mask is None for mask in masks] == [mask is None for mask in wanted]
    assert all(torch.equal(a, b) for a, b in zip(masks, wanted) if a is not None)
    assert len({id(mask) for mask in masks}) < len({id(mask) for mask in wanted})


def test_swin_blocks_share_masks(source):
    plain = timm.create_model('sifar_swin_tiny', strict_img_size=True)
    stages = [model.backbone.layers for model in (source, plain)]
    masks = []
    for blocks in zip(*([block for stage in layers for block in stage.blocks] for layers in stages), strict=True):
        mask, wanted = (block.attn_mask for block in blocks)
        assert (mask is None) == (wanted is None) and (mask is None or torch.equal(mask, wanted))
        assert [block.dynamic_mask for block in blocks] == [False, False]
        masks += [] if mask is None else [mask]
    assert masks
    deep = timm.create_model('sifar_swin_tiny', depths=(4, 2, 2, 2))
    first = [block.attn_mask for block in deep.backbone.layers[0].blocks]
    assert first[1] is first[3] and first[1] is not None
    with pytest.raises(AssertionError):  # as strict as it is asked to be
        source.backbone(torch.zeros(1, 3, 128, 128))


def test_nine_real_frames_in_nine_cells(source):
    model = timm.create_model('sifar_swin_tiny', num_frames=9, num_classes=5).eval()
    model.load_state_dict(source.state_dict())  # the same parameters
    assert model.grid_size == (3, 3) and model.super_image.empty == []
    clip = torch.randn(1, 3, 9, 32, 32)
    image = model.super_image(clip)
    assert torch.equal(image[..., 64:, 64:], clip[:, :, 8])
    empty = clip.clone()
    empty[:, :, 8] = 0
    torch.testing.assert_close(model(empty), source(clip[:, :, :8]), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='reads /proc')
@pytest.mark.parametrize('mmap', [False, True])
def test_anonymous_memory(tmp_path, mmap):
    """Beside the weights themselves a load takes little, and next to nothing where they are mapped."""
    args = dict(backbone='vit_base_patch16_224', num_frames=2, layout='time:1', img_size=32)
    code = f'''
import json, threading, timm, torch, flatzoo
torch.set_num_threads(1)
def anonymous():
    lines = open('/proc/self/smaps_rollup').read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith('Anonymous:')) * 1024
file, args = {str(tmp_path / 'weights.safetensors')!r}, {args!r}
from safetensors.torch import save_file
model = timm.create_model('superimage', num_classes=0, device='meta', **args)
save_file({{key: torch.zeros(value.shape) for key, value in model.state_dict().items()}}, file)
size = sum(value.numel() * 4 for value in model.state_dict().values())
def load():
    return timm.create_model('superimage', pretrained=True, num_classes=0, mmap={mmap},
                             pretrained_cfg_overlay=dict(file=file, num_classes=0), **args)
timm.create_model('superimage', backbone='test_vit', num_frames=2, layout='time:1', img_size=160)  # imports
before, peak, done = anonymous(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch)
thread.start()
model = load()
peak = max(peak, anonymous())
done.set(); thread.join()
print(json.dumps([size, peak - before]))
'''
    result = Process(tmp_path / 'log', run_code, code).wait()
    assert result.returncode == 0, result.stderr
    size, peak = json.loads(result.stdout)
    assert size > 300e6
    assert peak <= (0.2 if mmap else 1.2) * size


KEY = 'backbone.patch_embed.proj.weight'
RAW_AND_EMA = [
    ('state_dict', 'state_dict_ema'), ('model', 'model_ema'), ('model', 'ema'), ('net', 'ema_state_dict')]


def spoken(checkpoint, tmp_path, **kwargs):
    torch.save(checkpoint, tmp_path / 'x.pth')
    return load(tmp_path / 'x.pth', **kwargs).state_dict()[KEY]


@pytest.mark.parametrize('wrap', [
    lambda w: {f'module.{k}': v for k, v in w.items()},
    lambda w: {'n_averaged': torch.tensor(3), **{f'module.{k}': v for k, v in w.items()}},
    lambda w: {f'_orig_mod.{k}': v for k, v in w.items()},
    lambda w: {f'module._orig_mod.{k}': v for k, v in w.items()},
    lambda w: {k.replace('backbone.', 'backbone._orig_mod.'): v for k, v in w.items()},
    lambda w: {'state_dict': {f'model.{k}': v for k, v in w.items()} | {'criterion.weight': torch.ones(5)}},
    lambda w: {'model_state_dict': w, 'optimizer_state_dict': {}},
    lambda w: {'model': {'name': 'mine', 'depth': 3}, 'state_dict': w},
    lambda w: {'net': w}, lambda w: {f'net.{k}': v for k, v in w.items()},
    lambda w: {'model_ema': {'decay': 0.9, 'module': w}},
])
def test_weights_as_training_code_wraps_them(source, tmp_path, wrap):
    weights = source.state_dict()
    assert torch.equal(spoken(wrap(weights), tmp_path), weights[KEY])


@pytest.mark.parametrize('raw, ema', RAW_AND_EMA)
def test_average_beside_raw_weights(source, tmp_path, raw, ema):
    weights = source.state_dict()
    checkpoint = {raw: {key: torch.zeros_like(value) for key, value in weights.items()}, ema: weights}
    with pytest.warns(UserWarning, match=f'average .*{ema}.* is taken. use_ema=False'):
        assert torch.equal(spoken(checkpoint, tmp_path), weights[KEY])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(spoken(checkpoint, tmp_path, use_ema=True), weights[KEY])
        assert not spoken(checkpoint, tmp_path, use_ema=False).any()
    flat = {f'{name}.{key}': value for name, part in (('model', checkpoint[raw]), ('ema', weights)) for key, value in
            part.items()}
    assert torch.equal(spoken({'state_dict': flat}, tmp_path, use_ema=True), weights[KEY])
    assert not spoken({'state_dict': flat}, tmp_path, use_ema=False).any()


def test_an_average_that_is_not_there_is_refused(source, file):
    with pytest.raises(ValueError, match='there is no moving average'):
        load(file, use_ema=True)


def test_loading_in_inference_mode(file, source):
    with torch.inference_mode():
        model = load(file)
    assert torch.equal(model.state_dict()[KEY], source.state_dict()[KEY])
    model(CLIP).sum().backward()  # and it can be trained
    assert 'use_ema' not in model._model_args


def test_misspelt_arguments_name_the_one_that_is_meant():
    for name, wrong, right in (
            ('sifar_resnet10t', 'num_frame', 'num_frames'), ('sifar_swin_tiny', 'image_size', 'img_size'),
            ('sifar_resnet10t', 'drop_pth_rate', 'drop_path_rate')):
        with pytest.raises(TypeError, match=f'{wrong} is no argument of .*: did you mean {right}'):
            timm.create_model(name, **{wrong: 32})
    with pytest.raises(TypeError, match="zzz is no argument .* flatzoo's are .*num_frames, "):
        timm.create_model('sifar_resnet10t', zzz=1)
