"""How much the answers under a control tell about the class: more than whether the first of them is right.

Right and wrong alone hide much: a model that is right on 36 % of the clips, and on 30 % from its best frame, needs
hundreds of clips to show that. The log-probability of the true class shows it with a hundred. Confidence must not
decide, for clips that a model was not made for (held still, shuffled) make it sure or unsure. So the logits of each
control are divided by a temperature of their own, which is fitted to the other half of the clips.
"""
import torch
from torch import Tensor

from ..calibration import fit_temperature
from ..statistics import mcnemar, sign_flip

__all__ = ['better', 'best_place', 'true_scores']

SMALLEST = 1e-3  # differences below this are rounding: models that are blind to a control give 0
STEPS = 81  # of the temperature


def true_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the true class of each clip, in nats, float64 `[N]`.

    Args:
        logits: `[N, K]`, of clips in a random order.
        labels: `[N]`.
    """
    logits, halves = logits.double(), torch.arange(len(labels)) % 2
    scores = torch.empty(len(labels), dtype=torch.float64)
    for half in (0, 1):
        own, other = halves == half, halves != half
        temperature = fit_temperature(logits[other], labels[other], STEPS) if other.any() else 1.0
        scores[own] = (logits[own] / temperature).log_softmax(1).gather(1, labels[own, None])[:, 0]
    return scores


def best_place(values: Tensor) -> Tensor:
    """Of each clip the value at the best of T places, `[N]`. For each half of the clips it is chosen on the other half.

    Chosen on the same clips, the best of T would be better than it is.

    Args:
        values: What is to be high, `[N, T]`.
    """
    values, halves = values.double(), torch.arange(len(values)) % 2
    best = [int(values[halves != half].mean(0).argmax()) if (halves != half).any() else 0 for half in (0, 1)]
    return torch.where(halves == 0, values[:, best[0]], values[:, best[1]])


def better(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """p that the answers under one condition are no better than under another, one-sided, on the same clips.

    The smaller p of two tests, twice (Bonferroni): McNemar's exact one of right and wrong, and a permutation test of
    the log-probabilities.

    Args:
        first: Whether each clip is answered right, bool `[N]`, and the log-probability of its class, `[N]`.
        second: The same under the other condition.
    """
    gain = first[1] - second[1]
    gain = torch.where(gain.abs() < SMALLEST, 0.0, gain)
    return min(1.0, 2 * min(mcnemar(first[0], second[0]), sign_flip(gain)))
