"""How much each frame of a clip matters."""
from collections.abc import Sequence

import torch
from torch import Tensor

from flatzoo.models.base import VideoModel

from .model import check_classes, class_indices, one_by_one, resting

__all__ = ['frame_importance']


@torch.no_grad()
def frame_importance(
        model: VideoModel,
        clip: Tensor,
        target: int | Sequence[int] | Tensor | None = None,
        batch_size: int = 8,
) -> Tensor:
    """How much the probability of a class falls when a frame is taken away.

    One frame at a time is replaced by the frame before it (the first frame by the second). The result is a video
    without that moment. A grey frame is not used, because no training clip has one in its middle: the result would show
    how the model reacts to an unknown input. A frame that only repeats its neighbour has importance 0.

    Args:
        model: A video model with a classifier.
        clip: `[B, C, T, H, W]`, float normalised or uint8, T at least 2.
        target: The class: an index, one index per clip, or None for the most probable class of each clip.
        batch_size: Clips that the model sees at a time. Each clip of the batch needs T of them.

    Returns:
        float32 `[B, T]`, -1...1: the probability of the class minus its probability without the frame. Frames above 0
        support the class, frames below 0 contradict it.

    Raises:
        ValueError: If the model has no classifier, or not this class, or the clip has one frame only.
    """
    check_classes(model)
    num_frames = model.num_frames
    if num_frames < 2:
        raise ValueError('a clip of one frame has no neighbour to replace it with: its importance is not defined.')
    kept = torch.arange(num_frames).repeat(num_frames, 1)  # [T, T], row t without frame t
    kept.diagonal().copy_(torch.tensor([1, *range(num_frames - 1)]))
    rows = []
    with resting(model):
        clips = one_by_one(model, clip)
        logits = torch.cat([model(one) for one in clips]).float()
        targets = class_indices(model, clips, logits.argmax(-1) if target is None else target)
        for one, all_frames, index in zip(clips, logits, targets, strict=True):
            without = torch.cat([
                model(one[0][:, part].transpose(0, 1)) for part in kept.to(one.device).split(batch_size)]).float()
            rows.append(model.probabilities(all_frames)[index] - model.probabilities(without)[:, index])
    return torch.stack(rows).cpu()
