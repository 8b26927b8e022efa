"""Evaluation protocols, and the views they take of a video."""
import json
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.data.decode.pyav_source import PyAVSource
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.sampling import dense_indices, uniform_indices
from flatzoo.data.transforms import EvalTransform


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """40 lossless frames of 96x64 pixels: red tells the frame, green the column."""
    path = tmp_path_factory.mktemp('videos') / 'clip.mkv'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('ffv1', rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, 'bgr0'
        for index in range(40):
            image = np.zeros((64, 96, 3), np.uint8)
            image[..., 0], image[..., 1] = 5 * index, np.arange(96)
            frame = av.VideoFrame.from_ndarray(image, format='rgb24').reformat(format='bgr0')
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def frames_of(views):
    return views[:, 0, :, 0, 0] // 5  # [V, T]


def test_default_is_one_clip_and_its_centre(video):
    views = EvalProtocol().load_views(video, 8, 64)
    assert views.shape == (1, 3, 8, 64, 64) and views.dtype == torch.uint8
    assert frames_of(views).tolist() == uniform_indices(40, 8).tolist()
    assert views[0, 1, 0, 0, 0] == 16  # the centre of 96 columns


def test_views_go_crop_by_crop_then_clip_by_clip(video):
    protocol = EvalProtocol(num_clips=3, num_crops=3)
    assert protocol.views == 9
    views = protocol.load_views(str(video), 8, 64)
    assert views.shape == (9, 3, 8, 64, 64)
    assert frames_of(views).tolist() == uniform_indices(40, 8, 3).tolist() * 3
    assert views[:, 1, 0, 0, 0].tolist() == [0] * 3 + [32] * 3 + [16] * 3


def test_views_are_those_of_the_parts(video):
    protocol = EvalProtocol('dense', num_clips=2, num_crops=3, stride=3, scale_up=True)
    views = protocol.load_views(video, 4, (40, 48))
    with VideoReader(video) as reader:
        clips = [EvalTransform((40, 48), 3, True)(reader.get_frames(row)) for row in dense_indices(40, 4, 3, 2)]
    expected = torch.stack(clips, dim=1).flatten(0, 1).transpose(1, 2)
    assert torch.equal(views, expected)


def test_each_frame_is_decoded_once(video, monkeypatch):
    asked = []
    read = PyAVSource.read
    monkeypatch.setattr(
        PyAVSource, 'read', lambda self, indices: (asked.append(indices), read(self, indices))[1])
    protocol = EvalProtocol('dense', num_clips=10, num_crops=3, stride=2)
    protocol.load_views(video, 16, 32)
    assert sum(asked, []) == protocol.sample(40, 16).unique().tolist()
    assert max(map(len, asked)) <= 4  # few frames are held in full size at a time


def test_short_and_small_videos(video):
    views = EvalProtocol(num_clips=3).load_views(video, 64, 128)
    assert views.shape == (3, 3, 64, 128, 128)
    assert frames_of(views)[0].unique().tolist() == list(range(40))


def test_transform_of_the_user(video):
    protocol = EvalProtocol(num_clips=2)
    transform = v2.Compose([v2.Resize(40), v2.CenterCrop(32), v2.ToDtype(torch.float32, scale=True)])
    views = protocol.load_views(video, 4, 64, transform=transform)
    assert views.shape == (2, 3, 4, 32, 32) and views.dtype == torch.float32
    two = protocol.load_views(video, 4, 64, transform=lambda clip: torch.stack([clip, 255 - clip]))
    assert two.shape == (4, 3, 4, 64, 96)
    assert torch.equal(two[2:], 255 - two[:2])
    with pytest.raises(ValueError, match=r'must return \[T, C, h, w\] .* with T = 4, got \[3, 4, 64, 96\]'):
        protocol.load_views(video, 4, 64, transform=lambda clip: clip.transpose(0, 1))
    with pytest.raises(ValueError, match='got ndarray'):
        protocol.load_views(video, 4, 64, transform=lambda clip: clip.numpy())


def test_errors_name_the_file(video, tmp_path):
    (tmp_path / 'empty.mp4').touch()
    with pytest.raises(VideoError, match='empty.mp4'):
        EvalProtocol().load_views(tmp_path / 'empty.mp4', 8, 64)
    path = tmp_path / 'line.png'
    Image.fromarray(np.zeros((1, 640, 3), np.uint8)).save(path)
    with pytest.raises(VideoError, match='line.png: frames of 640x1 pixels'):
        EvalProtocol().load_views(path, 8, 64)


@pytest.mark.parametrize('protocol', [
    EvalProtocol(),
    EvalProtocol(num_clips=3, num_crops=3),
    EvalProtocol('dense', num_clips=10, num_crops=3, stride=4, scale_up=True),
])
def test_round_trip_through_json(protocol):
    assert EvalProtocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_from_dict():
    assert EvalProtocol.from_dict({}) == EvalProtocol()
    with pytest.raises(ValueError, match="unknown keys .*: 'clips'; known are sampling, num_clips"):
        EvalProtocol.from_dict({'clips': 3})


@pytest.mark.parametrize('values, message', [
    (dict(sampling='random'), "must be 'uniform' or 'dense', got 'random'"),
    (dict(num_clips=0), 'num_clips must be'),
    (dict(num_clips='3'), 'num_clips must be'),
    (dict(num_crops=2), 'num_crops must be 1 or 3, got 2'),
    (dict(scale_up=1), 'scale_up must be true or false'),
    (dict(sampling='dense'), 'dense sampling needs a stride'),
    (dict(stride=4), 'uniform sampling takes no stride, got 4'),
])
def test_wrong_values(values, message):
    with pytest.raises(ValueError, match=message):
        EvalProtocol(**values)
