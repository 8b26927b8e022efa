"""Pictures of attention-map flow: its channels as colours (Figure 5 of the AM Flow paper), its strength on the frames.

Paper: "AM Flow: Adapters for Temporal Processing in Action Recognition", Agrawal, Ali et al., 2024,
https://arxiv.org/abs/2411.02065.

`flow_maps` computes the flow of clips with a model. The other functions take the flow of one clip and one block, `[T,
heads, h, w]`.
"""
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from flatzoo.models.amflow import AMFlow

__all__ = ['flow_colors', 'flow_figure', 'flow_maps', 'flow_strength', 'overlay_figure', 'overlay_strength']

QUANTILE = 0.99  # of the values, where colours saturate: a single token does not darken all others


def flow_maps(model: 'AMFlow', clip: Tensor) -> list[Tensor]:
    """The attention-map flow of the patches of clips.

    Args:
        model: An AM Flow model.
        clip: `[B, C, T, H, W]`, float normalised or uint8.

    Returns:
        For every block of `model.am_blocks`, maps `[B, T, heads, h, w]`; class tokens and registers are left out.

    Raises:
        ValueError: If the model has no flow.
    """
    prefix = model.num_prefix_tokens
    return [
        flow[:, :, prefix:].transpose(2, 3).unflatten(3, grid)
        for flow, grid in zip(model.attention_flows(clip), model.patch_grids, strict=True)]


def flow_colors(flow: Tensor) -> Tensor:
    """The first three principal components of a flow's channels as red, green and blue.

    The components are computed over all tokens of all frames of the clip. A colour therefore means the same in every
    frame, but something else in another block. Each component is scaled to fill its colour. Its sign is chosen such
    that its largest weight is positive, which makes the picture the same on every machine.

    Args:
        flow: `[T, heads, h, w]`, any floating dtype.

    Returns:
        `[T, h, w, 3]` float32 in 0...1. A flow that is the same everywhere (a still clip) is grey, 0.5. With fewer than
        three heads the remaining colours are 0.5, too.

    Raises:
        ValueError: If the flow has another number of dimensions or values that are not finite.
    """
    _check_flow(flow)
    tokens = flow.detach().double().movedim(1, -1)  # [T, h, w, heads]
    centred = tokens.flatten(0, 2)
    centred = centred - centred.mean(0)
    colors = torch.full((*tokens.shape[:3], 3), 0.5, dtype=torch.float64, device=flow.device)
    variances, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    for channel in range(min(3, flow.shape[1])):
        axis = axes[:, -1 - channel]
        if variances[-1 - channel] <= 1e-12 * max(1.0, centred.shape[0]):
            break  # nothing varies: rounding errors would become colours
        axis = axis * axis[axis.abs().argmax()].sign()
        colors[..., channel] = _stretch((centred @ axis).view(tokens.shape[:3]))
    return colors.float()


def flow_strength(flow: Tensor) -> Tensor:
    """How much the flow of each token differs from the flow of a token at rest, as one number.

    It is the distance, over the heads, from the median of the clip. The median stands for rest, because most tokens of
    most clips rest. Vanilla flow is 1 at rest; the value of aligned flow at rest depends on the encoder.

    Args:
        flow: `[T, heads, h, w]`.

    Returns:
        `[T, h, w]` float32, at least 0.
    """
    _check_flow(flow)
    flow = flow.detach().double()
    rest = flow.movedim(1, -1).flatten(0, 2).median(0).values  # [heads]
    return (flow - rest.view(1, -1, 1, 1)).square().mean(1).sqrt().float()


def overlay_strength(frames: Tensor, flow: Tensor, alpha: float = 0.6) -> Tensor:
    """Frames with the strength of the flow laid over them, token by token.

    Args:
        frames: uint8 `[T, 3, H, W]`.
        flow: `[T, heads, h, w]` of the same frames; h and w need not divide H and W.
        alpha: Opacity of the strongest flow, 0...1. Where nothing moves, the frame is shown in grey.

    Returns:
        uint8 `[T, 3, H, W]`.

    Raises:
        ValueError: If frames and flow have different numbers of frames, or frames are not uint8 RGB.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or len(frames) != len(flow):
        raise ValueError(
            f'an overlay takes uint8 frames [T, 3, H, W] and the flow [T, heads, h, w] of as many frames, got '
            f'{frames.dtype} {list(frames.shape)} and {list(flow.shape)}.')
    strength = flow_strength(flow)
    top = max(strength.quantile(QUANTILE).item(), 1e-6)  # a still clip has rounding errors only: no colour for them
    strength = (strength / top).clamp(max=1.0)
    strength = F.interpolate(strength[:, None], frames.shape[-2:], mode='nearest')  # [T, 1, H, W]: tokens stay visible
    grey = frames.float().mean(1, keepdim=True).expand(-1, 3, -1, -1)
    heat = torch.cat((torch.ones_like(strength), 0.9 - 0.8 * strength, torch.zeros_like(strength)), dim=1) * 255
    weight = alpha * strength
    return (grey * (1 - weight) + heat * weight).round().to(torch.uint8)


def flow_figure(
        frames: Tensor,
        flows: Sequence[Tensor],
        blocks: Sequence[int] | None = None,
        times: Sequence[float] | None = None,
        title: str = '',
) -> 'Figure':
    """The picture of the paper's Figure 5: frames above, below them the flow of every block as colours.

    Args:
        frames: uint8 `[T, 3, H, W]`.
        flows: For every block `[T, heads, h, w]`.
        blocks: Number of each block, counted from 0; 0, 1, ... if None.
        times: Time of each frame in seconds; frames are numbered if None.
        title: Line above the picture.

    Returns:
        A matplotlib figure, not shown.

    Raises:
        ImportError: If matplotlib is not installed (`pip install 'flatzoo[show]'`).
    """
    rows = [(f'block {block}', flow_colors(flow)) for block, flow in _numbered(flows, blocks)]
    return _grid_figure([('frames', frames.movedim(1, -1)), *rows], times, title)


def overlay_figure(
        frames: Tensor,
        flows: Sequence[Tensor],
        blocks: Sequence[int] | None = None,
        times: Sequence[float] | None = None,
        title: str = '',
) -> 'Figure':
    """Frames above; below them the strength of every block's flow over the frames. Arguments: see `flow_figure`."""
    rows = [
        (f'block {block}', overlay_strength(frames, flow).movedim(1, -1)) for block, flow in _numbered(flows, blocks)]
    return _grid_figure([('frames', frames.movedim(1, -1)), *rows], times, title)


def _check_flow(flow: Tensor) -> None:
    if flow.ndim != 4:
        raise ValueError(f'a flow has the shape [T, heads, h, w], got {list(flow.shape)}.')
    if not flow.isfinite().all():
        raise ValueError('the flow has values that are not finite: check the weights of the model and the clip.')


def _stretch(values: Tensor) -> Tensor:
    """Scales values to 0...1 after cutting off the few largest and smallest."""
    low, high = values.quantile(1 - QUANTILE), values.quantile(QUANTILE)
    if high <= low:  # a few tokens only
        low, high = values.min(), values.max()
    return ((values - low) / (high - low)).clamp(0, 1)


def _numbered(flows: Sequence[Tensor], blocks: Sequence[int] | None) -> list[tuple[int, Tensor]]:
    return list(zip(range(len(flows)) if blocks is None else blocks, flows, strict=True))


def _grid_figure(rows: Sequence[tuple[str, Tensor]], times: Sequence[float] | None, title: str) -> 'Figure':
    """Rows of pictures `[T, h, w, 3]` with a name in front, and the time of each frame above."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'flatzoo[show]'") from error

    num_frames = len(rows[0][1])
    height, width = rows[0][1].shape[1:3]
    size = 1.1  # inches per frame
    figure = Figure(figsize=(size * num_frames + 0.8, size * height / width * len(rows) + 0.6), layout='compressed')
    axes = figure.subplots(len(rows), num_frames, squeeze=False)
    for number, ((name, pictures), line) in enumerate(zip(rows, axes, strict=True)):
        for index, (picture, ax) in enumerate(zip(pictures, line, strict=True)):
            ax.imshow(picture.cpu().numpy(), interpolation='nearest', extent=(0, width, height, 0))
            ax.set(xticks=[], yticks=[])
            if number == 0:
                ax.set_title(f'{index}' if times is None else f'{times[index]:.2f} s', fontsize=8)
        line[0].set_ylabel(name, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9, parse_math=False)  # a dollar in a name of a file is one
    return figure
