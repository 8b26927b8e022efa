"""Depth video: arrays of NumPy and MATLAB, folders of 16-bit images, and the scale that travels with the weights."""
import json

import numpy as np
import pytest
from PIL import Image
from train_runs import PLAIN, small_recipe, train

from flatzoo import eval_protocol
from flatzoo.cli import main
from flatzoo.data.array_file import ArrayFile
from flatzoo.data.clips import ClipDataset
from flatzoo.data.decode import VideoError
from flatzoo.data.lists import DataError, read_videos
from flatzoo.train import build
from flatzoo.train.recipe import load_recipe


def readings(seed=0, frames=6):
    return np.random.default_rng(seed).integers(1, 4000, (frames, 24, 32)).astype(np.uint16)  # [T, H, W]


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npy':
        np.save(path, array)
    elif path.suffix == '.npz':
        np.savez_compressed(path, depth=array, fps=np.array(30.0))
    elif path.suffix == '.mat':
        savemat = pytest.importorskip('scipy.io').savemat
        savemat(path, {'d_depth': np.moveaxis(array, 0, -1), 'name': 'a01_s01_e01'}, do_compression=True)
    else:
        path.mkdir()
        for number, frame in enumerate(array):
            Image.fromarray(frame).save(path / f'{number}.png')
    return path


def pixels(array, depth):
    return np.ceil(array.astype(np.float64) * 255 / depth).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize('name, spec', [
    ('clip.npy', 'folder'), ('clip.npz', 'folder'), ('clip.mat', 'folder'), ('clip', 'frames')])
def test_all_formats_give_the_same_frames(tmp_path, name, spec):
    array = readings()
    array[0, 0, 0], array[1, 0, 0] = 0, 60000  # not measured, and far beyond the scale
    write(tmp_path / 'c0' / name, array)
    videos = read_videos(f'{spec}:depth=2000', tmp_path, 'all')
    assert videos.depth == 2000 and videos.in_chans == 1 and len(videos) == 1
    clip = ClipDataset(videos, 6, (24, 32), train=False)[0]['clip']
    assert np.array_equal(clip[0, 0], pixels(array, 2000)) and clip[0, 0, 0, 0, 0] == 0


def test_lists_of_arrays_in_shards_too(tmp_path, capsys):
    pytest.importorskip('webdataset')
    for seed in range(2):
        write(tmp_path / f'{seed}.npy', readings(seed))
    (tmp_path / 'list.csv').write_text('path,label,split,start,end\n0.npy,a,train,2,6\n1.npy,b,val,,\n')
    assert main(['data', 'pack', 'csv:depth=4000', str(tmp_path / 'list.csv'), str(tmp_path / 'shards')]) == 0
    videos = read_videos('wds', tmp_path / 'shards', 'train')
    clip = ClipDataset(videos, 4, (24, 32), train=False)[0]['clip']
    assert videos.depth == 4000 and np.array_equal(clip[0, 0], pixels(readings(0)[2:], 4000))


def test_eight_bits_stay_and_floats_are_readings(tmp_path):
    small = readings().astype(np.uint8)
    assert np.array_equal(ArrayFile(write(tmp_path / 'a.npy', small), 4000).get_frames([5, 0])[:, 0], small[[5, 0]])
    metres = readings().astype(np.float32) / 1000
    metres[0, 0, :3] = np.nan, -1, np.inf
    frames = ArrayFile(write(tmp_path / 'b.npy', metres), 4).get_frames([0])
    assert frames[0, 0, 0, :3].tolist() == [0, 0, 255] and frames.shape == (1, 1, 24, 32)


def test_rgb_frames(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(ArrayFile(write(tmp_path / 'a.npy', array)).get_frames([4])[0].permute(1, 2, 0), array[4])


@pytest.mark.parametrize('make, depth, message', [
    (lambda path: write(path, readings()), None, r'no RGB frames .* folder:depth=4000'),
    (lambda path: write(path, readings()[0]), 4000, r'no depth maps, but the array \[24, 32\] uint16'),
    (lambda path: write(path, np.array([{}], dtype=object)), 4000, 'cannot be read as an array'),
    (lambda path: path.write_bytes(b'nothing'), 4000, 'cannot be read as an array'),
])
def test_other_arrays_are_refused(tmp_path, make, depth, message):
    make(tmp_path / 'a.npy')
    with pytest.raises(VideoError, match=message):
        ArrayFile(tmp_path / 'a.npy', depth)


def test_several_arrays_are_refused_and_no_mat_is_unpacked_beyond_the_bound(tmp_path, monkeypatch):
    np.savez(tmp_path / 'a.npz', one=readings(), two=readings())
    with pytest.raises(VideoError, match='several of its arrays can be the clip: one .*two'):
        ArrayFile(tmp_path / 'a.npz', 4000)
    for name in ('b.npz', 'b.mat'):
        write(tmp_path / name, readings())
        with monkeypatch.context() as patch:
            patch.setattr('flatzoo.data.array_file.MAX_BYTES', 2 * readings().size - 1)
            with pytest.raises(VideoError, match='holds .* GiB; accepted are'):
                ArrayFile(tmp_path / name, 4000)


@pytest.mark.parametrize('value', ['0', 'far', '-3', '1.5'])
def test_a_scale_is_a_whole_number(tmp_path, value):
    write(tmp_path / 'c0/a.npy', readings())
    with pytest.raises(DataError, match='depth must be the reading that becomes 255'):
        read_videos(f'folder:depth={value}', tmp_path, 'all')


def test_mat_without_scipy_is_told_what_to_install(tmp_path, monkeypatch):
    (tmp_path / 'c0').mkdir()
    (tmp_path / 'c0/a.mat').write_bytes(b'')
    monkeypatch.setattr('flatzoo.data.lists.importlib.util.find_spec', lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'flatzoo\[mat\]'"):
        read_videos('folder:depth=4000', tmp_path, 'all')


@pytest.fixture
def depth_root(tmp_path):
    for split in ('train', 'val'):
        for label in range(2):
            for number in range(4):
                write(tmp_path / 'depth' / split / f'c{label}' / f'{number}.npy', readings(10 * label + number))
    return tmp_path / 'depth'


def test_the_scale_is_saved_with_the_weights_which_refuse_another(depth_root, tmp_path, capsys):
    train(depth_root, tmp_path / 'run', spec='folder:depth=4000', epochs=1, **PLAIN)
    config = json.loads((tmp_path / 'run/config.json').read_text())
    assert config['video']['protocol']['depth'] == 4000 and len(config['video']['mean']) == 1
    assert eval_protocol(f'local-dir:{tmp_path}/run').depth == 4000
    args = ['validate', 'folder:depth=4000', str(depth_root), '--model', str(tmp_path / 'run'), '--workers', '0']
    assert main(args) == 0
    capsys.readouterr()
    args[1] = 'folder:depth=8000'
    assert main(args) == 1 and 'Give the layout with depth=4000' in capsys.readouterr().err


def test_presets_of_the_time_layer_take_one_channel(depth_root, tmp_path):
    options = small_recipe(depth_root, tmp_path / 'run').to_dict()
    recipe = load_recipe('time_ntu60', **{name: options[name] for name in ('root', 'output', 'batch_size', 'workers')},
                         spec='folder:depth=4000', epochs=1, warmup_epochs=0, pretrained=False, img_size=32,
                         num_frames=8, device='cpu')
    train_list, _ = build.read_lists(recipe)
    model = build.build_model(recipe, train_list)
    assert type(model).__name__ == 'TimeModel' and model.in_chans == 1
    clip = build.train_clips(recipe, train_list, model)[0]['clip']
    assert clip.shape == (1, 8, 32, 32) and model.eval()(clip[None]).shape == (1, 2)
    assert build.protocol_of(recipe, model).fit == 'crop'
