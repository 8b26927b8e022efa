"""The recipe that fits itself: what is chosen for which facts, what a user overrides, and what is kept of it."""
import dataclasses

import numpy as np
import pytest
import timm
import torch
import yaml
from train_runs import PLAIN, train, weights, write_clips

import flatzoo
from flatzoo.cli import main
from flatzoo.data.actions import ACTIONS
from flatzoo.data.lists import Clip, VideoList
from flatzoo.runtime import conv
from flatzoo.train import auto, build, facts, loop, trial
from flatzoo.train.facts import Facts
from flatzoo.train.recipe import Recipe, RecipeError, load_recipe

FACTS = Facts(
    clips=283, classes=('bend', 'jog'), per_class=(9, 15), val_clips=273, frames=(13, 39, 76), size=(112, 112),
    flip=True, model='sifar_resnet10t', parameters=1_240_000, convolutional=True, frozen=False, start='video',
    weights='video weights', offered='', device='cpu', processes=1)


def chosen(given=(), few=None, **facts):
    choices = auto.choose(dataclasses.replace(FACTS, **facts), given, few)
    assert [choice.topic for choice in choices] == ['data', 'start', 'updates', 'clips', 'run']
    assert all(choice.reason for choice in choices)
    return {name: value for choice in choices for name, value in choice.options.items()}


@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp('clips'))


def test_few_clips_are_not_mixed_and_the_model_is_not_chosen_on_val():
    options = chosen()
    recipe = load_recipe(root='x', **options)
    assert not recipe.mixes and recipe.pretrained and recipe.keep == 'last' and recipe.opt == 'muon'
    assert recipe.epochs * (283 // recipe.batch_size) >= 200  # updates; the defaults of SIFAR make 1,050 of 8 clips
    assert recipe.hflip == 0.5 and recipe.warmup <= 1 and recipe.min_lr < recipe.lr
    assert not chosen(start='none', weights='')['pretrained']
    assert chosen(device='cuda')['amp'] and not options['amp']


def test_bfloat16_is_taken_where_a_step_was_faster_in_it():
    assert chosen(bfloat16=1.5)['amp'] and not chosen(bfloat16=0.7)['amp'] and not chosen(bfloat16=1.05)['amp']
    assert 'amp' not in chosen({'amp': True}, bfloat16=0.7)
    *_, run = auto.choose(dataclasses.replace(FACTS, bfloat16=0.7))
    assert 'full precision (a step is 0.70 times as fast in bfloat16' in run.reason
    *_, run = auto.choose(FACTS)
    assert 'bfloat16' not in run.reason


def test_a_step_is_tried_on_a_cpu(clips, monkeypatch):
    times, tried = (0.5, None), []
    monkeypatch.setattr(facts, 'time_steps', lambda model, count: tried.append((model, count)) or times)
    options = dict(spec='folder', root=str(clips), device='cpu')
    recipe, lines = auto.fit_recipe('auto', options)
    assert not recipe.amp and tried[0][0].num_classes == 2 and tried[0][1] == 16
    assert 'computing takes about ' in lines[-1] and 'bfloat16' not in lines[-1]
    times = (0.5, 0.25)
    recipe, lines = auto.fit_recipe('auto', options)
    assert recipe.amp and '2.00 times as fast in bfloat16' in lines[-1]
    for option in (dict(amp=False), dict(amp=True)):  # the user's word
        recipe, lines = auto.fit_recipe('auto', options | option)
        assert recipe.amp == option['amp'] and ('mixed precision' in lines[-1]) == recipe.amp
    auto.fit_recipe('auto', options | dict(freeze_backbone=True, grad_checkpointing=True))
    trained = [name for name, parameter in tried[-1][0].named_parameters() if parameter.requires_grad]
    assert trained == ['backbone.fc.weight', 'backbone.fc.bias'] and tried[-1][0].backbone.grad_checkpointing
    for given, ordered in ((dict(), True), (dict(channels_last=False), False)):
        auto.fit_recipe('auto', options | given)
        weight = tried[-1][0].backbone.layer1[0].conv2.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == ordered
    *_, line = auto.fit_recipe('auto', options | dict(torchcompile='eager'))[1]
    assert 'computing' not in line  # other code than was tried
    before = len(tried)
    monkeypatch.setattr(facts, 'world_info_from_env', lambda: (0, 0, 2))  # processes would not agree
    recipe, lines = auto.fit_recipe('auto', options)
    assert not recipe.amp and len(tried) == before and 'computing' not in lines[-1]


def test_steps_are_timed(monkeypatch):
    model = timm.create_model('sifar_resnet10t', num_frames=4, img_size=32, num_classes=5)
    before = {name: value.clone() for name, value in model.named_parameters()}
    float32, bfloat16 = trial.time_steps(model, 2)
    assert 0 < float32 < 10 and bfloat16 is None  # FLATZOO_PRECISION says fp32
    monkeypatch.setenv('FLATZOO_PRECISION', 'bf16')
    state = torch.get_rng_state()
    assert all(0 < seconds < 10 for seconds in trial.time_steps(model, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) and value.grad is None for name, value in model.named_parameters())


@pytest.mark.parametrize(('seconds', 'expected'), [(0.001, [2, 16, 16]), (0.1, [2, 16]), (1.0, [2, 2]), (4.0, [2])])
def test_slow_steps_are_tried_with_few_clips(seconds, expected, monkeypatch):
    model = timm.create_model('sifar_resnet10t', num_frames=4, img_size=32, num_classes=5)
    tried = []
    monkeypatch.setattr(trial, '_try', lambda model, dtypes, clips, rounds=1: tried.append(clips) or [seconds])
    assert trial.time_steps(model, 16) == (seconds, None) and tried == expected


def test_a_long_run_has_no_policy_and_says_how_to_shorten_it():
    quick = auto.choose(dataclasses.replace(FACTS, seconds=0.01))  # 283 clips, 70 times
    assert 'computing takes about 3 minutes on this machine' in quick[4].reason and '--img-size' not in quick[4].reason
    assert chosen(seconds=0.01) == chosen()
    long, changed = chosen(seconds=0.32), auto.choose(dataclasses.replace(FACTS, seconds=0.32))
    assert 'aa' not in long and long['epochs'] == 28 and not load_recipe(root='x', **long).mixes
    assert 'no RandAugment, which needs 2.5 times the epochs: they would take about 1.8 hours' in changed[3].reason
    assert 'computing takes about 42 minutes' in changed[4].reason and '--img-size' not in changed[4].reason
    longer = auto.choose(dataclasses.replace(FACTS, seconds=2.0))
    assert 'computing takes about 4.4 hours' in longer[4].reason and 'a smaller --img-size' in longer[4].reason
    for given in ({'epochs': 70}, {'aa': 'rand-m9'}):  # who says so has the time
        assert chosen(given, seconds=0.32)['mixup'] == 0 and 'no RandAugment' not in str(
            auto.choose(dataclasses.replace(FACTS, seconds=0.32), given)[3])
    assert chosen({'epochs': 70}, seconds=0.32)['aa'] == auto.POLICY
    assert chosen({'aa': 'rand-m9'}, seconds=0.32)['epochs'] == 70
    assert chosen(seconds=0.32, bfloat16=3.0)['epochs'] == 70  # fast enough in bfloat16
    many = auto.choose(dataclasses.replace(FACTS, clips=40_000, seconds=0.01))
    assert 'computing takes about 3.3 hours' in many[4].reason  # 30 epochs
    assert 'computing' not in auto.choose(FACTS, {'amp': True})[4].reason  # no step was tried in bfloat16
    assert 'less than a minute' in auto.choose(dataclasses.replace(FACTS, seconds=0.01), {'epochs': 3})[4].reason


def test_few_clips_are_changed_and_more_are_mixed():
    for clips, mixes in ((8, False), (300, False), (2000, True), (19_000, True)):
        recipe = load_recipe(root='x', **chosen(clips=clips))
        assert recipe.mixes == mixes and (not mixes or recipe.mixup_prob == 0.5)
    for clips in (299, 300):  # of a larger network, which gets no policy
        assert load_recipe(root='x', **chosen(clips=clips, parameters=25e6)).mixes == (clips == 300)
    for other in ({'frozen': True, 'start': 'image'}, {'convolutional': False}):  # not measured
        assert not load_recipe(root='x', **chosen(clips=900, **other)).mixes
    for changes, augmented in (
            ({'clips': 64}, True), ({'clips': 300}, True), ({'clips': 2000}, False), ({'known': True}, False),
            ({'depth': True}, False), ({'frozen': True}, False), ({'convolutional': False}, False),
            ({'parameters': 25e6}, False)):
        recipe = load_recipe(root='x', **chosen(**{'clips': 546} | changes))
        assert recipe.aa == (auto.POLICY if augmented else None)
        assert augmented == (recipe.epochs > 30)
    assert 'RandAugment' in auto.choose(dataclasses.replace(FACTS, clips=546))[3].reason
    assert 'half of the batches' in auto.choose(dataclasses.replace(FACTS, clips=2900))[3].reason


def test_few_clips_are_seen_to_their_ends():
    for other in ({}, {'clips': 300}, {'clips': 19_000}, {'convolutional': False}, {'frozen': True}):
        assert load_recipe(root='x', **chosen(**other)).span == (0.7, 1.0)
    assert load_recipe(root='x', **chosen(clips=20_000)).span is None  # the recipe of SIFAR
    assert load_recipe(root='x', sampling='dense', stride=2, **chosen({'sampling': 'dense'})).span is None
    assert '--span 0.7 1 ' in str(auto.choose(FACTS)[3])
    for other, measured in (({}, True), ({'convolutional': False}, False), ({'frozen': True}, False)):
        reason = auto.choose(dataclasses.replace(FACTS, **other))[3].reason
        assert ('measured on other networks' in reason) != measured


def test_no_policy_and_no_longer_training_where_it_was_turned_off():
    for given in ({'aa': 'none'}, {'aa': ''}, {'no_aug': True}):
        recipe = load_recipe(root='x', **given, **chosen(given, clips=546))
        assert recipe.policy is None and recipe.mixes and recipe.epochs < 30  # what larger networks get
    recipe = load_recipe(root='x', aa='rand-m9', **chosen({'aa': 'rand-m9'}, clips=546))
    assert recipe.policy == 'rand-m9' and recipe.epochs > 30


def test_the_recipe_of_hundreds_of_depth_clips_fits_them(tmp_path):
    for split, count in (('train', 300), ('val', 2)):
        for number in range(count):
            path = tmp_path / split / 'ab'[number % 2] / f'{number}.npy'
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.full((2, 8, 8), 1000, np.uint16))
    recipe, _ = auto.fit_recipe('auto', dict(spec='folder:depth=4000', root=str(tmp_path)))
    train, _ = build.read_lists(recipe)
    data = build.train_clips(recipe, train, build.build_model(recipe, train))
    assert recipe.mixes and recipe.epochs < 30 and data.transform is None


@pytest.mark.parametrize('names', [
    ('moves left', 'b'), ('turns_counterclockwise', 'b'), ('turn cw', 'b'), ('swipe up', 'swipe down'),
    ('draw_x', 'jog'), ('A', 'B'), ('9', '10'), ('Leftward step', 'b')])
def test_labels_with_sides_turn_the_flip_off(names):
    assert chosen(classes=names)['hflip'] == 0
    assert chosen(classes=names, clips=10 ** 6)['hflip'] == 0


@pytest.mark.parametrize('names', [('bend', 'jog'), ('cleft', 'upper cut'), ('clockwork', 'A')])
def test_other_labels_leave_it_on(names):
    assert not auto.directed_classes(names) and chosen(classes=names)['hflip'] == 0.5
    assert chosen(classes=names, flip=False)['hflip'] == 0  # the reader of the data set knows better


def test_what_is_given_is_not_chosen_and_the_rest_follows_it():
    options = chosen({'opt': 'adamw', 'epochs': 1, 'hflip': 0.5, 'keep': 'best'})
    assert not {'opt', 'epochs', 'hflip', 'keep'} & options.keys()
    assert options['lr'] == auto._RATES['adamw'] and options['warmup_epochs'] < 1
    assert load_recipe(root='x', **options, epochs=1).warmup < 1
    assert chosen({'lr': 1.0})['min_lr'] == 0.01
    assert chosen({'batch_size': 8})['grad_accum_steps'] == 4


def test_batches_fit_the_number_of_clips_the_model_and_the_processes():
    assert chosen(clips=20)['batch_size'] == 4 and chosen(clips=3)['batch_size'] == 2
    large = chosen(parameters=90_000_000, convolutional=False)
    assert (large['batch_size'], large['grad_accum_steps'], large['opt'], large['lr']) == (8, 4, 'adamw', 1e-4)
    assert chosen(processes=4)['batch_size'] == 8 and chosen(processes=64)['batch_size'] == 1
    epochs = [chosen(clips=count)['epochs'] for count in (20, 300, 3_000, 19_000)]
    assert epochs == sorted(epochs, reverse=True) and epochs[-1] >= 8


def test_what_trains_in_float32_is_named(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(conv, '_right', {})
    monkeypatch.setattr(conv.CheckedConv2d, '_has_right_gradients', lambda *_: False)
    _, lines = train(clips, tmp_path / 'run', amp=True, **PLAIN)
    [line] = [line for line in lines if 'wrong on this CPU' in line]
    assert line.endswith('it computes in float32: backbone.patch_embed.proj')


def test_many_clips_have_the_recipe_of_sifar():
    plain = Recipe(root='x', model='m')
    many = chosen(clips=240_000)
    for name, value in load_recipe(root='x', **many | {'model': 'm'}).to_dict().items():
        if name not in ('pretrained', 'hflip', 'channels_last'):
            assert value == plain.to_dict()[name], name
    assert 'opt' in chosen(few=True, clips=240_000) and 'opt' not in chosen(few=False)


def test_adapters_keep_their_backbone_frozen_only_with_weights():
    options = chosen(frozen=True, convolutional=False, start='image')
    assert options['freeze_backbone'] and options['opt'] == 'adamw'
    assert not chosen(frozen=True, convolutional=False, start='none')['freeze_backbone']


def test_the_user_says_what_stays_frozen(clips):
    def found(model, **options):
        return facts.look(load_recipe(spec='folder', root=str(clips), model=model, **options), options).frozen

    assert found('aim_clip_b', pretrained=True) and not found('aim_clip_b', pretrained=False)
    assert not found('aim_clip_b', pretrained=True, freeze_backbone=False)
    assert found('sifar_resnet10t', freeze_backbone=True) and not found('sifar_resnet10t')
    recipe, lines = auto.fit_recipe(
        'auto', dict(spec='folder', root=str(clips), model='sifar_resnet10t', freeze_backbone=True))
    assert recipe.opt == 'adamw' and recipe.lr == 1e-3 and recipe.policy is None  # what trains is a probe
    assert 'the backbone stays frozen' in lines[1]


def test_a_look_at_the_clips_and_the_model(clips):
    found = facts.look(load_recipe(spec='folder', root=str(clips), model='sifar_resnet10t'))
    assert (found.clips, found.val_clips, found.per_class) == (12, 4, (6, 6))
    assert (found.frames, found.size) == ((8, 8, 8), (48, 48))
    assert found.start == 'video' and found.device in ('cpu', 'cuda') and 1e6 < found.parameters < 1.5e6
    scratch = facts.look(load_recipe(spec='folder', root=str(clips), model='sifar_resnet10t'), ['pretrained'])
    assert scratch.start == 'none' and 'video weights' in scratch.offered
    assert '--pretrained would start from' in str(auto.choose(scratch)[1])
    vit = load_recipe(
        spec='folder', root=str(clips), model='superimage', model_kwargs={'backbone': 'test_vit'}, pretrained=True)
    assert not facts.look(vit).convolutional and facts.look(vit).start == 'image'
    assert found.convolutional and facts._is_convolutional(timm.create_model('test_byobnet', num_classes=2))
    assert facts.look(load_recipe(spec='folder', root=str(clips), model='aim_clip_b', pretrained=True)).frozen


def test_classes_that_the_start_knows_are_not_forgotten(clips, tmp_path):
    options = dict(spec='folder', root=str(clips), device='cpu', amp=False)
    recipe, lines = auto.fit_recipe('auto', options)
    assert recipe.opt == 'adamw' and recipe.min_lr == pytest.approx(recipe.lr / 100)
    assert auto.fit_recipe('auto', options | {'opt': 'muon'})[0].lr > recipe.lr  # both are gentle
    assert 'knows all classes by name' in lines[1] and 'gently' in lines[2]
    strange, lines = auto.fit_recipe('auto', options | {'pretrained': False})
    assert strange.opt == 'muon' and strange.lr > 5 * recipe.lr and 'knows' not in ''.join(lines)
    train_list, _ = build.read_lists(recipe)
    clip = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    whole = timm.create_model('sifar_resnet10t', pretrained=True).eval()
    rows = [ACTIONS.index(name.replace('_', ' ')) for name in train_list.classes]
    assert rows == [6, 4]  # in another order than that of the start
    model = build.build_model(recipe, train_list).eval()
    assert model.head_trained and model.num_classes == 2 and model.pretrained_cfg['label_names'] == train_list.classes
    torch.testing.assert_close(model(clip), whole(clip)[:, rows])
    assert not build.build_model(recipe, train_list, pretrained=False).head_trained

    saved = flatzoo.save_pretrained(model, tmp_path / 'mine', label_names=train_list.classes)
    again, _ = auto.fit_recipe('auto', options | {'model': f'local-dir:{saved}'})
    assert again.lr == recipe.lr
    torch.testing.assert_close(build.build_model(again, train_list).eval()(clip), whole(clip)[:, rows])


def test_a_classifier_of_as_many_other_classes_is_not_kept():
    recipe = Recipe(root='x', model='sifar_resnet10t', pretrained=True)
    others = VideoList('others', (Clip('a.mp4', 0),), tuple(f'{name} twice' for name in ACTIONS))
    assert not build.build_model(recipe, others).head_trained
    unnamed = VideoList('numbers', (Clip('a.mp4', 0),), tuple(f'class {label}' for label in range(len(ACTIONS))))
    assert build.build_model(recipe, unnamed).head_trained


def test_a_list_of_files_that_cannot_be_opened_has_no_sizes():
    assert facts._sizes(VideoList('gone', (Clip('gone.mp4', 0), Clip('s3://bucket/a.tar', 0)), ('a',))) == (None, None)


def test_the_command_says_what_it_chose_and_keeps_it(clips, tmp_path, monkeypatch, capsys):
    given = {}
    monkeypatch.setattr(loop, 'train', lambda recipe, report: given.update(recipe=recipe))
    monkeypatch.chdir(tmp_path)
    assert main(['train', 'folder', str(clips), '--epochs', '3', '--val-split', 'val']) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('recipe auto, ')]
    recipe = given['recipe']
    assert [line.split()[2] for line in lines] == ['data:', 'start:', 'updates:', 'clips:', 'run:']
    assert recipe.model == 'sifar_resnet10t' and recipe.pretrained and recipe.epochs == 3 and recipe.hflip == 0.5
    kept = tmp_path / 'args.yaml'
    kept.write_text(recipe.to_yaml())
    assert yaml.safe_load(kept.read_text())['reasons']['clips'] in lines[3]

    assert main(['train', '--config', str(kept)]) == 0  # nothing is chosen anew
    assert given['recipe'] == recipe and 'recipe auto' not in capsys.readouterr().err
    main(['train', 'folder', str(clips), '--recipe', 'sifar', '--model', 'sifar_resnet10t'])
    assert given['recipe'] == Recipe(spec='folder', root=str(clips), model='sifar_resnet10t')
    main(['train', 'folder', str(clips), '--recipe', 'sifar_ssv2'])
    assert given['recipe'] == load_recipe('sifar_ssv2', spec='folder', root=str(clips))
    main(['train', '--config', str(kept), '--recipe', 'few_clips', '--no-pretrained'])
    assert not given['recipe'].pretrained


@pytest.mark.parametrize(('arguments', 'reason'), [
    (['--recipe', 'quick'], "no recipe 'quick'; there are auto, few_clips, sifar, aim_k400"),
    (['--recipe', 'sifar_ssv2', '--config', 'sifar_k400'], 'both set all options'),
    (['--model', 'sifar_resnet11t'], 'sifar_resnet11t')])
def test_wrong_recipes_are_refused(arguments, reason, clips, capsys):
    assert main(['train', 'folder', str(clips), *arguments]) != 0
    assert reason in capsys.readouterr().err


def test_an_unknown_recipe_is_named():
    with pytest.raises(RecipeError, match="no recipe 'fast'"):
        auto.fit_recipe('fast', {})


def test_epochs_between_evaluations_and_the_last_model(clips, tmp_path):
    row, lines = train(clips, tmp_path / 'run', **PLAIN, epochs=3, val_interval=2, keep='last')
    rows = (tmp_path / 'run' / 'summary.csv').read_text().splitlines()
    assert [line.split(',')[3] == '' for line in rows[1:]] == [True, False, False] and row['eval_top1'] is not None
    assert not any('the best so far' in line for line in lines) and 'that of epoch 3' in lines[-1]
    saved = loop.files.load_last(tmp_path / 'run' / loop.files.LAST)
    assert saved['history'][0]['eval_top1'] is None and saved['best'] == max(
        saved['history'][i]['eval_top1'] for i in (1, 2))


def test_keep_last_saves_the_last_weights(clips, tmp_path, monkeypatch):
    values = iter((50.0, 20.0))
    monkeypatch.setattr(loop.Trainer, '_evaluate', lambda self: {
        'eval_top1': next(values), 'eval_top5': 0.0, 'eval_broken': 0})
    train(clips, tmp_path / 'run', **PLAIN, keep='last')
    from safetensors.torch import load_file

    kept, last = load_file(tmp_path / 'run' / 'model.safetensors'), weights(tmp_path / 'run')
    assert all(torch.equal(kept[name], last[name]) for name in kept)


def test_muon_computes_in_float32_on_cpus(monkeypatch):
    seen = []
    iterate = build.muon.zeropower_via_newtonschulz
    monkeypatch.setattr(
        build.muon, 'zeropower_via_newtonschulz',
        lambda *args, **kwargs: seen.append(kwargs.get('dtype')) or iterate(*args, **kwargs))
    spy = build.muon.zeropower_via_newtonschulz
    layer = torch.nn.Linear(8, 4)
    optimizer = build.build_optimizer(Recipe(opt='muon', lr=0.1), layer)
    layer(torch.randn(3, 8)).square().mean().backward()
    optimizer.step()
    assert seen == [torch.float32] and build.muon.zeropower_via_newtonschulz is spy


def test_channels_last_is_the_same_network_and_resumes(clips, tmp_path):
    options = dict(PLAIN, model_kwargs={'backbone': 'test_byobnet'}, channels_last=True, val_split='none')
    train(clips, tmp_path / 'whole', **options)
    kept = weights(tmp_path / 'whole')
    assert any(v.ndim == 4 and v.is_contiguous(memory_format=torch.channels_last) for v in kept.values())
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv3d(8, 8, 1))
    before = model[0].weight.clone()
    build.order_channels_last(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(model[0].weight, before)
