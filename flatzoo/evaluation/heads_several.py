"""Heads for clips of several classes, fitted by scikit-learn: each class has a score of its own."""
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from timm.task import MultiLabelClassificationEvaluator
from torch import Tensor

from .calibration import fit_temperature
from .heads import FOLDS, KINDS, import_sklearn
from .multi_label import UNANSWERED, average_precisions
from .statistics import DRAWS

__all__ = ['SetHead', 'answers_of', 'fit_set_head', 'map_interval', 'set_folds']

_GRIDS = {
    'knn': (1, 3, 5, 10, 20), 'ridge': tuple(np.logspace(-1, 5, 7).tolist()),
    'logistic': tuple(np.logspace(-4, 2, 7).tolist())}
_DEFAULTS = {'knn': 1, 'ridge': 100.0, 'logistic': 0.01}  # where there are too few clips to choose
_NAMES = {'knn': 'n_neighbors', 'ridge': 'alpha', 'logistic': 'C'}


@dataclass(frozen=True)
class SetHead:
    """A classifier of features whose clips may have several classes.

    Attributes:
        kind: `'knn'`, `'ridge'` or `'logistic'`.
        labels: The classes that it knows.
        scores: Features `[N, D]` -> logits `[N, K]`, before the temperature.
        layer: Weight `[K, D]` and bias `[K]` of the same; None of nearest neighbours.
        penalty: What cross-validation chose, as text; empty if there were too few clips to choose.
        temperature: By which logits are divided.
        neighbors: Number of nearest neighbours; 0 of others.
    """
    kind: str
    labels: tuple[int, ...]
    scores: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    layer: tuple[np.ndarray, np.ndarray] | None = field(repr=False)
    penalty: str
    temperature: float = 1.0
    neighbors: int = 0

    def logits(self, values: Tensor) -> Tensor:
        """Logits `[N, K]` of features `[N, D]`, float32."""
        return torch.from_numpy(self.scores(values.numpy().astype(np.float64)) / self.temperature).float()

    def linear(self) -> tuple[Tensor, Tensor]:
        """Weight `[K, D]` and bias `[K]` of the linear layer that gives the logits, float32.

        Raises:
            ValueError: Nearest neighbours have no such layer.
        """
        if self.layer is None:
            raise ValueError('nearest neighbours are features and no layer: ridge and logistic make a model.')
        return tuple(torch.from_numpy(np.ascontiguousarray(part / self.temperature)).float() for part in self.layer)


def fit_set_head(
        kind: str,
        values: Tensor,
        targets: Tensor,
        groups: Sequence[str | None] | None = None,
        seed: int = 0,
) -> SetHead:
    """Fits a head; its penalty (or number of neighbours) has the best mean average precision in cross-validation.

    Args:
        kind: One of `KINDS`.
        values: Features `[N, D]`, float32.
        targets: 1 for the classes of each clip, `[N, K]`. Classes without clips are left out.
        groups: Group of each clip. Clips of a group are in the same fold.
        seed: Of the folds.

    Raises:
        ValueError: An unknown kind, or no class that some clips have and others have not.
        ImportError: scikit-learn is not installed.
    """
    import_sklearn()
    if kind not in KINDS:
        raise ValueError(f'kind={kind!r} is none of {", ".join(map(repr, KINDS))}.')
    known = (targets.sum(0) > 0).nonzero().flatten().tolist()
    if not any(0 < float(targets[:, label].sum()) < len(targets) for label in known):
        raise ValueError('every class is in all clips or in none, so there is nothing to tell apart.')
    x, y = values.numpy().astype(np.float64), targets[:, known].numpy().astype(np.float64)
    folds = set_folds(len(y), groups, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the last digits of a fit
        chosen, penalty, temperature = _DEFAULTS[kind], '', 1.0
        if folds:
            smallest = min(len(train) for train, _ in folds)
            grid = [value for value in _GRIDS[kind] if kind != 'knn' or value <= smallest]
            held_out = {value: _held_out(kind, value, x, y, folds) for value in grid}
            chosen = max(grid, key=lambda value: _mean_precision(held_out[value], y))
            penalty = f'{_NAMES[kind]} {chosen:g}'
            if kind != 'knn':
                temperature = fit_temperature(torch.from_numpy(held_out[chosen]), torch.from_numpy(y))
        scores, layer = _fit(kind, chosen, x, y)
    neighbors = int(chosen) if kind == 'knn' else 0
    return SetHead(kind, tuple(known), scores, layer, penalty, temperature, neighbors)


def set_folds(
        count: int,
        groups: Sequence[str | None] | None = None,
        *,
        leave_one_out: bool = False,
        seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds of cross-validation, with the clips of a group together. None where there are too few clips or groups.

    Args:
        count: Number of clips.
        groups: Group of each clip; a clip without one is one of its own.
        leave_one_out: Whether each group is a fold; else there are five folds or fewer.
        seed: Of the folds.
    """
    from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

    names = _group_names(count, groups)
    number = len(set(names))
    if number < 2:
        return []
    splitter = LeaveOneGroupOut() if leave_one_out else GroupKFold(
        min(FOLDS, number), shuffle=True, random_state=seed)
    return list(splitter.split(names, groups=names))


def answers_of(labels: Sequence[int], logits: Tensor, num_classes: int) -> Tensor:
    """Logits `[N, num_classes]` of a head that knows some of the classes; the others come last."""
    whole = torch.full((len(logits), num_classes), UNANSWERED)
    whole[:, list(labels)] = logits.float()
    return whole


def map_interval(
        logits: Tensor, targets: Tensor, groups: Sequence[str | None] | None = None, seed: int = 0,
) -> tuple[float, float]:
    """A 95 % interval of the mean average precision, 0...1, by drawing clips, or groups of them, anew (bootstrap).

    Args:
        logits: `[N, K]`.
        targets: `[N, K]`.
        groups: Group of each clip, None for clips that are groups of their own.
        seed: Of the draws.
    """
    names = _group_names(len(logits), groups)
    members: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        members.setdefault(name, []).append(place)
    parts = [torch.tensor(part) for part in members.values()]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(DRAWS // 4):
        drawn = torch.cat([parts[i] for i in torch.randint(len(parts), (len(parts),), generator=generator).tolist()])
        own = targets[drawn]
        there = own.sum(0) > 0
        if there.any():
            evaluator = MultiLabelClassificationEvaluator()
            evaluator.update(logits[drawn][:, there], own[:, there])
            found.append(evaluator.compute()['map'] / 100)
    low, high = torch.quantile(torch.tensor(found), torch.tensor([0.025, 0.975])).tolist()
    return low, high


def _group_names(count: int, groups: Sequence[str | None] | None) -> list[str]:
    return [f'clip {i}' if group is None else f'group {group}' for i, group in enumerate(groups or [None] * count)]


def _held_out(kind: str, value: float, x: np.ndarray, y: np.ndarray, folds: Sequence[tuple]) -> np.ndarray:
    logits = np.zeros_like(y)
    for train, test in folds:
        logits[test] = _fit(kind, value, x[train], y[train])[0](x[test])
    return logits


def _mean_precision(logits: np.ndarray, y: np.ndarray) -> float:
    return float(average_precisions(torch.from_numpy(logits), torch.from_numpy(y).float()).nanmean())


def _fit(kind: str, value: float, x: np.ndarray, y: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], Any]:
    """What gives logits, and its linear layer if it is one."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    if kind == 'knn':
        shares = make_pipeline(Normalizer(), KNeighborsRegressor(int(value), weights='distance')).fit(x, y)
        return lambda new: _logit(shares.predict(new).reshape(len(new), -1)), None
    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x)
    if kind == 'ridge':
        model = Ridge(alpha=value).fit(scaled, 2 * y - 1)
        weight, bias = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    else:
        rows = []
        for column in y.T:
            if 0 < column.sum() < len(column):
                model = LogisticRegression(C=value, max_iter=1000, tol=1e-3).fit(scaled, column)
                rows.append((model.coef_[0], model.intercept_[0]))
            else:  # of a class that all or none of these clips have, the share is all that is known
                rows.append((np.zeros(x.shape[1]), float(_logit(column.mean()))))
        weight, bias = np.stack([row[0] for row in rows]), np.array([row[1] for row in rows])
    weight = weight / scaler.scale_  # the scaler becomes part of the layer
    bias = bias - weight @ scaler.mean_
    return lambda new: new @ weight.T + bias, (weight, bias)


def _logit(share: Any) -> Any:
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return np.log(share) - np.log1p(-share)
