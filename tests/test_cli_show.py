"""`flatzoo show`: the pictures that it writes, and that it says why when it writes none."""
import math
import sys

import av
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.models import save_for_hf
from torchvision.transforms.functional import pil_to_tensor

import flatzoo
from flatzoo.cli import main

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


# Pictures


def test_flow_and_overlay_of_an_amflow_model(amflow, clip, tmp_path, capsys, monkeypatch):
    figure = pytest.importorskip('matplotlib.figure', reason="needs pip install 'flatzoo[show]'")
    drawn, savefig = [], figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, 'savefig', lambda self, *args, **kw: drawn.append(self) or savefig(
        self, *args, **kw))
    out = tmp_path / 'new' / 'folder'
    assert main(['show', str(clip), *amflow, '--out', str(out)]) == 0
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


def test_super_image_is_what_the_backbone_gets(clip, tmp_path, capsys):
    assert main(['show', str(clip), *GRID, 'num_frames=7', '--out', str(tmp_path)]) == 0
    path = tmp_path / 'square.super_image.png'
    assert capsys.readouterr().out == f'{path}\n'
    picture = pixels(path)
    assert picture.shape == (3, 96, 96)
    cells = picture.unfold(1, 32, 32).unfold(2, 32, 32).flatten(1, 2)  # [3, 9, 32, 32]
    views = flatzoo.eval_protocol('superimage').load_views(clip, 7, 32)  # [1, 3, 7, 32, 32]
    assert (cells[:, :7].int() - views[0]).abs().max() <= 1  # rounded
    empty = cells[:, 7:].flatten(2)
    assert torch.equal(empty.amin(2), empty.amax(2))  # no frame: grey


def test_several_images_lie_side_by_side(clip, tmp_path):
    assert main(['show', str(clip), *GRID, 'num_frames=4', 'layout=time:1', '--out', str(tmp_path)]) == 0
    height, width = pixels(tmp_path / 'square.super_image.png').shape[1:]
    assert math.isclose(width / height, 4, rel_tol=0.2)


def test_pictures_are_replaced(clip, tmp_path):
    path = tmp_path / 'square.super_image.png'
    path.write_bytes(b'old')
    assert main(['show', str(clip), *GRID, '--out', str(tmp_path)]) == 0
    assert pixels(path).shape[0] == 3 and list(tmp_path.iterdir()) == [path]


# Refusals


def test_files_that_are_no_video(amflow, tmp_path, capsys):
    assert 'none.mp4' in refused([tmp_path / 'none.mp4', *amflow], capsys)
    (tmp_path / 'text.mp4').write_text('no video at all')
    assert 'text.mp4' in refused([tmp_path / 'text.mp4', *amflow], capsys)


def test_a_folder_that_cannot_be_written(clip, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    for out in (tmp_path / 'file', tmp_path / 'file' / 'below'):
        assert f'{out}: cannot be written to (' in refused([clip, *GRID, '--out', out], capsys)
    (tmp_path / 'square.super_image.png').mkdir()  # where the picture should go
    assert 'Choose another --out' in refused([clip, *GRID, '--out', tmp_path], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['file', 'square.super_image.png']


def test_a_model_without_flow(clip, tmp_path, capsys):
    options = save(tmp_path / 'model', **dict(AMFLOW, flow='none'))
    assert "flow='none'" in refused([clip, *options, '--out', tmp_path / 'out'], capsys)
    assert not (tmp_path / 'out').exists()


def test_without_matplotlib(amflow, clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    assert "pip install 'flatzoo[show]'" in refused([clip, *amflow, '--out', tmp_path / 'out'], capsys)
    assert not (tmp_path / 'out').exists()
    assert main(['show', str(clip), *GRID, '--out', str(tmp_path)]) == 0  # needs none


@pytest.mark.parametrize('options, message', [
    (['--model', 'amflow_dinov2_b_tnc'], 'amflow_dinov2_b_tcn'),
    (['--model', 'resnet18'], 'is an image model'),
    (['--model', 'superimage', '--model-kwargs', 'backbone=test_resnet'], 'has no weights'),
    (['--model', 'superimage', '--allow-untrained', '--device', 'moon'], '--device moon'),
])
def test_models_that_cannot_be_had(clip, options, message, capsys):
    assert message in refused([clip, *options], capsys)
