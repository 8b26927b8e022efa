"""`flatzoo data`: what it finds in a data set, and shards that it packs."""
import json
import shutil

import pytest

from flatzoo.cli import main
from flatzoo.data.actions import ACTIONS, VERBS, write_action, write_action_folder


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp('good')
    for seed, split in enumerate(('train', 'val')):
        for label in (0, 1):
            path = folder / split / f'action{label}' / 'a.mp4'
            path.parent.mkdir(parents=True)
            write_action(path, label, seed, size=16, num_frames=8)
    return folder


@pytest.fixture
def bad(good, tmp_path):
    folder = tmp_path / 'bad'
    shutil.copytree(good, folder)
    (folder / 'train/action0/broken.mp4').write_bytes(b'nothing')
    write_action(folder / 'train/action1/short.mp4', 0, 5, size=16, num_frames=3)
    shutil.copy(folder / 'train/action0/a.mp4', folder / 'val/action0/leak.mp4')
    (folder / 'train/action2').mkdir()
    write_action(folder / 'train/action2/a.mp4', 4, 0, size=16, num_frames=8)
    return folder


def run(capsys, *args):
    code = main(['data', *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_nothing_wrong(good, capsys):
    code, out, _ = run(capsys, 'check', 'auto', good)
    assert code == 0 and out.splitlines() == [
        'folder: train 2 clips, val 2 clips, 2 classes',
        'clips of a class: train 1 to 1, val 1 to 1; always to answer the largest class would be right in 50.0 % of '
        'train, 50.0 % of val',
        'lengths: 8 to 8 frames, half of the clips up to 8',
        'sizes: 16x16 (4)',
        'width : height: 1.00 to 1.00; a square centre crop loses nothing',
        'nothing is wrong']


def test_all_that_is_wrong(bad, capsys):
    code, out, _ = run(capsys, 'check', 'folder', bad, '--json', '--workers', 3)
    report = json.loads(out)
    assert code == 1
    assert report['clips'] == {'train': 5, 'val': 3} and report['classes'] == 3
    problems = report['problems']
    assert [line.split(': ')[0] for line in problems['unreadable']] == [f'{bad}/train/action0/broken.mp4']
    assert problems['short'] == [f'{bad}/train/action1/short.mp4: 3 frames']
    assert problems['duplicates'] == [
        [f'{bad}/train/action0/a.mp4 (train)', f'{bad}/val/action0/leak.mp4 (val)']]
    assert problems['across_splits'] == problems['duplicates']
    assert problems['classes'] == ['val: 1 of 3 classes have no clip: action2']
    assert problems['missing'] == []


def test_a_class_of_val_that_train_lacks_is_a_finding_and_its_clips_are_opened(good, tmp_path, capsys):
    folder = tmp_path / 'more'
    shutil.copytree(good, folder)
    (folder / 'val/Action1').mkdir()
    (folder / 'val/Action1/broken.mp4').write_bytes(b'nothing')
    code, out, err = run(capsys, 'check', 'folder', folder, '--json')
    problems = json.loads(out)['problems']
    assert code == 1 and len(problems['unreadable']) == 1
    assert problems['classes'] == ['train: 1 of 2 classes have no clip: Action1']


def test_report_as_text(bad, capsys):
    code, out, err = run(capsys, 'check', 'folder', bad, '--num-frames', 3)
    assert code == 1
    assert 'cannot be read (1):' in out and 'the same clip in several splits (1):' in out and 'classes (1):' in out
    assert 'fewer than' not in out


def test_one_split_of_several(bad, capsys):
    code, out, _ = run(capsys, 'check', 'folder', bad, '--split', 'val', '--json')
    assert json.loads(out)['clips'] == {'val': 3} and code == 1
    code, _, err = run(capsys, 'check', 'folder', bad, '--split', 'train', '--split', 'dev')
    assert code == 1 and "no split 'dev'" in err


def test_missing_files_and_equal_parts(good, capsys):
    rows = ['train/action1/a.mp4,y,0,4', 'train/action0/a.mp4,x,0,4']
    rows += ['train/action0/a.mp4,x,4,8', 'train/action0/a.mp4,x,4,8', 'gone.mp4,x,,']
    path = good / 'list.csv'
    path.write_text('\n'.join(['path,label,start,end', *rows]))
    code, out, _ = run(capsys, 'check', 'csv', path, '--json', '--num-frames', 4)
    problems = json.loads(out)['problems']
    path.unlink()
    assert code == 1
    assert problems.pop('missing') == [f'{good}/gone.mp4']
    assert problems.pop('duplicates') == [[f'{good}/train/action0/a.mp4 (all)'] * 2]
    assert not any(problems.values())


def test_classes_of_a_model(tmp_path, capsys):
    write_action_folder(tmp_path, 1, size=16, num_frames=8)
    assert len(list(tmp_path.iterdir())) == len(ACTIONS)
    code, out, _ = run(capsys, 'check', 'folder', tmp_path, '--model', 'sifar_resnet10t')
    assert code == 0 and 'note: no horizontal flip' in out
    (tmp_path / 'moves_left').rename(tmp_path / 'dances')
    code, out, _ = run(capsys, 'check', 'folder', tmp_path, '--model', 'sifar_resnet10t')
    assert code == 1 and '1 of 16 classes are unknown to the model: dances' in out


@pytest.mark.parametrize('args, message', [
    (['folder', 'nowhere'], 'no such folder'),
    (['kinetics', '.'], 'no list of the split train'),
    (['folders', '.'], "unknown data set layout 'folders'"),
    (['folder', '.', '--model', 'sifar_swin_b12'], 'name no classes'),
    (['folder', '.', '--model', 'sifar_swim'], "there is no model 'sifar_swim'"),
])
def test_errors(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, 'check', *args)
    assert code == 1 and not out
    assert err.startswith('flatzoo data: error: ') and message in err and 'Traceback' not in err


def test_pack(bad, tmp_path, capsys):
    pytest.importorskip('webdataset')
    code, out, err = run(capsys, 'pack', 'folder', bad, tmp_path / 'shards', '--max-clips', 2)
    assert code == 1 and out.startswith('train: 4 clips in 2 shards, ') and 'val: 3 clips in 2 shards' in out
    assert f'error: left out: {bad}/train/action0/broken.mp4: is not a video' in err
    code, out, _ = run(capsys, 'check', 'auto', tmp_path / 'shards', '--json')
    report = json.loads(out)
    assert code == 1 and report['clips'] == {'train': 4, 'val': 3}
    kinds = ('unreadable', 'short', 'duplicates', 'classes')
    assert [len(report['problems'][kind]) for kind in kinds] == [0, 1, 1, 1]
    code, _, err = run(capsys, 'pack', 'folder', bad, tmp_path / 'shards')
    assert code == 1 and 'has shards of the split train already' in err


def test_pack_copies_no_file_that_is_no_clip(good, tmp_path, capsys):
    """Whatever a list names: neither what is no video, nor what lies outside of the folder of the data set."""
    pytest.importorskip('webdataset')
    root = tmp_path / 'set'
    shutil.copytree(good, root)
    secret, outside = root / 'secret.mp4', tmp_path / 'outside.mp4'
    secret.write_text('root:x:0:0')
    shutil.copy(good / 'train/action0/a.mp4', outside)
    (root / 'frames').mkdir()
    (root / 'frames/0.png').write_text('%!PS-Adobe-3.0 EPSF-3.0')
    clip = 'train/action1/a.mp4'
    rows = [clip, f'{root}/{clip}', 'secret.mp4', '../outside.mp4', str(outside), 'frames', f'../set/{clip}']
    (root / 'train.csv').write_text('path,label\n' + ''.join(f'{row},a\n' for row in rows))
    code, out, err = run(capsys, 'pack', 'csv', root, tmp_path / 'shards')
    assert code == 1 and out.startswith('train: 3 clips')
    assert err.count('left out') == 4 and err.count('lies outside of') == 2
    packed = (tmp_path / 'shards/train-000000.tar').read_bytes()
    assert b'root:x' not in packed and b'%!PS' not in packed


def test_render(tmp_path, capsys):
    out = tmp_path / 'videos'
    options = ['--clips', 6, '--classes', 2, '--size', 16, '--frames', 8, '--workers', 1]
    code, text, err = run(capsys, 'render', out, *options)
    assert code == 0 and text == f'{out}\n' and '10 clips of 2 actions in train, 2 in val' in err
    assert sorted(path.name for path in (out / 'train').iterdir()) == ['moves_left', 'moves_right']
    code, text, _ = run(capsys, 'check', 'auto', out)
    assert code == 0 and 'train 10 clips, val 2 clips, 2 classes' in text
    code, _, err = run(capsys, 'render', out)
    assert code == 1 and 'is not empty' in err


def test_render_verbs(tmp_path, capsys):
    options = ['--kind', 'verbs', '--clips', 2, '--size', 32, '--frames', 4, '--workers', 1]
    code, _, err = run(capsys, 'render', tmp_path / 'verbs', *options, '--classes', 18)
    assert code == 0 and '18 clips of 18 verbs in train, 18 in val' in err
    folders = {path.name for path in (tmp_path / 'verbs/train').iterdir()}
    assert folders == {name.replace(' ', '_') for name in VERBS[:18]}
    code, _, err = run(capsys, 'render', tmp_path / 'more', *options, '--classes', 50)
    assert code == 1 and 'there are 49 verbs' in err


@pytest.mark.parametrize('options', [
    ['--clips', '1'], ['--size', '15'], ['--classes', '0'], ['--kind', 'nouns']])
def test_what_cannot_be_rendered(options, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(['data', 'render', str(tmp_path / 'videos'), *options])
    assert main(['data', 'render', str(tmp_path / 'videos'), '--classes', '17']) == 1
    assert not (tmp_path / 'videos').exists()
