"""Probabilities that mean what they say: a temperature for logits, and how far probabilities are off."""
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['calibration_error', 'fit_temperature']


def fit_temperature(logits: Tensor, labels: Tensor, steps: int = 401) -> float:
    """The temperature by which logits are divided (Guo et al., 2017, arXiv:1706.04599, Section 4.2).

    It minimises the negative log-likelihood of held-out clips, and does not change which class is first. Of N clips one
    right and one wrong answer more are assumed (Laplace's rule of succession, as in Platt, 1999): thirty clips that are
    all answered right do not prove that no answer is ever wrong, so that probabilities stay near 31/32.

    Args:
        logits: `[N, K]` of clips that the model was not trained on.
        labels: Their classes, `[N]`; where clips may have several, 1 for each of their own, `[N, K]`.
        steps: How many temperatures are tried.

    Returns:
        A number in 0.01...100.
    """
    logits, wrong = logits.double(), 1 / (len(logits) + 2)
    grid = torch.logspace(-2, 2, steps, dtype=torch.float64)
    if labels.ndim == 2:
        targets = labels.double() * (1 - 2 * wrong) + wrong
        losses = [F.binary_cross_entropy_with_logits(logits / temperature, targets) for temperature in grid]
    else:
        rivals = logits.scatter(1, labels[:, None], -torch.inf).argmax(1)
        losses = [
            torch.lerp(F.cross_entropy(scaled, labels), F.cross_entropy(scaled, rivals), wrong)
            for scaled in (logits / temperature for temperature in grid)]
    return float(grid[torch.stack(losses).argmin()])


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: mean distance of confidence and accuracy, 0...1 (Guo et al., 2017, Equation 3).

    Args:
        logits: `[N, K]`.
        labels: `[N]`.
        bins: Equally wide bins of the confidence.
    """
    confidence, answer = logits.double().softmax(1).max(1)
    place = (confidence * bins).long().clamp(max=bins - 1)
    right = (answer == labels).double()
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, place, confidence - right)
    return float(gap.abs().sum() / len(labels))
