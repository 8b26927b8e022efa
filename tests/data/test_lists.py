"""Lists of clips: generic layouts in all their spellings, missing files, and errors that say what is wrong."""
import shutil
import unicodedata

import miniatures
import numpy as np
import pytest
from miniatures import csv, folder, jester, jsonl, kinetics, ntu60, sifar, smarthome, ssv2, ucf101, uwa3d
from PIL import Image

from flatzoo.data.actions import write_action
from flatzoo.data.clips import ClipDataset
from flatzoo.data.lists import (
    Clip,
    DataError,
    NotThere,
    VideoList,
    class_findings,
    parse_spec,
    places_of_classes,
    read_videos,
    sided_classes,
)


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    return write_action(tmp_path_factory.mktemp('clip') / 'clip.mp4', 'moves left', 0, size=16, num_frames=6)


@pytest.fixture
def copy(tmp_path, video):
    return miniatures.Copy(tmp_path / 'data', video)


@pytest.mark.parametrize('text', [
    'path,label\na.mp4,run\nd.mp4,walk', 'video;class\na.mp4;run\nd.mp4;walk', 'label\tfile\nrun\ta.mp4\nwalk\td.mp4',
    'a.mp4 run\nd.mp4 walk', 'a.mp4,run\nd.mp4,walk', '\ufeffpath, label\r\na.mp4, run\r\n\r\nd.mp4, walk\r\n',
])  # fmt: skip
def test_ways_to_write_csv(copy, text):
    copy.videos('a.mp4', 'd.mp4')
    copy.text('mine.csv', text)
    for root in (copy.root, copy.root / 'mine.csv'):
        videos = read_videos('csv', root, 'all')
        assert [(clip.id, videos.classes[clip.label]) for clip in videos.clips] == [('a.mp4', 'run'), ('d.mp4', 'walk')]


def test_folder_is_divided_the_same_way_in_every_run(copy):
    copy.videos(*(f'{name}/{number}.mp4' for name in ('run', 'walk') for number in range(5)))
    splits = {
        split: {clip.id for clip in read_videos('folder:val_share=0.4', copy.root, split).clips}
        for split in ('train', 'val')
    }
    assert len(splits['val']) == 4 and len(splits['train']) == 6 and not splits['val'] & splits['train']
    assert splits['val'] == {clip.id for clip in read_videos('folder', copy.root, 'val', val_share=0.4).clips}
    other = {clip.id for clip in read_videos('folder', copy.root, 'val', val_share=0.4, seed=1).clips}
    assert other != splits['val']
    assert len(read_videos('folder', copy.root, 'all')) == 10
    with pytest.raises(NotThere, match='val_share=0.2'):
        read_videos('folder', copy.root, 'train')


def test_frames_are_sorted_by_their_numbers(copy):
    for number in range(12):
        path = copy.root / f'all/clip/frame{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), number * 20, np.uint8)).save(path)
    videos = read_videos('frames', copy.root, 'all')
    clip = ClipDataset(videos, 12, 16, train=False)[0]['clip']
    assert clip[0, 0, :, 0, 0].tolist() == [number * 20 for number in range(12)]


def test_depth_is_scaled(copy):
    ntu60(copy)
    clip = ClipDataset(read_videos('ntu60:modality=depth', copy.root, 'train'), 2, 16)[0]['clip']
    assert clip.shape == (1, 2, 16, 16) and clip.unique().tolist() == [128]  # 4000 of 8000 mm; not the masked copy


def test_missing_files_are_counted_and_named(copy):
    ucf101(copy)
    (copy.root / 'UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi').unlink()
    with pytest.raises(DataError, match=r'1 of 2 files are missing: .*v_ApplyEyeMakeup_g08_c01.avi.*missing=skip'):
        read_videos('ucf101', copy.root, 'train')
    with pytest.warns(UserWarning, match='1 of 2 files'):
        videos = read_videos('ucf101:missing=skip', copy.root, 'train')
    assert len(videos) == 1 and len(videos.missing) == 1 and len(videos.classes) == 2
    shutil.rmtree(copy.root / 'UCF-101')
    with pytest.raises(DataError, match='2 of 2 files are missing.*Check that this is the folder'):
        read_videos('ucf101', copy.root, 'train', missing='skip')


def broken_class(copy):
    ssv2(copy)
    copy.json('something-something-v2-train.json', [{'id': '7', 'template': 'Singing [something]'}])


def sifar_line(copy):
    sifar(copy)
    copy.text('train.txt', 'videos/b.mp4 1 6 0', 'videos/b.mp4 1 6')


def csv_label(copy):
    csv(copy)
    copy.text('list.csv', 'path,label', 'a.mp4,0', 'd.mp4,')


def json_path(copy):
    jsonl(copy)
    copy.text('train.jsonl', '{"path": 3, "label": 1, "split": []}')


def few_classes(copy):
    jsonl(copy)
    copy.text('classes.txt', 'stand')


def smarthome_name(copy):
    smarthome(copy)
    copy.videos('mp4/Dance_p02_r00_v02_c03.mp4')


@pytest.mark.parametrize('spec, write, split, message', [
    ('kinetic', kinetics, 'train', "unknown data set layout 'kinetic'; known are .*kinetics"),
    ('kinetics', ucf101, 'train', 'no list of the split train, such as train.csv'),
    ('kinetics', kinetics, 'test', 'has no column label'),
    ('kinetics', kinetics, 'all', "no split 'all'; it has train, val, test"),
    ('ucf101:fold=4', ucf101, 'train', "fold must be one of 1, 2, 3, got '4'"),
    ('ucf101:folds=1', ucf101, 'train', "no option 'folds'; it has fold, missing"),
    ('ucf101:fold', ucf101, 'train', 'NAME:KEY=VALUE'),
    ('ucf101:missing=keep', ucf101, 'train', "'error' or 'skip'"),
    ('ucf101', kinetics, 'train', 'ucfTrainTestlist/classInd.txt'),
    ('hmdb51', kinetics, 'train', 'testTrainMulti_7030_splits'),
    ('ssv2', broken_class, 'train', "train.json, line 1: the class 'Singing something' is not in the list"),
    ('ssv2', ssv2, 'test', 'test-answers.csv'),
    ('jester', jester, 'test', 'jester-v1-test-answers.csv'),
    ('folder', folder, 'all', None),
    ('ntu60:protocol=xset', ntu60, 'train', 'one of xsub, xview'),
    ('uwa3d:protocol=V12-2', uwa3d, 'train', 'such as V12-3'),
    ('ntu60', kinetics, 'train', 'has no clips'),
    ('smarthome', smarthome_name, 'train', '1 videos are not named like .*Dance_p02'),
    ('sifar', sifar_line, 'train', 'train.txt, line 2: should be "path first last label"'),
    ('csv', csv_label, 'all', 'list.csv, line 3: the label is empty'),
    ('csv', csv, 'test', None),
    ('jsonl', json_path, 'train', 'train.jsonl, line 1: the path should be text'),
    ('jsonl', few_classes, 'train', 'train.jsonl, line 1: the label 1 is outside 0 to 0'),
    ('auto', lambda copy: copy.text('nothing.txt'), 'train', 'no known layout'),
])  # fmt: skip
def test_errors_say_what_is_wrong(copy, spec, write, split, message):
    write(copy)
    if message is None:
        assert len(read_videos(spec, copy.root, split))
    else:
        with pytest.raises(DataError, match=message):
            read_videos(spec, copy.root, split)


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match='no such folder'):
        read_videos('auto', tmp_path / 'x', 'train')


def test_spec():
    assert parse_spec('ntu120:protocol=xset, modality=depth') == ('ntu120', {'protocol': 'xset', 'modality': 'depth'})


def test_sided_classes():
    sided = ['Swiping Left', 'moves_right', 'turn counter-clockwise', 'anticlockwise']
    assert sided_classes([*sided, 'leftover', 'copyright', 'bright', 'salute']) == sided


def test_classes_of_a_model():
    videos = VideoList('x', [Clip('a', 0), Clip('b', 1)], ['Moves_Left', 'stands'])
    matched = videos.with_classes(['jumps', 'stands', 'moves left'])
    assert [clip.label for clip in matched.clips] == [2, 1] and matched.classes == ('jumps', 'stands', 'moves left')
    with pytest.raises(DataError, match='1 of 2 classes are unknown to the model: Moves_Left'):
        videos.with_classes(['stands', 'moves right'])
    unnamed = VideoList('x', [Clip('a', 1)], ['class 0', 'class 1'])
    assert unnamed.with_classes(['p', 'q', 'r']).clips == unnamed.clips
    with pytest.raises(DataError, match='more than the 1 of the model'):
        unnamed.with_classes(['p'])


def test_places_of_classes():
    assert places_of_classes(['Moves_Left', 'stands'], ['jumps', 'stands', 'moves left']) == [2, 1]
    assert places_of_classes(['stands', 'sits'], ['jumps', 'stands']) is None
    assert places_of_classes(['moves_left'], ['moves left', 'Moves Left']) is None  # which of both?
    assert places_of_classes(['stands'], ['stands', 'stands']) is None


@pytest.mark.parametrize('make, message', [
    (lambda: VideoList('x', [Clip('a', 2)], ['p', 'q']), r'1 of 1 clips have labels outside 0 to 1: 2 \(a\)'),
    (lambda: VideoList('x', [], ['p', 'p']), 'classes of the same name: p'),
    (lambda: VideoList('x', [], ['p'], metric='top5'), 'top1, mean_class'),
    (lambda: Clip('a', 0, 5, 5), 'from 5 to 5'),
    (lambda: Clip('a', 0, unit='minutes'), "'frames' or 'seconds'"),
])
def test_bad_lists(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize('one, other', [
    ('👎', '👍'), ('C', 'C++'), ('की', 'का'), ('ดู', 'ดี'), ('volume +', 'volume -'), ('speed 1.5', 'speed 15'),
    ('yes!', 'yes?'), ('#1', '1'), ('level 1 2', 'level 12'), ('Maße', 'Masse'), ('1/2', '12'),
])  # fmt: skip
def test_names_that_differ_in_signs_are_two_classes(one, other):
    videos = VideoList('x', [Clip('a', 0), Clip('b', 1)], [one, other])
    assert [clip.label for clip in videos.with_classes([other, one]).clips] == [1, 0]
    with pytest.raises(DataError, match='1 of 2 classes are unknown'):
        videos.with_classes([other, 'x'])


def test_loose_names_are_said_and_never_guessed():
    videos = VideoList('x', [Clip('a', 0), Clip('b', 1)], ['Run', 'run'])
    assert [clip.label for clip in videos.with_classes(['run', 'Run']).clips] == [1, 0]
    for names in (['run', 'walk'], ['RUN', 'walk'], ['RUN', 'rUN']):
        with pytest.raises(DataError, match='unknown to the model'):
            videos.with_classes(names)
    one = VideoList('x', [Clip('a', 0)], ['passing_Ball_(in_game)'])
    with pytest.warns(UserWarning, match=r"1 of 1 classes .* 'passing_Ball_\(in_game\)' as 'passing ball \(in game\)'"):
        assert one.with_classes(['x', 'passing ball (in game)']).clips[0].label == 1
    with pytest.raises(DataError, match='unknown'):
        one.with_classes(['passing ball in game', 'passing ball (in game)'])


@pytest.mark.parametrize('name', ['café', '박수', 'ガッツポーズ'])
def test_composed_and_decomposed_names_are_the_same(copy, name):
    other = unicodedata.normalize('NFD', name)
    assert other != name
    videos = VideoList('x', [Clip('a', 0)], [other])
    assert videos.with_classes(['x', name]).clips[0].label == 1
    with pytest.raises(DataError, match='same name'):
        VideoList('x', [], [name, other])
    copy.videos(f'train/{other}/a.mp4', f'val/{name}/b.mp4', 'train/x/c.mp4')
    for split in ('train', 'val'):
        videos = read_videos('folder', copy.root, split)
        assert set(videos.classes) == {name, 'x'} and videos.classes[videos.clips[-1].label] in (name, 'x')
    assert len(videos) == 1 and videos.classes[videos.clips[0].label] == name
    copy.text('list.csv', f'train/{name}/a.mp4,{other}', f'train/x/c.mp4,{name}')
    videos = read_videos('csv', copy.root, 'all')  # the folder is written otherwise than in the list
    assert videos.classes == (name,) and videos.clips[0].path.endswith(f'{other}/a.mp4')


@pytest.mark.parametrize('files, message', [
    ({'test.csv': '0.mp4 -1'}, r"test.csv, line 1: the label should be a whole number from 0 .* '-1'"),
    ({'val.csv': '1.mp4 1\n0.mp4 3l'}, "val.csv, line 2: the label should be a whole number .* '3l'"),
    ({'train.csv': '0.mp4 run\n1.mp4 walk\n2.mp4 7'}, 'train.csv, line 3: the label is the number 7; .*classes.txt'),
    ({'train.csv': '0.mp4 10234\n1.mp4 20345'}, 'train.csv, line 2: the label 20345 would be one of 20346 classes'),
    ({'train.csv': '0.mp4 0\n1.mp4 2', 'classes.txt': 'a\nb'}, 'train.csv, line 2: the label 2 is outside 0 to 1'),
    ({'train.csv': 'vid,what\n0.mp4,run\n1.mp4,walk'}, "train.csv, line 1: 'vid' is not a file; .* header"),
    ({'train.csv': ''}, 'train.csv: lists no clip'),
    ({'train.csv': 'path,label\n', 'val.csv': '0.mp4 0'}, 'train.csv: lists no clip'),
])  # fmt: skip
def test_odd_lines_of_lists_are_named(copy, files, message):
    copy.videos(*(f'{number}.mp4' for number in range(4)))
    for name, text in ({'train.csv': '0.mp4 0\n1.mp4 1\n2.mp4 2\n3.mp4 10'} | files).items():
        copy.text(name, text)
    with pytest.raises(DataError, match=message):
        read_videos('csv', copy.root, 'train')


@pytest.mark.parametrize('text, labels', [
    ('video_path,class_id\n0.mp4,1\n1.mp4,0', [1, 0]), ('path label\n0.mp4 1\n1.mp4 0', [1, 0]),
    ('path,label\n0.mp4,1.0\n1.mp4,0.0', [1, 0]), ('0.mp4 40 1\n1.mp4 30 0', [1, 0]),
    ('"my clip.mp4" 1\n1.mp4 0', [1, 0]), ('x,y.mp4 1\n1.mp4 0', [1, 0]), ('my clip.mp4 1\n1.mp4 0', [1, 0]),
    ('path,label\nin\\a.mp4,1\n1.mp4,0', [1, 0]),
])  # fmt: skip
def test_lists_of_others(copy, text, labels):
    copy.videos('0.mp4', '1.mp4', 'my clip.mp4', 'x,y.mp4', 'in/a.mp4')
    copy.text('train.csv', text)
    videos = read_videos('csv', copy.root, 'train')
    assert [clip.label for clip in videos.clips] == labels and videos.classes == ('class 0', 'class 1')


def test_names_that_are_numbers_stand_in_the_list_of_classes(copy):
    copy.videos('0.mp4', '1.mp4', '2.mp4')
    copy.text('classes.txt', 'run', '20', '7')
    copy.text('train.csv', '0.mp4 7', '1.mp4 run', '2.mp4 20')
    videos = read_videos('csv', copy.root, 'train')
    assert [videos.classes[clip.label] for clip in videos.clips] == ['7', 'run', '20']


def test_findings_about_classes(copy):
    copy.videos('train/a/0.mp4', 'train/__MACOSX/0.mp4', 'train/a/__MACOSX/0.mp4', 'train/empty/0.txt')
    videos = read_videos('folder', copy.root, 'train')
    assert len(videos) == 1 and videos.classes == ('a', 'empty')
    one, empty = class_findings([videos])
    assert 'one class (a)' in one and empty == 'train: 1 of 2 classes have no clip: empty'
    from_one = VideoList('x', [Clip('a', 1), Clip('b', 2)], [f'class {n}' for n in range(3)], 'train')
    assert class_findings([from_one]) == [
        'train: 1 of 3 classes have no clip: class 0; labels count from 0, and these seem to count from 1']


def test_auto_refuses_what_looks_like_two_layouts(copy):
    copy.videos('train/stand/a.mp4', 'val/stand/b.mp4')
    assert read_videos('auto', copy.root, 'train').name == 'folder'
    copy.text('notes.csv', 'path,label', 'val/stand/b.mp4,fall')
    with pytest.raises(DataError, match='looks like csv and like folder at once, .*Name the layout'):
        read_videos('auto', copy.root, 'train')
    assert [len(read_videos(spec, copy.root, split)) for spec, split in (('folder', 'val'), ('csv', 'all'))] == [1, 1]


def test_auto_takes_a_publisher_whose_folders_look_like_a_generic_layout(copy):
    ucf101(copy)
    assert read_videos('folder', copy.root / 'UCF-101', 'all')
    assert read_videos('auto', copy.root, 'train').name.startswith('ucf101')


def test_auto_takes_a_list_whose_files_lie_in_one_folder(copy):
    copy.videos('videos/a.mp4', 'videos/b.mp4')
    copy.text('train.csv', 'path,label', 'videos/a.mp4,stand', 'videos/b.mp4,fall')
    assert read_videos('auto', copy.root, 'train').name == 'csv'
