"""What a finished run says: last and best epoch, a test on other clips, groups that are held out."""
import json
import math
import os
import shutil

import pytest
from train_runs import PLAIN, same, small_recipe, train, weights, write_clips

import flatzoo
from flatzoo.cli import main
from flatzoo.data import workers
from flatzoo.data.lists import DataError, read_videos
from flatzoo.evaluation.evaluate import evaluate
from flatzoo.train import checkpoint
from flatzoo.train.build import read_lists
from flatzoo.train.recipe import RecipeError
from flatzoo.train.results import best_and_last


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = write_clips(tmp_path_factory.mktemp('clips'), train=4, val=2)
    for folder in sorted((root / 'val').iterdir()):
        target = root / 'test' / folder.name
        target.mkdir(parents=True)
        shutil.move(folder / '1.mp4', target / '1.mp4')
    lines = ['path,group']
    for path in sorted(root.rglob('*.mp4')):
        lines.append(f'{path.relative_to(root)},{"anna" if path.stem in "01" else "bert"}')
    (root / 'groups.csv').write_text('\n'.join(lines))
    return root


def test_last_and_best_epoch_and_a_test_on_clips_that_chose_nothing(root, tmp_path):
    folder = tmp_path / 'run'
    _, lines = train(root, folder, test_split='test', epochs=2, **PLAIN)
    results = json.loads((folder / checkpoint.RESULTS).read_text())
    assert (results['chosen_on'], results['last']['epoch'], results['train_clips']) == ('val', 2, 8)
    assert results['kept'] == results['best']['epoch'] and results['best']['eval_top1'] >= results['last']['eval_top1']
    assert any('chosen on val, so this figure is too high' in line and '--test-split' not in line for line in lines)
    assert any('test on 2 clips of test' in line for line in lines)
    model = flatzoo.Classifier(str(folder)).model
    measured = evaluate(model, read_videos('folder', root, 'test'))
    assert results['best']['test_top1'] == measured.top1 and results['best']['test_clips'] == 2


def test_a_finished_run_can_be_tested_later_and_without_val_the_last_epoch_is(root, tmp_path):
    folder = tmp_path / 'run'
    _, lines = train(root, folder, val_split='none', epochs=1)
    assert lines[-1] == 'the saved model is that of epoch 1' and not any('chosen' in line for line in lines)
    assert json.loads((folder / checkpoint.RESULTS).read_text())['chosen_on'] is None
    _, lines = train(root, folder, val_split='none', epochs=1, resume='auto', test_split='val')
    assert any('test on 2 clips of val, last epoch, 1:' in line for line in lines)


@pytest.mark.parametrize('options', [dict(test_split='val'), dict(test_split='train'), dict(test_split='all')])
def test_clips_that_were_trained_on_or_chose_are_no_test(root, tmp_path, options):
    with pytest.raises(DataError, match='its figure would not be one of new clips'):
        train(root, tmp_path / 'run', **options)


def test_the_first_of_equal_epochs_is_the_best_and_gaps_are_passed_over():
    history = [{'epoch': 1, 'x': None}, {'epoch': 2, 'x': 5.0}, {'epoch': 3, 'x': 5.0}, {'epoch': 4, 'x': 1.0}]
    best, last = best_and_last(history, 'x')
    assert (best['epoch'], last['epoch']) == (2, 4)
    assert best_and_last(history[:1], 'x')[0]['epoch'] == 1 and best_and_last(history, None)[0]['epoch'] == 4


def test_a_group_is_held_out_of_both_splits(root, tmp_path):
    train_list, val_list = read_lists(small_recipe(root, tmp_path, hold_out='anna'))
    assert {clip.group for clip in train_list.clips} == {'bert'} and len(train_list) == 4
    assert {clip.group for clip in val_list.clips} == {'anna'} and len(val_list) == 6  # 2 of train, 1 of val, a class
    with pytest.raises(DataError, match='there is no such group; the groups are anna, bert'):
        read_lists(small_recipe(root, tmp_path, hold_out='carl'))
    with pytest.raises(RecipeError, match='leave test_split out'):
        small_recipe(root, tmp_path, hold_out='anna', test_split='test')


def test_crossval_holds_out_each_group_in_turn(root, tmp_path, capsys):
    config = tmp_path / 'args.yaml'
    config.write_text(small_recipe(root, tmp_path / 'not this', epochs=1).to_yaml())
    args = ['crossval', '--config', str(config), '--output', str(tmp_path / 'people')]
    assert main(args) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 3 and 'anna, 6 clips' in lines[0] and 'bert, 4 clips' in lines[1]
    assert 'of all 10 held-out clips; mean of the 2 groups' in lines[2]
    table = (tmp_path / 'people/crossval.csv').read_text().splitlines()
    shares = [float(line.split(',')[2]) for line in table[1:]]
    assert float(lines[2].split()[0]) == pytest.approx((6 * shares[0] + 4 * shares[1]) / 10, abs=0.01)
    assert not (tmp_path / 'not this').exists() and 'bert is held out (2 of 2)' in err
    assert main([*args, '--resume', 'auto', '--groups', 'bert']) == 0  # as it is
    assert capsys.readouterr().out.splitlines()[0] == lines[1]


def test_crossval_without_groups_is_told_what_to_do(tmp_path, capsys):
    write_clips(tmp_path / 'clips', train=1, val=1)
    assert main(['crossval', 'folder', str(tmp_path / 'clips'), '--model', 'superimage']) == 1
    assert 'its clips have 0 groups' in capsys.readouterr().err


def test_workers_are_the_cores_that_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda process: range(6), raising=False)
    monkeypatch.setattr(workers, '_QUOTA', tmp_path / 'none')
    monkeypatch.delenv('LOCAL_WORLD_SIZE', raising=False)
    assert (workers.available_cores(), workers.default_workers()) == (6, 6)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    assert workers.default_workers() == 1
    for text, cores in (('max 100000', 6), ('250000 100000', 2), ('50000 100000', 1), ('900000 100000', 6)):
        (tmp_path / 'none').write_text(text)
        assert workers.available_cores() == cores


def test_a_finished_run_is_lengthened_and_goes_on_from_its_end(root, tmp_path):
    folder, options = tmp_path / 'run', dict(PLAIN, warmup_epochs=0, min_lr=0)
    train(root, folder, epochs=1, **options)
    before = weights(folder)
    with open(folder / 'summary.csv') as file:
        first = file.readlines()
    _, lines = train(root, folder, epochs=3, resume='auto', **options)
    with open(folder / 'summary.csv') as file:
        rows = file.readlines()
    assert rows[:2] == first and len(rows) == 4
    assert any('epochs 3 (was 1)' in line for line in lines) and any('schedule of 3 epochs' in line for line in lines)
    column = rows[0].strip().split(',').index('lr')
    rates = [float(row.split(',')[column]) for row in rows[2:]]
    # the cosine of 3 epochs of 2 updates, where it was at updates 3 and 5
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * update / 6)) / 2 for update in (3, 5)])
    assert not same(before, weights(folder)) and checkpoint.load_last(folder / 'last.pt')['update'] == 6
    with pytest.raises(ValueError, match='has done 3 epochs already; give --epochs 3 or more'):
        train(root, folder, epochs=2, resume='auto', **options)
