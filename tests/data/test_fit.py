"""Whole frames: letterbox and stretch, and crops that are the same."""
import json

import pytest
import torch

from flatzoo.data.clips import collate_clips
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.survey import centre_crop_loss
from flatzoo.data.transforms import EvalTransform, TrainTransform, WholeFrame, letterbox
from flatzoo.data.views import equal_views, read_views


class Frames:
    def __init__(self, height, width, count=6):
        self.frames = torch.randint(1, 256, (count, 3, height, width), dtype=torch.uint8)

    def __len__(self):
        return len(self.frames)

    def get_frames(self, indices):
        return self.frames[torch.as_tensor(indices)]


@pytest.mark.parametrize('shape, size, box', [
    ((40, 80), 32, (8, 24, 0, 32)),  # landscape: bars above and below
    ((80, 40), 32, (0, 32, 8, 24)),
    ((48, 48), 32, (0, 32, 0, 32)),
    ((40, 80), (20, 60), (0, 20, 10, 50)),
    ((1, 640), 32, (15, 16, 0, 32)),  # a line stays a line
])
def test_letterbox_shows_all_between_black_bars(shape, size, box):
    out = letterbox(torch.full((2, 3, *shape), 200, dtype=torch.uint8), size)
    top, bottom, left, right = box
    expected = torch.zeros_like(out)
    expected[..., top:bottom, left:right] = 200
    assert torch.equal(out, expected)


@pytest.mark.parametrize('fit', ['letterbox', 'stretch'])
def test_training_crops_are_cut_from_the_whole_frame(fit):
    frames = torch.zeros(2, 3, 40, 80, dtype=torch.uint8)
    frames[..., :8] = 200  # what a square crop of the frame as it is may miss at either end
    frames[..., -8:] = 200
    whole = WholeFrame(32, fit)(frames)
    assert whole.shape[-2:] == (80, 80)
    assert (whole[..., 40, :8] == 200).all() and (whole[..., 40, -8:] == 200).all()
    assert (whole[..., 0, :] == 0).all() == (fit == 'letterbox')
    out = TrainTransform(32, flip=False, scales=(1.0,), fit=fit)(frames)  # the only crop is all
    assert (out[..., 16, 0] == 200).all() and (out[..., 16, -1] == 200).all()
    shown = EvalTransform(32, num_crops=3, scale_up=True, fit=fit)(frames)
    assert len(shown) == 1
    inside = slice(10, 22)  # behind the edge of the bars, which is sharp in one and smooth in the other
    assert (shown[0].int() - out.int())[..., inside, :].abs().max() <= 1


def test_a_whole_frame_has_one_view_whatever_is_asked():
    protocol = EvalProtocol(num_clips=2, num_crops=3, scale_up=True, fit='letterbox')
    assert (protocol.views, protocol.num_crops, protocol.scale_up) == (2, 1, False)
    assert EvalProtocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
    assert protocol.to_dict()['fit'] == 'letterbox'
    assert 'fit' not in EvalProtocol().to_dict() and EvalProtocol.from_dict({}).fit == 'crop'  # files from before
    with pytest.raises(ValueError, match='fit must be one of crop, letterbox, stretch'):
        EvalProtocol(fit='pad')


def test_three_crops_of_a_square_are_one_view():
    protocol = EvalProtocol(num_clips=2, num_crops=3)
    square, wide = (read_views(protocol, Frames(*shape), 'clip', (0, 6), 2, 32) for shape in ((48, 48), (48, 64)))
    assert len(square) == 2 and len(wide) == 6
    margin = EvalProtocol(num_crops=3, scale_up=True)  # whose crops differ
    assert len(read_views(margin, Frames(48, 48), 'clip', (0, 6), 2, 32)) == 3


def test_videos_with_one_and_with_three_crops_make_a_batch():
    views = [torch.randn(2, 3, 4), torch.randn(6, 3, 4)]
    for before, after in zip(views, equal_views(views)):
        assert len(after) == 6
        torch.testing.assert_close(after.mean(0), before.mean(0))
    batch = collate_clips([
        {'index': place, 'label': 0, 'clip': torch.zeros(count, 3, 2, 4, 4)} for place, count in enumerate((1, 3))])
    assert batch['clip'].shape == (2, 3, 3, 2, 4, 4)


@pytest.mark.parametrize('shape, size, loss', [
    ((240, 320), 224, 0.25), ((320, 240), 224, 0.25), ((72, 128), 64, 0.4375), ((10, 20), (5, 10), 0)])
def test_what_a_centre_crop_loses(shape, size, loss):
    assert centre_crop_loss(*shape, size) == pytest.approx(loss)
