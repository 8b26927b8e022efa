"""A classifier from few clips: features of a frozen network, and a head that is fitted to them in seconds."""
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flatzoo.inference.embed import embed
from flatzoo.inference.embedder import Embedder
from flatzoo.inference.features import Features, load_features

from .evaluate import Evaluation
from .heads import KINDS, Head, fit_head, folds_of, import_sklearn
from .statistics import accuracy_interval
from .token_probe import TOKEN_KINDS, answer_tokens, new_probe, train_tokens

if TYPE_CHECKING:
    from flatzoo.models import VideoModel

__all__ = ['ALL_KINDS', 'ProbeResult', 'probe']

ALL_KINDS = (*KINDS, *TOKEN_KINDS)


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """What a probe found.

    Attributes:
        kind: Kind of the head.
        evaluation: Its answers on clips that it was not fitted to.
        interval: 95 % interval of the accuracy, in per cent.
        tested_on: Which clips those were, as text.
        penalty: What cross-validation chose, as text.
        notes: What a user should know, a sentence each.
        seconds: Duration of fitting and testing.
        classes: Names of the classes that the head knows.
        features: The features.
        head: What was fitted: a `Head`, or a `Probe` model.
    """
    kind: str
    evaluation: Evaluation
    interval: tuple[float, float]
    tested_on: str
    penalty: str
    notes: tuple[str, ...]
    seconds: float
    classes: tuple[str, ...]
    features: Features = field(repr=False)
    head: Any = field(repr=False)
    _embedder: Embedder | None = field(default=None, repr=False)

    @property
    def accuracy(self) -> float:
        """Share of right answers, in per cent."""
        return self.evaluation.top1

    def model(self) -> 'VideoModel':
        """The backbone with the head, as a video model in eval mode.

        Raises:
            ValueError: Nearest neighbours, or a model whose logits are no linear layer on its features.
        """
        from .probe_model import lend_backbone, linear_model

        embedder = self._embedder or Embedder.of_settings(self.features.settings)
        if isinstance(self.head, Head):
            model = linear_model(embedder, *self.head.linear())
        else:
            model = self.head
        model.pretrained_cfg = {**model.pretrained_cfg, 'label_names': self.classes}
        model.saved_protocol, model.head_trained = embedder.protocol, True
        lend_backbone(model, self.features.settings)
        return model.eval()

    def save(self, folder: str | os.PathLike, with_backbone: bool = False) -> Path:
        """Saves the model, which every command takes; nearest neighbours save their features.

        Args:
            folder: Where to.
            with_backbone: Whether to copy the backbone, too. Else it is named, with a digest of its weights.

        Raises:
            ValueError: See `model`.
            OSError: The folder cannot be written. Its content stays unchanged.
        """
        from flatzoo.hub.push import save_pretrained
        from flatzoo.inference.features import FeatureStore

        if self.kind != 'knn':
            return save_pretrained(self.model(), folder, label_names=self.classes, with_backbone=with_backbone)
        store = FeatureStore(folder)
        store.open(self.features.settings)
        store.classes = self.features.classes
        new = [index for index, row in enumerate(self.features.rows) if row.key not in store.rows]
        if new:
            store.add([self.features.values[index] for index in new], [self.features.rows[index] for index in new])
        return Path(folder)


def probe(
        source: Any,
        kind: str = 'logistic',
        model: 'str | VideoModel | Embedder | None' = None,
        *,
        features: str | os.PathLike | None = None,
        leave_group_out: bool = False,
        seed: int = 0,
        probe_args: dict[str, Any] | None = None,
        **kwargs: Any,
) -> ProbeResult:
    """Fits a classifier to features of a frozen network and measures it on clips that it has not seen.

        result = flatzoo.probe('features/')
        result.accuracy, result.interval
        result.save('runs/mine')

    Clips of the split `train` fit the head, and those of `val` (or else `test`) measure it. Without such splits it is
    measured by cross-validation, which keeps groups apart, and then fitted to all clips.

    Args:
        source: `Features`, a folder of them, or a `VideoList` or several.
        kind: `'knn'`, `'ridge'` or `'logistic'` of scikit-learn, or `'attentive'`, `'step'` or `'linear'` of
            `flatzoo.models.probe`, which read tokens (`flatzoo.embed(..., tokens=True)`).
        model: Of lists: the model that looks at the clips, see `flatzoo.embed`.
        features: Of lists: folder that keeps the features.
        leave_group_out: Whether to measure by leaving out one group (person) after the other, over all splits.
        seed: Of folds and random weights.
        probe_args: Of an attentive probe or STEP: its arguments, and `lr`, `weight_decay`, `epochs`.
        **kwargs: Of lists: further arguments of `flatzoo.embed`.

    Raises:
        ValueError: There is too little to learn from, or the features do not fit the kind.
        ImportError: scikit-learn or pyarrow is not installed.
    """
    if kind not in ALL_KINDS:
        raise ValueError(f'kind={kind!r} is none of {", ".join(map(repr, ALL_KINDS))}.')
    import_sklearn()
    embedder = None
    if isinstance(source, (str, os.PathLike)) and model is None:
        source = load_features(source)
    if not isinstance(source, Features):
        if model is None:
            raise ValueError('a list of clips needs a model that looks at them: give its name.')
        options = {name: kwargs.pop(name) for name in ('batch_size', 'workers', 'progress') if name in kwargs}
        embedder = model if isinstance(model, Embedder) else Embedder(
            model, **{'tokens': kind in TOKEN_KINDS, **kwargs})
        source = embed(source, embedder, features, **options)
    start = time.monotonic()
    notes, source = _usable(source)
    is_tokens = bool(source.settings.get('tokens'))
    if kind in TOKEN_KINDS or is_tokens:
        if not is_tokens:
            raise ValueError(
                f'a probe of kind {kind} reads tokens, and these features are pooled. Embed with tokens (--tokens), or '
                'take knn, ridge or logistic.')
        embedder = embedder or Embedder.of_settings(source.settings)
    values = _values(source, kind, embedder)

    def fit(indices: Sequence[int]) -> tuple[Any, tuple[int, ...], Callable[[Tensor], Tensor]]:
        """A head, the labels of its classes, and what answers with these labels."""
        index = torch.as_tensor(indices)
        labels, groups = source.labels[index], [source.groups[i] for i in index.tolist()]
        if kind in KINDS:
            head = fit_head(kind, values[index], labels, groups, seed)
            return head, head.labels, head.answer
        known = labels.unique()
        if len(known) < 2:
            raise ValueError('all clips are of one class, so there is nothing to tell apart.')
        args = dict(probe_args or {})
        training = {name: args.pop(name) for name in ('lr', 'weight_decay', 'epochs') if name in args}
        network = new_probe(embedder.model, kind, len(known), seed, **args)
        train_tokens(network, values[index], torch.searchsorted(known, labels), seed=seed, **training)
        return network, tuple(known.tolist()), lambda tokens: known[answer_tokens(network, tokens)]

    train, test, tested_on = _division(source, leave_group_out)
    if test is not None:
        head, known, answer = fit(train)
        index = torch.as_tensor(test)
        truth, answers = source.labels[index], answer(values[index])
    else:
        answers = torch.full((len(source),), -1)
        for fit_on, test_on in _folds(source, leave_group_out, seed):
            answers[torch.as_tensor(test_on)] = fit(fit_on)[2](values[torch.as_tensor(test_on)])
        index = torch.arange(len(source))
        truth = source.labels
        head, known, _ = fit(train)
        notes.append('the saved head is fitted to all clips; the accuracy is that of heads fitted to a part of them')
    notes += _notes(source, train, index.tolist(), known, getattr(head, 'penalty', 'fixed') == '')
    groups = [source.groups[i] for i in index.tolist()]
    low, high = accuracy_interval(truth == answers, groups, seed)
    return ProbeResult(
        kind, _count(source.classes, truth, answers), (100 * low, 100 * high), tested_on,
        getattr(head, 'penalty', ''), tuple(notes), time.monotonic() - start,
        tuple(source.classes[label] for label in known), source, head, embedder)


def _usable(features: Features) -> tuple[list[str], Features]:
    """What is to be said of the features, and those that have a class."""
    notes = []
    if features.errors:
        notes.append(f'{len(features.errors)} clips could not be read and are left out')
    labelled = (features.labels >= 0).nonzero().flatten()
    if len(labelled) < 2:
        raise ValueError(
            'the clips have no classes. Embed a data set (SPEC ROOT), such as a folder with a folder for each class.')
    if len(labelled) < len(features):
        notes.append(f'{len(features) - len(labelled)} clips have no class and are left out')
        features = features.select(labelled)
    if len(features.labels.unique()) < 2:
        raise ValueError(
            f'all clips are of one class ({features.rows[0].label}), so there is nothing to tell apart. Give clips of '
            'another class, such as one of clips that show nothing of interest.')
    bad = (~features.values.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f'the features of {len(bad)} clips are not finite, such as that of {features.rows[bad[0]].path}. Embed '
            'again with sound weights.')
    return notes, features


def _values(features: Features, kind: str, embedder: Embedder | None) -> Tensor:
    """What the head reads: features `[N, D]`, or tokens `[N, K, ...]`."""
    if kind in TOKEN_KINDS:
        return features.values
    if not features.settings.get('tokens'):
        return features.pooled()
    with torch.inference_mode():
        pooled = [
            embedder.model.forward_head(part.flatten(0, 1), pre_logits=True) for part in features.values.split(32)]
    return torch.cat(pooled).float().clone()


def _division(features: Features, leave_group_out: bool) -> tuple[list[int], list[int] | None, str]:
    """Indices of the clips to fit to and to test on (None for cross-validation), and what the latter are."""
    everything = list(range(len(features)))
    if leave_group_out:
        count = len(set(features.groups) - {None})
        if count < 2:
            raise ValueError(
                f'leaving a group out needs at least two groups; {count} named. Name the group of each clip in '
                'groups.csv in the folder of the data set (columns path and group), and embed again.')
        return everything, None, f'each of {count} groups, left out of the fit'
    by_split = {split: [i for i, row in enumerate(features.rows) if row.split == split] for split in features.splits}
    test = next((split for split in ('val', 'test') if by_split.get(split)), None)
    if by_split.get('train') and test:
        return by_split['train'], by_split[test], f'the split {test}'
    return everything, None, 'clips left out of the fit, by cross-validation'


def _folds(features: Features, leave_group_out: bool, seed: int) -> list[tuple[Any, Any]]:
    folds = folds_of(features.labels, features.groups, leave_one_out=leave_group_out, seed=seed)
    if not folds:
        raise ValueError(
            f'{len(features)} clips are too few for cross-validation: each class needs two clips, and two groups if '
            'groups are named.')
    return folds


def _notes(
        features: Features,
        train: Sequence[int],
        test: Sequence[int],
        known: tuple[int, ...],
        no_choice: bool,
) -> list[str]:
    counts = features.labels[torch.as_tensor(train)].bincount(minlength=len(features.classes))
    notes = []
    single = [features.classes[label] for label in (counts == 1).nonzero().flatten().tolist()]
    if single:
        notes.append(f'classes with a single clip to learn from: {", ".join(single[:5])}')
    if no_choice:
        notes.append('there were too few clips to choose the penalty by cross-validation')
    unseen = sorted({features.classes[label] for label in features.labels[torch.as_tensor(test)].tolist()
                     if label not in known})
    if unseen:
        notes.append(f'classes without a clip to learn from, whose clips count as wrong: {", ".join(unseen[:5])}')
    groups = {features.groups[i] for i in train} & {features.groups[i] for i in test} - {None}
    if groups and len(train) < len(features):
        notes.append(
            f'{len(groups)} groups are in both splits, such as {min(groups)}: the accuracy flatters. Try '
            '--leave-group-out')
    return notes


def _count(classes: tuple[str, ...], truth: Tensor, answers: Tensor) -> Evaluation:
    """The answers as a confusion matrix; a clip that no fold answered (-1) counts as wrong."""
    size = len(classes)
    good = answers >= 0
    confusion = (truth[good] * size + answers[good]).bincount(minlength=size * size).view(size, size)
    return Evaluation(
        classes, confusion, confusion.diagonal().clone(), truth[~good].bincount(minlength=size))
