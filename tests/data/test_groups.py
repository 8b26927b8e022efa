"""Groups of clips, such as people: read from groups.csv or a column, kept in shards, named where splits share them."""
import json

import pytest

from flatzoo.cli import main
from flatzoo.data.actions import write_action
from flatzoo.data.groups import group_findings, groups_of, read_groups, with_groups
from flatzoo.data.lists import DataError, read_videos


@pytest.fixture
def root(tmp_path):
    for split in ('train', 'val'):
        for label in (0, 1):
            folder = tmp_path / split / f'c{label}'
            folder.mkdir(parents=True)
            for person in ('anna', 'bert'):
                (folder / f'{person}.mp4').write_bytes(b'opened by nobody')
    return tmp_path


def write_groups(root, *lines, head='path,class,group'):
    (root / 'groups.csv').write_text('\n'.join((head, *lines)) + '\n')


def test_each_clip_has_its_group(root):
    write_groups(root, 'train/c0/anna.mp4,c0,anna', './train/c1/anna,c1,anna', 'val\\c0\\bert.mp4,c0,bert')
    train, val = (read_videos('folder', root, split) for split in ('train', 'val'))
    assert [clip.group for clip in train.clips] == ['anna', '', 'anna', '']
    assert [clip.group for clip in val.clips] == ['', 'bert', '', '']
    assert groups_of([train, val]) == {'anna': {'train': 2}, '': {'train': 2, 'val': 3}, 'bert': {'val': 1}}
    assert group_findings([train, val]) == ['without a group: 5 clips (2 in train, 3 in val)']


def test_names_without_their_ending_are_told_apart(root):
    write_groups(root, 'train/c0/anna.mp4,x,1', 'train/c0/anna.avi,x,2')
    assert read_videos('folder', root, 'train').clips[0].group == '1'
    videos = with_groups(read_videos('folder', root, 'train'), {'train/c0/anna.avi': '1', 'train/c0/anna.mkv': '2'})
    assert videos.clips[0].group == '1'  # as it was: neither is this file


def test_columns_of_lists(root):
    (root / 'list.csv').write_text('path,label,split,subject\ntrain/c0/anna.mp4,x,train,s1\nval/c1/anna.mp4,y,val,s1\n')
    lists = [read_videos('csv', root / 'list.csv', split) for split in ('train', 'val')]
    assert group_findings(lists) == ['s1 is in train (1 clip) and val (1 clip)']


def test_a_file_of_groups_is_no_list_of_clips(root):
    write_groups(root, 'train/c0/anna.mp4,c0,anna')
    assert read_videos('auto', root, 'train').name == 'folder'
    with pytest.raises(DataError, match='has no list such as train.csv'):
        read_videos('csv', root, 'all')


@pytest.mark.parametrize('head, lines, message', [
    ('a,b', ['1,2'], r'groups.csv: needs a column path and a column group, it has a, b'),
    ('path,group', ['x.mp4,1', 'x.mp4,2'], r'groups.csv, line 3: x.mp4 is of the group 1 in a former line and of 2'),
    ('path,group', ['x.mp4'], 'line 2: should have 2 columns'),
])
def test_files_that_are_none(root, head, lines, message):
    write_groups(root, *lines, head=head)
    with pytest.raises(DataError, match=message):
        read_groups(root)


def test_check_names_who_is_in_two_splits_and_shards_keep_the_groups(tmp_path, capsys):
    pytest.importorskip('webdataset')
    lines = []
    for seed, (split, person) in enumerate((('train', 's1'), ('train', 's2'), ('val', 's1'), ('val', 's3'))):
        path = tmp_path / 'videos' / split / f'c{seed % 2}' / f'{person}.mp4'
        path.parent.mkdir(parents=True)
        write_action(path, seed, seed, size=16, num_frames=8)
        lines.append(f'{path.relative_to(tmp_path / "videos")},{person}')
    write_groups(tmp_path / 'videos', *lines, head='path,group')
    assert main(['data', 'check', 'auto', str(tmp_path / 'videos')]) == 1
    out = capsys.readouterr().out
    assert 'groups: 2 in train, 2 in val' in out and 's1 is in train (1 clip) and val (1 clip)' in out

    assert main(['data', 'pack', 'folder', str(tmp_path / 'videos'), str(tmp_path / 'shards')]) == 0
    assert sorted(clip.group for clip in read_videos('wds', tmp_path / 'shards', 'train').clips) == ['s1', 's2']
    (tmp_path / 'shards/train.index.json').unlink()  # as other tools pack
    assert sorted(clip.group for clip in read_videos('wds', tmp_path / 'shards', 'train').clips) == ['s1', 's2']
    capsys.readouterr()
    assert main(['data', 'check', 'wds', str(tmp_path / 'shards'), '--json']) == 1
    report = json.loads(capsys.readouterr().out)
    assert report['facts']['groups'] == {'train': 2, 'val': 2}
    assert report['problems']['groups'] == ['s1 is in train (1 clip) and val (1 clip)']


def test_a_copy_in_another_container_is_the_same_clip(tmp_path, capsys):
    import av

    write_action(tmp_path / 'train.mp4', 1, 0, size=32, num_frames=8)
    for split, name in (('train', 'a.mp4'), ('val', 'b.mkv')):
        path = tmp_path / 'videos' / split / 'c0' / name
        path.parent.mkdir(parents=True)
        with av.open(str(tmp_path / 'train.mp4')) as source, av.open(str(path), 'w') as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)
    assert main(['data', 'check', 'folder', str(tmp_path / 'videos'), '--json']) == 1
    [same] = json.loads(capsys.readouterr().out)['problems']['across_splits']
    assert same == [f'{tmp_path}/videos/train/c0/a.mp4 (train)', f'{tmp_path}/videos/val/c0/b.mkv (val)']
