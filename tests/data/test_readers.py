"""Each layout read from a miniature copy of what its publisher hands out."""
from pathlib import Path

import miniatures
import pytest
from miniatures import (
    NTU60,
    NTU120,
    SSV2,
    UWA3D,
    csv,
    diving48,
    folder,
    frames,
    hmdb51,
    jester,
    jsonl,
    kinetics,
    moments,
    ntu60,
    ntu120,
    sifar,
    smarthome,
    ssv2,
    ssv2_later,
    ucf101,
    uwa3d,
)

from flatzoo.data.actions import write_action
from flatzoo.data.clips import ClipDataset
from flatzoo.data.lists import read_videos
from flatzoo.data.readers import READERS


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    return write_action(tmp_path_factory.mktemp('clip') / 'clip.mp4', 'moves left', 0, size=16, num_frames=6)


@pytest.fixture
def copy(tmp_path, video):
    return miniatures.Copy(tmp_path / 'data', video)


# Layout, what writes it, split asked for: (id, label) of the clips in their order.
CASES = [
    ('folder', folder, {
        'train': [('train/run/a.mp4', 0), ('train/run/deep/b.AVI', 0), ('train/walk home/c.webm', 1)],
        'test': [('val/run/d.mp4', 0)]}),
    ('frames', frames, {'train': [('train/run/a', 0), ('train/walk/b', 1)], 'validation': [('valid/walk/c', 1)]}),
    ('kinetics', kinetics, {
        'train': [('-3B32lodo2M_000059_000069', 0), ('_dbcJuKJQNs_000000_000010', 1)],
        'val': [('aaaaaaaaaaa_000104_000114', 2)]}),
    ('ssv2', ssv2, {'train': [('7', 0)], 'val': [('12', 1)]}),
    ('ssv2', ssv2_later, {'train': [('7', 0)], 'val': [('12', 1)], 'test': [('13', 1)]}),
    ('ucf101', ucf101, {
        'train': [('ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi', 0),
                  ('HandstandPushups/v_HandStandPushups_g01_c01.avi', 1)],
        'val': [('HandstandPushups/v_HandStandPushups_g09_c01.avi', 1)]}),
    ('ucf101:fold=3', ucf101, {
        'train': [('ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi', 0),
                  ('HandstandPushups/v_HandStandPushups_g03_c01.avi', 1)]}),
    ('hmdb51', hmdb51, {
        'train': [('brush_hair/same_name.avi', 0), ('cartwheel/[Boom]#2!_u_cm.avi', 1)],
        'test': [('brush_hair/[Boom]#2!_u_cm.avi', 0), ('cartwheel/same_name.avi', 1)]}),
    ('diving48', diving48, {
        'train': [('Gm5B2mSoOAs_00015', 1), ('-mmq0PT-u8k_00155', 0)], 'test': [('Gm5B2mSoOAs_00016', 0)]}),
    ('diving48:version=V1', diving48, {'train': [('Gm5B2mSoOAs_00015', 0)]}),
    ('jester', jester, {'train': [('34870', 1), ('56557', 0)], 'val': [('9223', 0)]}),
    ('moments', moments, {
        'train': [('adult+male+singing/0-1-3_9.mp4', 1), ('clapping/yt-5of_2.mp4', 0)],
        'val': [('clapping/getty-1_4.mp4', 0)]}),
    ('ntu60', ntu60, {'train': [(NTU60[0], 0)], 'val': [(NTU60[1], 59), (NTU60[2], 12)]}),
    ('ntu60:protocol=xview', ntu60, {'train': [(NTU60[1], 59), (NTU60[2], 12)], 'test': [(NTU60[0], 0)]}),
    ('ntu60:modality=depth', ntu60, {'train': [(NTU60[0], 0)], 'test': [(NTU60[1], 59)]}),
    ('ntu120', ntu120, {'train': [(NTU120[0], 0), (NTU120[2], 119)], 'test': [(NTU120[1], 60)]}),
    ('ntu120:protocol=xset', ntu120, {'train': [(NTU120[1], 60), (NTU120[2], 119)], 'test': [(NTU120[0], 0)]}),
    ('uwa3d', uwa3d, {'train': [(UWA3D[0], 0), (UWA3D[1], 29)], 'test': [(UWA3D[2], 4)]}),
    ('uwa3d:protocol=V14-23', uwa3d, {
        'train': [(UWA3D[0], 0), (UWA3D[3], 5)], 'test': [(UWA3D[2], 4), (UWA3D[1], 29)]}),
    ('uwa3d:modality=depth', uwa3d, {'train': [(UWA3D[0], 0)]}),
    ('smarthome', smarthome, {
        'train': [('WatchTV_p25_r01_v11_c01', 30)], 'test': [('Cook.Cleandishes_p02_r00_v02_c03', 0)]}),
    ('sifar', sifar, {'train': [('videos/my run.mp4', 0), ('videos/b.mp4', 2)], 'val': [('videos/c.mp4', 1)]}),
    ('csv', csv, {'train': [('a.mp4', 1), ('b, c.mp4', 0)], 'val': [('d.mp4', 0)]}),
    ('jsonl', jsonl, {'train': [('x', 1)], 'val': [('d.mp4', 0)]}),
]  # fmt: skip
IDS = [f'{spec}-{write.__name__}' for spec, write, _ in CASES]


@pytest.mark.parametrize('spec, write, splits', CASES, ids=IDS)
def test_clips_of_a_layout(copy, spec, write, splits):
    write(copy)
    for split, expected in splits.items():
        videos = read_videos(spec, copy.root, split)
        assert sorted((clip.id, clip.label) for clip in videos.clips) == sorted(expected)
        for item in ClipDataset(videos, 2, 16, train=False):
            assert item.keys() == {'index', 'label', 'clip'}, item
            assert item['clip'].shape == (1, videos.in_chans, 2, 16, 16)
            assert item['label'] == videos.clips[item['index']].label


@pytest.mark.parametrize('spec, write, splits', CASES, ids=IDS)
def test_auto_recognises_it(copy, spec, write, splits):
    write(copy)
    name = spec.partition(':')[0]
    with_options = spec.replace(name, 'auto')
    for split in splits:
        assert read_videos(with_options, copy.root, split) == read_videos(spec, copy.root, split)


def test_every_layout_is_covered():
    assert {spec.partition(':')[0] for spec, *_ in CASES} == set(READERS) - {'wds'}  # test_shards.py


@pytest.mark.parametrize('spec, write, classes, flip, metric', [
    ('ssv2', ssv2, tuple(SSV2), False, 'top1'),
    ('jester', jester, ('Swiping Left', 'No gesture'), False, 'top1'),
    ('kinetics', kinetics, ('abseiling', 'petting animal (not cat)', 'zumba'), True, 'top1'),
    ('jsonl', jsonl, ('turn right', 'stand'), False, 'top1'),
    ('sifar', sifar, ('class 0', 'class 1', 'class 2'), True, 'top1'),
    ('diving48', diving48, ('Back 15som 05Twis FREE', 'Back 15som 15Twis FREE'), True, 'top1'),
    ('smarthome', smarthome, None, True, 'mean_class'),
])
def test_classes_flip_and_metric(copy, spec, write, classes, flip, metric):
    write(copy)
    videos = read_videos(spec, copy.root, 'train')
    assert classes is None or videos.classes == classes
    assert (videos.flip, videos.metric) == (flip, metric)
    assert ('flip' in videos.note) == (not flip or spec == 'sifar')


@pytest.mark.parametrize('spec, write, count', [
    ('ntu60', ntu60, 60), ('ntu120', ntu120, 120), ('uwa3d', uwa3d, 30), ('smarthome', smarthome, 31)])
def test_number_of_classes(copy, spec, write, count):
    write(copy)
    assert len(read_videos(spec, copy.root, 'train').classes) == count


def test_ntu_trains_on_the_official_subjects():
    from flatzoo.data.readers.ntu import TRAIN_SUBJECTS
    assert len(TRAIN_SUBJECTS) == 53
    assert sum(subject <= 40 for subject in TRAIN_SUBJECTS) == 20


def test_class_names_of_kinetics_are_those_of_the_weights(copy):
    names = (Path(__file__).parents[2] / 'flatzoo/models/labels/kinetics400.txt').read_text().splitlines()
    names = [name for name in names if name and not name.startswith('#')]
    assert len(names) == 400
    rows = [f'"{name}",{number:011d},0,10,train' for number, name in enumerate(reversed(names))]
    copy.text('train.csv', 'label,youtube_id,time_start,time_end,split', *rows)
    copy.videos('train/00000000000_000000_000010.mp4')
    with pytest.warns(UserWarning, match='399 of 400'):
        assert list(read_videos('kinetics:missing=skip', copy.root, 'train').classes) == names


@pytest.mark.parametrize('spec, write, number, part', [
    ('csv', csv, 0, (1, 4, 'frames')),
    ('jsonl', jsonl, 0, (0.1, 0.3, 'seconds')),
    ('sifar', sifar, 1, (1, 5, 'frames')),  # there from 1, and the last one is included
])
def test_parts_of_files(copy, spec, write, number, part):
    write(copy)
    clip = read_videos(spec, copy.root, 'train').clips[number]
    assert (clip.start, clip.end, clip.unit) == part
