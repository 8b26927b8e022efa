"""A few steps of the model, tried on a CPU before a run: how long they take, and whether bfloat16 is faster.

CPUs with matrix units multiply bfloat16 several times as fast as fp32, and yet a network gains by it only if products
are most of its work: depthwise convolutions get slower. No rule of ours tells which, nor how long a network takes on
the machine at hand, so steps are tried.
"""
import torch
from torch import Tensor, nn

from flatzoo.data.lists import some
from flatzoo.models import VideoModel
from flatzoo.runtime import choose_precision
from flatzoo.runtime.choice import shortest
from flatzoo.runtime.conv import check_convolutions, wrong_convolutions

__all__ = ['about_wrong_convolutions', 'time_steps']

_FIRST = 2  # clips of the first try: batch norms cannot do with one
_LONG = 1.0  # seconds of a step from which on it is tried once, and not with more clips
_VERY_LONG = 5.0  # from which on it is not repeated: what a first step does once is a small part of it


def time_steps(model: VideoModel, clips: int) -> tuple[float, float | None]:
    """The seconds that a training step takes for each of its clips: forward and backward, in fp32 and in bfloat16.

    Args:
        model: A model on a CPU, as it will be trained. It is put into training mode and its weights stay, but running
            statistics change, and where bfloat16 is tried its convolutions are checked from now on.
        clips: Of a batch. Fewer are tried where two of them take long.

    Returns:
        Both times; None for bfloat16 where that is not for this model or this machine.
    """
    dtypes: list[torch.dtype | None] = [None]
    if choose_precision(model) == 'bf16':
        dtypes.append(torch.bfloat16)
        check_convolutions(model)
    model.train()
    seconds = _try(model, dtypes, _FIRST)  # also loads kernels, checks convolutions
    if max(seconds) * _FIRST > _LONG:
        if max(seconds) * _FIRST < _VERY_LONG:
            seconds = _try(model, dtypes, _FIRST)
    else:
        seconds = _try(model, dtypes, clips)
        if max(seconds) * clips < _LONG:
            seconds = _try(model, dtypes, clips, rounds=3)
    float32, *bfloat16 = seconds
    return float32, bfloat16[0] if bfloat16 else None


def about_wrong_convolutions(model: nn.Module) -> str:
    """A line about the convolutions that are wrong in bfloat16 and train in float32; empty if there are none so far."""
    names = wrong_convolutions(model)
    if not names:
        return ''
    few = len(names) == 1
    return (
        f'in bfloat16 torch {torch.__version__} gets {len(names)} convolution{"" if few else "s"} wrong on this CPU; '
        f'{"it computes" if few else "they compute"} in float32: {some(names)}')


def _try(model: VideoModel, dtypes: list[torch.dtype | None], clips: int, rounds: int = 1) -> list[float]:
    """Seconds per clip of the shortest step in each of some numbers; None stands for fp32."""
    with torch.random.fork_rng(devices=[]):
        batch = torch.randint(0, 256, (clips, model.in_chans, model.num_frames, *model.img_size), dtype=torch.uint8)
        ways = [lambda dtype=dtype: _step(model, batch, dtype) for dtype in dtypes]
        return [seconds / clips for seconds in shortest(*ways, seconds=0, rounds=rounds)]


def _step(model: VideoModel, batch: Tensor, dtype: torch.dtype | None) -> None:
    with torch.autocast('cpu', dtype, enabled=dtype is not None):
        answer = model(batch)
    answer.float().square().mean().backward()
    model.zero_grad()
