"""Frames of evaluation of other methods, against recordings of their official code."""
import json
from pathlib import Path

import pytest

from flatzoo.data.official_sampling import official_indices
from flatzoo.data.protocol import EvalProtocol

RECORDED = json.loads((Path(__file__).parents[1] / 'recorded' / 'i2v_sampling.json').read_text())
CASES = [
    ('st_adapter', 'dense_8x16_3views', 8, 16, 3), ('st_adapter', 'dense_8x16_1view', 8, 16, 1),
    ('st_adapter', 'uniform_8', 8, None, 1), ('aim', 'dense_8x16_3clips', 8, 16, 3),
    ('aim', 'dense_32x4_3clips', 32, 4, 3), ('aim', 'uniform_8', 8, None, 1),
    ('zeroi2v', 'dense_8x16_3clips', 8, 16, 3), ('zeroi2v', 'uniform_8_1clip', 8, None, 1),
    ('zeroi2v', 'uniform_16_2clips', 16, None, 2),
]


@pytest.mark.parametrize('rule, key, num_frames, stride, num_clips', CASES)
def test_frames_are_those_of_the_official_code(rule, key, num_frames, stride, num_clips):
    sampling = 'uniform' if stride is None else 'dense'
    protocol = EvalProtocol(sampling, num_clips=num_clips, stride=stride, rule=rule)
    for length, clips in RECORDED[rule][key].items():
        assert official_indices(rule, int(length), num_frames, stride, num_clips).tolist() == clips, length
        assert protocol.sample(int(length), num_frames).tolist() == clips


def test_rules_are_kept_with_the_protocol():
    protocol = EvalProtocol('dense', stride=16, num_clips=3, rule='aim')
    assert EvalProtocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol
    assert 'rule' not in EvalProtocol().to_dict()  # as before there were any
    with pytest.raises(ValueError, match="rule='tsm' is none of 'st_adapter', 'aim', 'zeroi2v'"):
        EvalProtocol(rule='tsm')
    with pytest.raises(ValueError, match='of one clip'):
        official_indices('aim', 100, 8, num_clips=2)
    several = EvalProtocol(num_clips=3, rule='aim').sample(100, 8)  # as when its dense clips become uniform ones
    assert several.equal(EvalProtocol(num_clips=3).sample(100, 8))
