"""`flatzoo show`: the pictures that it writes, and that it says why when it writes none."""
import importlib
import shutil
import sys

import av
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.models import save_for_hf
from torchvision.transforms.functional import pil_to_tensor

import flatzoo
from flatzoo.cli import main

show = importlib.import_module('flatzoo.cli.commands.show')

AMFLOW = dict(
    model_name='amflow_dinov2_b_tcn_lite', backbone='vit_base_patch14_reg4_dinov2', embed_dim=32, depth=3, num_heads=4,
    patch_size=7, img_size=28, num_frames=4, am_blocks=(0, -1), bottleneck=16, aligner_dim=24, aligner_mlp_dim=32,
    aligner_heads=4, tcn_dim=8, num_classes=3)
GRID = ['--model', 'superimage', '--allow-untrained', '--model-kwargs', 'backbone=test_resnet', 'img_size=32']


def save(folder, **kwargs):
    """A model in a folder, and the options that choose it."""
    torch.manual_seed(0)
    save_for_hf(timm.create_model(**kwargs), folder, safe_serialization=True)
    return ['--model', f'local-dir:{folder}']


@pytest.fixture(scope='module')
def amflow(tmp_path_factory):
    return save(tmp_path_factory.mktemp('amflow'), **AMFLOW)


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    """A bright square that moves over a dark ground, 12 frames."""
    path = tmp_path_factory.mktemp('clip') / 'square.mp4'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=12)
        stream.height = stream.width = 56
        stream.pix_fmt = 'yuv420p'
        for i in range(12):
            pixels = np.full((56, 56, 3), 40, np.uint8)
            pixels[20:36, 3 * i:3 * i + 16] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    return path


def pixels(path):
    """uint8 `[3, H, W]` of a PNG file, which must be whole."""
    with Image.open(path) as image:
        assert image.format == 'PNG'
        return pil_to_tensor(image.convert('RGB'))


def refused(arguments, capsys):
    """What the command says on standard error, and that it says nothing else."""
    assert main(['show', *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('flatzoo show: error: ') and err.count('\n') == 1
    return err


@pytest.fixture
def drawn(monkeypatch):
    """The figures that the command saves."""
    figure = pytest.importorskip('matplotlib.figure', reason="needs pip install 'flatzoo[show]'").Figure
    figures, savefig = [], figure.savefig
    monkeypatch.setattr(
        figure, 'savefig', lambda self, *args, **kwargs: figures.append(self) or savefig(self, *args, **kwargs))
    return figures


def texts(figure):
    return [text.get_text() for text in figure.texts]


# Pictures


def test_flow_and_overlay_of_an_amflow_model(amflow, clip, tmp_path, capsys, drawn):
    out = tmp_path / 'new' / 'folder'
    assert main(['show', str(clip), *amflow, '--only', 'flow', '--out', str(out)]) == 0
    written = [out / 'square.flow.png', out / 'square.flow_overlay.png']
    assert capsys.readouterr().out.splitlines() == [str(path) for path in written]
    assert sorted(out.iterdir()) == written  # nothing half-written is left
    for path, fig in zip(written, drawn, strict=True):
        assert pixels(path).float().std() > 10
        names = [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()]
        assert names == ['frames', 'block 0', 'block 2']  # those with flow
        assert [ax.get_title() for ax in fig.axes[:4]] == ['0.08 s', '0.33 s', '0.58 s', '0.83 s']
        assert len(fig.axes) == 3 * 4
        tokens = fig.axes[4].images[0].get_array()
        assert tokens.shape == ((4, 4, 3) if path is written[0] else (28, 28, 3))
    assert drawn[0].get_suptitle().endswith('on square.mp4')
    moved = [ax.images[0].get_array().std() for ax in drawn[0].axes[4:8]]
    assert max(moved) > 0.05  # the colours of the flow, not the grey of a still clip


def test_all_pictures(clip, tmp_path, capsys, drawn):
    pytest.importorskip('pytorch_grad_cam', reason="needs pip install 'flatzoo[show]'")
    assert main(['show', str(clip), '--out', str(tmp_path), '--class', 'TURNS clockwise']) == 0
    names = ['frames.png', 'super_image.png', 'cam.png', 'cam.gif', 'importance.png']
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(tmp_path / f'square.{name}') for name in names] and err == ''
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f'square.{name}' for name in names)
    frames, images, cam, importance = drawn
    assert texts(frames)[1] == 'sifar_resnet10t on square.mp4'
    assert 'layout grid' in texts(images)[1] and '96 x 96 pixels' in texts(images)[0]
    assert 'AblationCAM' in texts(cam)[1]
    model = timm.create_model('sifar_resnet10t', pretrained=True).eval()
    view = flatzoo.eval_protocol(model).load_views(clip, 8, model.img_size)
    index = model.pretrained_cfg['label_names'].index('turns clockwise')
    with torch.no_grad():
        expected = f'turns clockwise  {model(view)[0].softmax(-1)[index]:.1%}'
    assert texts(cam)[0] == texts(importance)[0] == expected


def test_super_image_is_what_the_backbone_gets(clip, tmp_path, capsys, drawn):
    options = [*GRID, 'num_frames=7', '--only', 'super_image', '--out', str(tmp_path)]
    assert main(['show', str(clip), *options]) == 0
    path = tmp_path / 'square.super_image.png'
    assert capsys.readouterr().out == f'{path}\n' and pixels(path).float().std() > 10
    [ax] = drawn[0].axes
    picture = torch.from_numpy(np.asarray(ax.images[0].get_array())).movedim(-1, 0)
    assert picture.shape == (3, 96, 96)
    cells = picture.unfold(1, 32, 32).unfold(2, 32, 32).flatten(1, 2)  # [3, 9, 32, 32]
    views = flatzoo.eval_protocol('superimage').load_views(clip, 7, 32)  # [1, 3, 7, 32, 32]
    assert (cells[:, :7].int() - views[0]).abs().max() <= 1  # rounded
    empty = cells[:, 7:].flatten(2)
    assert torch.equal(empty.amin(2), empty.amax(2))  # no frame: grey
    assert sum(patch.get_hatch() is not None for patch in ax.patches) == 2


def test_dollars_are_no_formulas(amflow, clip, tmp_path, capsys):
    """matplotlib would set what lies between two of them, or fail."""
    path = tmp_path / 'a $x_$ b.mp4'
    shutil.copy(clip, path)
    assert main(['show', str(path), *amflow, '--only', 'frames,flow', '--out', str(tmp_path)]) == 0
    assert pixels(tmp_path / 'a $x_$ b.frames.png').float().std() > 10


def test_several_images_lie_side_by_side(clip, tmp_path, drawn):
    options = [*GRID, 'num_frames=4', 'layout=time:1', '--only', 'super_image,frames', '--out', str(tmp_path)]
    assert main(['show', str(clip), *options]) == 0
    assert [len(figure.axes) for figure in drawn] == [4, 4]


def test_pictures_are_replaced(clip, tmp_path):
    pytest.importorskip('matplotlib')
    path = tmp_path / 'square.super_image.png'
    path.write_bytes(b'old')
    assert main(['show', str(clip), *GRID, '--only', 'super_image', '--out', str(tmp_path)]) == 0
    assert pixels(path).shape[0] == 3 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('num_classes, reason', [(0, 'no classifier'), (5, 'was never trained')])
def test_what_a_model_cannot_show_is_left_out(num_classes, reason, clip, tmp_path, capsys):
    """A head that was never trained has no answer to explain."""
    pytest.importorskip('matplotlib')
    save_file(timm.create_model('test_resnet').state_dict(), tmp_path / 'image.safetensors')
    out = tmp_path / 'out'
    options = [
        '--model', 'superimage', '--checkpoint', tmp_path / 'image.safetensors', '--out', out,
        '--model-kwargs', 'backbone=test_resnet', 'img_size=32', f'num_classes={num_classes}']
    assert main(['show', str(clip), *map(str, options)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ['square.frames.png', 'square.super_image.png']
    lines = [line for line in capsys.readouterr().err.splitlines() if 'left out' in line]
    assert [line.partition(':')[0] for line in lines] == ['cam is left out', 'importance is left out']
    assert all(reason in line for line in lines)


def test_pictures_of_other_clips_and_options_are_kept(clip, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    for folder in ('a', 'b'):
        (tmp_path / folder).mkdir()
        shutil.copy(clip, tmp_path / folder / 'x.mp4')
    out = ['--only', 'frames', '--out', str(tmp_path / 'out')]
    paths = []
    for name, layout in (('a', '2x2'), ('b', '2x2'), ('a', '2x2'), ('a', '1x4')):
        options = [*GRID, 'num_frames=4', f'layout={layout}']
        assert main(['show', str(tmp_path / name / 'x.mp4'), *options, *out]) == 0
        paths += capsys.readouterr().out.split()
    names = [path.rpartition('/')[2] for path in paths]
    assert names == ['x.frames.png', 'x-2.frames.png', 'x.frames.png', 'x-3.frames.png']


def test_folders_are_drawn_file_by_file(clip, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    for name in ('a/0.mp4', 'b/0.mp4'):
        (tmp_path / 'clips' / name).parent.mkdir(parents=True)
        shutil.copy(clip, tmp_path / 'clips' / name)
    (tmp_path / 'clips' / 'b' / '1.mp4').write_text('no video')
    out = tmp_path / 'out'
    assert main(['show', str(tmp_path / 'clips'), *GRID, '--only', 'frames', '--out', str(out)]) == 1
    assert capsys.readouterr().err.count('flatzoo show: error: ') == 1
    assert sorted(p for p in out.rglob('*') if p.is_file()) == [out / 'a/0.frames.png', out / 'b/0.frames.png']


# Refusals


def test_what_cannot_work_is_said_before_a_model_is_loaded(clip, tmp_path, capsys, monkeypatch):
    pytest.importorskip('matplotlib')
    monkeypatch.setattr(show, 'load_model', None)
    (tmp_path / 'file').write_text('')
    assert 'file is no folder' in refused([clip, '--out', tmp_path / 'file' / 'below'], capsys)
    assert 'no such file' in refused([tmp_path / 'none.mp4'], capsys)


def test_files_that_are_no_video(amflow, tmp_path, capsys):
    assert 'none.mp4' in refused([tmp_path / 'none.mp4', *amflow], capsys)
    (tmp_path / 'text.mp4').write_text('no video at all')
    assert 'text.mp4' in refused([tmp_path / 'text.mp4', *amflow], capsys)


def test_a_folder_that_cannot_be_written(clip, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    (tmp_path / 'file').write_text('')
    options = [clip, *GRID, '--only', 'super_image', '--out']
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        assert f'{out}: cannot be written to (' in refused([*options, out], capsys)
    (tmp_path / 'square.super_image.png').mkdir()  # where the picture should go
    assert 'Choose another --out' in refused([*options, tmp_path], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'square.super_image.png']


def test_a_model_without_flow(clip, tmp_path, capsys):
    options = save(tmp_path / 'model', **dict(AMFLOW, flow='none'))
    assert "flow='none'" in refused([clip, *options, '--only', 'flow', '--out', tmp_path / 'out'], capsys)
    assert not (tmp_path / 'out').exists()
    grid = [clip, *GRID, '--only', 'frames,flow', '--out', tmp_path / 'out']
    assert 'superimage is no AM Flow model and has no flow.' in refused(grid, capsys)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('arguments, message', [
    (['--class', 'turns clockwize'], "--class turns clockwize: accepted are names of classes and indices 0 to 15. "
     'Similar names: turns clockwise'),
    (['--class', '16'], 'indices 0 to 15.'),
    (['--method', 'rollout'], 'attention rollout takes plain transformers'),
])
def test_classes_and_methods_that_do_not_fit(clip, arguments, message, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    assert message in refused([clip, '--out', tmp_path / 'out', *arguments], capsys)
    assert not (tmp_path / 'out').exists()


def test_pictures_that_there_are_not(clip, capsys):
    with pytest.raises(SystemExit):
        main(['show', str(clip), '--only', 'frames,film'])
    assert "'film' is none of frames, super_image, cam, importance, flow" in capsys.readouterr().err


def test_without_matplotlib(amflow, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    assert "pip install 'flatzoo[show]'" in refused([clip, *amflow, '--out', tmp_path / 'out'], capsys)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('options, message', [
    (['--model', 'amflow_dinov2_b_tnc'], 'amflow_dinov2_b_tcn'),
    (['--model', 'resnet18'], 'is an image model'),
    (['--model', 'superimage', '--model-kwargs', 'backbone=test_resnet'], 'has no weights'),
    (['--model', 'superimage', '--allow-untrained', '--device', 'moon'], '--device moon'),
])
def test_models_that_cannot_be_had(clip, options, message, capsys):
    assert message in refused([clip, *options], capsys)
