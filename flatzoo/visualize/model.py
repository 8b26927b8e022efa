"""The state of a model while it is inspected, and the class that is explained."""
import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from flatzoo.models.base import VideoModel

__all__ = ['check_classes', 'class_indices', 'one_by_one', 'resting', 'whole_cells']


@contextlib.contextmanager
def resting(model: VideoModel) -> Iterator[None]:
    """A context in which a model is in eval mode, with frames in order and parameters without gradients.

    At its end everything is restored. Without this context, layouts that also shuffle frames in eval mode
    (`random:always`) would show another order in every forward.
    """
    layout, training = model.super_image, [(module, module.training) for module in model.modules()]
    shuffles = layout.shuffles_in_eval
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        layout.shuffles_in_eval = False
        for parameter in learning:
            parameter.requires_grad_(False)
        with torch.inference_mode(False):
            yield
    finally:
        layout.shuffles_in_eval = shuffles
        for module, mode in training:
            module.training = mode
        for parameter in learning:
            parameter.requires_grad_(True)


def one_by_one(model: VideoModel, clip: Tensor) -> list[Tensor]:
    """Clips `[B, C, T, H, W]` as B clips `[1, C, T, H, W]` on the model's device.

    Raises:
        ValueError: If the clip has another number of dimensions.
    """
    if clip.ndim != 5:
        raise ValueError(f'a clip has the shape [B, C, T, H, W], got {list(clip.shape)}.')
    return list(clip.clone().to(next(model.parameters()).device).split(1))  # a clone may leave inference mode


@torch.no_grad()
def class_indices(model: VideoModel, clips: list[Tensor], target: int | Sequence[int] | Tensor | None) -> list[int]:
    """The class to explain in each clip.

    Args:
        model: A video model with a classifier.
        clips: Those of `one_by_one`.
        target: Index of a class, one for every clip, or None for the most probable class of each.

    Raises:
        ValueError: If the model does not have this class.
    """
    if target is None:
        return [model(clip)[0].argmax().item() for clip in clips]
    indices = [target] * len(clips) if isinstance(target, int) else [int(index) for index in target]
    if len(indices) != len(clips) or not all(0 <= index < model.num_classes for index in indices):
        raise ValueError(
            f'target={target!r}: accepted are None (the most probable class), one index of 0 to '
            f'{model.num_classes - 1}, or one for each of the {len(clips)} clips.')
    return indices


def check_classes(model: VideoModel) -> None:
    """Refuses models without a classifier."""
    if model.num_classes == 0:
        raise ValueError('this model has num_classes=0: without a classifier no class can be explained.')


def whole_cells(maps: Tensor, grid_size: Sequence[int]) -> Tensor:
    """Maps `[..., h, w]` in which every cell of a grid covers a whole number of points.

    If necessary each point is split into equal points, so that a cell gets exactly the values over it.
    """
    for dim, cells in zip((-2, -1), grid_size, strict=True):
        maps = maps.repeat_interleave(cells // math.gcd(cells, maps.shape[dim]), dim=dim)
    return maps
