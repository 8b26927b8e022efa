"""Clips of several classes, from the list to the commands: sigmoid scores and mean average precision."""
import csv
import json

import pytest
import timm
import torch
from sklearn.metrics import average_precision_score, f1_score
from train_runs import PLAIN, same, small_recipe, train, weights, write_clips

import flatzoo
from flatzoo.cli import main
from flatzoo.data.lists import NO_CLASS, Clip, DataError, VideoList, read_videos
from flatzoo.data.multi_label import as_multi_label, targets_of
from flatzoo.evaluation.evaluate import Evaluation, evaluate
from flatzoo.evaluation.multi_label import MultiLabelEvaluation
from flatzoo.train import checkpoint
from flatzoo.train.balance import clip_weights, few_shot
from flatzoo.train.build import build_task, read_lists
from flatzoo.train.mixing import ClipMixup
from flatzoo.weights.config import check_config


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Two actions, of which every second clip is also 'odd'."""
    root = write_clips(tmp_path_factory.mktemp('clips'), train=4, val=3)
    for split in ('train', 'val'):
        lines = ['path,label']
        for path in sorted((root / split).rglob('*.mp4')):
            lines.append(f'{path.relative_to(root)},{path.parent.name}' + '|odd' * (int(path.stem) % 2))
        (root / f'{split}.csv').write_text('\n'.join(lines))
    return root


@pytest.fixture(scope='module')
def run(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'several'
    row, lines = train(root, folder, spec='csv', epochs=2, test_split='val', val_split='none', **PLAIN)
    return folder, row, lines


@pytest.fixture(scope='module')
def model(run):
    return timm.create_model(f'local-dir:{run[0]}', pretrained=True).eval()


# Lists

def write_list(folder, text, name='all.csv'):
    (folder / name).write_text(text)
    for row in range(4):
        (folder / f'{row}.mp4').touch()
    return folder


@pytest.mark.parametrize('name,text', [
    ('all.csv', 'path,label\n0.mp4,b|a\n1.mp4,a\n2.mp4,a | c |a\n'),
    ('all.jsonl', '{"path": "0.mp4", "label": ["b", "a"]}\n{"path": "1.mp4", "label": "a"}\n'
                  '{"path": "2.mp4", "label": "a|c"}\n'),
])
def test_lists_with_several_classes_per_clip(tmp_path, name, text):
    videos = read_videos(name.partition('.')[2], write_list(tmp_path, text, name), 'all')
    assert videos.multi_label and videos.metric == 'map' and videos.classes == ('a', 'b', 'c')
    assert [clip.all_labels for clip in videos.clips] == [(1, 0), (0,), (0, 2)]
    assert targets_of(videos).tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 1]]
    renamed = videos.with_classes(('c', 'x', 'b', 'a'))
    assert [clip.all_labels for clip in renamed.clips] == [(2, 3), (3,), (3, 0)] and renamed.clips[0].label == 2
    with pytest.raises(DataError, match='unknown to the model: c'):
        videos.with_classes(('a', 'b'))


def test_numbers_and_names_with_the_sign_and_empty_parts(tmp_path):
    videos = read_videos('csv', write_list(tmp_path, 'path,label\n0.mp4,2|0\n1.mp4,1\n'), 'all')
    assert videos.multi_label and [clip.all_labels for clip in videos.clips] == [(2, 0), (1,)]
    (tmp_path / 'classes.txt').write_text('a|b\nc\n')
    videos = read_videos('csv', write_list(tmp_path, 'path,label\n0.mp4,a|b\n1.mp4,c\n'), 'all')
    assert not videos.multi_label and videos.classes == ('a|b', 'c')
    (tmp_path / 'classes.txt').unlink()
    with pytest.raises(DataError, match="line 2.*one of its labels is empty"):
        read_videos('csv', write_list(tmp_path, 'path,label\n0.mp4,a|\n1.mp4,c\n'), 'all')
    with pytest.raises(DataError, match="the metric 'map'"):
        VideoList('made', [Clip('a', 0, labels=(0, 1))], ['x', 'y'])


@pytest.mark.parametrize('name,text', [
    ('all.csv', 'path,label\n0.mp4,b|a\n1.mp4,\n2.mp4, \n3.mp4,a\n'),
    ('all.csv', '0.mp4,b|a\n1.mp4,\n2.mp4,\n3.mp4,a\n'),
    ('all.jsonl', '{"path": "0.mp4", "label": ["b", "a"]}\n{"path": "1.mp4", "label": []}\n'
                  '{"path": "2.mp4", "label": ""}\n{"path": "3.mp4", "label": "a"}\n'),
])
def test_an_empty_label_is_a_clip_of_no_class(tmp_path, name, text):
    videos = read_videos(name.partition('.')[2], write_list(tmp_path, text, name), 'all')
    assert videos.multi_label and videos.classes == ('a', 'b')
    assert [clip.all_labels for clip in videos.clips] == [(1, 0), (), (), (0,)]
    assert targets_of(videos).tolist() == [[1, 1], [0, 0], [0, 0], [1, 0]]
    assert '2 of 4 clips have an empty label and count as clips of no class' in videos.note
    assert [clip.all_labels for clip in videos.with_classes(('b', 'a')).clips] == [(0, 1), (), (), (1,)]


@pytest.mark.parametrize('name,text,message', [
    ('all.csv', 'path,label\n0.mp4,a\n1.mp4,\n', 'line 3.*the label is empty.*a class of its own.*leave the line out'),
    ('all.csv', 'path,label,split\n0.mp4,a|b,x\n1.mp4\n', 'line 3.*there is no label'),
    ('all.jsonl', '{"path": "0.mp4", "label": ["a"]}\n{"path": "1.mp4", "label": null}\n', 'line 2.*there is no label'),
    ('all.jsonl', '{"path": "0.mp4", "label": []}\n', 'line 1.*no clip of the list has a class'),
])
def test_a_forgotten_label_is_refused(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read_videos(name.partition('.')[2], write_list(tmp_path, text, name), 'all')


def test_lists_of_no_class_at_all_are_refused(model):
    none = Clip('a.mp4', NO_CLASS)
    with pytest.raises(DataError, match='labels outside 0 to 1'):
        VideoList('made', [none], ['x', 'y'])
    with pytest.raises(DataError, match='none of its 1 clips shows any of the classes'):
        evaluate(model, VideoList('made', [none], ['x', 'y', 'z'], metric='map'))


def test_clips_of_no_class_are_drawn_like_a_class():
    clips = [Clip(f'{i}.mp4', 0, labels=(0,)) for i in range(8)] + [Clip(f'n{i}.mp4', NO_CLASS) for i in range(2)]
    videos = VideoList('made', clips, ['x', 'y'], metric='map')
    weights = clip_weights(videos, 1.0)
    assert float(weights[:8].sum()) == pytest.approx(1) and float(weights[8:].sum()) == pytest.approx(1)
    chosen = few_shot(videos, 1, seed=0)
    assert sorted(len(clip.all_labels) for clip in chosen.clips) == [0, 1]


def test_what_needs_one_class_per_clip_says_so(root, model):
    videos = read_videos('csv', root, 'val')
    plain = timm.create_model('sifar_resnet10t', num_classes=3).eval()
    with pytest.raises(DataError, match='this model names one class per clip: csv .val. has clips of several'):
        evaluate(plain, videos)
    with pytest.raises(DataError, match='an audit counts right answers'):
        flatzoo.audit(model, videos)
    with pytest.raises(DataError, match='--no-multi-label'):
        read_lists(small_recipe(root, '', spec='csv', multi_label=False))


# Figures

def test_average_precision_is_that_of_scikit_learn_also_with_ties_and_without_answers():
    generator = torch.Generator().manual_seed(0)
    targets = (torch.rand(40, 4, generator=generator) < 0.3).float()
    targets[:, 3] = 0  # a class without clips says nothing
    logits = torch.randn(40, 4, generator=generator).round()  # many ties
    rows = [(torch.arange(30), logits[:30])]
    found = MultiLabelEvaluation.of_answers('abcd', targets, rows, tuple((i, 'broken') for i in range(30, 40)))
    scores = torch.cat([logits[:30], torch.full((10, 4), -1e9)])
    expected = [100 * average_precision_score(targets[:, k], scores[:, k]) for k in range(3)]
    assert [row['ap'] for row in found.per_class()] == pytest.approx(expected)
    assert found.map == pytest.approx(sum(expected) / 3)
    assert found.micro_f1 == pytest.approx(100 * f1_score(targets, scores > 0, average='micro'))
    hits, asked = targets[:30].gather(1, logits[:30].argmax(1, keepdim=True)).sum(), (targets.sum(1) > 0).sum()
    assert 0 < asked < 40 and found.top1 == pytest.approx(100 * float(hits / asked))  # of no class there is none to hit


# Training

def test_a_run_trains_timms_task_and_reports_the_mean_average_precision(root, run, model, tmp_path):
    folder, _, lines = run
    recipe = small_recipe(root, '', spec='csv', mixup=0, cutmix=0, smoothing=0.0)
    task = build_task(recipe, model, read_lists(recipe)[0], torch.device('cpu'))
    kinds = type(task).__name__, type(task.criterion).__name__
    assert kinds == ('MultiLabelClassificationTask', 'BinaryCrossEntropy')
    assert any('3 classes, of which a clip may have several' in line for line in lines)
    results = json.loads((folder / checkpoint.RESULTS).read_text())
    measured = evaluate(model, read_videos('csv', root, 'val'))
    assert results['last']['test_map'] == measured.map and 0 < measured.map <= 100 and measured.clips == 6


def test_epochs_are_compared_by_it_and_runs_resume(root, tmp_path):
    row, lines = train(root, tmp_path / 'run', spec='csv', epochs=2)  # with Mixup and CutMix
    assert {'eval_map', 'eval_micro_f1', 'eval_top1', 'eval_broken'} <= row.keys() and 'eval_top5' not in row
    assert any('eval_map' in line and 'chosen on val' in line for line in lines)
    train(root, tmp_path / 'part', spec='csv', epochs=2, val_interval=2)
    train(root, tmp_path / 'part', spec='csv', epochs=2, val_interval=2, resume='auto')
    assert same(weights(tmp_path / 'run'), weights(tmp_path / 'part'))
    lines = (root / 'train.csv').read_text()
    try:
        (root / 'train.csv').write_text(lines.replace('|odd', '', 1))
        with pytest.raises(ValueError, match='the clips of train .changed'):
            train(root, tmp_path / 'run', spec='csv', epochs=3, resume='auto')
    finally:
        (root / 'train.csv').write_text(lines)


def test_clips_of_no_class_are_trained_on_and_measured(root, tmp_path, capsys):
    for split in ('train', 'val'):
        lines = [line.replace('|odd', '') if number % 2 else line for number, line in enumerate(
            (root / f'{split}.csv').read_text().splitlines())]
        lines[2] = lines[2].partition(',')[0] + ','
        (root / f'none_{split}.csv').write_text('\n'.join(lines))
    folder = tmp_path / 'lists'
    folder.mkdir()
    for split in ('train', 'val'):
        (root / f'none_{split}.csv').rename(folder / f'{split}.csv')
        (folder / split).symlink_to(root / split)
    row, lines = train(folder, tmp_path / 'run', spec='csv', epochs=1, balanced_sampling=1.0, class_weights='neg_pos')
    assert 0 < row['eval_map'] <= 100 and any('have an empty label and count as clips of no' in line for line in lines)
    assert main(['validate', 'csv', str(folder), '--model', str(tmp_path / 'run'), '--workers', '0', '--json']) == 0
    entry, = json.loads(capsys.readouterr().out)
    assert entry['clips'] == 6 and sum(one['clips'] for one in entry['classes']) < 12
    assert main(['data', 'check', 'csv', str(folder)]) in (0, 1)
    assert '1 of 6 clips have an empty label' in capsys.readouterr().out


def test_one_class_per_clip_can_be_trained_with_independent_scores(root, tmp_path):
    train_list, val_list = read_lists(small_recipe(root, '', multi_label=True))
    assert train_list.multi_label and val_list.multi_label and train_list.clips[0].labels == (0,)
    assert not read_lists(small_recipe(root, ''))[0].multi_label


def test_mixing_keeps_the_classes_of_both_clips():
    mixup = ClipMixup(mixup_alpha=1.0, cutmix_alpha=0, label_smoothing=0.0, num_classes=3, multi_label=True)
    targets = torch.tensor([[1.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    _, mixed = mixup(torch.randn(3, 3, 2, 8, 8), targets)
    assert torch.equal(mixed[2], targets[2])  # of an odd batch
    share = mixed[0, 0]
    torch.testing.assert_close(mixed[0], torch.stack([share, share, 1 - share]))


def test_no_teacher(root, model):
    recipe = small_recipe(root, '', spec='csv', kd_model_name='sifar_resnet10t')
    with pytest.raises(ValueError, match='teachers answer with one'):
        build_task(recipe, model, read_lists(recipe)[0], torch.device('cpu'))


# The saved model

def test_the_saved_model_says_what_it_is(run, model, tmp_path):
    config = json.loads((run[0] / 'config.json').read_text())
    assert config['video']['multi_label'] is True and config['video']['format'] == 3  # an older flatzoo refuses it
    assert model.multi_label and model.head_trained
    assert not timm.create_model(f'local-dir:{run[0]}', pretrained=True, num_classes=7).multi_label  # another head
    again = flatzoo.save_pretrained(model, tmp_path / 'again')
    assert timm.create_model(f'local-dir:{again}', pretrained=True).multi_label
    config['video']['multi_label'] = 'yes'
    with pytest.raises(ValueError, match="'multi_label' must be true or false"):
        check_config(config, 'config.json')
    model = timm.create_model('sifar_resnet10t')
    assert not model.multi_label and 'multi_label' not in json.loads(
        (flatzoo.save_pretrained(model, tmp_path / 'plain') / 'config.json').read_text())['video']


def test_predict_gives_independent_scores_and_says_so(root, run, model, capsys):
    path = str(next((root / 'val').rglob('*.mp4')))
    answer = flatzoo.predict(path, str(run[0]), topk=3)
    views = flatzoo.eval_protocol(model).load_views(path, model.num_frames, model.img_size)
    with torch.inference_mode():
        expected = model(views).mean(0).sigmoid()
    for item in answer.top:
        assert item.probability == pytest.approx(float(expected[item.index]), abs=1e-4)
    assert main(['predict', path, '--model', str(run[0])]) == 0
    assert 'scores of classes by themselves' in capsys.readouterr().err


def test_the_weight_file_alone_is_not_taken_for_one_class_per_clip(run, model, tmp_path):
    from flatzoo.inference.load import load_model

    options = dict(num_classes=3, backbone='test_vit', num_frames=4, img_size=32)
    alone = load_model('superimage', str(run[0] / 'model.safetensors'), **options)
    assert alone.multi_label and same(alone.state_dict(), model.state_dict())


def test_validate_measures_mean_average_precision_and_reports_it(root, run, tmp_path, capsys):
    args = ['validate', 'csv', str(root), '--model', str(run[0]), '--workers', '0']
    assert main([*args, '--results', str(tmp_path / 'r.csv'), '--report', str(tmp_path), '--per-class']) == 0
    out = capsys.readouterr().out
    assert 'mean average precision of the classes (a clip may have several)' in out and 'top-1' not in out
    with open(tmp_path / 'r.csv', newline='') as file:
        row, = csv.DictReader(file)
    assert float(row['map']) > 0 and row['top1'] == row['mean_class'] == ''
    names = {path.name for path in tmp_path.iterdir()}
    assert any(name.endswith('.classes.csv') for name in names) and not any('confusion' in name for name in names)
    assert main([*args, '--json']) == 0
    entry, = json.loads(capsys.readouterr().out)
    assert entry['map'] == pytest.approx(float(row['map'])) and 'top1' not in entry and len(entry['classes']) == 3


def test_a_list_with_one_class_per_clip_is_measured_so_too(root, model):
    videos = read_videos('folder', root, 'val').with_classes(model.pretrained_cfg['label_names'])
    found = evaluate(model, videos)
    assert isinstance(found, MultiLabelEvaluation) and torch.equal(found.targets, targets_of(as_multi_label(videos)))
    assert not isinstance(found, Evaluation)


def test_cards_and_exports_say_so(model, tmp_path):
    from flatzoo.export.exporter import _metadata
    from flatzoo.hub.push import _card

    text = _card(model, 'org/name', None)
    assert 'logits.sigmoid()' in text and 'a clip may have several (sigmoid scores, no softmax)' in text
    clip = torch.zeros(1, 3, model.num_frames, *model.img_size, dtype=torch.uint8)
    assert _metadata(model, clip, 'uint8')['multi_label'] is True


def test_transformers_takes_the_loss_of_several_classes(run):
    pytest.importorskip('transformers')
    from transformers import AutoModelForVideoClassification

    import flatzoo.hub.transformers  # noqa: F401 - registers

    found = AutoModelForVideoClassification.from_pretrained(run[0])
    assert found.config.problem_type == 'multi_label_classification' and found.timm_model.multi_label
    clip = torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)
    target = torch.tensor([[1.0, 0, 1]])
    out = found.eval()(clip, labels=target)
    torch.testing.assert_close(out.loss, torch.nn.functional.binary_cross_entropy_with_logits(out.logits, target))
