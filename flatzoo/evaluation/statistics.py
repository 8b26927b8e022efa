"""Intervals of an accuracy, and tests of two accuracies on the same clips."""
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ['accuracy_interval', 'difference_interval', 'group_means', 'holm', 'mcnemar', 'sign_flip']

Z = 1.959964  # of 95 %
DRAWS = 2000


def accuracy_interval(
        correct: Tensor,
        groups: Sequence[str | None] | None = None,
        seed: int = 0,
) -> tuple[float, float]:
    """A 95 % interval of a share of right answers.

    Wilson's interval, which holds for few clips, too. Where clips belong to groups (persons), which they resemble, the
    groups are drawn anew (bootstrap): ten clips of one person say less than ten persons.

    Args:
        correct: Whether each clip was answered right, bool `[N]`.
        groups: Group of each clip; None, or a None among them, for clips that are groups of their own.
        seed: Of the draws.

    Returns:
        Lowest and highest share, 0...1.
    """
    count, hits = len(correct), float(correct.double().sum())
    share, z2 = hits / count, Z * Z / count
    middle, half = share + z2 / 2, Z * math.sqrt(share * (1 - share) / count + z2 / count / 4)
    low, high = max(0., (middle - half) / (1 + z2)), min(1., (middle + half) / (1 + z2))
    if groups is None or len({group for group in groups}) == len(groups) or set(groups) == {None}:
        return low, high
    sums, counts = _per_group(correct.double(), groups)
    if len(sums) < 2:
        return low, high
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(sums), (DRAWS, len(sums)), generator=generator)
    shares = sums[draws].sum(1) / counts[draws].sum(1)
    drawn = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return min(low, drawn[0]), max(high, drawn[1])  # few groups that agree by chance say no more than the clips do


def difference_interval(first: Tensor, second: Tensor) -> tuple[float, float]:
    """A 95 % interval of the difference of two shares of the same clips (Agresti and Min, 2005, doi:10.1002/sim.1781).

    Half a clip is added to each cell of the table of pairs, so that clips without any difference do not prove that
    there is none.

    Args:
        first: Whether each clip was answered right, bool `[N]`.
        second: The same under other conditions.

    Returns:
        Lowest and highest share of `first` less that of `second`, -1...1.
    """
    gained = int((first & ~second).sum()) + 0.5
    lost = int((~first & second).sum()) + 0.5
    count = len(first) + 2
    middle = (gained - lost) / count
    half = Z * math.sqrt(max(gained + lost - (gained - lost) ** 2 / count, 0)) / count
    return max(-1., middle - half), min(1., middle + half)


def mcnemar(first: Tensor, second: Tensor) -> float:
    """p of McNemar's exact test, one-sided: whether `first` is right more often than `second`, on the same clips.

    Args:
        first: Whether each clip was answered right, bool `[N]`.
        second: The same under other conditions.
    """
    gained, lost = int((first & ~second).sum()), int((~first & second).sum())
    total = gained + lost
    log_tail = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(gained, total + 1)]
    return min(1., sum(map(math.exp, log_tail)))


def sign_flip(differences: Tensor, draws: int = 9999, seed: int = 0) -> float:
    """p of a permutation test, one-sided: whether the mean of paired differences is above 0.

    Args:
        differences: `[N]`, a number for each clip, or for each group (`group_means`).
        draws: Random changes of the signs. The smallest p is 1 / (draws + 1).
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    values, mean, above = differences.double(), float(differences.double().mean()), 0
    for _ in range(math.ceil(draws / 1000)):
        signs = torch.randint(0, 2, (min(1000, draws), len(values)), generator=generator) * 2 - 1
        above += int(((signs * values).mean(1) >= mean - 1e-12).sum())
    total = math.ceil(draws / 1000) * min(1000, draws)
    return (above + 1) / (total + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm, 1979), in the order in which they came."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, largest = [0.] * len(p_values), 0.
    for rank, index in enumerate(order):
        largest = max(largest, min(1., p_values[index] * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected


def group_means(values: Tensor, groups: Sequence[str | None] | None) -> Tensor:
    """Mean of the values of each group; the values themselves where there are no groups."""
    if groups is None or set(groups) == {None}:
        return values
    sums, counts = _per_group(values.double(), groups)
    return sums / counts


def _per_group(values: Tensor, groups: Sequence[str | None]) -> tuple[Tensor, Tensor]:
    """Sum and count of the values of each group; a clip without one is a group of its own."""
    names = [f'clip {index}' if group is None else f'group {group}' for index, group in enumerate(groups)]
    place = {name: index for index, name in enumerate(dict.fromkeys(names))}
    index = torch.tensor([place[name] for name in names])
    sums = torch.zeros(len(place), dtype=torch.float64).index_add_(0, index, values.double())
    return sums, index.bincount(minlength=len(place)).double()
