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
from .heads_several import SetHead, answers_of, fit_set_head, map_interval, set_folds
from .multi_label import MultiLabelEvaluation
from .statistics import accuracy_interval
from .token_probe import TOKEN_KINDS, answer_tokens, new_probe, token_logits, train_tokens

if TYPE_CHECKING:
    from flatzoo.models import VideoModel

__all__ = ['ALL_KINDS', 'ProbeResult', 'probe']

ALL_KINDS = (*KINDS, *TOKEN_KINDS)
REFIT = 'the head that is saved learns from all clips; the figure is that of heads that learn from a part of them'


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """What a probe found.

    Attributes:
        kind: Kind of the head.
        evaluation: Its answers on clips that it was not fitted to; where clips may have several classes, a
            `MultiLabelEvaluation`.
        interval: 95 % interval of the accuracy (of several classes: of `map`), in per cent.
        tested_on: Which clips those were, as text.
        penalty: What cross-validation chose, as text.
        notes: What a user should know, a sentence each.
        seconds: Duration of fitting and testing.
        classes: Names of the classes that the head knows.
        features: The features.
        head: What was fitted: a `Head`, a `SetHead` or a `Probe` model.
        fitted_to: Indices of the clips that it was fitted to.
    """
    kind: str
    evaluation: Evaluation | MultiLabelEvaluation
    interval: tuple[float, float]
    tested_on: str
    penalty: str
    notes: tuple[str, ...]
    seconds: float
    classes: tuple[str, ...]
    features: Features = field(repr=False)
    head: Any = field(repr=False)
    fitted_to: tuple[int, ...] = field(repr=False)
    _embedder: Embedder | None = field(default=None, repr=False)

    @property
    def accuracy(self) -> float:
        """Share of right answers, in per cent.

        Raises:
            ValueError: Clips may have several classes.
        """
        if self.features.multi_label:
            raise ValueError('these clips may have several classes: take map in place of accuracy.')
        return self.evaluation.top1

    @property
    def map(self) -> float:
        """Mean average precision of the classes, in per cent, where clips may have several.

        Raises:
            ValueError: Each clip has one class.
        """
        if not self.features.multi_label:
            raise ValueError('each of these clips has one class: take accuracy in place of map.')
        return self.evaluation.map

    def model(self) -> 'VideoModel':
        """The backbone with the head, as a video model in eval mode.

        Raises:
            ValueError: The logits of the model are no linear layer on its features, or it has none for neighbours.
        """
        from flatzoo.inference.neighbours import neighbours_model

        from .probe_model import lend_backbone, linear_model

        embedder = self._embedder or Embedder.of_settings(self.features.settings)
        if self.kind == 'knn':
            return neighbours_model(embedder, self.features.select(self.fitted_to), self.head.neighbors)
        if isinstance(self.head, (Head, SetHead)):
            model = linear_model(embedder, *self.head.linear())
        else:
            model = self.head
        model.pretrained_cfg = {**model.pretrained_cfg, 'label_names': self.classes}
        model.saved_protocol, model.head_trained = embedder.protocol, True
        model.multi_label = self.features.multi_label
        lend_backbone(model, self.features.settings)
        return model.eval()

    def save(self, folder: str | os.PathLike, with_backbone: bool = False) -> Path:
        """Saves the model, which every command takes. Nearest neighbours save the features that they answer by; such a
        folder cannot be pushed.

        Args:
            folder: Where to.
            with_backbone: Whether to copy the backbone, too. Else it is named, with a digest of its weights.

        Raises:
            ValueError: See `model`, or nearest neighbours of tokens or with their backbone.
            OSError: The folder cannot be written. Its content stays unchanged.
        """
        from flatzoo.hub.push import save_pretrained
        from flatzoo.inference.neighbours import save_neighbours

        if self.kind != 'knn':
            return save_pretrained(self.model(), folder, label_names=self.classes, with_backbone=with_backbone)
        if with_backbone:
            raise ValueError(
                'nearest neighbours are saved as features, which name their backbone and cannot carry it. Leave '
                'with_backbone out, or take ridge or logistic.')
        return save_neighbours(self.features.select(self.fitted_to), self.head.neighbors, folder)


def probe(
        source: Any,
        kind: str = 'logistic',
        model: 'str | VideoModel | Embedder | None' = None,
        *,
        features: str | os.PathLike | None = None,
        leave_group_out: bool = False,
        leave_out: Sequence[str] = (),
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
        leave_out: Groups to measure on, over all splits; all other clips fit the head.
        seed: Of folds and random weights.
        probe_args: Of an attentive probe or STEP: its arguments, and `lr`, `weight_decay`, `epochs`.
        **kwargs: Of lists: further arguments of `flatzoo.embed`.

    Raises:
        ValueError: There is too little to learn from, or the features do not fit the kind.
        ImportError: scikit-learn or pyarrow is not installed.
    """
    if kind not in ALL_KINDS:
        raise ValueError(f'kind={kind!r} is none of {", ".join(map(repr, ALL_KINDS))}.')
    if probe_args and kind in KINDS:
        raise ValueError(
            f'probe_args ({", ".join(probe_args)}) are for attentive, step and linear; what {kind} needs is chosen by '
            'cross-validation.')
    import_sklearn()
    embedder = None
    if isinstance(source, (str, os.PathLike)) and model is None:
        source = load_features(source)
    if not isinstance(source, Features):
        if model is None:
            raise ValueError('a list of clips needs a model that looks at them: give its name.')
        names = 'batch_size', 'workers', 'progress', 'processes', 'note'
        options = {name: kwargs.pop(name) for name in names if name in kwargs}
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
    if source.multi_label:
        return _of_several(source, values, kind, embedder, notes, start, leave_group_out, leave_out, seed, probe_args)

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
        args, training = _token_args(probe_args)
        network = new_probe(embedder.model, kind, len(known), seed, **args)
        train_tokens(network, values[index], torch.searchsorted(known, labels), seed=seed, **training)
        return network, tuple(known.tolist()), lambda tokens: known[answer_tokens(network, tokens)]

    train, test, tested_on = _division(source, leave_group_out, leave_out)
    if test is not None:
        head, known, answer = fit(train)
        index = torch.as_tensor(test)
        truth, answers = source.labels[index], answer(values[index])
    else:
        answers = torch.full((len(source),), -1)
        for fit_on, test_on in _folds(source, leave_group_out, seed):
            known, test_on = source.labels[torch.as_tensor(fit_on)].unique(), torch.as_tensor(test_on)
            # with one class there is nothing to fit
            answers[test_on] = known if len(known) == 1 else fit(fit_on)[2](values[test_on])
        index = torch.arange(len(source))
        truth = source.labels
        head, known, _ = fit(train)
        notes.append(REFIT)
    notes += _notes(source, train, index.tolist(), known, getattr(head, 'penalty', 'fixed') == '')
    groups = [source.groups[i] for i in index.tolist()]
    low, high = accuracy_interval(truth == answers, groups, seed)
    return ProbeResult(
        kind, _count(source.classes, truth, answers), (100 * low, 100 * high), tested_on,
        getattr(head, 'penalty', ''), tuple(notes), time.monotonic() - start,
        tuple(source.classes[label] for label in known), source, head, tuple(train), embedder)


def _of_several(
        source: Features,
        values: Tensor,
        kind: str,
        embedder: Embedder | None,
        notes: list[str],
        start: float,
        leave_group_out: bool,
        leave_out: Sequence[str],
        seed: int,
        probe_args: dict[str, Any] | None,
) -> ProbeResult:
    """A probe of clips that may have several classes."""
    targets, size = source.targets, len(source.classes)

    def fit(indices: Sequence[int]) -> tuple[Any, tuple[int, ...], Callable[[Tensor], Tensor]]:
        index = torch.as_tensor(indices)
        if kind in KINDS:
            head = fit_set_head(kind, values[index], targets[index], [source.groups[i] for i in index.tolist()], seed)
            return head, head.labels, lambda new: answers_of(head.labels, head.logits(new), size)
        known = (targets[index].sum(0) > 0).nonzero().flatten()
        args, training = _token_args(probe_args)
        network = new_probe(embedder.model, kind, len(known), seed, **args)
        train_tokens(network, values[index], targets[index][:, known], seed=seed, **training)
        return network, tuple(known.tolist()), lambda new: answers_of(known.tolist(), token_logits(network, new), size)

    train, test, tested_on = _division(source, leave_group_out, leave_out)
    for part, what in ((train, 'to learn from'), (test, 'to measure on')):
        if part is not None and not targets[torch.as_tensor(part)].any():
            raise ValueError(f'none of the {len(part)} clips {what} shows any of the classes. Add clips that do.')
    head, known, answer = fit(train)
    if test is not None:
        index = torch.as_tensor(test)
        logits = answer(values[index])
    else:
        index, logits = torch.arange(len(source)), answers_of((), torch.zeros(len(source), 0), size)
        folds = set_folds(len(source), source.groups, leave_one_out=leave_group_out, seed=seed)
        if not folds:
            raise ValueError('all clips are of one group, so that none can be left out. Give clips of another one.')
        for fit_on, test_on in folds:
            logits[torch.as_tensor(test_on)] = fit(fit_on)[2](values[torch.as_tensor(test_on)])
        notes.append(REFIT)
    notes += _notes(source, train, index.tolist(), known, getattr(head, 'penalty', 'fixed') == '')
    low, high = map_interval(logits, targets[index], [source.groups[i] for i in index.tolist()], seed)
    return ProbeResult(
        kind, MultiLabelEvaluation(source.classes, logits, targets[index]), (100 * low, 100 * high), tested_on,
        getattr(head, 'penalty', ''), tuple(notes), time.monotonic() - start,
        tuple(source.classes[label] for label in known), source, head, tuple(train), embedder)


def _token_args(probe_args: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a probe, and those of its training."""
    args = dict(probe_args or {})
    return args, {name: args.pop(name) for name in ('lr', 'weight_decay', 'epochs') if name in args}


def _usable(features: Features) -> tuple[list[str], Features]:
    """What is to be said of the features, and those that have a class."""
    notes = []
    if features.errors:
        notes.append(f'{len(features.errors)} clips could not be read and are left out')
    has_class = features.targets.sum(1) > 0
    none = torch.tensor([features.multi_label and row.label == '' for row in features.rows])  # a label, too
    if not has_class.any():
        raise ValueError(
            'the clips have no classes. Embed a data set (SPEC ROOT), such as a folder with a folder for each class.')
    if none.any():
        notes.append(f'{int(none.sum())} of {len(features)} clips have an empty label and count as clips of no class')
    labelled = (has_class | none).nonzero().flatten()
    if len(labelled) < len(features):
        notes.append(f'{len(features) - len(labelled)} clips have no label and are left out')
        features = features.select(labelled)
    if not features.multi_label and len(features.labels.unique()) < 2:
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


def _division(
        features: Features,
        leave_group_out: bool,
        leave_out: Sequence[str] = (),
) -> tuple[list[int], list[int] | None, str]:
    """Indices of the clips to fit to and to test on (None for cross-validation), and what the latter are."""
    everything = list(range(len(features)))
    if leave_out:
        known = sorted(set(features.groups) - {None})
        if leave_group_out:
            raise ValueError('leave_group_out leaves every group out in turn: leave leave_out out.')
        if wrong := sorted(set(leave_out) - set(known)):
            raise ValueError(
                f'there is no group {wrong[0]}; ' + (f'the groups are {", ".join(known[:10])}.' if known else
                'no clip has one. Name the group of each clip in groups.csv in the folder of the data set (columns '
                'path and group), and embed again.'))
        test = [index for index, group in enumerate(features.groups) if group in leave_out]
        train = [index for index in everything if features.groups[index] not in leave_out]
        if not train:
            raise ValueError('all clips are of these groups, so nothing is left to learn from.')
        return train, test, f'the clips of {", ".join(leave_out)}, left out of the fit'
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
    labels = features.labels
    folds = folds_of(labels, features.groups, leave_one_out=leave_group_out, seed=seed)
    if not any(len(labels[torch.as_tensor(train)].unique()) > 1 for train, _ in folds):
        raise ValueError(
            f'{len(features)} clips are too few for cross-validation: where a part is left out, clips of two classes '
            'must remain. Give more clips, of more groups if groups are named.')
    return folds


def _notes(
        features: Features,
        train: Sequence[int],
        test: Sequence[int],
        known: tuple[int, ...],
        no_choice: bool,
) -> list[str]:
    counts = features.targets[torch.as_tensor(train)].sum(0)
    notes = []
    single = [features.classes[label] for label in (counts == 1).nonzero().flatten().tolist()]
    if single:
        notes.append(f'classes with a single clip to learn from: {", ".join(single[:5])}')
    if no_choice:
        notes.append('there were too few clips to choose the penalty by cross-validation')
    tested = features.targets[torch.as_tensor(test)].sum(0).nonzero().flatten().tolist()
    unseen = sorted(features.classes[label] for label in tested if label not in known)
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
