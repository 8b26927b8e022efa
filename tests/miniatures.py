"""Miniature copies of the data sets that the readers know, laid out as their publishers lay them out."""
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image


class Copy:
    """Writes a miniature data set: lists, and one tiny video or folder of frames under any name."""

    def __init__(self, root: Path, video: Path):
        self.root, self.video = root, video

    def text(self, name: str, *lines: str) -> None:
        self._make(name).write_text('\n'.join(lines) + '\n')

    def json(self, name: str, value) -> None:
        self.text(name, json.dumps(value))

    def videos(self, *names: str) -> None:
        for name in names:
            shutil.copy(self.video, self._make(name))

    def frames(self, *names: str, pattern: str = '{:05d}.jpg', depth: int = 0) -> None:
        pixels = np.full((16, 16), depth, np.uint16) if depth else np.zeros((16, 16, 3), np.uint8)
        for name in names:
            for number in range(1, 4):
                Image.fromarray(pixels).save(self._make(f'{name}/{pattern.format(number)}'))

    def _make(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def folder(copy):
    copy.videos('train/run/a.mp4', 'train/run/deep/b.AVI', 'train/walk home/c.webm', 'val/run/d.mp4')
    copy.text('train/run/.hidden.mp4')
    copy.text('train/run/notes.txt')


def frames(copy):
    copy.frames('train/run/a', 'train/walk/b', 'valid/walk/c')


def kinetics(copy):
    header = 'label,youtube_id,time_start,time_end,split'
    rows = 'abseiling,-3B32lodo2M,59,69,train', '"petting animal (not cat)",_dbcJuKJQNs,0,10,train'
    copy.text('train.csv', header, *rows)
    copy.text('validate.csv', header, 'zumba,aaaaaaaaaaa,104,114,validate')
    copy.text('test.csv', 'youtube_id,time_start,time_end,split', 'bbbbbbbbbbb,1,11,test')
    copy.videos('train/abseiling/-3B32lodo2M_000059_000069.mp4', 'train/_dbcJuKJQNs_000000_000010.mkv')
    copy.videos('val/aaaaaaaaaaa_000104_000114.mp4')


SSV2 = {'Moving something from left to right': '0', "Pretending to take something's cap": '1'}


def ssv2(copy):
    copy.json('something-something-v2-labels.json', SSV2)
    moving = {'id': '7', 'label': 'moving a cup from left to right', 'placeholders': ['a cup']}
    copy.json(
        'something-something-v2-train.json', [moving | {'template': 'Moving [something] from left to right'}])
    copy.json(
        'something-something-v2-validation.json', [{'id': '12', 'template': "Pretending to take [something's] cap"}])
    copy.json('something-something-v2-test.json', [{'id': '13'}])
    copy.videos('20bn-something-something-v2/7.webm', '20bn-something-something-v2/12.webm')


def ssv2_later(copy):
    copy.json('labels/labels.json', SSV2)
    copy.json('labels/train.json', [{'id': '7', 'template': 'Moving [something] from left to right'}])
    copy.json('labels/validation.json', [{'id': '12', 'template': "Pretending to take [something's] cap"}])
    copy.text('labels/test-answers.csv', "13;Pretending to take something's cap")
    copy.videos(*(f'20bn-something-something-v2/{name}.webm' for name in (7, 12, 13)))


def ucf101(copy):
    copy.text('ucfTrainTestlist/classInd.txt', '1 ApplyEyeMakeup', '2 HandstandPushups')
    for fold in '123':
        copy.text(
            f'ucfTrainTestlist/trainlist0{fold}.txt',
            'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1',
            f'HandstandPushups/v_HandStandPushups_g0{fold}_c01.avi 2')
        copy.text(f'ucfTrainTestlist/testlist0{fold}.txt', 'HandstandPushups/v_HandStandPushups_g09_c01.avi')
    copy.videos('UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi')
    copy.videos(*(f'UCF-101/HandStandPushups/v_HandstandPushups_g0{g}_c01.avi' for g in '1239'))


def hmdb51(copy):
    files = 'same_name.avi', '[Boom]#2!_u_cm.avi', 'left_out.avi'
    for name, uses in (('brush_hair', '120'), ('cartwheel', '210')):
        copy.videos(*(f'hmdb51_org/{name}/{file}' for file in files))
        for fold in '123':
            lines = [f'{file} {use} ' for file, use in zip(files, uses)]
            copy.text(f'testTrainMulti_7030_splits/{name}_test_split{fold}.txt', *lines)


def diving48(copy):
    def row(name, label):
        return {'vid_name': name, 'label': label, 'start_frame': 0, 'end_frame': 79}

    copy.json('Diving48_vocab.json', [['Back', '15som', '05Twis', 'FREE'], ['Back', '15som', '15Twis', 'FREE']])
    copy.json('Diving48_V2_train.json', [row('Gm5B2mSoOAs_00015', 1), row('-mmq0PT-u8k_00155', 0)])
    copy.json('Diving48_V2_test.json', [row('Gm5B2mSoOAs_00016', 0)])
    copy.json('Diving48_train.json', [row('Gm5B2mSoOAs_00015', 0)])
    copy.videos(*(f'rgb/{name}.mp4' for name in ('Gm5B2mSoOAs_00015', '-mmq0PT-u8k_00155', 'Gm5B2mSoOAs_00016')))


def jester(copy):
    copy.text('jester-v1-labels.csv', 'Swiping Left', 'No gesture')
    copy.text('jester-v1-train.csv', '34870;No gesture', '56557;Swiping Left')
    copy.text('jester-v1-validation.csv', '9223;Swiping Left')
    copy.text('jester-v1-test.csv', '5')
    copy.frames(*(f'20bn-jester-v1/{name}' for name in (34870, 56557, 9223)))


def moments(copy):
    copy.text('moments_categories.txt', 'clapping,0', 'adult+male+singing,1')
    rows = 'adult+male+singing/0-1-3_9.mp4,adult+male+singing,3,0', 'clapping/yt-5of_2.mp4,clapping,4,1'
    copy.text('trainingSet.csv', *rows)
    copy.text('validationSet.csv', 'clapping/getty-1_4.mp4,clapping,5,0')
    copy.videos('training/adult+male+singing/0-1-3_9.mp4', 'training/clapping/yt-5of_2.mp4')
    copy.videos('validation/clapping/getty-1_4.mp4')


NTU60 = ('S001C001P001R001A001', 'S002C002P003R002A060', 'S017C003P040R001A013')


def ntu60(copy):
    copy.videos(*(f'nturgb+d_rgb/{name}_rgb.avi' for name in NTU60))
    copy.frames(*(f'nturgb+d_depth_masked/{name}' for name in NTU60[:2]), pattern='MDepth-{:08d}.png', depth=900)
    copy.frames(f'nturgb+d_depth/{NTU60[0]}', pattern='Depth-{:08d}.png', depth=4000)


NTU120 = ('S001C001P001R001A001', 'S018C002P044R002A061', 'S032C003P103R001A120')


def ntu120(copy):
    copy.videos(*(f'nturgb+d_rgb/{name}_rgb.avi' for name in NTU120))


UWA3D = ('a01_s01_v01_e00', 'a30_s10_v02_e01', 'a05_s02_v03_e00', 'a06_s02_v04_e00')


def uwa3d(copy):
    copy.frames(*(f'UWA3DII_RGB/UWA3D-RGB/{name}' for name in UWA3D), pattern='{:03d}.jpg')
    copy.frames(f'UWA3DII_Depth_ROI/UWA3D-Depth/{UWA3D[0]}', pattern='{:03d}.png', depth=2000)


def smarthome(copy):
    copy.videos('mp4/Cook.Cleandishes_p02_r00_v02_c03.mp4', 'mp4/WatchTV_p25_r01_v11_c01.mp4')


def sifar(copy):
    copy.videos('videos/my run.mp4', 'videos/b.mp4', 'videos/c.mp4')
    copy.text('train.txt', 'videos/my run.mp4 1 6 0', 'videos/b.mp4 2 5 2')
    copy.text('val.txt', 'videos/c.mp4;1;6;1')


def csv(copy):
    copy.videos('a.mp4', 'b, c.mp4', 'd.mp4')
    rows = 'train,a.mp4,walk,1,4', 'train,"b, c.mp4",run,,', 'valid,d.mp4,run,,'
    copy.text('list.csv', 'split,path,label,start,end', *rows)


def jsonl(copy):
    copy.videos('a.mp4', 'd.mp4')
    copy.text('train.jsonl', json.dumps({'path': 'a.mp4', 'label': 1, 'start_time': 0.1, 'end_time': 0.3, 'id': 'x'}))
    copy.text('val.jsonl', json.dumps({'path': 'd.mp4', 'label': 0}))
    copy.text('classes.txt', 'turn right', 'stand')
