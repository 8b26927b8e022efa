"""The controls: what is left of a clip when its order, its motion or its background is taken away.

A model that answers as well without its order does not use the order. That it answers worse is no proof that it does:
a linear layer on the features of all slots breaks when frames change their slots, though it may look at one frame
alone. So every clip is also shown as a single frame in two ways: held still, and in its own place among the frames of
another clip, where each slot sees what it is used to. And it is shown in several random orders whose logits are
averaged, which depends on the frames and not on their order.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from .subject import Subject

__all__ = ['CONTROLS', 'ORDER_FREE', 'SHUFFLES', 'SINGLE_FRAME', 'Answers', 'ask', 'without_background']

SHUFFLES = 4  # random orders whose logits are averaged

CONTROLS = {
    'in_order': 'frames in order',
    'reversed': 'frames reversed',
    'shuffled': 'frames shuffled, one random order',
    'mean_of_shuffles': f'mean of {SHUFFLES} random orders',
    'mean_of_frames': 'mean of single frames, each held still',
    'first_frame': 'first frame, held still',
    'middle_frame': 'middle frame, held still',
    'best_frame': 'best frame, held still (place chosen on other clips)',
    'confident_frame': 'most confident of all frames, held still',
    'frame_in_place': 'best single frame in its place, the others from another clip',
    'no_background': 'background removed (temporal median)',
    'rate_halved': 'frame rate halved: every second frame, held',
    'rate_doubled': 'frame rate doubled: the middle half of the clip',
}
"""Controls and what is shown."""
SINGLE_FRAME = ('first_frame', 'middle_frame', 'best_frame', 'frame_in_place')
# to find the most confident frame, all of them are looked at
ORDER_FREE = (*SINGLE_FRAME, 'confident_frame', 'mean_of_frames', 'mean_of_shuffles')


@dataclass
class Answers:
    """Logits of some clips under all controls.

    Attributes:
        plain: Logits `[B, K]` by the name of a control.
        held: Logits of each frame held still, `[B, T, K]`.
        placed: Logits of each frame in its place among the frames of another clip, `[B, T, K]`.
    """
    plain: dict[str, Tensor]
    held: Tensor
    placed: Tensor

    @classmethod
    def cat(cls, parts: list['Answers']) -> 'Answers':
        """The answers of several batches."""
        plain = {name: torch.cat([part.plain[name] for part in parts]) for name in parts[0].plain}
        return cls(plain, torch.cat([part.held for part in parts]), torch.cat([part.placed for part in parts]))


def ask(
        subject: Subject,
        clips: Tensor,
        middle: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        batch_size: int = 8,
) -> Answers:
    """Asks a model about clips under all controls.

    Args:
        subject: The model.
        clips: uint8 `[B, C, T, H, W]`.
        middle: The same number of frames from the middle half of each video.
        labels: `[B]`; the other clip, whose frames stand around a single one, has another class if there is one.
        generator: Source of the random orders.
        batch_size: Clips that the model sees at a time.
    """
    count, frames = len(clips), clips.shape[2]

    def logits(shown: Tensor) -> Tensor:
        return torch.cat([subject.logits(part) for part in shown.split(batch_size)])

    def shuffled() -> Tensor:
        orders = torch.stack([torch.randperm(frames, generator=generator) for _ in range(count)])
        return torch.stack([clip[:, order] for clip, order in zip(clips, orders)])

    donors = clips[_donors(labels)]
    held, placed = [], []
    for frame in range(frames):
        still = clips[:, :, frame:frame + 1].expand_as(clips)
        held.append(logits(still.contiguous()))
        among = donors.clone()
        among[:, :, frame] = clips[:, :, frame]
        placed.append(logits(among))
    held, placed = torch.stack(held, 1), torch.stack(placed, 1)
    orders = [logits(shuffled()) for _ in range(SHUFFLES)]
    plain = {
        'in_order': logits(clips),
        'reversed': logits(clips.flip(2)),
        'shuffled': orders[0],
        'mean_of_shuffles': torch.stack(orders).log_softmax(-1).mean(0),
        'mean_of_frames': held.log_softmax(-1).mean(1),
        'first_frame': held[:, 0],
        'middle_frame': held[:, frames // 2],
        'confident_frame': held[torch.arange(count), held.softmax(-1).amax(-1).argmax(1)],
        'no_background': logits(without_background(clips)),
        'rate_halved': logits(clips[:, :, torch.arange(frames) // 2 * 2]),
        'rate_doubled': logits(middle),
    }
    return Answers(plain, held, placed)


def without_background(clips: Tensor) -> Tensor:
    """Clips with their temporal median taken away, on grey: uint8 `[B, C, T, H, W]`."""
    median = clips.median(2, keepdim=True).values.short()
    return (clips.short() - median + 128).clamp(0, 255).to(torch.uint8)


def _donors(labels: Tensor) -> Tensor:
    """For each clip the next one of another class; the next one if all are of one class."""
    count = len(labels)
    found = []
    for index in range(count):
        others = [(index + step) % count for step in range(1, count)] or [index]
        found.append(next((other for other in others if labels[other] != labels[index]), others[0]))
    return torch.tensor(found)
