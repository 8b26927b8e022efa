"""How long the clips of a list are, and that training keeps it with the model."""
import json

import pytest

from flatzoo.data.actions import write_action
from flatzoo.data.lists import Clip, VideoList
from flatzoo.data.temporal import TemporalContract, learn_contract


@pytest.fixture(scope='module')
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp('clips')
    for name, frames in (('a', 8), ('b', 16), ('c', 40)):
        write_action(folder / f'{name}.mp4', 0, 1, size=16, num_frames=frames, fps=8)
    (folder / 'd.mp4').write_bytes(b'no video')
    clips = tuple(Clip(str(folder / f'{name}.mp4'), 0) for name in 'abcd')
    return VideoList('mine', clips, ('x',))


def test_the_median_of_a_list(videos):
    assert learn_contract(videos, 4) == TemporalContract(2.0, 4, .5)
    assert learn_contract(videos, 4, stride=2) == TemporalContract(1.0, 4, .25)  # 4 frames, 2 apart, at 8 per second
    part = VideoList('part', (Clip(videos.clips[2].path, 0, 1, 2.5, 'seconds'),), ('x',))
    assert learn_contract(part, 2).seconds == pytest.approx(1.5, abs=.13)
    assert learn_contract(VideoList('none', videos.clips[3:], ('x',)), 4) is None


def test_contracts_are_checked():
    good = TemporalContract(2.0, 8, .25)
    assert TemporalContract.from_dict(json.loads(json.dumps(good.to_dict())) | {'later': 1}) == good
    for wrong in (dict(seconds=0), dict(seconds='2'), dict(frames=1.5), dict(stride=float('nan')), dict(frames=True)):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            TemporalContract.from_dict(good.to_dict() | wrong)
    with pytest.raises(ValueError, match='needs'):
        TemporalContract.from_dict({})
