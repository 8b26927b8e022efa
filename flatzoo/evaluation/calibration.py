"""Probabilities that mean what they say: a temperature for logits, and how far probabilities are off."""
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['calibration_error', 'fit_temperature']


def fit_temperature(logits: Tensor, labels: Tensor, steps: int = 401) -> float:
    """The temperature by which logits are divided (Guo et al., 2017, arXiv:1706.04599, Section 4.2).

    It minimises the negative log-likelihood of held-out clips, and does not change which class is first.

    Args:
        logits: `[N, K]` of clips that the model was not trained on.
        labels: Their classes, `[N]`.
        steps: How many temperatures are tried.

    Returns:
        A number in 0.01...100.
    """
    logits = logits.double()
    grid = torch.logspace(-2, 2, steps, dtype=torch.float64)
    losses = torch.stack([F.cross_entropy(logits / temperature, labels) for temperature in grid])
    return float(grid[losses.argmin()])


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
