"""Probes of clips that may have several classes."""
import json
from dataclasses import replace

import pytest
import timm
import torch
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import normalize

import flatzoo
from flatzoo.cli import main
from flatzoo.data.actions import ACTIONS, write_action
from flatzoo.data.lists import read_videos
from flatzoo.evaluation.evaluate import evaluate
from flatzoo.evaluation.heads_several import fit_set_head, map_interval, set_folds
from flatzoo.inference.embed import every_split
from flatzoo.inference.features import FeatureRow, Features
from flatzoo.inference.load import load_model

pytest.importorskip('pyarrow')
SETTINGS = {'model': None, 'digest': 'sha256:0', 'tokens': False, 'model_args': {}}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Four motions; those along a line are also 'line', and of each action every second clip is also 'odd'."""
    root = tmp_path_factory.mktemp('actions')
    for split, clips, seed in (('train', 4, 0), ('val', 2, 10)):
        lines = ['path,label']
        for label in (0, 1, 4, 5):
            for clip in range(clips):
                path = root / f'{split}{label}_{clip}.mp4'
                write_action(path, label, seed + clip, size=32, num_frames=8)
                names = [ACTIONS[label], *['line'] * (label < 4), *['odd'] * (clip % 2)]
                lines.append(f'{path.name},{"|".join(names)}')
        (root / f'{split}.csv').write_text('\n'.join(lines))
    return root


@pytest.fixture(scope='module')
def features(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('features') / 'kept'
    flatzoo.embed(every_split('csv', root), 'sifar_resnet10t', folder)
    return flatzoo.load_features(folder)


def made(targets, splits=None, groups=None):
    generator = torch.Generator().manual_seed(0)
    targets = torch.as_tensor(targets)
    values = targets.float() @ torch.randn(targets.shape[1], 12, generator=generator) * 3
    values = values + 0.3 * torch.randn(values.shape, generator=generator)
    rows = tuple(
        FeatureRow(f'/{i}.mp4', label='|'.join('abc'[k] for k in row.nonzero().flatten()) or None,
                   split=splits[i] if splits else 'all', group=groups[i] if groups else None)
        for i, row in enumerate(targets))
    return Features(values, rows, ('a', 'b', 'c'), SETTINGS, multi_label=True)


def test_features_keep_all_classes_of_a_clip(root, features):
    assert features.multi_label and len(features.classes) == 6
    train = features.of_split('train')
    assert train.multi_label and train.targets.sum(0).tolist()[features.classes.index('line')] == 8
    with pytest.raises(ValueError, match='take targets in place of labels'):
        print(features.labels)


@pytest.mark.parametrize('kind', ['knn', 'ridge', 'logistic'])
def test_a_probe_learns_sets_and_is_a_model(root, features, tmp_path, kind):
    result = flatzoo.probe(features, kind)
    assert result.tested_on == 'the split val' and result.penalty
    rows = {row['class']: row['ap'] for row in result.evaluation.per_class()}
    assert min(ap for name, ap in rows.items() if name != 'odd') >= 60 and rows['line'] >= 90  # odd is noise
    assert result.interval[0] <= result.map <= result.interval[1]
    with pytest.raises(ValueError, match='take map in place of accuracy'):
        print(result.accuracy)
    result.save(tmp_path / 'probe')
    model = load_model(str(tmp_path / 'probe'))
    assert model.multi_label
    videos = read_videos('csv', root, 'val').with_classes(model.pretrained_cfg['label_names'])
    measured = evaluate(model, videos)
    assert measured.map == pytest.approx(result.map, abs=0.5)
    torch.testing.assert_close(measured.logits, result.evaluation.logits, rtol=1e-2, atol=1e-2)


def test_heads_find_what_is_there_and_neighbours_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(1)
    source = made((torch.rand(60, 3, generator=generator) < 0.4).int())
    kept = source.targets.sum(1) > 0
    values, targets = source.values[kept], source.targets[kept]
    for kind in ('ridge', 'logistic'):
        head = fit_set_head(kind, values[:40], targets[:40])
        assert ((head.logits(values[40:]) > 0) == (targets[40:] > 0)).float().mean() > 0.9
        weight, bias = head.linear()
        torch.testing.assert_close(values @ weight.T + bias, head.logits(values), rtol=1e-3, atol=1e-3)
    head = fit_set_head('knn', values[:40], targets[:40])
    other = KNeighborsRegressor(head.neighbors, weights='distance').fit(normalize(values[:40]), targets[:40])
    shares = torch.from_numpy(other.predict(normalize(values[40:]))).float().clamp(1e-4, 1 - 1e-4)
    torch.testing.assert_close(head.logits(values[40:]).sigmoid(), shares)


def test_without_splits_groups_stay_together_and_classes_without_clips_are_named():
    targets = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0]] * 6)
    source = made(targets, groups=[f'g{i // 4}' for i in range(24)])
    folds = set_folds(24, source.groups)
    assert all({source.groups[i] for i in a}.isdisjoint(source.groups[i] for i in b) for a, b in folds)
    result = flatzoo.probe(source, 'ridge', leave_group_out=True)
    assert result.map > 90 and result.tested_on.startswith('each of 6 groups') and result.classes == ('a', 'b')
    unknown = made(torch.cat([targets, torch.tensor([[0, 0, 1], [1, 0, 1]])]), splits=['train'] * 24 + ['val'] * 2)
    result = flatzoo.probe(unknown, 'ridge')
    assert any('classes without a clip to learn from' in note and 'c' in note for note in result.notes)


@pytest.mark.parametrize('kind', ['knn', 'ridge', 'logistic'])
def test_clips_of_no_class_teach_what_is_none(kind):
    generator = torch.Generator().manual_seed(3)
    targets = (torch.rand(80, 3, generator=generator) < 0.25).int()
    assert 10 < int((targets.sum(1) == 0).sum()) < 60
    source = made(targets, splits=['train'] * 50 + ['val'] * 30)
    source = replace(source, rows=tuple(row._replace(label=row.label or '') for row in source.rows))
    result = flatzoo.probe(source, kind)
    assert result.evaluation.clips == 30 and any('of 80 clips have an empty label' in note for note in result.notes)
    assert result.map > 80
    unknown = replace(source, rows=tuple(row._replace(label=row.label or None) for row in source.rows))
    result = flatzoo.probe(unknown, kind)  # nobody has said what they show
    assert result.evaluation.clips < 30 and any('clips have no label and are left out' in note for note in result.notes)


def test_no_class_from_the_list_to_the_saved_model(root, tmp_path):
    lists = tmp_path / 'lists'
    lists.mkdir()
    for split in ('train', 'val'):
        lines = (root / f'{split}.csv').read_text().splitlines()
        lines = [lines[0], *(f'{root}/{line}' for line in lines[1:])]
        lines[-2:] = [f'{line.partition(",")[0]},' for line in lines[-2:]]
        (lists / f'{split}.csv').write_text('\n'.join(lines))
    features = flatzoo.embed(every_split('csv', lists), 'sifar_resnet10t', tmp_path / 'features')
    features = flatzoo.load_features(tmp_path / 'features')
    assert [row.label for row in features.rows if not row.label] == [''] * 4  # not None: it is known that there is none
    result = flatzoo.probe(features, 'ridge')
    result.save(tmp_path / 'probe')
    model = load_model(str(tmp_path / 'probe'))
    videos = read_videos('csv', lists, 'val').with_classes(model.pretrained_cfg['label_names'])
    assert evaluate(model, videos).map == pytest.approx(result.map, abs=0.5)


def test_a_list_that_has_one_class_per_clip_now(root, tmp_path):
    out = tmp_path / 'features'
    flatzoo.embed(every_split('csv', root), 'sifar_resnet10t', out)
    paths = sorted(str(path) for path in root.glob('*.mp4'))
    flatzoo.embed(paths, 'sifar_resnet10t', out)  # files say nothing of classes
    assert flatzoo.load_features(out).multi_label
    now = tmp_path / 'now.csv'
    now.write_text('path,label\n' + ''.join(f'{path},{"ab"[i % 2]}\n' for i, path in enumerate(paths)))
    flatzoo.embed(every_split('csv', now), 'sifar_resnet10t', out)
    kept = flatzoo.load_features(out)
    assert not kept.multi_label and kept.classes == ('a', 'b') and sorted(set(kept.labels.tolist())) == [0, 1]


def test_what_cannot_be_learned_is_said():
    source = made(torch.tensor([[1, 0, 0]] * 6 + [[0, 0, 0]] * 2), splits=['train'] * 6 + ['val'] * 2)
    source = replace(source, rows=tuple(row._replace(label=row.label or '') for row in source.rows))
    with pytest.raises(ValueError, match='none of the 2 clips to measure on shows any of the classes'):
        flatzoo.probe(source, 'ridge')
    with pytest.raises(ValueError, match='every class is in all clips or in none'):
        flatzoo.probe(made(torch.ones(8, 2, dtype=torch.int64)), 'ridge')
    with pytest.raises(ValueError, match='the clips have no classes'):
        flatzoo.probe(made(torch.zeros(8, 3, dtype=torch.int64)), 'ridge')


def test_the_interval_is_wider_for_clips_that_resemble_each_other():
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(20, 2, generator=generator) < 0.5).float()
    logits = targets + torch.randn(20, 2, generator=generator)
    low, high = map_interval(logits, targets)
    four = [f'g{i // 4}' for i in range(80)]
    alone = map_interval(logits.repeat_interleave(4, 0), targets.repeat_interleave(4, 0))
    together = map_interval(logits.repeat_interleave(4, 0), targets.repeat_interleave(4, 0), four)
    assert 0 <= low < high <= 1 and together[1] - together[0] > 1.3 * (alone[1] - alone[0])


def test_the_command(root, tmp_path, capsys):
    out, report = tmp_path / 'probe', tmp_path / 'report'
    args = ['probe', 'csv', str(root), '--model', 'sifar_resnet10t', '--kind', 'ridge', '--out', str(out)]
    assert main([*args, '--report', str(report), '--per-class']) == 0
    text = capsys.readouterr().out
    assert 'mean average precision, between' in text and 'line, 4 clips' in text
    assert [path.name for path in report.iterdir()] == ['classes.csv']
    assert json.loads((out / 'config.json').read_text())['video']['format'] == 3
    assert timm.create_model(f'local-dir:{out}', pretrained=True).multi_label
    assert main(['predict', str(root / 'val0_0.mp4'), '--model', str(out)]) == 0
    assert 'scores of classes by themselves' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['linear', 'attentive'])
def test_probes_of_tokens(root, kind):
    result = flatzoo.probe(
        every_split('csv', root), kind, 'test_vit', num_frames=2, img_size=32, allow_untrained=True,
        probe_args=dict(epochs=2))
    assert 0 < result.map <= 100 and result.model().multi_label
