"""`flatzoo.events`: from answers for windows to events."""
import pytest

import flatzoo
from flatzoo.inference.classifier import Prediction
from flatzoo.inference.events import Event, iter_events
from flatzoo.inference.subtitles import subtitles
from flatzoo.inference.windows import Record


def records_of(chances, every=0.5, window=2.0, start=0.0):
    """Records of a class `jump` with these probabilities; the rest is shared by others."""
    return [
        Record(start + i * every, start + i * every + window, tuple(sorted(
            (Prediction('jump', 0, p), *(Prediction(f'other {n}', n, (1 - p) / 3) for n in (1, 2, 3))),
            key=lambda item: -item.probability)))
        for i, p in enumerate(chances)]


def spans(found):
    return [(event.start, event.end, event.label) for event in found]


def test_an_event_spans_the_cells_of_its_records():
    found = flatzoo.events(records_of([0, 0, .9, .9, 0, 0]), smooth=1)
    assert spans(found) == [(1.75, 2.75, 'jump')]  # the middles of its windows are 2.0 and 2.5
    assert found[0].score == pytest.approx(.9)
    assert spans(flatzoo.events(records_of([.9]))) == [(0, 2, 'jump')]
    assert spans(flatzoo.events(records_of([.9, .9, .9]))) == [(0, 3, 'jump')]
    assert flatzoo.events([]) == []


def test_two_thresholds_and_smoothing():
    chances = [0, .6, .35, .6, 0]
    assert len(flatzoo.events(records_of(chances), smooth=1)) == 1
    assert len(flatzoo.events(records_of(chances), smooth=1, low=.4)) == 2
    assert flatzoo.events(records_of([0, 0, .9, 0, 0])) == []  # one answer of three
    assert len(flatzoo.events(records_of([.9, .9, 0, .9, .9]), low=.5)) == 1
    short = records_of([0, .9, .9, 0, 0, .9, 0], every=.5)
    assert spans(flatzoo.events(short, smooth=1, min_seconds=1)) == [(1.25, 2.25, 'jump')]


def test_classes_follow_each_other_and_gaps_end_events():
    walk = [Record(r.start, r.end, (Prediction('walk', 2, .8),)) for r in records_of([0, 0], start=1.0)]
    found = flatzoo.events(records_of([.9, .9]) + walk, smooth=1)
    assert spans(found) == [(0, 1.75, 'jump'), (1.75, 3.5, 'walk')]
    assert flatzoo.events([Record(0, 2, (Prediction('nothing', 0, .9),))]) == []
    found = flatzoo.events(records_of([.9, .9]) + records_of([.9, .9], start=60))
    assert spans(found) == [(0, 2.5, 'jump'), (60, 62.5, 'jump')]


def test_events_come_as_soon_as_they_end():
    taken = []

    def stream():
        for record in records_of([0, 0, .9, .9, .9] + 50 * [0]):
            taken.append(record)
            yield record

    assert next(iter_events(stream())).label == 'jump' and len(taken) < 10


@pytest.mark.parametrize('options, said', [
    (dict(low=.6), 'thresholds'), (dict(high=2), 'thresholds'), (dict(smooth=2), 'odd'), (dict(min_seconds=-1), 'min'),
])
def test_refuses_wrong_options(options, said):
    with pytest.raises(ValueError, match=said):
        flatzoo.events([], **options)


def test_refuses_records_out_of_order():
    with pytest.raises(ValueError, match='order'):
        flatzoo.events(records_of([0, 0])[::-1])


def test_subtitles():
    found = [Event(1.5, 3661.25, 'a <b> --> c\n', .876), Event(4000, 4001, 'x', .5)]
    srt = subtitles(found, 'match.srt')
    assert srt.startswith('1\n00:00:01,500 --> 01:01:01,250\na <b> → c\\n (88%)\n\n2\n')
    vtt = subtitles(found, '.vtt')
    assert vtt.startswith('WEBVTT\n\n1\n00:00:01.500 --> 01:01:01.250\na &lt;b&gt; ')
    with pytest.raises(ValueError, match='.srt'):
        subtitles(found, 'a.txt')
