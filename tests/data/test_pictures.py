"""Pictures as frames: which are opened, which way up they are, deep and odd pixels, and the order of their names."""
import io
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from flatzoo.data.clips import open_clip
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.data.files import frame_order
from flatzoo.data.frame_folder import FrameFolder
from flatzoo.data.lists import Clip

RAMP = np.tile(np.linspace(0, 65535, 64).round().astype(np.uint16), (48, 1))


def read(folder, **options):
    with FrameFolder(folder, **options) as frames:
        return frames.get_frames(range(len(frames)))


def save(path, image, **options):
    path.parent.mkdir(exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)
    return path


def both_ways(path):
    """The picture as a frame of its folder, and as a video of one frame: [3, H, W]."""
    frame = read(path.parent)[0]
    with VideoReader(path) as video:
        assert len(video) == 1 and torch.equal(video.get_frames([0])[0], frame)
    return frame


@pytest.mark.parametrize('suffix, values', [
    ('png', RAMP), ('tif', RAMP), ('tif', RAMP.astype('>u2')), ('tif', RAMP.astype(np.int32)),
    ('tif', (RAMP / 65535).astype(np.float32)), ('png', (RAMP // 257).astype(np.uint8))])
def test_deep_pixels_are_scaled_by_the_range_of_their_type(tmp_path, suffix, values):
    frame = both_ways(save(tmp_path / f'clip/0.{suffix}', values))
    assert frame.shape == (3, 48, 64) and (frame == frame[:1]).all()
    assert np.abs(frame[0].numpy() - RAMP / 257).max() <= 1


def test_dark_deep_pictures_stay_dark(tmp_path):
    """No scaling by what one picture happens to hold: the frames of a clip would flicker."""
    for number, level in enumerate((100, 20000, 40000)):
        save(tmp_path / f'clip/{number}.png', np.full((4, 4), level, np.uint16))
    assert read(tmp_path / 'clip').amax((1, 2, 3)).tolist() == [0, 78, 156]


@pytest.mark.parametrize('values', [
    np.full((4, 4), 300.0, np.float32), np.full((4, 4), -0.5, np.float32), np.full((4, 4), np.nan, np.float32),
    np.full((4, 4), 2 ** 30, np.int32), np.full((4, 4), -5, np.int32), np.full((4, 4), 200, np.int32)])
def test_pixels_without_an_agreed_range_are_refused(tmp_path, values):
    save(tmp_path / 'clip/0.tif', values)
    with pytest.raises(VideoError, match='0.tif: its pixels are .* 8 or 16 bits'):
        read(tmp_path / 'clip')


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr'])
def test_modes_of_pillow(tmp_path, mode):
    picture = Image.new('RGB', (8, 8), (250, 250, 250)).convert(mode, palette=Image.Palette.ADAPTIVE)
    suffix = {'CMYK': 'jpg', 'YCbCr': 'jpg'}.get(mode, 'png')
    assert (both_ways(save(tmp_path / f'clip/0.{suffix}', picture)) - 250.0).abs().max() <= 5


def test_transparency_leaves_the_stored_colours(tmp_path):
    pixels = np.full((8, 8, 4), (200, 100, 50, 0), np.uint8)
    palette = Image.fromarray(pixels[..., :3]).quantize(4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for number, options in enumerate((dict(image=pixels), dict(image=palette, transparency=bytes([0, 9])))):
            frame = both_ways(save(tmp_path / f'{number}/0.png', **options))
            assert frame[:, 3, 3].tolist() == [200, 100, 50]


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif', 'webp'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_tags(tmp_path, suffix, orientation):
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:8, :12], picture[8:, 12:] = (255, 0, 0), (0, 0, 255)
    tag = Image.Exif()
    tag[0x0112] = orientation
    path = save(tmp_path / f'clip/0.{suffix}', picture, exif=tag)
    plain = Image.fromarray(picture)
    plain.getexif()[0x0112] = orientation
    expected = np.array(ImageOps.exif_transpose(plain))
    assert expected.shape == ((24, 16, 3) if orientation > 4 else (16, 24, 3))
    frame = both_ways(path).permute(1, 2, 0).numpy()
    assert frame.shape == expected.shape and np.abs(frame - expected.astype(float)).mean() < 10


def test_deep_pictures_and_depth_maps_are_turned_too(tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 6
    save(tmp_path / 'clip/0.png', RAMP, exif=tag)
    assert read(tmp_path / 'clip').shape[2:] == (64, 48)
    depth = read(tmp_path / 'clip', depth=4000)
    assert depth.shape == (1, 1, 64, 48) and depth[0, 0, 0].eq(0).all() and depth[0, 0, 1:].gt(0).all()


@pytest.mark.parametrize('name', ['0.webp', '0.png', '0.tif'])
def test_animations_are_one_frame_of_a_folder_and_many_of_a_video(tmp_path, name):
    images = [Image.fromarray(np.full((8, 8, 3), 60 * number, np.uint8)) for number in range(4)]
    path = save(tmp_path / 'clip' / name, images[1], save_all=True, append_images=images[2:])
    assert (read(tmp_path / 'clip')[0] - 60.0).abs().max() <= 2
    with VideoReader(path) as video:
        assert len(video) == 3 and (video.timestamps.diff() > 0).all()
        assert (video.get_frames([2, 0, 1]).float().mean((1, 2, 3)) / 60).round().tolist() == [3, 1, 2]


def test_the_previews_in_a_photograph_are_no_frames(tmp_path):
    noise = np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)
    images = [Image.fromarray(noise[::step, ::step].copy()) for step in (1, 2)]
    save(tmp_path / 'clip/0.jpg', images[0], format='MPO', save_all=True, append_images=images[1:])
    assert both_ways(tmp_path / 'clip/0.jpg').shape == (3, 64, 64)


POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n9 9 moveto showpage\n'
REFUSED = {
    'EPS': POSTSCRIPT, 'PPM': b'P6 1 1 255\n\0\0\0', 'GIF': None, 'ICNS': None, 'PCX': None, 'SGI': None, 'TGA': None,
    'IM': None, 'PDF': None,
}


@pytest.mark.parametrize('format', REFUSED)
@pytest.mark.parametrize('where', ['folder', 'zip', 'shard', 'depth'])
def test_named_formats_only_and_no_program_is_started(tmp_path, monkeypatch, format, where):
    """Pillow gives PostScript to Ghostscript; whatever a picture is called, it is none of these."""
    data = REFUSED[format]
    if data is None:
        buffer = io.BytesIO()
        Image.new('RGB', (16, 16)).save(buffer, format)
        data = buffer.getvalue()
    clip = tmp_path / 'clip'
    clip.mkdir()
    (clip / '0.png').write_bytes(data)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('0.png', data)
    (tmp_path / 'clip.zip').write_bytes(buffer.getvalue())
    clips = {
        'folder': Clip(str(clip), 0), 'depth': Clip(str(clip), 0), 'zip': Clip(str(tmp_path / 'clip.zip'), 0),
        'shard': Clip(str(tmp_path / 'clip.zip'), 0, member=('0.frames.zip', 0, len(buffer.getvalue())))}
    with no_programs(), pytest.raises(VideoError, match='0.png: is no picture that is accepted'):
        with open_clip(clips[where], depth=100 if where == 'depth' else None) as frames:
            frames.get_frames([0])
    if where == 'folder' and format == 'EPS':
        with no_programs(), pytest.raises(VideoError):
            VideoReader(clip / '0.png')


class no_programs:
    """Fails if a program is started meanwhile."""

    watching = started = False
    hooked = False

    def __enter__(self):
        cls = type(self)
        if not cls.hooked:
            sys.addaudithook(cls.hook)  # stays for good
            cls.hooked = True
        cls.watching, cls.started = True, False

    def __exit__(self, *exc_info):
        type(self).watching = False
        assert not self.started

    @classmethod
    def hook(cls, event, args):
        if cls.watching and event in ('subprocess.Popen', 'os.system', 'os.exec', 'os.posix_spawn', 'os.fork'):
            cls.started = True


@pytest.mark.parametrize('names, expected', [
    ('10 9 1', '1 9 10'),
    ('f10 f9 f010 f2', 'f2 f9 f010 f10'),
    ('frame1 frame frame2', 'frame frame1 frame2'),
    ('IMG_2 img_1 Img_10', 'img_1 IMG_2 Img_10'),
    ('v2_f1 v1_f2 v1_f10', 'v1_f2 v1_f10 v2_f1'),
    ('12-00-10 12-00-09 11-59-59', '11-59-59 12-00-09 12-00-10'),
    ('b c a', 'a b c'),
    ('٢ ١٠ ١', '١ ٢ ١٠'),
])
def test_order_of_frames(names, expected):
    shown = [f'{name}.png' for name in names.split()]
    assert frame_order([*shown, 'notes.txt', '.hidden.png', '__MACOSX/._1.png']) == [
        f'{name}.png' for name in expected.split()]


def test_frames_of_several_suffixes_count_on():
    assert frame_order(['2.jpg', '1.png', '10.JPG']) == ['1.png', '2.jpg', '10.JPG']


@pytest.mark.parametrize('names', [
    'img_00001.jpg img_00002.jpg flow_x_00001.jpg flow_y_00001.jpg', '1.png 1.jpg', 'left_3.png right_3.png'])
def test_several_series_in_one_folder_are_refused(tmp_path, names):
    for name in names.split():
        save(tmp_path / 'clip' / name, np.zeros((4, 4), np.uint8))
    with pytest.raises(VideoError, match='several series of frames: .* and .* have the same number'):
        FrameFolder(tmp_path / 'clip')


def test_absurd_sizes_in_a_zip_file(tmp_path):
    with zipfile.ZipFile(tmp_path / 'bomb.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('0.png', b'\x89PNG\r\n\x1a\n')
    data = bytearray((tmp_path / 'bomb.zip').read_bytes())
    at = data.index(b'PK\x01\x02') + 24
    data[at:at + 4] = b'\xf0\xff\xff\xff'
    (tmp_path / 'bomb.zip').write_bytes(data)
    with pytest.raises(VideoError, match='0.png claims more than'):
        read(tmp_path / 'bomb.zip')
