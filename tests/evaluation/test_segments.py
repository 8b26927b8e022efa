"""Segment F1: found events against the true ones."""
import math

import pytest

from flatzoo.data.actions import Segment
from flatzoo.evaluation.segments import match_segments, segment_score


def test_pairs_have_one_label_and_overlap():
    true = [Segment(0, 2, 'a'), Segment(4, 6, 'b')]
    found = [Segment(.5, 2, 'a'), Segment(0, 2.1, 'a'), Segment(4, 6, 'a'), Segment(5.5, 9, 'b')]
    assert match_segments(found, true) == [(found[1], true[0])]  # the better one, once
    assert match_segments(found, true, .1) == [(found[1], true[0]), (found[3], true[1])]


def test_score():
    true = [Segment(0, 2, 'a'), Segment(4, 6, 'b')]
    score = segment_score([(true, true), ([], true)], .25)
    assert score[:3] == (2 / 3, 1, .5) and score.boundary == 0 and score.within == 1
    score = segment_score([([Segment(.2, 2.5, 'a')], true)], .25)
    assert score.f1 == pytest.approx(2 / 3) and score.boundary == pytest.approx(.5) and score.within == .5
    assert math.isnan(segment_score([([], true)], 1).boundary)
    for wrong in (dict(videos=[([], [])], step=1), dict(videos=[(true, true)], step=1, overlap=0)):
        with pytest.raises(ValueError):
            segment_score(**wrong)
