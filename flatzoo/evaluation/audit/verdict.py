"""What the controls prove, in words."""
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..statistics import difference_interval, mcnemar
from .controls import CONTROLS, ORDER_FREE, SINGLE_FRAME
from .scores import better

__all__ = ['LEVELS', 'Verdict', 'judge']

LEVELS = ('nothing', 'undecided', 'frame', 'frames', 'motion', 'order')
"""From a model that knows nothing to one that uses the order of time."""


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        level: One of `LEVELS`.
        title: A few words.
        reasons: Sentences with the numbers that carry it.
        p: The p values of the tests, by what was tested.
        best_single: The single-frame control with the highest accuracy.
        best_order_free: The order-free control with the highest accuracy.
    """
    level: str
    title: str
    reasons: tuple[str, ...]
    p: dict[str, float]
    best_single: str
    best_order_free: str

    @property
    def sentence(self) -> str:
        """The title as a sentence."""
        return 'One frame suffices.' if self.level == 'frame' else f'It {self.title}.'


def judge(
        answers: Mapping[str, tuple[Tensor, Tensor]],
        most_frequent: Tensor,
        alpha: float = 0.01,
        margin: float = 0.05,
) -> Verdict:
    """Judges the answers under all controls.

    A model must beat every control of a kind, so that the largest p of their tests counts and needs no correction
    (intersection-union test); each p is that of `audit.scores.better`. That something does not matter is only said
    where the 95 % interval of the difference stays below the margin.

    Args:
        answers: By control: whether each clip was answered right, bool `[N]`, and the log-probability of its class.
        most_frequent: Whether the most frequent class is right.
        alpha: Largest p that proves something.
        margin: Share of clips below which a difference does not matter.
    """
    correct = {name: found[0] for name, found in answers.items()}
    normal, count = correct['in_order'], len(most_frequent)

    def above(name: str) -> float:
        return better(answers['in_order'], answers[name])

    p = {
        'above the most frequent class': mcnemar(normal, most_frequent),
        'above every single frame': max(map(above, SINGLE_FRAME)),
        'above every order-free control': max(map(above, ORDER_FREE)),
        'above the reversed frames': above('reversed'),
    }
    single, free = (
        max(names, key=lambda name: float(correct[name].double().mean())) for names in (SINGLE_FRAME, ORDER_FREE))

    def versus(name: str) -> str:
        low, high = difference_interval(normal, correct[name])
        bits = float((answers['in_order'][1] - answers[name][1]).mean()) / math.log(2)
        return (
            f'{_percent(normal)} in order, {_percent(correct[name])} with {CONTROLS[name]} (difference '
            f'{100 * low:.0f} to {100 * high:.0f} points; an answer tells {bits:.2f} bits more of the class)')

    def is_small(name: str) -> bool:
        return difference_interval(normal, correct[name])[1] < margin

    few = f'With {count} clips this cannot be told: give more.'
    reasons: list[str] = []
    if p['above the most frequent class'] >= alpha:
        level, title = 'nothing', 'answers no better than by always naming the most frequent class'
        reasons.append(
            f'{_percent(normal)} are right; the most frequent class alone gives {_percent(most_frequent)} '
            f'(p = {p["above the most frequent class"]:.2g}).')
    elif p['above every order-free control'] < alpha:
        reasons.append(
            f'It beats every control that lacks the order; the best of them: {versus(free)}, '
            f'p = {p["above every order-free control"]:.2g}.')
        reasons.append(f'Backwards: {versus("reversed")}, p = {p["above the reversed frames"]:.2g}.')
        if p['above the reversed frames'] < alpha:
            level, title = 'order', 'uses order'
        else:
            level, title = 'motion', 'uses motion but not its direction'
            if not is_small('reversed'):
                title = 'uses motion; whether its direction, cannot be told'
                reasons.append(few)
    elif p['above every single frame'] < alpha and not is_small(single):
        level, title = 'frames', 'uses several frames but not their order'
        reasons.append(
            f'It beats every single frame: {versus(single)}, p = {p["above every single frame"]:.2g}.')
        reasons.append(
            f'Without the order it is not worse: {versus(free)}, p = {p["above every order-free control"]:.2g}.')
        if not is_small(free):
            title = 'uses several frames; whether their order, cannot be told'
            reasons[-1] = f'The order: {versus(free)}, p = {p["above every order-free control"]:.2g}. {few}'
    else:
        reasons.append(f'The best single frame: {versus(single)}, p = {p["above every single frame"]:.2g}.')
        level, title = 'frame', 'one frame suffices'
        if not is_small(single):
            level, title = 'undecided', 'may use more than one frame; that cannot be told'
            reasons.append(few)
        elif p['above every single frame'] < alpha:
            reasons.append(f'Further frames add something, but less than {100 * margin:g} points of accuracy.')
    return Verdict(level, title, tuple(reasons), p, single, free)


def _percent(correct: Tensor) -> str:
    return f'{100 * float(correct.double().mean()):.1f} %'
