"""Probes: right on what can be told apart, measured on clips they have not seen, and saved as models like any other."""
import json
import os
import re
from dataclasses import replace

import pytest
import timm
import torch
from safetensors import safe_open

import flatzoo
from flatzoo.cli import main
from flatzoo.data.actions import ACTIONS, write_action
from flatzoo.data.lists import read_videos
from flatzoo.evaluation.evaluate import evaluate
from flatzoo.inference.embed import every_split
from flatzoo.inference.features import FeatureRow, Features
from flatzoo.inference.load import ModelError, load_model
from flatzoo.inference.neighbours import save_neighbours
from flatzoo.weights.adapter_file import state_digest

pytest.importorskip('sklearn')
pytest.importorskip('pyarrow')
MODEL = 'sifar_resnet10t'
IMAGE = dict(allow_untrained=True, num_frames=4, img_size=32)
SETTINGS = {'model': None, 'digest': 'sha256:0', 'tokens': False, 'model_args': {}}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Four motions, which the shipped model tells apart."""
    root = tmp_path_factory.mktemp('actions')
    for split, clips, seed in (('train', 4, 0), ('val', 2, 10)):
        for label in range(4):
            folder = root / split / ACTIONS[label]
            folder.mkdir(parents=True)
            for clip in range(clips):
                write_action(folder / f'{clip}.mp4', label, seed + clip, size=32, num_frames=8)
    return root


@pytest.fixture(scope='module')
def features(root):
    return flatzoo.embed(every_split('folder', root), MODEL)


def made(labels, splits=None, groups=None, noise=0.3, seed=0, names=('a', 'b', 'c')):
    """Features that lie around a centre for each class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(names), 8, generator=generator)
    values = centres[torch.tensor(labels)] + noise * torch.randn(len(labels), 8, generator=generator)
    rows = tuple(
        FeatureRow(f'/{i}.mp4', label=names[label], split=splits[i] if splits else 'all',
                   group=groups[i] if groups else None) for i, label in enumerate(labels))
    return Features(values, rows, names, SETTINGS)


@pytest.mark.parametrize('kind', ['knn', 'ridge', 'logistic'])
def test_it_learns(features, kind):
    result = flatzoo.probe(features, kind)
    assert result.accuracy >= 75 and result.tested_on == 'the split val' and result.evaluation.clips == 8
    assert result.interval[0] < result.accuracy <= result.interval[1] <= 100
    assert result.penalty and not result.notes


@pytest.mark.parametrize('kind', ['ridge', 'logistic'])
def test_the_saved_model_answers_as_the_probe(features, root, tmp_path, kind):
    result = flatzoo.probe(features, kind)
    result.save(tmp_path / 'probe')
    assert (tmp_path / 'probe/model.safetensors').stat().st_size < 10_000  # the head alone
    model = timm.create_model(f'local-dir:{tmp_path / "probe"}', pretrained=True)
    evaluation = evaluate(model, read_videos('folder', root, 'val').with_classes(result.classes))
    assert torch.equal(evaluation.confusion, result.evaluation.confusion)
    whole = result.save(tmp_path / 'whole', with_backbone=True)
    assert (whole / 'model.safetensors').stat().st_size > 1_000_000
    assert state_digest(timm.create_model(f'local-dir:{whole}', pretrained=True).state_dict()) == \
        state_digest(model.state_dict())


def test_other_weights_of_the_backbone_are_refused(features, root, tmp_path):
    model = timm.create_model(MODEL, pretrained=True)
    flatzoo.save_pretrained(model, tmp_path / 'backbone')
    probe = flatzoo.probe(every_split('folder', root), 'ridge', str(tmp_path / 'backbone'))
    probe.save(tmp_path / 'probe')
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    flatzoo.save_pretrained(model, tmp_path / 'backbone')
    with pytest.raises(RuntimeError, match='On other weights it would answer nonsense'):
        timm.create_model(f'local-dir:{tmp_path / "probe"}', pretrained=True)
    with pytest.raises(ValueError, match='on this machine, which nobody else has. Push it along: --with-backbone'):
        flatzoo.push_to_hub(probe.model(), 'org/name', dry_run=True)
    assert flatzoo.push_to_hub(probe.model(), 'org/name', dry_run=True, with_backbone=True).files
    files = flatzoo.push_to_hub(flatzoo.probe(features, 'ridge').model(), 'org/name', dry_run=True).files
    assert files['model.safetensors'][0] < 10_000


def test_a_probe_that_was_trained_further_is_saved_whole(features, tmp_path):
    model = flatzoo.probe(features, 'ridge').model()
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    flatzoo.save_pretrained(model, tmp_path)
    assert 'backbone' not in json.loads((tmp_path / 'config.json').read_text())['video']
    again = timm.create_model(f'local-dir:{tmp_path}', pretrained=True)
    assert torch.equal(next(again.parameters()), next(model.parameters()))


@pytest.mark.parametrize('kind', ['attentive', 'step', 'linear', 'ridge'])
def test_tokens(root, tmp_path, kind):
    """The probes of flatzoo are trained on cached tokens; the model that is saved gives the same answers."""
    lists = every_split('folder', root)
    options = dict(probe_args=dict(epochs=2, probe_heads=4)) if kind in ('attentive', 'step') else {}
    result = flatzoo.probe(lists, kind, 'test_vit', tokens=True, **IMAGE, **options)
    model = result.model()
    videos = read_videos('folder', root, 'val').with_classes(result.classes)
    assert torch.equal(evaluate(model, videos).confusion, result.evaluation.confusion)
    assert model.borrowed is None  # random weights: nobody has them
    result.save(tmp_path / 'probe')
    again = timm.create_model(f'local-dir:{tmp_path / "probe"}', pretrained=True).eval()
    clip = torch.randint(0, 256, (1, 3, 4, 32, 32), dtype=torch.uint8)
    assert torch.equal(again(clip), model(clip))


@pytest.mark.parametrize('kind', ['step', 'ridge'])
def test_a_published_image_model_is_borrowed(root, tmp_path, kind):
    """The saved probe has its head and pooler alone, and answers the same with the backbone that it names."""
    timm.models.save_for_hf(timm.create_model('test_vit'), tmp_path / 'image')
    options = dict(probe_args=dict(epochs=1, probe_heads=4), tokens=True) if kind == 'step' else {}
    result = flatzoo.probe(
        every_split('folder', root), kind, str(tmp_path / 'image'), num_frames=4, img_size=32, **options)
    model = result.model()
    result.save(tmp_path / 'probe')
    with safe_open(tmp_path / 'probe/model.safetensors', 'pt') as file:
        assert {name.partition('.')[0] for name in file.keys()} == ({'head', 'pooler'} if kind == 'step' else {'head'})
    again = timm.create_model(f'local-dir:{tmp_path / "probe"}', pretrained=True).eval()
    clip = torch.randint(0, 256, (1, 3, 4, 32, 32), dtype=torch.uint8)
    assert torch.equal(again(clip), model(clip)) and again.borrowed == model.borrowed
    (tmp_path / 'image').rename(tmp_path / 'gone')
    with pytest.raises(ValueError, match='cannot be built'):
        timm.create_model(f'local-dir:{tmp_path / "probe"}', pretrained=True)


def test_cross_validation_keeps_groups_apart():
    """Features that show the group alone: whoever has seen a group of it is right, and nobody should have."""
    labels = [i % 3 for i in range(9)]
    groups = [f'g{i}' for i in range(9) for _ in range(4)]
    features = made([label for label in labels for _ in range(4)], noise=0.01)
    generator = torch.Generator().manual_seed(1)
    shown = torch.randn(9, 8, generator=generator).repeat_interleave(4, 0)
    features = replace(features, values=shown + 0.01 * torch.randn(36, 8, generator=generator))
    apart = replace(features, rows=tuple(row._replace(group=g) for row, g in zip(features.rows, groups)))
    assert flatzoo.probe(features, 'ridge').accuracy == 100
    result = flatzoo.probe(apart, 'ridge')
    assert result.accuracy < 60 and 'cross-validation' in result.tested_on
    assert flatzoo.probe(apart, 'ridge', leave_group_out=True).accuracy < 60


def test_a_group_in_both_splits_is_named():
    labels, splits = [0, 1] * 10, ['train'] * 10 + ['val'] * 10
    result = flatzoo.probe(made(labels, splits, ['x', 'y'] * 10), 'ridge')
    assert any('2 groups are in both splits, such as x' in note for note in result.notes)


def test_bad_input(features, tmp_path):
    with pytest.raises(ValueError, match='all clips are of one class'):
        flatzoo.probe(made([0] * 10), 'ridge')
    with pytest.raises(ValueError, match='are not finite, such as that of /3.mp4'):
        bad = made([0, 1] * 5)
        bad.values[3, 0] = float('nan')
        flatzoo.probe(bad, 'ridge')
    with pytest.raises(ValueError, match='names? None|at least two groups; 0 named'):
        flatzoo.probe(made([0, 1] * 5), 'ridge', leave_group_out=True)
    single = flatzoo.probe(made([0, 1, 2, 0, 1, 0], ['train'] * 3 + ['val'] * 3), 'ridge')
    assert any('single clip to learn from: a, b, c' in note for note in single.notes)
    assert any('too few clips to choose the penalty' in note for note in single.notes)
    with pytest.raises(ValueError, match='2 clips are too few for cross-validation'):
        flatzoo.probe(made([0, 1]), 'ridge')
    with pytest.raises(ValueError, match='clips of two classes must remain'):
        flatzoo.probe(made([0, 0, 1, 1], groups=['x', 'x', 'y', 'y']), 'ridge')
    one = flatzoo.probe(made([0] * 8 + [1]), 'logistic')  # no fold can learn it and measure it
    assert one.evaluation.per_class()[0]['top1'] == 100 and one.evaluation.per_class()[1]['top1'] == 0
    assert any('single clip to learn from: b' in note for note in one.notes)
    unseen = flatzoo.probe(made([0, 1] * 6 + [0, 1, 2], ['train'] * 12 + ['val'] * 3), 'ridge')
    assert unseen.classes == ('a', 'b') and unseen.evaluation.confusion[2].sum() == 1
    assert any('count as wrong: c' in note for note in unseen.notes)
    with pytest.raises(ValueError, match='reads tokens, and these features are pooled'):
        flatzoo.probe(features, 'attentive')
    with pytest.raises(ValueError, match='needs a model that looks at them'):
        flatzoo.probe([])
    with pytest.raises(ValueError, match="kind='svm' is none of"):
        flatzoo.probe(features, 'svm')


def test_named_groups_are_left_out():
    labels, groups = [0, 1, 2] * 8, [f'g{i // 6}' for i in range(24)]
    source = made(labels, splits=['train', 'val'] * 12, groups=groups)
    result = flatzoo.probe(source, 'ridge', leave_out=['g1', 'g3'])
    assert result.evaluation.clips == 12 and result.tested_on == 'the clips of g1, g3, left out of the fit'
    assert {groups[index] for index in result.fitted_to} == {'g0', 'g2'}
    with pytest.raises(ValueError, match='there is no group g9; the groups are g0, g1, g2, g3'):
        flatzoo.probe(source, 'ridge', leave_out=['g9'])
    with pytest.raises(ValueError, match='nothing is left to learn from'):
        flatzoo.probe(source, 'ridge', leave_out=['g0', 'g1', 'g2', 'g3'])
    with pytest.raises(ValueError, match='no clip has one. Name the group'):
        flatzoo.probe(made(labels), 'ridge', leave_out=['g1'])


def test_nearest_neighbours_are_a_model_of_the_features_that_answer(root, features, tmp_path, capsys):
    result = flatzoo.probe(features, 'knn')
    result.save(tmp_path / 'knn')
    result.save(tmp_path / 'knn')  # once more
    train = features.of_split('train')
    assert torch.equal(flatzoo.load_features(tmp_path / 'knn').values, train.values)  # and not what tests it
    model = load_model(str(tmp_path / 'knn'))
    test = features.of_split('val')
    shares = result.head.estimator.predict_proba(test.values.numpy())
    head = model.get_classifier()
    assert torch.allclose(head(test.values).softmax(1), torch.from_numpy(shares).float(), atol=1e-3)
    assert torch.allclose(head(train.values[:1]).softmax(1)[0, train.labels[0]], torch.tensor(1.), atol=1e-2)  # itself
    measured = evaluate(model, read_videos('folder', root, 'val').with_classes(features.classes))
    assert measured.top1 == result.accuracy and torch.equal(measured.confusion, result.evaluation.confusion)
    clip = str(next((root / 'val' / ACTIONS[1]).iterdir()))
    assert flatzoo.predict(clip, str(tmp_path / 'knn')).top[0].label == ACTIONS[1]
    with pytest.raises(ValueError, match='cannot be saved as weights'):
        flatzoo.save_pretrained(model, tmp_path / 'weights')
    assert main(['push', str(tmp_path / 'knn'), 'org/name', '--dry-run']) == 1
    assert 'cannot be pushed as a model' in capsys.readouterr().err


def test_folders_of_nearest_neighbours_that_cannot_answer(features, tmp_path):
    result = flatzoo.probe(features, 'knn')
    result.save(tmp_path / 'knn')
    with pytest.raises(ValueError, match='holds features of other clips, which would answer, too'):
        replace(result, fitted_to=result.fitted_to[1:]).save(tmp_path / 'knn')
    with pytest.raises(ModelError, match='take no num_classes'):
        load_model(str(tmp_path / 'knn'), num_classes=3)
    (tmp_path / 'knn' / 'neighbours.json').write_text('{"neighbours": 0}')
    with pytest.raises(ModelError, match='neighbours is 0.. Fit the probe again'):
        load_model(str(tmp_path / 'knn'))
    other = replace(features, settings={**features.settings, 'digest': 'sha256:0'})
    save_neighbours(other, 3, tmp_path / 'other')
    with pytest.raises(ModelError, match='has other weights now'):
        load_model(str(tmp_path / 'other'))


@pytest.mark.parametrize('kind', ['ridge', 'knn'])
def test_a_saved_probe_is_exported_and_watches(root, features, tmp_path, capsys, kind):
    flatzoo.probe(features, kind).save(tmp_path / 'probe')
    out = str(tmp_path / 'probe.pt2')
    assert main(['export', str(tmp_path / 'probe'), '--format', 'torch-export', '--out', out]) == 0
    model, exported = load_model(str(tmp_path / 'probe')), torch.export.load(tmp_path / 'probe.pt2').module()
    clip = torch.randint(256, (1, 3, model.num_frames, *model.img_size), dtype=torch.uint8)
    torch.testing.assert_close(exported(clip), model(clip), rtol=1e-3, atol=1e-3)
    path = str(next((root / 'val' / ACTIONS[0]).iterdir()))
    assert main(['watch', path, '--model', str(tmp_path / 'probe'), '--stall', '0.2', '--window', '0.2',
                 '--every', '0.2']) == 0
    said = capsys.readouterr().out
    assert any(name in said for name in ACTIONS[:4])


def test_the_command(root, tmp_path, capsys):
    pytest.importorskip('matplotlib')
    out, report, kept = (str(tmp_path / name) for name in ('probe', 'report', 'features'))
    assert main([
        'probe', 'folder', str(root), '--model', MODEL, '--kind', 'ridge', '--features', kept, '--out', out,
        '--report', report, '--per-class']) == 0
    captured = capsys.readouterr()
    assert 'with 95 % confidence' in captured.out and 'moves left' in captured.out and f'saved: {out}' in captured.err
    assert {path.name for path in (tmp_path / 'report').iterdir()} == {'classes.csv', 'confusion.png'}
    assert main(['probe', kept, '--kind', 'ridge', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['tested_on'] == 'the split val'
    assert main(['predict', str(next((root / 'val').rglob('*.mp4'))), '--model', out, '--topk', '1']) == 0
    assert 'moves' in capsys.readouterr().out
    assert main(['probe', 'folder', str(root)]) == 1
    assert '--model NAME' in capsys.readouterr().err


@pytest.mark.parametrize('arguments, message', [
    (['--num-frames', '4'], '--num-frames is for clips .SPEC ROOT.'), (['--features', 'x'], '--features is for clips'),
    (['--raw'], '--ema or --raw is for clips'), (['--with-backbone'], 'give --out FOLDER, too'),
    (['--probe-kwargs', 'lr=1'], 'probe_args .lr. are for attentive, step and linear'),
    (['--kind', 'knn', '--with-backbone', '--out', 'x'], 'are saved as features, which name their backbone')])
def test_arguments_that_would_do_nothing_are_refused(features, tmp_path, capsys, monkeypatch, arguments, message):
    flatzoo.probe(features, 'knn').save(tmp_path / 'kept')
    monkeypatch.chdir(tmp_path)
    assert main(['probe', 'kept', *arguments]) == 1
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / 'x').exists()


def test_a_backbone_without_a_name_is_copied_and_the_command_says_so(root, tmp_path, capsys):
    out = tmp_path / 'probe'
    assert main([
        'probe', 'folder', str(root), '--model', 'test_vit', '--allow-untrained', '--num-frames', '4', '--model-kwargs',
        'img_size=32', '--out', str(out)]) == 0
    assert f'saved: {out}, with a copy of the backbone' in capsys.readouterr().err
    with safe_open(out / 'model.safetensors', 'pt') as file:
        assert len(list(file.keys())) > 10


def test_a_folder_of_clips_without_its_layout_is_told_how(root, capsys):
    assert main(['probe', str(root), '--model', MODEL]) == 1
    assert f'flatzoo probe folder {root} --model {MODEL}' in capsys.readouterr().err


def test_a_full_disk_is_named(features, tmp_path, monkeypatch, capsys):
    import errno

    from matplotlib.figure import Figure

    flatzoo.probe(features, 'knn').save(tmp_path / 'kept')

    def full(self, path, **kwargs):
        path.write_bytes(b'half of it')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, 'savefig', full)
    assert main(['probe', str(tmp_path / 'kept'), '--report', str(tmp_path / 'report')]) == 1
    assert f'error: {tmp_path / "report"}: the disk is full. What was there before is kept' in capsys.readouterr().err
    assert [path.name for path in (tmp_path / 'report').iterdir()] == ['classes.csv']
