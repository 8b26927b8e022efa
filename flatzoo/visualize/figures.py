"""Figures of one clip: its frames, its super images, the maps over them, the importance of its frames.

The functions take arrays and return matplotlib figures. `super_images`, `class_activation_maps`, `frame_maps` and
`frame_importance` compute the arrays. Pictures are uint8 `[N, 3, h, w]`. Times are in seconds.
"""
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .fonts import families
from .model import whole_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['cam_figure', 'figure_class', 'frames_figure', 'importance_figure', 'overlay', 'super_image_figure']

COLUMNS = 8  # frames in a row, at most
WIDTH = 10.0  # inches of a figure
GAP = 0.06  # inches between pictures
LINE = 0.24  # inches for a line of text
HEAT = 'plasma'  # equal steps of evidence are equal steps to the eye
FOR, AGAINST = '#1f77b4', '#d95f02'  # told apart by colour-blind eyes, too
Times = Sequence[float] | None


def overlay(
        pictures: Tensor,
        maps: Tensor,
        grid_size: tuple[int, int] = (1, 1),
        alpha: float = 0.6,
        index: Sequence[Sequence[Sequence[int]]] | None = None,
) -> Tensor:
    """Lays maps over pictures as a heat map. Where a map is 0 the picture is unchanged.

    Args:
        pictures: uint8 `[N, 3, H, W]`.
        maps: `[N, h, w]`, 0...1, enlarged bilinearly.
        grid_size: Rows and columns of cells of the pictures; maps are enlarged within cells, never across their
            borders.
        alpha: Opacity of the heat, 0...1, where a map is at least 1/2.
        index: Frame of every cell, as for `super_image_figure`; cells without a frame stay as they are.

    Returns:
        uint8 `[N, 3, H, W]`.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there are not as many maps as pictures.
    """
    figure_class()
    from matplotlib import colormaps

    if pictures.dtype != torch.uint8 or pictures.ndim != 4 or maps.ndim != 3 or len(maps) != len(pictures):
        raise ValueError(
            f'an overlay takes uint8 pictures [N, 3, H, W] and as many maps [N, h, w], got {pictures.dtype} '
            f'{list(pictures.shape)} and {list(maps.shape)}.')
    rows, cols = grid_size
    size = [math.ceil(side / cells) for side, cells in zip(pictures.shape[-2:], grid_size)]
    cells = rearrange(whole_cells(maps.float().cpu(), grid_size), 'n (r h) (c w) -> (n r c) 1 h w', r=rows, c=cols)
    cells = F.interpolate(cells, size, mode='bilinear').clamp(0, 1)
    if index is not None:
        cells = cells * torch.tensor(index).ge(0).view(-1, 1, 1, 1)
    heat = rearrange(cells, '(n r c) 1 h w -> n 1 (r h) (c w)', r=rows, c=cols)
    if heat.shape[-2:] != pictures.shape[-2:]:  # scale=composite: cells of no whole pixels
        heat = F.interpolate(heat, pictures.shape[-2:], mode='bilinear')
    colors = torch.from_numpy(colormaps[HEAT](heat[:, 0].numpy())[..., :3]).float().movedim(-1, 1) * 255
    weight = alpha * (2 * heat).clamp(max=1)
    return (pictures.cpu() * (1 - weight) + colors * weight).round().to(torch.uint8)


def frames_figure(frames: Tensor, times: Times = None, title: str = '') -> 'Figure':
    """The sampled frames `[T, 3, H, W]` in reading order, each with its time."""
    sheet = _Sheet(title)
    sheet.rows([frames], _labels(len(frames), times))
    return sheet.draw()


def super_image_figure(
        images: Tensor,
        index: Sequence[Sequence[Sequence[int]]],
        times: Times = None,
        title: str = '',
) -> 'Figure':
    """Draws the K images that the backbone gets, side by side. Cells carry their frame number; empty cells are hatched.

    Args:
        images: uint8 `[K, 3, H', W']`.
        index: Frame of every cell `[K][R][C]`, -1 for none: `model.super_image.index`.
        times: Time of each frame.
        title: Lines above the picture.
    """
    sheet = _Sheet(title)
    sheet.images(images, index, times)
    return sheet.draw()


def cam_figure(
        images: Tensor,
        maps: Tensor,
        frames: Tensor,
        frame_maps: Tensor,
        index: Sequence[Sequence[Sequence[int]]],
        times: Times = None,
        title: str = '',
) -> 'Figure':
    """Maps over the super images, and mapped back to the frames below.

    Args:
        images: uint8 `[K, 3, H', W']`.
        maps: `[K, h, w]`, 0...1.
        frames: uint8 `[T, 3, H, W]`.
        frame_maps: `[T, h, w]`, 0...1.
        index: As for `super_image_figure`.
        times: Time of each frame.
        title: Lines above the picture.
    """
    sheet = _Sheet(title)
    grid_size = len(index[0]), len(index[0][0])
    if len(images) == 1:
        sheet.images(torch.cat([images, overlay(images, maps, grid_size, index=index)]), [*index, *index], times)
    elif grid_size != (1, 1):  # else the images are the frames
        sheet.images(overlay(images, maps, grid_size, index=index), index, times)
    sheet.rows([frames, overlay(frames, frame_maps)], _labels(len(frames), times))
    sheet.heat_bar()
    return sheet.draw()


def importance_figure(frames: Tensor, importance: Tensor, times: Times = None, title: str = '') -> 'Figure':
    """Draws frames with a bar below each: how far the probability falls without the frame, in percentage points.

    Args:
        frames: uint8 `[T, 3, H, W]`.
        importance: `[T]`, see `frame_importance`.
        times: Time of each frame.
        title: Lines above the picture.
    """
    sheet = _Sheet(title)
    step = math.ceil(len(frames) / 16)  # of many frames some, each above its bar
    sheet.bars(frames[::step], importance.detach().cpu() * 100, step, _labels(len(frames), times))
    return sheet.draw()


def _labels(count: int, times: Times) -> list[str]:
    return [f'{t}' if times is None else f'{times[t]:.2f} s' for t in range(count)]


def figure_class() -> Any:
    """matplotlib's `Figure`.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'flatzoo[show]'") from error
    return Figure


class _Sheet:
    """Places pictures from top to bottom, in inches. matplotlib's own layouts would leave wide gaps between them."""

    def __init__(self, title: str):
        self.figure = figure_class()(figsize=(WIDTH, 1))
        self.placed: list[tuple[Any, float, float, float, float]] = []  # axes, left, top, width, height
        self.lines = title.split('\n') if title else []
        self.height = 0.12 + sum(LINE + 0.06 * (number == 0) for number in range(len(self.lines)))

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        ax = self.figure.add_axes((0, 0, 1, 1), label=str(len(self.placed)))
        self.placed.append((ax, left, top, width, height))
        return ax

    def picture(self, picture: Tensor, left: float, top: float, width: float, label: str = '') -> Any:
        """Draws `[3, h, w]`, and a label above."""
        height, across = picture.shape[-2:]
        ax = self.axes(left, top, width, width * height / across)
        ax.imshow(picture.movedim(0, -1).cpu().numpy(), interpolation='antialiased', extent=(0, across, height, 0))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        if label:
            ax.set_title(label, fontsize=8, pad=3)
        return ax

    def rows(self, stacks: Sequence[Tensor], labels: Sequence[str]) -> None:
        """Draws several sequences of pictures `[T, 3, h, w]` above each other, in rows of a few columns."""
        count = len(stacks[0])
        lines = math.ceil(count / COLUMNS)
        columns = math.ceil(count / lines)
        width = min((WIDTH - 0.24 - GAP * (columns - 1)) / columns, 2.4)
        left = (WIDTH - columns * width - GAP * (columns - 1)) / 2
        for start in range(0, count, columns):
            self.height += LINE
            for number, stack in enumerate(stacks):
                part = stack[start:start + columns]
                for column, picture in enumerate(part):
                    label = labels[start + column] if number == 0 else ''
                    self.picture(picture, left + column * (width + GAP), self.height, width, label)
                self.height += width * part.shape[-2] / part.shape[-1] + GAP

    def images(self, images: Tensor, index: Sequence[Sequence[Sequence[int]]], times: Times) -> None:
        """Draws super images. Each cell shows its frame number in the corner; cells without a frame are striped."""
        lines = math.ceil(len(images) / 4)
        columns = math.ceil(len(images) / lines)
        aspect = images.shape[-2] / images.shape[-1]
        width = min((WIDTH - 0.24 - 0.15 * (columns - 1)) / columns, (4.9 if columns > 1 else 5.5) / max(aspect, 1))
        left = (WIDTH - columns * width - 0.15 * (columns - 1)) / 2
        for number, (image, cells) in enumerate(zip(images, index, strict=True)):
            if number and number % columns == 0:
                self.height += width * aspect + 0.15
            ax = self.picture(image, left + number % columns * (width + 0.15), self.height, width)
            self.cells(ax, image.shape[-2:], cells, times, width)
        self.height += width * aspect + GAP

    def cells(self, ax: Any, size: Sequence[int], cells: Sequence[Sequence[int]], times: Times, width: float) -> None:
        from matplotlib.patches import Rectangle

        height, across = size[0] / len(cells), size[1] / len(cells[0])
        font = max(4.0, min(8.0, 9 * width / len(cells[0])))
        for row, line in enumerate(cells):
            for column, frame in enumerate(line):
                corner = column * across, row * height
                empty = frame < 0
                ax.add_patch(Rectangle(
                    corner, across, height, fill=False, edgecolor='white', linewidth=0.8,
                    hatch='////' if empty else None, hatch_linewidth=0.6))
                name = 'empty' if empty else f'{frame}'
                if not empty and times is not None and width / len(line) > 0.9:
                    name += f'  {times[frame]:.2f} s'
                ax.text(
                    corner[0] + 0.03 * across, corner[1] + 0.03 * height, name, fontsize=font, color='white', va='top',
                    bbox=dict(boxstyle='round,pad=0.2', facecolor='black', edgecolor='none', alpha=0.55))

    def heat_bar(self) -> None:
        """Draws which colour stands for how much evidence."""
        self.height += 0.12
        ax = self.axes(WIDTH / 2 - 2, self.height, 4, 0.12)
        ax.imshow(torch.linspace(0, 1, 256)[None].numpy(), cmap=HEAT, aspect='auto', extent=(0, 1, 0, 1))
        ax.set(yticks=[], xticks=[0, 0.5, 1])
        ax.set_xticklabels(['0: none', 'evidence for the class', '1: most'], fontsize=8)
        ax.tick_params(length=0, pad=3)
        ax.spines[:].set_visible(False)
        self.height += 0.12 + LINE

    def bars(self, frames: Tensor, values: Tensor, step: int, labels: Sequence[str]) -> None:
        left, width = 0.75, WIDTH - 1.1
        slot = width / len(values)  # inches per frame
        side = min(slot * step - GAP, 1.6)
        self.height += LINE
        for number, picture in enumerate(frames):
            middle = left + (number * step + 0.5) * slot  # of its bar
            self.picture(picture, middle - side / 2, self.height, side, labels[number * step])
        self.height += side * frames.shape[-2] / frames.shape[-1] + 0.12
        ax = self.axes(left, self.height, width, 2.2)
        numbers = values.tolist()
        drawn = ax.bar(range(len(numbers)), numbers, 0.7, color=[FOR if value >= 0 else AGAINST for value in numbers])
        if len(numbers) <= 16:
            ax.bar_label(drawn, [f'{value:+.1f}' for value in numbers], fontsize=8, padding=2)
        span = max(0.1, values.abs().max().item())  # less is not made to look large
        low, high = min(0.0, values.min().item()), max(0.0, values.max().item())
        ax.set(xlim=(-0.5, len(numbers) - 0.5), ylim=(low - 0.18 * span, max(high, low + span) + 0.18 * span))
        ax.set_xticks(range(0, len(numbers), step), [f'{t}' for t in range(0, len(numbers), step)], fontsize=8)
        ax.set_ylabel('fall without the frame\n(percentage points)', fontsize=8)
        ax.tick_params(labelsize=8)
        ax.axhline(0, color='black', linewidth=0.8)
        ax.spines[['top', 'right']].set_visible(False)
        ax.grid(axis='y', linewidth=0.4, alpha=0.5)
        ax.set_axisbelow(True)
        self.height += 2.2 + LINE

    def draw(self) -> 'Figure':
        total = self.height + 0.1
        self.figure.set_size_inches(WIDTH, total)
        for ax, left, top, width, height in self.placed:
            ax.set_position((left / WIDTH, 1 - (top + height) / total, width / WIDTH, height / total))
        top = 0.12
        for number, line in enumerate(self.lines):
            self.figure.text(
                0.12 / WIDTH, 1 - top / total, line, va='top', fontsize=10 if number else 12,
                fontweight='normal' if number else 'bold', color='0.25' if number else 'black', family=families(line),
                parse_math=False)  # a dollar in a name of a file or class is one
            top += LINE + 0.06 * (number == 0)
        return self.figure
