"""Few clips and skewed classes: few-shot lists, weighted draws and losses, early stopping and mean weights."""
import csv
import json
import shutil

import pytest
import timm
import torch
import torch.nn.functional as F
import yaml
from train_runs import PLAIN, Recorder, same, small_recipe, train, weights, write_clips

from flatzoo.data.lists import Clip, DataError, VideoList
from flatzoo.train import averaging, balance, checkpoint
from flatzoo.train.auto import fit_recipe
from flatzoo.train.build import read_lists
from flatzoo.train.distributed import GlobalBatches, Processes
from flatzoo.train.recipe import RecipeError
from flatzoo.train.results import is_over
from flatzoo.train.start import FEW_SHOT

ONE = Processes(0, 1, torch.device('cpu'))


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp('clips'), train=5, val=2)


def skewed(*counts, several=False):
    """A list with so many clips of each class; with `several` the last class also on every second clip."""
    clips = []
    for label, count in enumerate(counts):
        for i in range(count):
            also = (len(counts) - 1,) if several and i % 2 and label < len(counts) - 1 else ()
            clips.append(Clip(f'{label}/{i}.mp4', label, labels=(label, *also) if several else ()))
    return VideoList('made', clips, [f'c{label}' for label in range(len(counts))], metric='map' if several else 'top1')


# Few-shot lists

def test_few_shot_lists_are_drawn_by_the_seed_nested_and_complete():
    videos = skewed(30, 8, 2)
    few = balance.few_shot(videos, 4, seed=1)
    assert balance.class_counts(few) == [4, 4, 2]
    assert few.clips == tuple(clip for clip in videos.clips if clip in set(few.clips))  # in the order of the list
    assert balance.few_shot(videos, 4, seed=1).clips == few.clips != balance.few_shot(videos, 4, seed=2).clips
    assert set(few.clips) < set(balance.few_shot(videos, 6, seed=1).clips)
    many = skewed(10, 10, 3, several=True)
    counts = balance.class_counts(balance.few_shot(many, 3, seed=0))
    assert min(counts) >= 3 and sum(counts) <= 13  # clips of the last class count for the first two


def test_a_few_shot_run_names_its_clips_and_goes_on_with_them(root, tmp_path):
    _, lines = train(root, tmp_path / 'run', few_shot=2, seed=3, epochs=1, **PLAIN)
    with open(tmp_path / 'run' / FEW_SHOT, newline='') as file:
        rows = list(csv.DictReader(file))
    chosen, _ = read_lists(small_recipe(root, tmp_path, few_shot=2, seed=3))
    assert [row['path'] for row in rows] == [clip.path for clip in chosen.clips] and len(rows) == 4
    assert any('few_shot 2: 2 to 2 clips of each class, drawn by seed 3' in line for line in lines)
    assert yaml.safe_load((tmp_path / 'run' / checkpoint.ARGS).read_text())['few_shot'] == 2
    with pytest.raises(ValueError, match='few_shot 3'):
        train(root, tmp_path / 'run', few_shot=3, seed=3, epochs=2, resume='auto', **PLAIN)
    _, lines = train(root, tmp_path / 'run', few_shot=2, seed=3, epochs=2, resume='auto', **PLAIN)
    assert 'resumed after 1 updates' in lines


# Skewed classes

def test_draws_favour_rare_classes_as_much_as_is_asked():
    videos = skewed(90, 10)
    labels = torch.tensor([clip.label for clip in videos.clips])
    shares = {}
    for power in (0.0, 0.5, 1.0):
        batches = GlobalBatches(100, 10, 1, ONE, 0, balance.clip_weights(videos, power))
        drawn = []
        for epoch in range(20):
            batches.set_epoch(epoch)
            drawn += [key for batch in batches for key in batch]
        index = torch.tensor([key if power == 0 else key[0] for key in drawn])
        shares[power] = float((labels[index] == 1).double().mean())
        if power == 1:
            assert len({*drawn[:100]}) == 100  # a clip that comes twice in an epoch is drawn in another way
    assert shares[0] == 0.1
    assert shares[0.5] == pytest.approx(0.25, abs=0.04) and shares[1] == pytest.approx(0.5, abs=0.05)  # 2000 draws


def test_two_processes_draw_what_one_does():
    weights = balance.clip_weights(skewed(9, 3), 1.0)
    whole = [key for batch in GlobalBatches(12, 4, 1, ONE, 5, weights) for key in batch]
    parts = [list(GlobalBatches(12, 2, 1, Processes(rank, 2, torch.device('cpu')), 5, weights)) for rank in (0, 1)]
    assert [key for pair in zip(*parts) for part in pair for key in part] == whole


def test_a_clip_of_several_classes_is_drawn_as_its_rarest():
    videos = VideoList('made', [Clip('a', 0, labels=(0, 1)), Clip('b', 0, labels=(0,))], ['x', 'y'], metric='map')
    assert balance.clip_weights(videos, 1.0).tolist() == [1.0, 0.5]


def test_repeated_draws_of_a_clip_differ_and_can_be_repeated(root):
    from flatzoo.data.clips import ClipDataset

    train_list, _ = read_lists(small_recipe(root, ''))
    clips = ClipDataset(train_list, 4, 32)
    first, second = clips[0, 0]['clip'], clips[0, 1]['clip']
    assert torch.equal(first, clips[0]['clip']) and not torch.equal(first, second)
    assert torch.equal(second, clips[0, 1]['clip'])


def test_weights_of_classes_multiply_the_losses_of_their_clips():
    videos = skewed(6, 2)
    loss = balance.criterion_of(small_recipe('', '', class_weights='inv_freq', smoothing=0.0), videos)['criterion']
    logits, labels = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0] * 6 + [1] * 2)
    each = F.cross_entropy(logits, labels, reduction='none')
    factors = torch.tensor([8 / 6, 8 / 2])[labels]
    torch.testing.assert_close(loss(logits, labels), (each * factors / factors.mean()).mean())
    torch.testing.assert_close(loss(logits[:1], labels[:1]), each[0] * factors[0] / factors.mean())  # a batch of one
    shares = F.one_hot(labels, 2).float()
    torch.testing.assert_close(loss(logits, shares), loss(logits, labels))  # as after mixing
    with pytest.raises(DataError, match='Take inv_freq or effective_num'):
        balance.criterion_of(small_recipe('', '', class_weights='neg_pos'), videos)
    several = balance.criterion_of(small_recipe('', '', class_weights='neg_pos'), skewed(6, 2, several=True))
    assert several['criterion_kwargs']['pos_weight'].tolist() == pytest.approx([2 / 6, 3 / 5])


def test_a_run_with_both_resumes_with_the_same_bits(root, tmp_path):
    options = dict(balanced_sampling=1.0, class_weights='effective_num', epochs=2, **PLAIN)
    train(root, tmp_path / 'whole', **options)
    recipe = small_recipe(root, tmp_path / 'cut', recovery_interval=1, **options)
    trainer = Recorder(recipe, ONE, report=lambda line: None)
    trainer._end_epoch = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # dies before the first evaluation
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    train(root, tmp_path / 'cut', resume='auto', recovery_interval=1, **options)
    assert same(weights(tmp_path / 'whole'), weights(tmp_path / 'cut'))


# Early stopping

def test_when_a_run_is_over():
    def over(*values, patience=2):
        history = [{'epoch': epoch, 'eval_top1': value} for epoch, value in enumerate(values, 1)]
        return is_over(small_recipe('', '', early_stopping=patience), history, 'eval_top1')
    assert over(50, 40, 50) and not over(50, 40) and not over(50, 40, 60) and not over(50, None, None, None)
    assert over(50, None, None, 40) and not over(50, 40, 50, patience=0) and not over()
    with pytest.raises(RecipeError, match='early_stopping needs an evaluation'):
        small_recipe('', '', early_stopping=2, val_split='none')


def test_a_run_stops_early_keeps_its_best_and_stays_over(root, tmp_path):
    options = dict(epochs=6, early_stopping=1, lr=0.0, min_lr=0.0, warmup_lr=0.0, sched='none', **PLAIN)  # never better
    row, lines = train(root, tmp_path / 'run', **options)
    results = json.loads((tmp_path / 'run' / checkpoint.RESULTS).read_text())
    assert row['epoch'] == 2 and results['stopped_early'] and results['kept'] == 1
    assert 'stopped after epoch 2: no better evaluation since epoch 1' in lines
    row, _ = train(root, tmp_path / 'run', **options, resume='auto')
    assert row['epoch'] == 2
    row, _ = train(root, tmp_path / 'run', **{**options, 'early_stopping': 2}, resume='auto')  # more patience
    assert row['epoch'] == 3


def test_recipe_auto_keeps_the_best_only_where_it_stops_early(root):
    plain, _ = fit_recipe('auto', dict(spec='folder', root=str(root)))
    stops, lines = fit_recipe('auto', dict(spec='folder', root=str(root), early_stopping=5))
    assert (plain.keep, stops.keep, stops.val_interval) == ('last', 'best', 1)
    assert any('where the run stops early' in line for line in lines)
    assert (plain.early_stopping, plain.average_epochs, plain.class_weights, plain.few_shot) == (0, 0, 'none', None)


# Mean weights

def test_which_epochs_take_part_in_the_mean():
    history = [{'epoch': epoch, 'x': value} for epoch, value in enumerate((5, 7, None, 7, 6), 1)]
    assert averaging.chosen_epochs(history, 2) == [4, 5] and averaging.chosen_epochs(history, 9) == [1, 2, 3, 4, 5]
    assert averaging.chosen_epochs(history, 2, 'x') == [2, 4] and averaging.chosen_epochs(history, 3, 'x') == [2, 4, 5]


@pytest.mark.parametrize('keep', ['last', 'best'])
def test_the_saved_model_is_the_mean_of_epochs_also_after_a_kill(root, tmp_path, keep):
    options = dict(epochs=3, average_epochs=2, keep=keep, **PLAIN)
    train(root, tmp_path / 'run', **options)
    results = json.loads((tmp_path / 'run' / checkpoint.RESULTS).read_text())
    epochs = results['averaged']['epochs']
    assert len(epochs) == 2 and results['kept'] is None and (keep == 'best' or epochs == [2, 3])
    files = sorted((tmp_path / 'run' / averaging.EPOCHS).iterdir())
    assert [int(file.stem) for file in files] == epochs
    from safetensors.torch import load_file
    first, second = map(load_file, files)
    model = timm.create_model(f'local-dir:{tmp_path / "run"}', pretrained=True)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (first[name] + second[name]) / 2)
    shutil.copytree(tmp_path / 'run', tmp_path / 'again')
    train(root, tmp_path / 'again', **{**options, 'epochs': 3}, resume='auto')  # as after a kill before the mean
    again = timm.create_model(f'local-dir:{tmp_path / "again"}', pretrained=True)
    assert same(model.state_dict(), again.state_dict())
    files[0].unlink()
    with pytest.raises(ValueError, match='cannot take part in the mean'):
        train(root, tmp_path / 'run', **options, resume='auto')


def test_the_mean_of_a_frozen_backbone_keeps_only_what_is_trained(root, tmp_path):
    _, lines = train(root, tmp_path / 'run', epochs=2, average_epochs=2, freeze_backbone=True, keep='last', **PLAIN)
    file = tmp_path / 'run' / averaging.EPOCHS / '0002.safetensors'
    assert file.stat().st_size < 20_000 < (tmp_path / 'run' / 'model.safetensors').stat().st_size
    assert lines[-1].startswith('the saved model is the mean of the weights of epochs 1, 2, eval_top1')
