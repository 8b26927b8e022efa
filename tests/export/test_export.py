"""Exported files: that they answer as the model does, for every batch size, and that those which do not are refused."""
import importlib
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from base import assert_close, build, perturb, random_clip
from torch.overrides import TorchFunctionMode

import flatzoo.cli.commands.export
import flatzoo.export
from flatzoo.cli import main
from flatzoo.export import ExportError, check, exporter, formats

TINY = dict(model_name='superimage', backbone='test_resnet', img_size=32)
AMFLOW = dict(
    model_name='amflow_dinov2_b_tcn_lite', backbone='vit_base_patch14_reg4_dinov2', embed_dim=32, depth=2, num_heads=2,
    patch_size=7, img_size=28, num_frames=3, am_blocks=(0, -1), bottleneck=16, aligner_dim=24, aligner_depth=1,
    aligner_mlp_dim=32, aligner_heads=4, tcn_dim=8)
SLOW_EXPORT = pytest.param('torch-export', marks=pytest.mark.slow)
SLOW_ONNX = pytest.param('onnx', marks=pytest.mark.slow)
SLOW_AOTI = pytest.param('aoti', marks=pytest.mark.slow)  # a compiler of C++ runs


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(check, 'ROUNDS', 1)


def uint8_clips(model, count):
    generator = torch.Generator().manual_seed(3)
    shape = (count, model.in_chans, model.num_frames, *model.img_size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_integers_in_onnx(tmp_path):
    torch.manual_seed(0)
    model = perturb(build(dict(model_name='videomae_vit_s', depth=1, embed_dim=96, num_heads=2, img_size=32)))
    whole = flatzoo.export.export(model, tmp_path / 'whole.onnx', 'onnx')
    report = flatzoo.export.export(model, tmp_path / 'model.onnx', 'onnx', quantize='int8')
    assert 0 < report.difference <= report.tolerance == 0.1 and report.size < 0.8 * whole.size
    assert flatzoo.export.load(tmp_path / 'model.onnx').metadata['num_classes'] == model.num_classes
    with pytest.raises(ExportError, match='differ'):  # the check refuses what differs too much
        flatzoo.export.export(model, tmp_path / 'strict.onnx', 'onnx', quantize='int8', tolerance=1e-6)
    assert not list(tmp_path.glob('strict*'))
    with pytest.raises(ValueError, match="needs format='onnx', got 'torchscript'"):
        flatzoo.export.export(model, tmp_path / 'x.pt', 'torchscript', quantize='int8')


@pytest.mark.parametrize('format', ['torch-export', 'onnx', 'torchscript', SLOW_AOTI])
def test_a_file_answers_as_the_model_and_says_what_it_is(format, tmp_path):
    model = timm.create_model('sifar_resnet10t', pretrained=True).eval()
    path = tmp_path / f'model{formats.FORMATS[format]}'
    report = flatzoo.export.export(model, path, format)
    assert list(tmp_path.iterdir()) == [path]  # nothing half-written is left
    assert report.size == path.stat().st_size and report.speed > 0
    assert report.difference <= report.tolerance == 1e-4
    assert report.batches == ('3 random clips', '1 random clip', '2 real clips')

    exported = flatzoo.export.load(path)
    assert exported.format == format
    for count in (1, 5):
        clips = uint8_clips(model, count)
        with torch.no_grad():
            assert_close(exported(clips), model(clips), atol=1e-4)
    about = exported.metadata
    assert about['label_names'] == list(model.pretrained_cfg['label_names']) and len(about['label_names']) == 16
    assert about['layout'] == 'grid' and about['num_frames'] == 8 and about['img_size'] == [32, 32]
    assert about['mean'] == list(model.pretrained_cfg['mean']) and about['std'] == list(model.pretrained_cfg['std'])
    assert about['protocol'] == flatzoo.eval_protocol(model).to_dict()
    assert about['input'] == dict(dtype='uint8', shape=['batch', 3, 8, 32, 32], range='0...255', device='cpu')
    for wrong in (random_clip(model), clips[:, :, 1:]):
        with pytest.raises(ValueError, match=r"Expected uint8 clips \['batch', 3, 8, 32, 32\]"):
            exported(wrong)
        if format == 'torchscript':
            with pytest.raises(torch.jit.Error, match=r'a batch of torch.uint8 clips of shape \[3, 8, 32, 32\]'):
                exported.run(wrong)


@pytest.mark.parametrize('format', ['torch-export', 'torchscript', SLOW_ONNX])
def test_float_clips_come_normalised(format, tmp_path):
    model = build(TINY, layout='random:2x4')  # which shuffles in training only
    flatzoo.export.export(model, tmp_path / 'model', format, input='float')
    exported = flatzoo.export.load(tmp_path / 'model')  # known by its content
    assert exported.format == format and exported.metadata['input']['dtype'] == 'float32'
    clips = random_clip(model, 4)
    with torch.no_grad():
        assert_close(exported(clips), model(clips))


@pytest.mark.parametrize('format', [SLOW_EXPORT, 'torchscript', SLOW_ONNX, SLOW_AOTI])
def test_files_of_amflow_models_have_no_operators_of_ours(format, tmp_path):
    model = perturb(build(AMFLOW))  # adapters start as zero
    path = tmp_path / f'model{formats.FORMATS[format]}'
    flatzoo.export.export(model, path, format)
    exported = flatzoo.export.load(path)
    clips = uint8_clips(model, 4)
    with torch.no_grad():
        assert_close(exported(clips), model(clips))
    if format == 'torch-export':
        assert 'flatzoo' in str(torch.export.export(model, (clips,)).graph)  # the model itself has them
        assert 'flatzoo' not in str(exported.run.graph)
    if format == 'torchscript':
        assert 'flatzoo::' not in str(exported.run.inlined_graph) and 'aten::softmax' in str(exported.run.inlined_graph)


def test_the_model_is_left_as_it_was(tmp_path):
    model = build(TINY, in_chans=1).train()  # e.g. depth
    model.set_grad_checkpointing()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flatzoo.export.export(model, tmp_path / 'model.pt', 'torchscript')
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.backbone.grad_checkpointing
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    clips = uint8_clips(model, 2)
    with torch.no_grad():
        assert_close(flatzoo.export.load(tmp_path / 'model.pt')(clips), model.eval()(clips))


def test_attention_over_windows_has_four_dimensions():
    """ONNX has no other."""
    q, k, v = torch.randn(3, 2, 3, 4, 5, 6)
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is F.scaled_dot_product_attention:
                seen.append(args[0].ndim)
            return func(*args, **(kwargs or {}))

    expected = F.scaled_dot_product_attention(q, k, v)
    with Watch(), formats.PlainOperators():
        assert_close(F.scaled_dot_product_attention(q, k, v, dropout_p=0.0), expected)
    assert seen == [4]


# Refusals


def test_a_file_that_differs_is_refused(tmp_path, monkeypatch):
    model, path = build(TINY), tmp_path / 'model.pt'
    path.write_text('an older file')

    def write_another(model, *args):
        with torch.no_grad():
            model.get_classifier().bias[0] += 1e-3
        formats.write(model, *args)
        with torch.no_grad():
            model.get_classifier().bias[0] -= 1e-3

    monkeypatch.setattr(exporter, 'write', write_another)
    with pytest.raises(ExportError, match='differ from those of the model by .* more than the 1e-04'):
        flatzoo.export.export(model, path, 'torchscript')
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == 'an older file'
    assert flatzoo.export.export(model, path, 'torchscript', tolerance=0.5).difference > 1e-4


def test_a_batch_size_that_became_a_constant_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, 'BATCH', None)
    with pytest.raises(ExportError, match='the file fails on 1 random clip: '):
        flatzoo.export.export(build(TINY), tmp_path / 'model.pt2')
    assert not list(tmp_path.iterdir())


def test_answers_that_are_no_numbers_are_no_answers():
    clips = {'a': torch.zeros(2, 3), 'b': torch.zeros(1, 3)}
    assert check.largest_difference(lambda x: x + 2, lambda x: x + 1, clips) == 0.5
    wrong = check.largest_difference(lambda x: x + 2, lambda x: x + (2 if len(x) == 1 else float('nan')), clips)
    assert wrong != wrong
    with pytest.raises(ExportError, match=r'answers a with \[3\], not \[2, 3\]'):
        check.largest_difference(lambda x: x + 2, lambda x: x[0], clips)


@pytest.mark.parametrize(('args', 'kwargs', 'error', 'says'), [
    (TINY, dict(format='coreml'), ValueError, 'torch-export, onnx, torchscript, aoti'),
    (TINY, dict(input='uint16'), ValueError, 'uint8, float'),
    (dict(TINY, dtype=torch.bfloat16), {}, ValueError, 'bfloat16'),
    (dict(TINY, layout='random:2x4:always'), {}, ValueError, 'new order'),
    (dict(model_name='test_resnet'), {}, TypeError, 'Only video models'),
])
def test_what_cannot_be_exported(args, kwargs, error, says, tmp_path):
    with pytest.raises(error, match=says):
        flatzoo.export.export(build(args), tmp_path / 'model', **kwargs)
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'flatzoo\[onnx\]'"):
        flatzoo.export.export(build(TINY), tmp_path / 'model.onnx', 'onnx')
    assert not list(tmp_path.iterdir())


def test_reasons_are_one_readable_line():
    try:
        try:
            raise TypeError('only 4D query')
        except TypeError as error:
            raise torch.onnx.errors.OnnxExporterError('Next steps: create an error report') from error
    except torch.onnx.errors.OnnxExporterError as error:
        assert exporter._reason(error) == 'only 4D query'
    assert exporter._reason(RuntimeError('no \x1b[96msuch\x1b[0m\n thing')) == 'no such thing'
    assert exporter._reason(KeyError()) == 'KeyError'


def test_models_without_classifier_give_features(tmp_path):
    report = flatzoo.export.export(build(TINY, num_classes=0), tmp_path / 'model.pt', 'torchscript')
    assert '(B, 3, 8, 32, 32) -> features\n' in str(report)


def test_files_of_others_are_not_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such file'):
        flatzoo.export.load(tmp_path / 'none.onnx')
    (tmp_path / 'text.onnx').write_text('no model')
    torch.save({'a': torch.zeros(1)}, tmp_path / 'weights.pt')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.jit.script(torch.nn.ReLU()).save(tmp_path / 'relu.pt')
    for name in ('text.onnx', 'weights.pt', 'relu.pt'):
        with pytest.raises(ValueError, match=f'{name}: is not a file of'):
            flatzoo.export.load(tmp_path / name)


# The command


def test_command(tmp_path, monkeypatch, capsys):
    assert flatzoo.cli.commands.export.FORMATS == tuple(formats.FORMATS)
    monkeypatch.chdir(tmp_path)
    assert main(['export', 'sifar_resnet10t', '--format', 'torchscript']) == 0
    out = capsys.readouterr().out
    assert out.startswith('sifar_resnet10t.pt: 5.1 MB, torchscript, uint8 clips (B, 3, 8, 32, 32) -> logits (B, 16)\n')
    assert 'accepted: 1e-04' in out and '2 real clips' in out and 'times the speed of the model' in out
    assert [path.name for path in tmp_path.iterdir()] == ['sifar_resnet10t.pt']

    options = ['--format', 'torchscript', '--allow-untrained', '--input', 'float', '--out', 'depth.pt',
               '--model-kwargs', 'backbone=test_resnet', 'img_size=32', 'in_chans=1', 'num_classes=3']
    assert main(['export', 'superimage', *options]) == 0
    assert 'depth.pt: ' in capsys.readouterr().out
    assert flatzoo.export.load('depth.pt')(torch.zeros(3, 1, 8, 32, 32)).shape == (3, 3)


@pytest.mark.parametrize(('arguments', 'says'), [
    (['sifar_swin_b12'], 'never trained'),
    (['sifar_resnet10t', '--out', 'no/such/folder/x.pt'], 'x.pt cannot be written (there is no such folder)'),
    (['sifar_resnet10t', '--out', '.'], '. cannot be written (is a folder)'),
    pytest.param(
        ['sifar_resnet10t', '--out', '/proc/x.pt'], '/proc/x.pt cannot be written (',
        marks=pytest.mark.skipif(not Path('/proc').is_dir(), reason='needs a folder that nobody can write to')),
    (['sifar_resnet10t', '--model-kwargs', 'layout=random:3x3:always'], 'new order'),
])
def test_command_refuses(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['export', *arguments, '--format', 'torchscript']) == 1
    out, err = capsys.readouterr()
    assert out == '' and says in err and err.startswith('flatzoo export: error: ') and err.count('\n') == 1
    assert not list(tmp_path.iterdir())


# The table


def test_table(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    script = importlib.import_module('benchmarks.models.export_table')
    monkeypatch.setattr(script, 'MODELS', {
        'good': ('superimage', dict(backbone='test_resnet', img_size=32)),
        'bad': ('superimage', dict(backbone='test_resnet', img_size=32, layout='random:2x4:always')),
    })
    out = tmp_path / 'table.md'
    for models in ('good', 'bad'):  # cells that are not asked for stay
        monkeypatch.setattr(
            sys, 'argv', ['export_table.py', '--out', str(out), '--formats', 'torchscript', '--models', models])
        script.main()
    lines = out.read_text().splitlines()
    good, bad = (next(line for line in lines if line.startswith(f'| {name} ')) for name in ('good', 'bad'))
    assert good.startswith('| good | not tried | not tried | 0.0e+00, x') and bad.count('no (below)') == 1
    assert any(line.startswith('- bad, torchscript: ') and 'new order' in line for line in lines)
    assert len((tmp_path / 'data/table.csv').read_text().splitlines()) == 3


@pytest.mark.gpu
@pytest.mark.parametrize('format', ['torch-export', 'torchscript', 'onnx', 'aoti'])
@pytest.mark.parametrize('args', [TINY, AMFLOW], ids=['resnet', 'amflow'])
def test_cuda(args, format, tmp_path):
    model = perturb(build(args)).cuda()
    path = tmp_path / f'model{formats.FORMATS[format]}'
    report = flatzoo.export.export(model, path, format, tolerance=1e-2)  # TF32
    assert report.device == ('cpu' if format == 'onnx' else 'cuda:0')
    exported = flatzoo.export.load(path)
    clips = uint8_clips(model, 4).cuda()
    with torch.no_grad():
        assert_close(exported(clips).cuda(), model(clips), atol=1e-2)
