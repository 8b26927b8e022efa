"""Few clips, skewed classes and clips of several classes: which clips are drawn how often, and how they count."""
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.loss import compute_class_weights
from torch import Tensor, nn

from flatzoo.data.lists import NO_CLASS, DataError, VideoList
from flatzoo.data.multi_label import as_multi_label, needs_a_class, one_class_only

from .recipe import Recipe

__all__ = [
    'WeightedCrossEntropy', 'class_counts', 'clip_weights', 'criterion_of', 'few_shot', 'hits', 'one_or_several']


def one_or_several(recipe: Recipe, lists: Sequence[VideoList | None]) -> list[VideoList | None]:
    """The lists of a run, all with one class per clip or all with several, as the recipe or one of the lists says.

    Raises:
        DataError: The recipe says one class, and a list has clips of several; or none of its clips has any.
    """
    for videos in filter(None, lists):
        needs_a_class(videos)
    several = recipe.multi_label
    if several is None:
        several = any(videos is not None and videos.multi_label for videos in lists)
    if several:
        return [videos and as_multi_label(videos) for videos in lists]
    for videos in filter(None, lists):
        one_class_only(videos, '--no-multi-label')
    return list(lists)


def class_counts(videos: VideoList) -> list[int]:
    """Number of clips of each class; a clip of several classes counts for each."""
    counts = [0] * len(videos.classes)
    for clip in videos.clips:
        for label in clip.all_labels:
            counts[label] += 1
    return counts


def few_shot(videos: VideoList, count: int, seed: int) -> VideoList:
    """A few clips of each class, drawn at random, in the order of the list.

    The clips for a number are among those for a larger one. Where clips have several classes, a clip counts for each of
    them, and rare classes draw first. Clips that show none of the classes are drawn as if that were a class.

    Args:
        videos: The list.
        count: Clips of each class; a class that has fewer gives all.
        seed: Of the draw, which also follows from the names of the classes.
    """
    of_class: dict[int, list[int]] = {}
    for place, clip in enumerate(videos.clips):
        for label in clip.all_labels or (NO_CLASS,):
            of_class.setdefault(label, []).append(place)
    chosen: set[int] = set()
    for label in sorted(of_class, key=lambda label: (len(of_class[label]), label)):
        places = list(of_class[label])
        random.Random(f'{seed}/{"" if label == NO_CLASS else videos.classes[label]}').shuffle(places)
        missing = count - len(chosen & set(places))
        chosen |= set([place for place in places if place not in chosen][:max(missing, 0)])
    return replace(videos, clips=tuple(clip for place, clip in enumerate(videos.clips) if place in chosen))


def clip_weights(videos: VideoList, power: float) -> Tensor | None:
    """How often each clip is drawn, float64 `[N]`: its class's number of clips to the power of `-power`.

    A clip of several classes has the weight of its rarest one, and clips that show none of the classes are weighted as
    if that were a class. None for `power` 0, where each clip comes once.
    """
    if not power:
        return None
    counts = dict(enumerate(class_counts(videos)))
    counts[NO_CLASS] = sum(not clip.all_labels for clip in videos.clips)
    return torch.tensor(
        [max(counts[label] ** -power for label in clip.all_labels or (NO_CLASS,)) for clip in videos.clips],
        dtype=torch.float64)


def criterion_of(recipe: Recipe, videos: VideoList) -> dict[str, Any]:
    """The arguments `criterion` or `criterion_kwargs` of timm's tasks.

    Raises:
        DataError: The weights of the classes are for clips of several classes, and these have one.
    """
    plain = dict(smoothing=recipe.smoothing, soft_targets=recipe.mixes)
    if recipe.class_weights == 'none':
        return dict(criterion_kwargs=plain)
    counts = class_counts(videos)
    kind, weights = compute_class_weights(counts, len(videos), recipe.class_weights)
    if videos.multi_label:
        return dict(criterion_kwargs={**plain, kind: weights})
    if kind == 'pos_weight':
        raise DataError(
            f'class_weights {recipe.class_weights} balances the presence of a class with its absence, so it is for '
            'clips of several classes. Take inv_freq or effective_num.')
    share = torch.tensor(counts) / len(videos)
    return dict(criterion=WeightedCrossEntropy(weights / (weights * share).sum(), recipe.smoothing))


class WeightedCrossEntropy(nn.Module):
    """Cross-entropy in which each class has a weight. timm's loss of softmax scores takes none.

    torch divides by the weights of the batch, so that a batch of one clip would know no weights. Here the mean is over
    the clips.

    Args:
        weights: `[K]`; their mean over the clips of the data set should be 1, so that learning rates stay what they
            are.
        smoothing: Of labels that are not mixed.
    """

    def __init__(self, weights: Tensor, smoothing: float = 0.0):
        super().__init__()
        self.register_buffer('weights', weights.float())
        self.smoothing = smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of logits `[B, K]` for classes `[B]` or shares of classes `[B, K]`."""
        if target.ndim == 1:
            target = F.one_hot(target, logits.shape[-1]).to(logits.dtype)
            target = target * (1 - self.smoothing) + self.smoothing / logits.shape[-1]
        return F.cross_entropy(logits, target, weight=self.weights)


def hits(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """How many clips have their highest score at one of their classes.

    Args:
        logits: `[B, K]`.
        labels: Classes `[B]`, or 1 for each of several, `[B, K]`.
        target: The same, or shares `[B, K]` after mixing; of mixed clips the largest share counts.
    """
    answer = logits.argmax(1)
    if labels.ndim == 2:
        return (target.gather(1, answer[:, None])[:, 0] >= 0.5).sum()
    return (answer == (labels if target.ndim == 1 else target.argmax(1))).sum()
