"""How well events in time are found: the measures of temporal action detection for events that do not overlap."""
from collections.abc import Sequence
from typing import NamedTuple, Protocol

__all__ = ['SegmentScore', 'match_segments', 'segment_score']


class _Stretch(Protocol):
    start: float
    end: float
    label: str


class SegmentScore(NamedTuple):
    """Agreement of found events with the true ones.

    Attributes:
        f1: Harmonic mean of precision and recall, 0...1 (segment F1 at an overlap, as in action segmentation).
        precision: Share of the found events that are true.
        recall: Share of the true events that are found.
        boundary: Median distance in seconds of the starts and ends of matched pairs; NaN if there are none.
        within: Share of these starts and ends that lie within one step, 0...1; NaN if there are none.
    """

    f1: float
    precision: float
    recall: float
    boundary: float
    within: float


def match_segments(
        found: Sequence[_Stretch], true: Sequence[_Stretch], overlap: float = 0.5) -> list[tuple[_Stretch, _Stretch]]:
    """Pairs of found and true events of one video: same label, intersection over union of at least `overlap`.

    Each event is in one pair at most; those that overlap most are paired first.

    Args:
        found: Found events, with `start`, `end` and `label`.
        true: The true ones.
        overlap: Least intersection over union, in (0, 1].

    Raises:
        ValueError: Another overlap.
    """
    if not 0 < overlap <= 1:
        raise ValueError(f'overlap must be above 0, up to 1, got {overlap!r}')
    pairs = [
        (shared / (max(a.end, b.end) - min(a.start, b.start)), i, j)
        for i, a in enumerate(found) for j, b in enumerate(true)
        if a.label == b.label and (shared := min(a.end, b.end) - max(a.start, b.start)) > 0]
    taken: tuple[set[int], set[int]] = (set(), set())
    matched = []
    for share, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if share >= overlap and i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            matched.append((found[i], true[j]))
    return matched


def segment_score(
        videos: Sequence[tuple[Sequence[_Stretch], Sequence[_Stretch]]],
        step: float,
        overlap: float = 0.5,
) -> SegmentScore:
    """The score over several videos, every event counted alike.

    Args:
        videos: Found and true events of each video.
        step: Seconds from one answer to the next, for `within`.
        overlap: See `match_segments`.

    Raises:
        ValueError: There is no true event, or another overlap.
    """
    matched = [pair for found, true in videos for pair in match_segments(found, true, overlap)]
    num_found, num_true = (sum(len(video[side]) for video in videos) for side in (0, 1))
    if not num_true:
        raise ValueError('a score needs at least one true event')
    away = sorted(abs(getattr(a, side) - getattr(b, side)) for a, b in matched for side in ('start', 'end'))
    nan = float('nan')
    return SegmentScore(
        2 * len(matched) / (num_found + num_true), len(matched) / num_found if num_found else 0.0,
        len(matched) / num_true, away[len(away) // 2] if away else nan,
        sum(distance <= step + 1e-6 for distance in away) / len(away) if away else nan)
