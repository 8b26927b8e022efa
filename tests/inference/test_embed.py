"""Features of clips: those of the model, computed once, kept whole, and refused where they are of something else."""
import errno
import os
import shutil

import pytest
import timm
import torch
from safetensors.torch import save_file

import flatzoo
from flatzoo.cli import main
from flatzoo.data.actions import ACTIONS, write_action
from flatzoo.data.lists import read_videos
from flatzoo.inference import embed as embed_module, features as features_module
from flatzoo.inference.embed import every_split
from flatzoo.inference.embedder import Embedder
from flatzoo.inference.similar import nearest

pytest.importorskip('pyarrow')
MODEL = 'sifar_resnet10t'
IMAGE = dict(allow_untrained=True, num_frames=4, img_size=32)
IMAGE_MODEL = 'test_vit'


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('actions')
    for split, seed in (('train', 0), ('val', 2)):
        for label in range(4):
            folder = root / split / ACTIONS[label]
            folder.mkdir(parents=True)
            for clip in range(2):
                write_action(folder / f'{clip}.mp4', label, seed + clip, size=32, num_frames=8)
    return root


@pytest.fixture
def computed(monkeypatch):
    """The paths of the clips that were read."""
    paths, read = [], embed_module._read
    monkeypatch.setattr(embed_module, '_read', lambda clip, *rest: paths.append(clip.path) or read(clip, *rest))
    return paths


def test_features_are_those_of_the_model(root):
    videos = read_videos('folder', root, 'val')
    embedder = Embedder(MODEL)
    features = flatzoo.embed(videos, embedder, batch_size=len(videos))
    views = torch.cat([embedder.protocol.load_views(clip.path, 8, 32) for clip in videos.clips])
    fast = flatzoo.optimize(timm.create_model(MODEL, pretrained=True).eval())
    with torch.inference_mode():
        expected = fast.forward_head(fast.forward_features(views), pre_logits=True)
    assert torch.equal(features.values, expected)  # bit for bit, in the same batch
    assert features.classes == videos.classes
    assert features.labels.tolist() == [clip.label for clip in videos.clips]
    assert len(features.rows[0].times) == 8 and features.settings['digest'].startswith('sha256:')


@pytest.mark.parametrize('options, shape', [
    ({}, (64,)), (dict(per='frame'), (4, 64)), (dict(tokens=True), (4, 5, 64)), (dict(layout='grid'), (64,)),
    (dict(dtype='bfloat16'), (64,))])
def test_an_image_model(root, options, shape):
    """Frame by frame, or as a super image; the same random weights in every run."""
    videos = read_videos('folder', root, 'val')
    first, again = (flatzoo.embed(videos, IMAGE_MODEL, **IMAGE, **options) for _ in range(2))
    assert first.values.shape == (8, *shape) and torch.equal(first.values, again.values)
    assert first.values.dtype == (torch.bfloat16 if 'dtype' in options else torch.float32)
    if options.get('per') == 'frame':
        torch.testing.assert_close(first.pooled(), flatzoo.embed(videos, IMAGE_MODEL, **IMAGE).values)


def test_weights_of_a_file(root, tmp_path):
    """Nothing is downloaded in their place: the test has no network."""
    model = timm.create_model(IMAGE_MODEL, img_size=32).eval()
    save_file(model.state_dict(), tmp_path / 'weights.safetensors')
    embedder = Embedder(IMAGE_MODEL, num_frames=4, img_size=32, checkpoint=tmp_path / 'weights.safetensors')
    for name, tensor in model.state_dict().items():
        if not name.startswith('head.'):
            assert torch.equal(embedder.model.backbone.state_dict()[name], tensor), name


def test_nothing_is_computed_twice(root, tmp_path, computed):
    train, val = every_split('folder', root)
    out = tmp_path / 'features'
    first = flatzoo.embed(train, MODEL, out)
    both = flatzoo.embed([train, val], MODEL, out)
    assert len(computed) == len(set(computed)) == len(train) + len(val)
    flatzoo.embed([train, val], MODEL, out)
    assert len(computed) == len(train) + len(val)
    assert torch.equal(flatzoo.load_features(out, 'train').values, first.values)
    assert both.splits == ('train', 'val') and len(flatzoo.load_features(out)) == len(both) == 16
    os.utime(val.clips[0].path)  # another file now, for all that we know
    flatzoo.embed([train, val], MODEL, out)
    assert computed[16:] == [val.clips[0].path]
    assert len(list(out.glob('features-*'))) <= 3 and not list(out.glob('*.partial'))


def test_a_list_that_has_changed(root, tmp_path, computed):
    """Classes and groups are those of the list as it is now."""
    videos, out = read_videos('folder', root, 'val'), tmp_path / 'features'
    before = flatzoo.embed(videos, MODEL, out)
    other = videos.with_classes(('another', *reversed(videos.classes)))
    after = flatzoo.embed(other, MODEL, out)
    assert [row.label for row in after.rows] == [row.label for row in before.rows]
    renamed = type(videos)(videos.name, videos.clips, tuple(f'{name} now' for name in videos.classes), 'val')
    assert {row.label for row in flatzoo.embed(renamed, MODEL, out).rows} == set(renamed.classes)
    files = flatzoo.embed([clip.path for clip in videos.clips], MODEL, out)  # which say nothing of classes
    assert {row.label for row in files.rows} == set(renamed.classes)
    assert len(computed) == len(videos)


def test_clips_that_have_gone_are_taken_out(root, tmp_path, computed):
    """A clip that was moved to its right class must not stay in the wrong one, too."""
    here, out, notes = tmp_path / 'here', tmp_path / 'features', []
    shutil.copytree(root, here)
    (here / 'train').rename(here / 'other')
    flatzoo.embed(str(here / 'other'), MODEL, out)
    videos = read_videos('folder', here, 'val')
    flatzoo.embed(videos, MODEL, out, note=notes.append)
    old, new = videos.clips[0].path, here / 'val' / 'a_new_class' / '0.mp4'
    new.parent.mkdir()
    os.rename(old, new)
    shutil.rmtree(os.path.dirname(videos.clips[-1].path))
    computed.clear()
    flatzoo.embed(read_videos('folder', here, 'val'), MODEL, out, note=notes.append)
    assert computed == [str(new)]
    assert notes == ['5 of 6 clips have their feature already', '3 clips are not there any more and are taken out']
    kept = flatzoo.load_features(out)
    assert len(kept) == 8 + 6 and all(os.path.exists(row.path) for row in kept.rows)  # the other list stays
    assert set(kept.classes) == {*videos.classes[:-1], 'a_new_class'}


def test_what_another_process_wrote_meanwhile_is_kept(root, tmp_path, monkeypatch):
    train, val = every_split('folder', root)
    out, load = tmp_path / 'features', Embedder.__init__
    flatzoo.embed(train, MODEL, out)

    def load_slowly(self, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(Embedder, '__init__', load)
            flatzoo.embed(val, MODEL, out)
            load(self, *args, **kwargs)

    monkeypatch.setattr(Embedder, '__init__', load_slowly)
    flatzoo.embed(train, MODEL, out)
    assert len(flatzoo.load_features(out)) == len(train) + len(val)


def test_a_run_that_was_killed_goes_on(root, tmp_path, monkeypatch, computed):
    videos, out = read_videos('folder', root, 'val'), tmp_path / 'features'
    monkeypatch.setattr(embed_module, 'SECONDS', 0.0)  # a shard after every clip

    def stop(self, views):
        if len(list(out.glob('features-*'))) == 3:
            raise KeyboardInterrupt
        return call(self, views)

    call = Embedder.__call__
    with monkeypatch.context() as patch:
        patch.setattr(Embedder, '__call__', stop)
        with pytest.raises(KeyboardInterrupt):
            flatzoo.embed(videos, MODEL, out, batch_size=1, workers=1)
    (out / 'features-orphan.safetensors').write_bytes(b'half')
    kept = {row.path for row in flatzoo.load_features(out).rows}
    assert 3 <= len(kept) < len(videos)
    computed.clear()
    assert len(flatzoo.embed(videos, MODEL, out)) == len(videos)
    assert not kept & set(computed) and not (out / 'features-orphan.safetensors').exists()


def test_other_weights_are_refused(root, tmp_path):
    videos, out = read_videos('folder', root, 'val'), tmp_path / 'features'
    flatzoo.embed(videos, MODEL, out)
    model = timm.create_model(MODEL, pretrained=True)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    flatzoo.save_pretrained(model, tmp_path / 'other')
    with pytest.raises(ValueError, match='holds features of model sifar_resnet10t .now local-dir:'):
        flatzoo.embed(videos, str(tmp_path / 'other'), out)
    settings = {**flatzoo.load_features(out).settings, 'model': str(tmp_path / 'other')}
    with pytest.raises(ValueError, match='has other weights now'):
        Embedder.of_settings(settings)
    with pytest.raises(ValueError, match='num_frames 8 .now 4'):
        flatzoo.embed(videos, MODEL, out, num_frames=4)


def test_a_full_disk_leaves_what_was_there(root, tmp_path, monkeypatch):
    train, val = every_split('folder', root)
    out = tmp_path / 'features'
    flatzoo.embed(train, MODEL, out)

    def full(tensors, path):
        path.write_bytes(b'half of it')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(features_module, 'save_file', full)
    with pytest.raises(OSError, match='the disk is full. The features before are kept'):
        flatzoo.embed([train, val], MODEL, out)
    assert len(flatzoo.load_features(out)) == len(train)
    assert len(list(out.glob('features-*'))) == 1 and not list(out.glob('*.partial'))


def test_bad_input(root, tmp_path, monkeypatch):
    (tmp_path / 'clips').mkdir()
    (tmp_path / 'clips/text.mp4').write_bytes(b'Dear diary,\n' * 50)
    good = next((root / 'val').rglob('*.mp4'))
    features = flatzoo.embed([str(tmp_path / 'clips'), str(good)], MODEL, tmp_path / 'features')
    assert len(features) == 1 and 'text.mp4' in features.errors[0].error
    features = flatzoo.embed(['nothing.mp4', str(good)], MODEL)  # one bad file stops nothing
    assert len(features) == 1 and 'nothing.mp4: no such file' in features.errors[0].error
    with pytest.raises(ValueError, match='none of the 1 clips has a feature'):
        flatzoo.embed(str(tmp_path / 'clips'), MODEL)
    with pytest.raises(FileNotFoundError, match="'flatzoo embed' writes one"):
        flatzoo.load_features(tmp_path / 'nothing')
    with pytest.raises(ValueError, match='its splits: .none.'):
        flatzoo.load_features(tmp_path / 'features', 'train')
    (tmp_path / 'features/index.parquet').write_bytes(b'PAR1 not')
    with pytest.raises(ValueError, match='is damaged'):
        flatzoo.load_features(tmp_path / 'features')
    with pytest.raises(ValueError, match='does not look at frames one by one'):
        flatzoo.embed(str(good), MODEL, tmp_path / 'frames', per='frame')
    assert not list((tmp_path / 'frames').glob('*.parquet'))
    with monkeypatch.context() as patch:
        patch.setattr(Embedder, '__call__', lambda self, views: torch.full((len(views), 4), float('nan')))
        with pytest.raises(ValueError, match='the features are not finite'):
            flatzoo.embed(str(good), MODEL)


def test_windows(tmp_path):
    """A clip of four seconds is two windows of two; what is left counts if it is long enough."""
    path = write_action(tmp_path / 'long.mp4', 0, 1, size=32, num_frames=32, fps=8)
    features = flatzoo.embed(str(path), MODEL, per='window', window=2.0)
    assert [(row.start, row.end) for row in features.rows] == [(0, 2), (2, 4)]
    assert all(row.start <= time < row.end for row in features.rows for time in row.times)
    assert not torch.equal(features.values[0], features.values[1])
    for seconds, count in ((1.5, 3), (3.0, 1), (9.0, 1)):
        assert len(flatzoo.embed(str(path), MODEL, per='window', window=seconds)) == count
    with pytest.raises(ValueError, match='needs the length of a window'):
        flatzoo.embed(str(path), MODEL, per='window')


def test_groups(root):
    table = root / 'groups.csv'
    videos = read_videos('folder', root, 'val')
    assert {clip.group for clip in videos.clips} == {''}
    paths = [os.path.relpath(clip.path, root) for clip in videos.clips]
    try:
        table.write_text('path,class,group\n' + ''.join(f'{path},x,{i % 2}\n' for i, path in enumerate(paths[:-1])))
        rows = flatzoo.embed(read_videos('folder', root, 'val'), MODEL).rows
        assert [row.group for row in rows] == ['0', '1', '0', '1', '0', '1', '0', None]
    finally:
        table.unlink()


def test_the_commands(root, tmp_path, capsys):
    out = str(tmp_path / 'features')
    assert main(['embed', 'folder', str(root), '--model', MODEL, '--out', out, '--workers', '1']) == 0
    captured = capsys.readouterr()
    assert captured.out == f'{out}\n' and '16 clips have a feature of 256 numbers' in captured.err
    clip = str(next((root / 'val').rglob('*.mp4')))
    assert main(['similar', clip, '--in', out, '--topk', '2']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[1].startswith(f'   1.000  {clip}  (')
    assert main(['embed', 'nothing.mp4', '--model', MODEL, '--out', out]) == 1
    assert 'no such file' in capsys.readouterr().err


def test_the_nearest_clips(root):
    features = flatzoo.embed(read_videos('folder', root, 'val'), MODEL)
    found = nearest(features, features.values, 3)
    assert [near[0].row for near in found] == list(features.rows)
    assert all(a.similarity >= b.similarity for near in found for a, b in zip(near, near[1:]))
    with pytest.raises(ValueError, match='they are of another model'):
        nearest(features, features.values[:, :3])


def test_several_processes_need_a_name(root):
    videos = read_videos('folder', root, 'val')
    with pytest.raises(ValueError, match='several processes load the model by its name'):
        flatzoo.embed(videos, timm.create_model(MODEL, pretrained=True), processes=2)


def test_ray_spreads_clips_over_processes(root, tmp_path, computed):
    pytest.importorskip('ray', reason="needs pip install 'flatzoo[ray]'")
    (root / 'val' / ACTIONS[0] / 'broken.mp4').write_bytes(b'no video')
    try:
        videos = read_videos('folder', root, 'val')
        spread = flatzoo.embed(videos, MODEL, tmp_path / 'features', processes=2)
        assert not computed and len(spread.errors) == 1 and len(spread) == 8  # nothing was read in this process
        alone = flatzoo.embed(videos, MODEL)
        place = {row.path: index for index, row in enumerate(spread.rows)}
        order = [place[row.path] for row in alone.rows]
        torch.testing.assert_close(spread.values[order], alone.values, rtol=1e-4, atol=1e-4)
        assert {row.times for row in spread.rows} == {row.times for row in alone.rows}
        computed.clear()
        flatzoo.embed(videos, MODEL, tmp_path / 'features', processes=2)  # what is there is not computed again
    finally:
        (root / 'val' / ACTIONS[0] / 'broken.mp4').unlink()
