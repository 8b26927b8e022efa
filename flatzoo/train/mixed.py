"""Training in bfloat16 on a CPU: whether it is faster, found out by a few steps of the model, and what it cannot do.

CPUs with matrix units multiply bfloat16 several times as fast as fp32, and yet a network gains by it only if products
are most of its work: depthwise convolutions get slower. No rule of ours tells which, so steps are tried.
"""
import torch
from torch import Tensor, nn

from flatzoo.data.lists import some
from flatzoo.models import VideoModel
from flatzoo.runtime import choose_precision
from flatzoo.runtime.choice import shortest
from flatzoo.runtime.conv import check_convolutions, wrong_convolutions

__all__ = ['about_wrong_convolutions', 'bfloat16_gain']

_LONG = 0.5  # seconds of a step that is timed once


def bfloat16_gain(model: VideoModel, clips: int) -> float | None:
    """How many times as fast a training step is under autocast to bfloat16 as in fp32.

    Args:
        model: A model on a CPU, as it will be trained. It is put into training mode and its weights stay, but running
            statistics change, and its convolutions are checked from now on.
        clips: Of a batch.

    Returns:
        The factor, or None where bfloat16 is not for this model or this machine.
    """
    if choose_precision(model) != 'bf16':
        return None
    check_convolutions(model.train())
    with torch.random.fork_rng(devices=[]):
        batch = torch.randint(0, 256, (clips, model.in_chans, model.num_frames, *model.img_size), dtype=torch.uint8)
        ways = [lambda dtype=dtype: _step(model, batch, dtype) for dtype in (None, torch.bfloat16)]
        slow = shortest(*ways, seconds=0, rounds=1)  # loads kernels, checks convolutions
        float32, bfloat16 = shortest(*ways, seconds=0, rounds=1 if max(slow) > _LONG else 3)
    return float32 / bfloat16


def about_wrong_convolutions(model: nn.Module) -> str:
    """A line about the convolutions that are wrong in bfloat16 and train in float32; empty if there are none so far."""
    names = wrong_convolutions(model)
    if not names:
        return ''
    few = len(names) == 1
    return (
        f'in bfloat16 torch {torch.__version__} gets {len(names)} convolution{"" if few else "s"} wrong on this CPU; '
        f'{"it computes" if few else "they compute"} in float32: {some(names)}')


def _step(model: VideoModel, batch: Tensor, dtype: torch.dtype | None) -> None:
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        answer = model(batch)
    answer.float().square().mean().backward()
    model.zero_grad()
