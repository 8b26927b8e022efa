"""The benchmark of the default command: its sets, its search on the people of train, and its page."""
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flatzoo import cli
from flatzoo.data.lists import read_videos
from flatzoo.train.recipe import load_recipe


@pytest.fixture(scope='module')
def recipe():
    path = Path(__file__).parents[2] / 'benchmarks/learning/recipe.py'
    spec = importlib.util.spec_from_file_location('recipe_benchmark', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_search_sees_the_people_of_train_alone(recipe, tmp_path):
    data, rows = tmp_path / 'data', ['path,group']
    for split, person in (('train', 's01'), ('train', 's03'), ('train', 's05'), ('train', 's07'), ('val', 's02')):
        place = data / split / 'bend' / f'{person}.mp4'
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b'')
        rows.append(f'{place.relative_to(data)},{person}')
    (data / 'groups.csv').write_text('\n'.join(rows))
    folder = str(recipe.inner_split('msr_action3d', data, tmp_path, ['s03', 's07']))
    people = {
        split: [Path(clip.path).stem for clip in read_videos('folder', folder, split).clips]
        for split in ('train', 'val')}
    assert people == {'train': ['s01', 's05'], 'val': ['s03', 's07']}


def test_the_arms_are_options_that_there_are(recipe):
    for options in recipe.ARMS.values():
        given = vars(cli._parser().parse_args(['train', 'folder', 'data', *options]))
        chosen = load_recipe(None, **{key: value for key, value in given.items() if key not in (
            'command', 'run', 'config', 'recipe')})
        assert chosen.spec == 'folder' and chosen.root == 'data'


def test_a_run_is_kept_once_and_stands_on_the_page(recipe, tmp_path, monkeypatch):
    output = tmp_path / 'run'
    output.mkdir()
    (output / 'args.yaml').write_text('reasons: {clips: few}')
    (output / 'summary.csv').write_text('epoch,train_top1,eval_top1\n1,20.0,\n2,40.0,32.5\n')
    row = recipe.row_of('avletters', 'tag', 3, output, 90.0, 100.0)
    assert (row['top1'], row['curve'], row['chosen']) == (32.5, [[2, 32.5]], {'clips': 'few'})
    monkeypatch.setattr(recipe, 'DATA', tmp_path / 'data.json')
    recipe.keep([row])
    page = recipe.report(recipe.keep([row]))
    assert page.count('| avletters | tag | 32.5 |  | 3 | 2 | 1.5 |') == 1
    assert 'flatzoo train folder avletters --seed 3' in page


def test_a_row_of_the_search_says_who_was_held_out_and_no_machines_share_a_table(recipe, tmp_path, monkeypatch):
    (tmp_path / 'val' / 'A').mkdir(parents=True)
    for clip in range(2):
        (tmp_path / f'val/A/{clip}.mp4').write_bytes(b'')
    row = dict(
        set='avletters-inner', arm='tag', seed=42, top1=20.0, train_top1=50.0, epochs=4, curve=[], cpu_seconds=60,
        chosen={'data': '3 clips of 1 classes, 3 of each', 'updates': '--epochs 4: 4 updates of 2 clips; as measured'},
        machine='one', versions={'torch': '2'})
    kept = recipe.search_row(row, 'avletters', tmp_path, ['Bill'], ['--fit', 'stretch'])
    assert (kept['held_out'], kept['clips'], kept['updates']) == (['Bill'], [3, 2], 4)
    monkeypatch.setattr(recipe, 'DATA', tmp_path / 'data.json')
    results = recipe.keep([kept, kept | {'seed': 1, 'machine': 'two'}])
    assert recipe.keep([kept]) == {'runs': [], 'search': results['search'][::-1]}  # once, and now the last
    page = recipe.report(results)
    line = '| avletters | Bill | tag | --recipe auto --fit stretch | 4 | 20.0 | 60 |'
    assert page.count(line) == 2 and page.count('| held out |') == 2 and 'two, shared with other work' in page


def test_a_search_on_rendered_clips_has_scenes_of_its_own(recipe, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(recipe, 'write_action', lambda path, label, seed, *size, **options: seen.append(
        (seed, options['split'])))

    monkeypatch.setattr(recipe, 'ProcessPoolExecutor', lambda *args, **options: ThreadPoolExecutor(1))
    scenes = []
    for inner in (False, True):
        seen.clear()
        recipe.render('rendered300', tmp_path, inner)
        scenes += [{seed for seed, split in seen if split == part} for part in ('train', 'test')]
        assert len(seen) == 16 * (19 + 25)
    assert all(one.isdisjoint(other) for i, one in enumerate(scenes) for other in scenes[:i])
