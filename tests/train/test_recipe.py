"""Recipes: what they accept, where their values come from, and what timm makes of them."""
import dataclasses
import math
from pathlib import Path

import pytest
import timm
import torch
import yaml

import flatzoo
from flatzoo.cli import _parser
from flatzoo.data.lists import Clip, VideoList, mirrored_labels
from flatzoo.models.builder import label_names
from flatzoo.train import build
from flatzoo.train.recipe import _PRESETS, Recipe, RecipeError, load_recipe, presets, read_config

VIDEOS = VideoList('toys', (Clip('a.mp4', 0), Clip('b.mp4', 1)), ('a', 'b'), 'train', True)


def tiny(**options):
    return Recipe(**{**dict(
        model='superimage', model_kwargs={'backbone': 'test_vit'}, num_frames=4, img_size=32), **options})


def test_defaults_are_those_of_sifar():
    preset, recipe = load_recipe('sifar_k400'), Recipe()
    for name in ('mixup', 'cutmix', 'smoothing', 'opt', 'weight_decay', 'lr', 'sched', 'epochs', 'min_lr', 'sampling'):
        assert getattr(recipe, name) == getattr(preset, name), name
    assert recipe.warmup == preset.warmup == 5


@pytest.mark.parametrize('name', presets())
def test_presets_name_a_source_for_every_value_and_a_model_that_there_is(name):
    lines = (_PRESETS / f'{name}.yaml').read_text().splitlines()
    assert 'arXiv:' in ' '.join(line for line in lines if line.startswith('#'))
    values = [line for line in lines if line and not line.startswith('#')]
    assert all(len(line.partition('  #')[2].strip()) > 3 or len(line.partition(' # ')[2]) > 3 for line in values)
    recipe = load_recipe(name)
    assert recipe.model.partition('.')[0] in flatzoo.list_models()
    assert recipe.pretrained and timm.get_pretrained_cfg(recipe.model).has_weights
    assert len(values) == len(read_config(name).keys() - {'fit'}) > 10  # what no paper names: all crop
    options = dict(num_frames=recipe.num_frames) if recipe.num_frames else {}
    model = timm.create_model(recipe.model, device='meta', drop_path_rate=recipe.drop_path, num_classes=7, **options)
    protocol = build.protocol_of(recipe, model)
    assert (protocol.num_clips, protocol.num_crops, protocol.stride) == (
        recipe.num_clips, recipe.num_crops, recipe.stride)


@pytest.mark.parametrize(('name', 'epochs', 'warmup', 'views'), [
    ('sifar_k400', 30, 5, (1, 3)), ('sifar_ssv2', 30, 5, (1, 3)), ('sifar_jester', 30, 5, (1, 3)),
    ('sifar_diving48', 30, 5, (1, 3)), ('sifar_mit', 15, 5, (1, 3)), ('sifar_ssv2_readme', 20, 0, (3, 3)),
    ('amflow_k400', 30, 2.5, (1, 3))])
def test_presets_say_what_the_papers_say(name, epochs, warmup, views):
    recipe = load_recipe(name)
    assert (recipe.epochs, recipe.warmup, (recipe.num_clips, recipe.num_crops)) == (epochs, warmup, views)
    assert recipe.hflip == (0 if 'ssv2' in name or 'jester' in name else None)


def test_presets_of_every_backbone_and_data_set():
    time = {f'time_{backbone}{data}' for backbone in ('', 'vit_', 'videomae_')
            for data in ('ucf101', 'hmdb51', 'ntu60', 'ntu120', 'uwa3d')}
    flatten = {f'flatten_{backbone}{data}' for backbone in ('', 'swinv2_', 'resnet50_')
               for data in ('k400', 'ssv2', 'hmdb51')}
    assert {name for name in presets() if name.startswith(('time', 'flatten'))} == time | flatten
    for name in time | flatten:  # neither paper's recipe is available
        text = (_PRESETS / f'{name}.yaml').read_text()
        assert 'recipe is not known to us' in ' '.join(text.replace('# ', '').split()) and '# borrowed' in text
        models = {'': 'resnet50' if name in time else 'uniformer', 'vit': 'vit', 'videomae': 'videomae',
                  'swinv2': 'swinv2', 'resnet50': 'resnet50'}
        backbone = name.split('_')[1] if name.count('_') == 2 else ''
        assert models[backbone] in load_recipe(name).model


def test_a_recipe_comes_back_from_the_file_that_is_kept(tmp_path):
    recipe = load_recipe('flatten_k400', root='clips/ü', seed=7, opt_betas=(0.8, 0.9), torchcompile='eager')
    path = tmp_path / 'args.yaml'
    path.write_text(recipe.to_yaml(), encoding='utf-8')
    assert load_recipe(str(path)) == recipe
    assert load_recipe(str(path), seed=8) == dataclasses.replace(recipe, seed=8)


def test_yaml_numbers_that_are_text_are_numbers(tmp_path):
    path = tmp_path / 'mine.yaml'
    path.write_text('lr: 3e-4\nbatch-size: 4\nscale: [0.1, 1]\nmodel_kwargs: {backbone: test_vit}\n')
    recipe = load_recipe(str(path))
    assert (recipe.lr, recipe.batch_size, recipe.scale) == (3e-4, 4, (0.1, 1.0))


@pytest.mark.parametrize(('options', 'message'), [
    (dict(epochs=0), 'epochs takes at least 1, got 0'), (dict(mixup=-1), 'mixup takes at least 0'),
    (dict(lr=math.nan), 'lr takes at least 0'), (dict(lr='fast'), "lr takes float, got 'fast'"),
    (dict(batch_size=1.5), 'batch_size takes int'), (dict(amp='yes'), 'amp takes bool'),
    (dict(mixup_mode='half'), 'one of batch, pair, elem'), (dict(sampling='dense'), 'needs a stride'),
    (dict(warmup_epochs=30), r'warmup_epochs \(30\) must be fewer than epochs \(30\)'),
    (dict(span=(0, 1)), 'span takes shares above 0'), (dict(span=(0.5, 1), sampling='dense', stride=2), 'of dense'),
    (dict(scale=(1.0, 0.5)), 'scale takes two numbers'), (dict(fsdp=True, model_ema=True), 'fsdp does not go with'),
    (dict(kd_checkpoint='x'), 'needs kd_model_name'), (dict(num_crops=2), 'num_crops takes one of 1, 3'),
    (dict(resume='yes'), 'resume takes one of auto'), (dict(model_kwargs=3), 'NAME=VALUE'), (dict(speed=3), "'speed'"),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_values_that_make_no_sense_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(**options)


@pytest.mark.parametrize(('text', 'message'), [
    ('learning_rate: 3', 'no option .learning_rate.'), ('mixups: 3', 'similar: mixup'), ('- a', 'OPTION: VALUE'),
    ('a: [', 'not a YAML'), ('a: !!python/object/apply:os.getcwd []', 'not a YAML')])
def test_files_that_are_no_recipes_are_refused(tmp_path, text, message):
    path = tmp_path / 'mine.yaml'
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(path))


def test_unknown_presets_are_answered_with_similar_ones():
    with pytest.raises(RecipeError, match='sifar_k400'):
        load_recipe('sifar_k4')
    with pytest.raises(RecipeError, match='cannot be read'):
        load_recipe('nowhere.yaml')


def test_the_command_line_has_every_option_by_its_name():
    options = dict(
        seed=['1'], scale=['0.1', '1'], no_aug=[], model_kwargs=['backbone=test_vit', 'a=3'], torchcompile=[],
        opt_betas=['0.9', '0.95'], config=['sifar_ssv2'], lr=['3e-4'])
    line = ['train', 'folder', 'here', '--no-sched-on-updates']
    for name, values in options.items():
        line += [f'--{name.replace("_", "-")}', *values]
    args = vars(_parser().parse_args(line))
    given = {name: args[name] for name in args if name not in ('command', 'run', 'config', 'recipe')}
    recipe = load_recipe(args['config'], **given)
    assert recipe == load_recipe(
        'sifar_ssv2', spec='folder', root='here', seed=1, scale=(0.1, 1.0), no_aug=True, opt_betas=(0.9, 0.95), lr=3e-4,
        model_kwargs={'backbone': 'test_vit', 'a': 3}, torchcompile='inductor', sched_on_updates=False)
    assert 'min_lr' not in given  # what is not said does not hide a preset
    with pytest.raises(SystemExit):
        _parser().parse_args(['train', 'folder', 'here', '--mixup-mode', 'half'])


def test_help_is_complete(capsys):
    with pytest.raises(SystemExit):
        _parser().parse_args(['train', '--help'])
    text = capsys.readouterr().out
    for option in dataclasses.fields(Recipe):
        assert option.name in ('spec', 'root', 'reasons') or f'--{option.name.replace("_", "-")}' in text
    assert all(name in text for name in presets()) and 'torchrun' in text


def rates(recipe, updates=10):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    set_rate = build.build_schedule(recipe, optimizer, updates)
    found = []
    for update in range(recipe.epochs * updates):
        set_rate(update // updates, update)
        found.append(optimizer.param_groups[0]['lr'])
    return found


def test_the_rate_warms_up_and_falls_as_a_cosine():
    found = rates(Recipe(epochs=6, lr=1e-3, warmup_lr=1e-5, min_lr=1e-4, warmup_epochs=1.5))
    assert found[0] == pytest.approx(1e-5) and max(found) == found[14]
    assert found[:15] == sorted(found[:15]) and found[15:] == sorted(found[15:], reverse=True)
    assert found[30] == pytest.approx(1e-4 + 0.5 * 9e-4 * (1 + math.cos(math.pi * 30 / 60)))
    assert 1e-4 < found[-1] < 1.1e-4


def test_a_schedule_by_epochs_holds_within_an_epoch():
    found = rates(Recipe(epochs=3, sched_on_updates=False, warmup_epochs=1))
    assert [len(set(found[10 * epoch:10 * epoch + 10])) for epoch in range(3)] == [1, 1, 1]
    assert len(set(found)) == 3
    assert set(rates(Recipe(epochs=2, sched='none', lr=0.25))) == {0.25}


def test_layer_decay_follows_the_depth_of_the_backbone():
    recipe = tiny(layer_decay=0.5)
    model = build.build_model(recipe, VIDEOS)
    optimizer = build.build_optimizer(recipe, model)
    scale = {id(p): group['lr_scale'] for group in optimizer.param_groups for p in group['params']}
    by_name = {name: scale[id(p)] for name, p in model.named_parameters()}
    blocks = [by_name[f'backbone.blocks.{i}.mlp.fc1.weight'] for i in range(len(model.backbone.blocks))]
    assert all(a == b / 2 for a, b in zip(blocks, blocks[1:])) and blocks[-1] == 0.5
    assert by_name['backbone.head.weight'] == 1 > by_name['backbone.patch_embed.proj.weight']
    decay = {id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    assert decay[id(model.backbone.head.weight)] == 0.05 and decay[id(model.backbone.head.bias)] == 0


@pytest.mark.parametrize('sched', ['cosine', 'none'])
def test_rate_of_all_but_the_classifier(sched):
    recipe = tiny(backbone_lr_scale=0.1, sched=sched, warmup_epochs=0, lr=0.5)
    model = build.build_model(recipe, VIDEOS)
    optimizer = build.build_optimizer(recipe, model)
    build.build_schedule(recipe, optimizer, updates_per_epoch=10)(0, 0)
    rates = {id(p): group['lr'] for group in optimizer.param_groups for p in group['params']}
    assert len(rates) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        assert rates[id(p)] == pytest.approx(0.5 if name in model.classifier_keys() else 0.05), name


def test_drop_path_is_left_out_where_a_backbone_has_none_but_not_if_it_was_asked_for():
    assert build.build_model(tiny(), VIDEOS).backbone.blocks[-1].drop_path1.drop_prob == pytest.approx(0.1)
    without = tiny(model_kwargs={'backbone': 'vgg11'}, num_frames=1, layout='1x1')
    options = dict(device='meta')
    recipe = dataclasses.replace(without, model_kwargs={**without.model_kwargs, **options})
    assert build.build_model(recipe, VIDEOS).num_classes == 2
    with pytest.raises(TypeError, match='drop_path_rate'):
        build.build_model(dataclasses.replace(recipe, drop_path=0.2), VIDEOS)


@pytest.mark.parametrize(('flip', 'asked', 'share'), [(True, None, 0.5), (False, None, 0), (True, 0.0, 0)])
def test_clips_are_mirrored_where_labels_have_no_sides(flip, asked, share):
    videos = dataclasses.replace(VIDEOS, flip=flip, note='labels have sides')
    model = build.build_model(tiny(), VIDEOS)
    crop = build.train_clips(tiny(hflip=asked), videos, model).crop
    assert getattr(getattr(crop, 'transforms', [None])[-1], 'p', 0) == share


def test_mirroring_clips_whose_labels_have_sides_is_done_with_a_warning():
    videos = dataclasses.replace(VIDEOS, flip=False, note='labels have sides')
    with pytest.warns(UserWarning, match='labels have sides'):
        build.train_clips(tiny(hflip=0.5), videos, build.build_model(tiny(), VIDEOS))


def test_labels_of_mirrored_clips():
    classes = (*label_names('ssv2'), 'turns Clockwise', 'turns counterclockwise', 'leans left')
    labels = mirrored_labels(classes)
    moved = {i: label for i, label in enumerate(labels) if i != label}
    assert moved == {86: 87, 87: 86, 93: 94, 94: 93, 166: 167, 167: 166, 174: 175, 175: 174}  # as ZeroI2V's code

    videos = dataclasses.replace(VIDEOS, classes=('moves left', 'moves right'), flip=False, note='labels have sides')
    path = Path(flatzoo.__file__).parent / 'data/assets/is_picked_up.mp4'
    videos = dataclasses.replace(videos, clips=tuple(Clip(str(path), 0) for _ in range(16)))
    model = build.build_model(tiny(), VIDEOS)
    swapped, plain = (build.train_clips(tiny(hflip=0.5, hflip_swap=swap), videos, model) if swap else
                      build.train_clips(tiny(hflip=0.0), videos, model) for swap in (True, False))
    found = [(item['label'], item['clip']) for item in (swapped[i] for i in range(16))]
    assert 0 < sum(label for label, _ in found) < 16
    for i, (label, clip) in enumerate(found):
        assert torch.equal(clip.flip(-1) if label else clip, plain[i]['clip'])
    with pytest.warns(UserWarning, match='keep their label.*moves left'):
        build.train_clips(tiny(hflip=0.5, hflip_swap=True), dataclasses.replace(
            videos, classes=('moves left', 'stands')), model)
    with pytest.raises(ValueError, match='goes by the names'):
        build.train_clips(tiny(hflip=0.5, hflip_swap=True), dataclasses.replace(
            videos, classes=('class 0', 'class 1')), model)


def test_augmentations_of_colours_are_refused_for_depth():
    videos = dataclasses.replace(VIDEOS, depth=4000)
    model = build.build_model(tiny(), videos)
    assert model.in_chans == 1
    with pytest.raises(ValueError, match='depth maps'):
        build.train_clips(tiny(aa='rand-m7'), videos, model)


def test_presets_are_yaml_that_anyone_can_read():
    for name in presets():
        assert isinstance(yaml.safe_load((_PRESETS / f'{name}.yaml').read_text()), dict)
