"""Accuracy: counted exactly, on one process or several, with every file that fails named and counted."""
import csv
import json
import os
import pickle
import random
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import safetensors.torch
import timm
import torch
import torch.distributed as dist
from processes import Process, free_port

from flatzoo.cli import main
from flatzoo.data.actions import ACTIONS, reversed_label, write_action_folder
from flatzoo.data.lists import Clip, DataError, VideoList, read_videos
from flatzoo.data.protocol import EvalProtocol
from flatzoo.evaluation import evaluate as evaluation_module
from flatzoo.evaluation.evaluate import Evaluation, evaluate, match_classes
from flatzoo.evaluation.results import COLUMNS, json_row, read_results, write_results
from flatzoo.runtime.cost import count_forward
from flatzoo.visualize.confusion import confusion_figure

MODEL = 'sifar_resnet10t.actions16'
TIMM_COLUMNS = (
    'model', 'img_size', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'crop_pct', 'interpolation')


@pytest.fixture(scope='module')
def model():
    return timm.create_model(MODEL, pretrained=True).eval()


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """One held-out clip of each action, and a second of the first."""
    root = tmp_path_factory.mktemp('actions')
    write_action_folder(root, 1, seed=5, size=64, num_frames=16, split='test')
    first = root / 'moves_left' / '00000.mp4'
    (root / 'moves_left' / '00001.mp4').write_bytes(first.read_bytes())
    return root


@pytest.fixture(scope='module')
def videos(root):
    return read_videos('folder', root, 'all').with_classes(ACTIONS)


@pytest.fixture
def broken_root(root, tmp_path):
    """The same with a file in 'moves up' that is none, and one that ends too early."""
    for folder in root.iterdir():
        (tmp_path / 'actions' / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            os.link(file, tmp_path / 'actions' / folder.name / file.name)
    bad = tmp_path / 'actions' / 'moves_up' / 'text.mp4'
    bad.write_bytes(b'Dear diary,\n' * 500)
    short = tmp_path / 'actions' / 'joins' / 'short.mp4'
    short.write_bytes((root / 'joins' / '00000.mp4').read_bytes()[:60])
    return tmp_path / 'actions'


def logits_of(model, videos, protocol, reorder=lambda views, index: views):
    with torch.inference_mode():
        return torch.stack([
            model(reorder(protocol.load_views(clip.path, model.num_frames, model.img_size), index)).mean(0)
            for index, clip in enumerate(videos.clips)])


def counts(evaluation):
    return evaluation.confusion, evaluation.top5_hits, evaluation.unanswered


def same(one, other):
    return all(torch.equal(*pair) for pair in zip(counts(one), counts(other))) and one.broken == other.broken


# Counting

@pytest.mark.parametrize('protocol', [EvalProtocol(), EvalProtocol(num_clips=2, num_crops=3)])
@pytest.mark.parametrize('order', ['normal', 'reverse'])
def test_logits_are_averaged_over_views(protocol, order, model, videos, monkeypatch):
    mean, seen = evaluation_module._mean_logits, []
    monkeypatch.setattr(evaluation_module, '_mean_logits', lambda *args: seen.append(mean(*args)) or seen[-1])
    logits = logits_of(model, videos, protocol, lambda views, _: views.flip(2) if order == 'reverse' else views)
    labels = torch.tensor([clip.label for clip in videos.clips])
    got = evaluate(model, videos, protocol, batch_size=4, order=order)
    answers = logits.argmax(1)
    torch.testing.assert_close(torch.cat(seen), logits, rtol=1e-4, atol=1e-4)
    pairs = zip(labels.tolist(), answers.tolist())
    assert got.confusion.nonzero().tolist() == sorted(map(list, set(pairs)))
    assert got.top1 == pytest.approx(100 * (answers == labels).double().mean().item())
    top5 = logits.topk(5).indices.eq(labels[:, None]).any(1)
    assert got.top5 == pytest.approx(100 * top5.double().mean().item())
    assert got.clips == len(videos) == 17 and got.unanswered.sum() == 0
    if order == 'reverse':  # what the model has learned
        assert (answers == torch.tensor([reversed_label(label) for label in labels.tolist()])).double().mean() > 0.8
        assert got.top1 < 20
    else:
        assert got.top1 > 80


def test_shuffled_frames_follow_from_seed_and_clip(model, videos):
    runs = [
        evaluate(model, videos, order='shuffle', seed=seed, batch_size=batch_size, workers=workers)
        for seed, batch_size, workers in ((3, 1, 0), (3, 5, 1), (4, 5, 0))]
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])
    permutations = {}

    def reorder(views, index):
        permutations[index] = random.Random(f'3/{index}').sample(range(8), 8)
        return views[:, :, permutations[index]]
    answers = logits_of(model, videos, EvalProtocol(), reorder).argmax(1)
    assert [int(runs[0].confusion[clip.label, a] > 0) for clip, a in zip(videos.clips, answers)] == [1] * len(videos)
    assert len(set(map(tuple, permutations.values()))) > 10


def test_own_protocol_by_default(model, videos, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluation_module, '_mean_logits', lambda model, clips, *_: (
        seen.append(clips.shape[1]), torch.zeros(len(clips), 16))[1])
    monkeypatch.setattr(model, 'saved_protocol', EvalProtocol(num_clips=3, num_crops=3), raising=False)
    evaluate(model, replace(videos, clips=videos.clips[:1]))
    assert seen == [3]  # three clips of a square, whose three crops are one


def test_broken_files_are_wrong_answers(model, broken_root):
    videos = read_videos('folder', broken_root, 'all').with_classes(ACTIONS)
    got = evaluate(model, videos, batch_size=3, workers=1)
    whole = evaluate(model, replace(videos, clips=[c for c in videos.clips if c.path.endswith(('0.mp4', '1.mp4'))]))
    assert got.clips == len(videos) == 19 and torch.equal(got.confusion, whole.confusion)
    assert got.top1 == pytest.approx(whole.top1 * 17 / 19)
    assert [videos.clips[index].path for index, _ in got.broken] == [
        str(broken_root / 'joins' / 'short.mp4'), str(broken_root / 'moves_up' / 'text.mp4')]
    assert all(videos.clips[index].path in reason for index, reason in got.broken)
    rows = {row['class']: row for row in got.per_class()}
    assert rows['moves up']['broken'] == 1 and rows['moves up']['clips'] == 2 and rows['moves up']['top1'] <= 50


def test_decoder_that_fails_in_an_unknown_way_and_logits_that_are_none(model, videos, monkeypatch):
    from flatzoo.data.clips import ClipDataset
    get = ClipDataset.__getitem__

    def fail(self, index):
        if index == 2:
            raise KeyError('surprise')
        return get(self, index)
    monkeypatch.setattr(ClipDataset, '__getitem__', fail)
    got = evaluate(model, videos)
    assert got.broken == ((2, f"{videos.clips[2].path}: KeyError: 'surprise'"),)
    monkeypatch.undo()

    class NotFinite(torch.nn.Module):
        num_frames, img_size, num_classes, pretrained_cfg = 8, (32, 32), 16, {}

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, clips):
            return clips.float().mean((1, 2, 3, 4))[:, None] * self.weight / 0 * torch.arange(16)
    got = evaluate(NotFinite(), videos)
    assert got.clips == len(got.broken) == 17 and got.top1 == 0 and 'not finite' in got.broken[0][1]


def test_mean_over_classes_and_rows():
    confusion = torch.tensor([[8, 0, 2, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    got = Evaluation(('a', 'b', 'c', 'd'), confusion, torch.tensor([10, 0, 1, 1]), torch.tensor([0, 0, 0, 3]))
    assert got.clips == 15 and got.top1 == 60 and got.top5 == 80
    assert got.mean_class == pytest.approx(100 * (0.8 + 0 + 0.25) / 3)  # 'b' has no clips
    assert [(row['class'], row['clips'], row['taken_for'], row['times']) for row in got.per_class()] == [
        ('a', 10, 'c', 2), ('c', 1, 'a', 1), ('d', 4, None, 0)]


def test_classes_must_match(videos):
    unnamed = replace(videos, classes=tuple(f'class {i}' for i in range(16)))
    assert match_classes(unnamed, 16, ACTIONS).classes == ACTIONS
    swapped = match_classes(videos, 16, ACTIONS[::-1])
    assert [clip.label for clip in swapped.clips] == [15 - clip.label for clip in videos.clips]
    assert match_classes(videos, 16, None) is videos
    with pytest.raises(DataError, match='16 classes, the model has 7 without names'):
        match_classes(videos, 7, None)
    with pytest.raises(DataError, match='unknown to the model'):
        match_classes(videos, 3, ['walks', 'runs', 'sits'])


def test_macs_are_those_of_the_table():
    path = os.path.join(os.path.dirname(__file__), '..', '..', 'benchmarks', 'results', 'data', 'cost.csv')
    with open(path, newline='') as file:
        want = {row['model']: float(row['gmacs_per_view']) for row in csv.DictReader(file)}
    for name in ('sifar_resnet10t', 'amflow_dinov2_s_tcn_lite', 'sifar_swin_tiny'):
        got = count_forward(timm.create_model(name, device='meta')).macs / 1e9
        assert round(got, 3) == want.get(name, pytest.approx(0.064))


# Several processes

def evaluate_share(rank, world, file, model, videos, box):
    dist.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=world)
    try:
        result = evaluate(model, videos[rank] if isinstance(videos, list) else videos, batch_size=2)
    except ValueError as error:
        result = str(error)
    box.put((rank, pickle.dumps(result)))  # by value: a queue sends tensors as files, which end with this process
    box.close()
    box.join_thread()
    dist.destroy_process_group()


def on_processes(world, model, videos, tmp_path):
    """What `evaluate` gives on each of several processes."""
    context = torch.multiprocessing.get_context('fork')
    box = context.Queue()
    workers = [
        context.Process(target=evaluate_share, args=(rank, world, tmp_path / 'store', model, videos, box))
        for rank in range(world)]
    for worker in workers:
        worker.start()
    results = {rank: pickle.loads(result) for rank, result in (box.get(timeout=600) for _ in workers)}
    for worker in workers:
        worker.join()
    return [results[rank] for rank in range(world)]


def test_no_clip_counts_twice_and_none_is_left_out(model, videos, tmp_path):
    """Every clip has a class of its own, so the rows of the confusion matrix tell which clips were counted."""
    bad = Clip(str(tmp_path / 'none.mp4'), 0)
    odd = replace(videos, clips=(bad, *(clip for clip in videos.clips if clip.label))[:15])
    assert sorted(clip.label for clip in odd.clips) == sorted({clip.label for clip in odd.clips})
    alone = evaluate(model, odd)
    both = on_processes(2, model, odd, tmp_path)
    assert all(same(alone, result) for result in both)
    assert [int(n) for n in both[0].confusion.sum(1) + both[0].unanswered] == [
        int(any(clip.label == label for clip in odd.clips)) for label in range(16)]
    assert both[0].clips == 15 and [index for index, _ in both[1].broken] == [0]


def test_more_processes_than_clips(model, videos, tmp_path):
    one = replace(videos, clips=videos.clips[:1])
    alone = evaluate(model, one)
    assert all(same(alone, result) for result in on_processes(3, model, one, tmp_path))


def test_processes_with_different_lists_are_refused(model, videos, tmp_path):
    lists = [videos, replace(videos, clips=videos.clips[1:])]
    assert all('different lists' in result for result in on_processes(2, model, lists, tmp_path))


def torchrun(command, folder):
    """torchrun itself, whose three processes import torch anew."""
    return subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '-m', 'flatzoo',
         *command], capture_output=True, text=True, env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''}, timeout=600)


def like_torchrun(command, folder):
    """The processes that torchrun starts, with the variables that it sets."""
    shared = dict(
        WORLD_SIZE='2', LOCAL_WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()),
        CUDA_VISIBLE_DEVICES='')
    processes = [
        Process(folder / rank, command_of_a_process, command, env=dict(shared, RANK=rank, LOCAL_RANK=rank))
        for rank in '01']
    first, second = (process.wait() for process in processes)
    assert first.returncode == second.returncode
    return SimpleNamespace(
        returncode=first.returncode, stdout=first.stdout + second.stdout, stderr=first.stderr + second.stderr)


def command_of_a_process(command):
    sys.exit(main(command))


@pytest.mark.parametrize('start', [like_torchrun, pytest.param(torchrun, marks=pytest.mark.slow)])
def test_torchrun(start, broken_root, tmp_path):
    command = [
        'validate', 'folder', str(broken_root), '--split', 'all', '--model', MODEL, '--workers', '0', '--results']
    assert main([*command, str(tmp_path / 'one.csv')]) == 1
    result = start([*command, str(tmp_path / 'two.csv')], tmp_path)
    [one], [two] = read_results(tmp_path / 'one.csv'), read_results(tmp_path / 'two.csv')
    assert {**one, 'seconds': ''} == {**two, 'seconds': ''} and two['clips'] == '19' and two['broken'] == '2'
    assert result.stdout.count('top-1') == 1  # the first process speaks
    assert result.stderr.count('text.mp4') == 1 and result.returncode == 1


# The command

def validate(root, *options, split='all'):
    return main(['validate', 'folder', str(root), '--split', split, '--workers', '0', *options])


def test_results_and_report(root, tmp_path, capsys):
    pytest.importorskip('matplotlib', reason="needs pip install 'flatzoo[show]'")
    results, report = tmp_path / 'results.csv', tmp_path / 'report'
    options = ['--model', 'sifar_resnet10t', '--results', str(results), '--report', str(report), '--per-class']
    assert validate(root, *options, '--order', 'normal', 'reverse', '--num-clips', '2') == 0
    out = capsys.readouterr().out
    assert 'top-1' in out and 'reverse order' in out and '2 views' in out and 'of them taken for' in out
    normal, backwards = read_results(results)
    assert tuple(normal) == COLUMNS and COLUMNS[:9] == TIMM_COLUMNS
    assert float(normal['top1']) > 80 and float(backwards['top1']) < 20
    assert float(normal['top1_err']) == pytest.approx(100 - float(normal['top1']))
    assert (normal['img_size'], normal['num_frames'], normal['views'], normal['crop_pct']) == ('32', '8', '2', '1.0')
    assert float(normal['gmacs_views']) == pytest.approx(2 * float(normal['gmacs']), abs=1e-3)
    assert normal['clips'] == '17' and normal['param_count'] == '1.24' and normal['root'] == str(root)
    assert (report / 'sifar_resnet10t.confusion.png').read_bytes().startswith(b'\x89PNG')
    with open(report / 'sifar_resnet10t.reverse.classes.csv', newline='') as file:
        rows = {row['class']: row for row in csv.DictReader(file)}
    assert len(rows) == 16 and rows['moves left']['clips'] == '2' and rows['moves left']['taken_for'] == 'moves right'
    with open(report / 'sifar_resnet10t.confusion.csv', newline='') as file:
        assert sum(int(row['clips']) for row in csv.DictReader(file)) == 17
    assert not list(tmp_path.rglob('*.partial'))


def test_json(broken_root, capsys):
    assert validate(broken_root, '--model', MODEL, '--json') == 1
    out, err = capsys.readouterr()
    [entry] = json.loads(out)
    assert entry['broken'] == 2 and entry['clips'] == 19 and len(entry['classes']) == 16
    texts = {'model', 'interpolation', 'data', 'root', 'split', 'order', 'sampling', 'fit', 'model_kwargs', 'precision'}
    assert {name for name, value in entry.items() if isinstance(value, str)} == texts
    assert entry['num_frames'] == 8 and entry['crop_pct'] == 1 and entry['stride'] is entry['checkpoint'] is None
    assert json_row(entry | {'img_size': '96x128', 'stride': '4'})['img_size'] == [96, 128]
    assert err.count('error: ') == 2 and 'text.mp4' in err and 'short.mp4' in err


def test_pattern_measures_what_knows_the_classes(root, tmp_path, capsys, monkeypatch):
    create = timm.create_model

    def only_ours(model_name, **kwargs):
        assert 'swin' not in model_name, 'would be downloaded'
        return create(model_name, **kwargs)
    monkeypatch.setattr(timm, 'create_model', only_ours)
    results = tmp_path / 'results.csv'
    assert validate(root, '--model', 'sifar*', '--results', str(results)) == 0
    assert [row['model'] for row in read_results(results)] == [MODEL, 'sifar_resnet10t.actions49']
    err = capsys.readouterr().err
    assert 'skipped: sifar_swin_b14.ibm_k400' in err and 'unknown to the model' in err
    assert validate(root, '--model', 'videomae*') == 1
    assert 'could be measured' in capsys.readouterr().err
    assert validate(root, '--model', 'sifar_swin_b14.ibm_k400') == 1  # named itself, it is an error
    assert 'unknown to the model' in capsys.readouterr().err
    assert validate(root, '--model', 'nothing*') == 1
    assert "matches 'nothing*'" in capsys.readouterr().err


def test_results_are_kept_after_each_model_and_gone_on_with(root, tmp_path, capsys, monkeypatch):
    results = tmp_path / 'results.csv'
    options = ['--results', str(results), '--model', MODEL, 'sifar_swin_tiny']
    assert validate(root, *options) == 1  # the second has no weights, the first is kept
    assert [row['model'] for row in read_results(results)] == [MODEL]
    assert 'error: ' in capsys.readouterr().err
    assert validate(root, *options) == 1
    assert '--resume' in capsys.readouterr().err

    measured = []
    monkeypatch.setattr(evaluation_module, 'evaluate', lambda model, *args, **kwargs: (
        measured.append(model.num_frames), evaluate(model, *args, **kwargs))[1])
    assert validate(root, *options, '--resume', '--allow-untrained') == 0
    assert [row['model'] for row in read_results(results)] == [MODEL, 'sifar_swin_tiny'] and len(measured) == 1
    assert validate(root, *options, '--resume', '--allow-untrained') == 0 and len(measured) == 1
    assert validate(root, '--model', MODEL, '--results', str(results), '--resume', '--num-clips', '3') == 0
    assert len(measured) == 2 and len(read_results(results)) == 3


def test_results_file_that_is_none(root, tmp_path, capsys):
    other = tmp_path / 'thesis.csv'
    other.write_text('a,b\n1,2\n')
    assert validate(root, '--model', MODEL, '--results', str(other), '--resume') == 1
    assert 'thesis.csv' in capsys.readouterr().err and other.read_text() == 'a,b\n1,2\n'
    assert validate(root, '--model', MODEL, '--resume') == 1
    assert '--results' in capsys.readouterr().err


def test_results_from_before_there_was_a_fit_were_cropped(tmp_path):
    columns = [column for column in COLUMNS if column not in ('fit', 'precision')]
    write_results(tmp_path / 'r.csv', [dict.fromkeys(columns, '1')], columns)
    [row] = read_results(tmp_path / 'r.csv')
    assert tuple(row) == COLUMNS and row['fit'] == 'crop' and row['num_crops'] == '1'


def test_written_whole_or_not_at_all(tmp_path):
    write_results(tmp_path / 'r.csv', [], COLUMNS)
    with pytest.raises(ValueError):
        write_results(tmp_path / 'r.csv', [{'model': 'a', 'unknown': 1}])
    assert read_results(tmp_path / 'r.csv') == [] and len(list(tmp_path.iterdir())) == 1
    assert read_results(tmp_path / 'none.csv') == []


def test_checkpoint(model, root, tmp_path, capsys):
    """A checkpoint of a name without a tag has the classes of the data, in its order."""
    order = sorted(range(16), key=lambda label: ACTIONS[label])  # that of the folders
    state = {key: value.clone() for key, value in model.state_dict().items()}
    for key in [key for key in state if key.endswith(('fc.weight', 'fc.bias'))]:
        state[key] = state[key][order]
    safetensors.torch.save_file(state, tmp_path / 'mine.safetensors')
    options = ['--checkpoint', str(tmp_path / 'mine.safetensors'), '--json']
    assert validate(root, '--model', 'sifar_resnet10t', *options) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert entry['top1'] > 80 and entry['checkpoint'] == str(tmp_path / 'mine.safetensors')
    assert validate(root, '--model', 'sifar*', *options) == 1
    assert 'is of one model' in capsys.readouterr().err


def test_bad_input_is_one_clear_error(root, tmp_path, capsys):
    for options, words in (
            (['validate', 'folder', str(tmp_path / 'none'), '--model', MODEL], 'no such folder'),
            (['validate', 'thing', str(root), '--model', MODEL], 'unknown data set layout'),
            (['validate', 'folder', str(root), '--model', MODEL], "'all'"),  # there is no val
            (['validate', 'folder', str(root), '--split', 'all', '--model', 'sifar_resnet1O'], 'Similar names'),
            (['validate', 'folder', str(root), '--split', 'all', '--model', 'local-dir:/none'], '/none'),
    ):
        assert main(options) == 1
        out, err = capsys.readouterr()
        assert out == '' and words in err and 'Traceback' not in err, err


def test_missing_files_are_counted(root, tmp_path, capsys):
    lines = [f'{file},{file.parent.name}' for file in sorted(root.rglob('*.mp4'))]
    lines.append(f'{root}/moves_left/9.mp4,moves_left')
    (tmp_path / 'all.csv').write_text('\n'.join(['path,label', *lines]) + '\n')
    options = ['--split', 'all', '--model', MODEL, '--workers', '0', '--json']
    assert main(['validate', 'csv', str(tmp_path / 'all.csv'), *options]) == 1
    assert '1 of 18 files are missing' in capsys.readouterr().err
    assert main(['validate', 'csv:missing=skip', str(tmp_path / 'all.csv'), *options]) == 0
    out, err = capsys.readouterr()
    [entry] = json.loads(out)
    assert (entry['missing'], entry['clips']) == (1, 17) and 'warning: ' in err


def test_figure_of_many_classes():
    pytest.importorskip('matplotlib', reason="needs pip install 'flatzoo[show]'")
    confusion = torch.zeros(400, 400, dtype=torch.int64)
    confusion[range(0, 300, 3), range(0, 300, 3)] = 2
    confusion[0, 399] = 1
    figure = confusion_figure(confusion, [f'class {i}' for i in range(400)], 'many')
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (101, 101)  # classes that neither occur nor are answered are left out
    assert image[0, 0] == pytest.approx(200 / 3) and image[0, 100] == pytest.approx(100 / 3)
    with pytest.raises(ValueError, match='of that size'):
        confusion_figure(confusion, ['a'])


@pytest.mark.slow
def test_trained_member_has_its_accuracy_on_files(tmp_path, capsys):
    write_action_folder(tmp_path, 20, seed=1 << 20, split='test')
    assert validate(tmp_path, '--model', MODEL, '--json') == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert entry['clips'] == 320 and entry['top1'] > 96


def test_list_of_one_class_less(model, videos):
    with pytest.raises(ValueError, match='15 classes, but the model has 16'):
        evaluate(model, VideoList('x', videos.clips[:1], ACTIONS[:15]))
    with pytest.raises(ValueError, match='order must be'):
        evaluate(model, videos, order='backwards')
