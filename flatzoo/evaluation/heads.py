"""Classifiers that scikit-learn fits to features: nearest neighbours, ridge and logistic regression."""
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calibration import fit_temperature

__all__ = ['Head', 'KINDS', 'fit_head', 'folds_of', 'import_sklearn']

KINDS = ('knn', 'ridge', 'logistic')
FOLDS = 5


@dataclass(frozen=True)
class Head:
    """A classifier of features.

    Attributes:
        kind: `'knn'`, `'ridge'` or `'logistic'`.
        estimator: That of scikit-learn.
        labels: Label of each of its classes.
        penalty: What cross-validation chose, as text; empty if there were too few clips to choose.
        temperature: By which decision values are divided.
        neighbors: Number of nearest neighbours; 0 of others.
    """
    kind: str
    estimator: Any
    labels: tuple[int, ...]
    penalty: str
    temperature: float = 1.0
    neighbors: int = 0

    def answer(self, values: Tensor) -> Tensor:
        """Most probable label of each feature, int64 `[N]`."""
        return torch.as_tensor(self.estimator.predict(values.numpy()), dtype=torch.int64)

    def linear(self) -> tuple[Tensor, Tensor]:
        """Weight `[K, D]` and bias `[K]` of the linear layer that gives the logits, float32.

        Raises:
            ValueError: Nearest neighbours have no such layer.
        """
        if self.kind == 'knn':
            raise ValueError('nearest neighbours are features and no layer: ridge and logistic make a model.')
        scaler, model = self.estimator[0], self.estimator[-1]
        weight, bias = np.atleast_2d(model.coef_).astype(np.float64), np.atleast_1d(model.intercept_)
        if len(weight) == 1:  # of two classes scikit-learn has the difference of their logits
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight / scaler.scale_  # the scaler becomes part of the layer
        bias = bias - weight @ scaler.mean_
        return tuple(
            torch.from_numpy(np.ascontiguousarray(part / self.temperature)).float() for part in (weight, bias))


def fit_head(
        kind: str,
        values: Tensor,
        labels: Tensor,
        groups: Sequence[str | None] | None = None,
        seed: int = 0,
) -> Head:
    """Fits a classifier, with its penalty (or number of neighbours) chosen by cross-validation.

    Args:
        kind: One of `KINDS`.
        values: Features `[N, D]`, float32.
        labels: `[N]`.
        groups: Group of each clip. Clips of a group are in the same fold.
        seed: Of the folds.

    Raises:
        ValueError: An unknown kind, or clips of a single class.
        ImportError: scikit-learn is not installed.
    """
    import_sklearn()
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.model_selection import GridSearchCV, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    if kind not in KINDS:
        raise ValueError(f'kind={kind!r} is none of {", ".join(map(repr, KINDS))}.')
    x, y = values.numpy().astype(np.float64), labels.numpy()
    known = tuple(sorted(set(y.tolist())))
    if len(known) < 2:
        raise ValueError('all clips are of one class, so there is nothing to tell apart. Give clips of another class.')
    folds = [fold for fold in folds_of(labels, groups, seed=seed) if len(np.unique(y[fold[0]])) > 1]
    if kind == 'knn':
        smallest = min((len(train) for train, _ in folds), default=len(y))
        estimator = make_pipeline(Normalizer(), KNeighborsClassifier(weights='distance', n_neighbors=1))
        grid = {'kneighborsclassifier__n_neighbors': [k for k in (1, 3, 5, 10, 20) if k <= smallest]}
    elif kind == 'ridge':
        estimator = make_pipeline(StandardScaler(), RidgeClassifier(alpha=100.))
        grid = {'ridgeclassifier__alpha': np.logspace(-1, 5, 7).tolist()}
    else:
        estimator = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000, tol=1e-3))
        grid = {'logisticregression__C': np.logspace(-4, 2, 7).tolist()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of a class that a fold lacks, and of the last digits of a fit
        if not folds:
            return Head(kind, estimator.fit(x, y), known, '', neighbors=int(kind == 'knn'))
        search = GridSearchCV(estimator, grid, cv=folds).fit(x, y)
        (name, chosen), = search.best_params_.items()
        best, temperature = search.best_estimator_, 1.0
        if kind != 'knn' and _judge_all(folds, y):
            held_out = cross_val_predict(best, x, y, cv=folds, method='decision_function')
            if held_out.ndim == 1:
                held_out = np.stack([-held_out, held_out], 1) / 2
            place = {label: index for index, label in enumerate(known)}
            temperature = fit_temperature(
                torch.from_numpy(held_out), torch.tensor([place[label] for label in y.tolist()]))
    return Head(
        kind, best, known, f'{name.rpartition("__")[2]} {chosen:g}', temperature, int(chosen) if kind == 'knn' else 0)


def _judge_all(folds: Sequence[tuple[np.ndarray, np.ndarray]], y: np.ndarray) -> bool:
    """Whether the folds answer every clip once, each knowing all classes; of a class with one clip they cannot."""
    answered = np.sort(np.concatenate([test for _, test in folds]))
    return np.array_equal(answered, np.arange(len(y))) and all(set(y[train]) == set(y) for train, _ in folds)


def folds_of(
        labels: Tensor,
        groups: Sequence[str | None] | None = None,
        *,
        leave_one_out: bool = False,
        seed: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds of cross-validation: pairs of the indices to train and to test on.

    Each class is spread over the folds, and clips of a group stay together. A clip without a group is one of its own.

    Args:
        labels: `[N]`.
        groups: Group of each clip.
        leave_one_out: Whether each group is a fold; else there are five folds or fewer.
        seed: Of the folds.

    Returns:
        The folds. None where there are too few clips or groups for two. The clips to train on may be of one class.
    """
    from sklearn.model_selection import LeaveOneGroupOut, StratifiedGroupKFold, StratifiedKFold

    y = labels.numpy()
    named = groups is not None and set(groups) != {None}
    places = [f'clip {i}' if group is None else f'group {group}' for i, group in enumerate(groups or [None] * len(y))]
    most = int(np.bincount(y).max())
    if leave_one_out:
        splitter = LeaveOneGroupOut()
    elif named:
        splitter = StratifiedGroupKFold(min(FOLDS, len(set(places))), shuffle=True, random_state=seed)
    else:
        splitter = StratifiedKFold(min(FOLDS, max(most, 2)), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of a class with fewer clips than folds
        try:
            found = list(splitter.split(y, y, places))
        except ValueError:  # fewer clips than folds
            return []
    return [(train, test) for train, test in found if len(test)]


def import_sklearn() -> None:
    """Refuses with one sentence where scikit-learn is missing.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ImportError("probes are fitted by scikit-learn: pip install 'flatzoo[probe]'") from error
