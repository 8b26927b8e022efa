"""Lists whose clips may have several classes at once: an action and the object, or two actions that overlap."""
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .lists import Clip, DataError, VideoList

__all__ = ['as_multi_label', 'label_targets', 'needs_a_class', 'one_class_only', 'targets_of']


def label_targets(clips: Iterable[Clip], num_classes: int, renamed: Sequence[int] | None = None) -> Tensor:
    """What a classifier should answer: 1 for the classes of a clip and 0 for all others.

    Args:
        clips: N clips.
        num_classes: Number of classes K.
        renamed: Another label for each class, such as that of the mirrored clip.

    Returns:
        float32 `[N, K]`.
    """
    clips = list(clips)
    targets = torch.zeros(len(clips), num_classes)
    for row, clip in zip(targets, clips):
        row[[label if renamed is None else renamed[label] for label in clip.all_labels]] = 1
    return targets


def targets_of(videos: VideoList) -> Tensor:
    """The targets of all clips of a list, float32 `[N, K]`."""
    return label_targets(videos.clips, len(videos.classes))


def as_multi_label(videos: VideoList) -> VideoList:
    """The same clips, each with a set of classes, as models with independent scores are trained and measured."""
    if videos.multi_label:
        return videos
    clips = tuple(replace(clip, labels=(clip.label,)) for clip in videos.clips)
    return replace(videos, clips=clips, metric='map')


def needs_a_class(videos: VideoList) -> None:
    """Refuses a list of which no clip shows any of the classes: nothing can be learned from it or measured on it.

    Args:
        videos: The list.

    Raises:
        DataError: It is one.
    """
    if not any(clip.all_labels for clip in videos.clips):
        raise DataError(
            f'{videos.name} ({videos.split}): none of its {len(videos)} clips shows any of the classes. Add clips that '
            'do.')


def one_class_only(videos: VideoList, what: str) -> None:
    """Refuses a list whose clips have several classes.

    Args:
        videos: The list.
        what: What cannot be done with it, as the begin of a sentence.

    Raises:
        DataError: It is one.
    """
    if videos.multi_label:
        raise DataError(
            f'{what}: {videos.name} ({videos.split}) has clips of several classes. Give a list with one '
            'class per clip.')
