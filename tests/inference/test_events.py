"""`flatzoo.events`: from answers for windows to events."""
import pytest

import flatzoo
from flatzoo.inference.classifier import Prediction
from flatzoo.inference.events import Event, event_lanes, iter_events
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


def test_an_event_reaches_back_as_it_reaches_on():
    chances = [0, 0, .35, .4, .6, .4, .35, 0, 0]
    found = flatzoo.events(records_of(chances), smooth=1)
    assert spans(found) == [(1.75, 4.25, 'jump')]
    assert spans(flatzoo.events(records_of(chances[::-1]), smooth=1)) == spans(found)
    assert found[0].score == pytest.approx(.42)
    assert flatzoo.events(records_of([.35, .45, .4]), smooth=1) == []  # possible, but never likely
    pair = [
        Record(i / 2, i / 2 + 2, (Prediction('jump', 0, p), Prediction('walk', 1, 1 - p)))
        for i, p in enumerate([.8, .8, .2, .2])]
    middle = Record(1, 3, (Prediction('jump', 0, .4), Prediction('walk', 1, .4)))
    found = flatzoo.events([*pair[:2], middle, *(Record(r.start + .5, r.end + .5, r.top) for r in pair[2:])], smooth=1)
    assert spans(found) == [(0, 2.25, 'jump'), (2.25, 4, 'walk')]  # not into the event before it


@pytest.mark.parametrize('every, mean', [(.5, 3), (.25, 7), (2, 1), (3, 1), (1, 1), (.4, 5)])
def test_smooths_over_a_window(every, mean):
    records = records_of([0] * 9 + [.9] * 4 + [0] * 9, every)
    found = flatzoo.events(records, high=.2, low=.1)
    assert found == flatzoo.events(records, high=.2, low=.1, smooth=mean)
    assert found not in [flatzoo.events(records, high=.2, low=.1, smooth=other) for other in {1, 3, 5, 7} - {mean}]


def test_gap_after_the_first_record():
    found = flatzoo.events(records_of([.9]) + records_of([.9] * 4, start=60) + records_of([.9] * 4, start=90))
    assert spans(found) == [(0, 2, 'jump'), (60, 63.5, 'jump'), (90, 93.5, 'jump')]


def test_events_around_a_gap_do_not_overlap():
    found = flatzoo.events(records_of([.9] * 4) + records_of([.9] * 4, start=2.5))  # the window from 2 s on is empty
    assert spans(found) == [(0, 3, 'jump'), (3, 6, 'jump')]


def test_short_last_window():
    records = records_of([.9, .9])
    records.append(Record(1.0, 2.6, records[0].top))  # its middle is nearer than that of others
    assert spans(flatzoo.events(records)) == [(0, 2.6, 'jump')]


def test_classes_of_a_multi_label_model_have_their_own_events():
    records = [
        Record(i / 2, i / 2 + 2, (Prediction('music', 0, .9), Prediction('speech', 1, p), Prediction('nothing', 2, .8)))
        for i, p in enumerate([0, 0, .9, .9, .2, .9, 0])]
    found = flatzoo.events(records, smooth=1, multi_label=True)
    assert spans(found) == [(0, 5, 'music'), (1.75, 2.75, 'speech'), (3.25, 3.75, 'speech')]
    assert found[1].score == pytest.approx(.9)
    assert [event.label for event in iter_events(records, smooth=1, multi_label=True)] == ['speech', 'speech', 'music']
    assert spans(flatzoo.events(records, smooth=1)) == [(0, 5, 'music')]


def test_lanes_of_events_that_overlap():
    events = [Event(0, 9, 'a', 1), Event(1, 2, 'b', 1), Event(2, 3, 'c', 1), Event(2.5, 4, 'b', 1)]
    assert event_lanes(events) == [0, 1, 1, 2]
    assert event_lanes([Event(0, 1, 'a', 1), Event(1, 2, 'b', 1)]) == [0, 0] and event_lanes([]) == []


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
