"""The plot of the papers' accuracies against multiply-adds."""
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import timm

from flatzoo.runtime.cost import count_forward

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ['accuracy_figure', 'follow_color_scheme', 'plotted']

COLORS = {
    'SIFAR': '#2563eb', 'Flatten': '#059669', 'AM Flow': '#d9480f', 'TIME layer': '#7c3aed', 'VideoMAE': '#be185d',
    'VideoMAE V2': '#9d174d', 'TSM': '#0891b2', 'ST-Adapter': '#ca8a04', 'AIM': '#65a30d', 'ZeroI2V': '#db2777',
    'DualPath': '#92400e'}
INK, MUTED, GRID, PAPER = '#1f2937', '#6b7280', '#e5e7eb', '#ffffff'
DARK = '#e5e7eb', '#9ca3af', '#374151', '#1f2937'  # the same on a dark page


def follow_color_scheme(svg: str) -> str:
    """The plot in colours that follow the light or dark scheme of the reader, in a page and as a file."""
    names = {INK: 'ink', MUTED: 'muted', GRID: 'line', PAPER: 'paper'}
    for color, name in names.items():
        svg = re.sub(f'(?<=: ){color}(?![0-9a-f])', f'var(--plot-{name})', svg)
    light, dark = (''.join(f'--plot-{name}: {color}; ' for name, color in zip(names.values(), colors, strict=True))
                   for colors in (names, DARK))
    style = f'<style>svg {{ {light}}}\n@media (prefers-color-scheme: dark) {{ svg {{ {dark}}} }}</style>'
    return re.sub(r'(<svg[^>]*>)', lambda tag: f'{tag[1]}\n {style}', svg, count=1)


def plotted(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The figures of papers in rows of `compare_models`, by data set. Data sets with one figure are left out.

    Returns:
        Figures as in `compare_models`, with `family`, `architecture` and `macs`: multiply-adds of one view at the
        number of frames of the figure, None if that is not known.
    """
    points: dict[str, list[dict[str, Any]]] = {}
    seen = set()
    for row in rows:
        architecture = row['name'].partition('.')[0]
        for figure in (figure for figure in row['paper'] if not figure['setting']):
            key = architecture, figure['data_set'], figure['frames']
            if key not in seen:
                seen.add(key)
                points.setdefault(figure['data_set'], []).append({
                    **figure, 'family': row['family'], 'architecture': architecture,
                    'macs': _macs(row, figure['frames'])})
    return {data_set: figures for data_set, figures in sorted(points.items()) if len(figures) > 1}


def _macs(row: dict[str, Any], frames: int | None) -> int | None:
    if frames is None:
        return None
    if frames == row['num_frames']:
        return row['macs']
    return count_forward(timm.create_model(row['name'], num_frames=frames, device='meta')).macs


def accuracy_figure(rows: Sequence[dict[str, Any]]) -> 'Figure | None':
    """One panel for each data set: accuracies that the papers print against multiply-adds of one view that we counted.

    A filled point has weights that the name loads. The other models have to be trained, or converted from a file of the
    authors. Known numbers of views stand beside the points. An accuracy with an unknown number of frames is a line.

    Args:
        rows: Rows of `compare_models`.

    Returns:
        A matplotlib figure, which is not shown. None if there is nothing to compare.

    Raises:
        ImportError: If matplotlib is not installed (`pip install 'flatzoo[show]'`).
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'flatzoo[show]'") from error

    panels = plotted(rows)
    if not panels:
        return None
    panels = dict(sorted(panels.items(), key=lambda panel: -len(panel[1])))  # those with the most points first
    figure = Figure(figsize=(7 * min(2, len(panels)), 7 * math.ceil(len(panels) / 2)), layout='constrained')
    axes = figure.subplots(math.ceil(len(panels) / 2), min(2, len(panels)), squeeze=False).flatten()
    for ax in axes[len(panels):]:
        ax.set_axis_off()
    for ax, (data_set, figures) in zip(axes, panels.items()):
        _panel(ax, data_set, figures)
    families = dict.fromkeys(point['family'] for figures in panels.values() for point in figures)
    handles = [Line2D([], [], color=COLORS.get(name, MUTED), marker='o', ls='', ms=8, label=name) for name in families]
    handles += [
        Line2D([], [], color=MUTED, marker='o', ls='', ms=8, label='the name loads these weights'),
        Line2D(
            [], [], color=MUTED, marker='o', ls='', ms=8, mfc='white', mew=1.8, label='to be trained or converted')]
    figure.legend(
        handles=handles, loc='outside lower center', ncols=len(handles), frameon=False, fontsize=9.5, labelcolor=INK)
    figure.suptitle(
        'Accuracies that the papers print (not measured by us) against multiply-adds that we counted',
        fontsize=12.5, fontweight='bold', color=INK)
    return figure


def _panel(ax: 'Axes', data_set: str, figures: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    placed = [point for point in figures if point['macs'] is not None]
    costs = [point['macs'] / 1e9 for point in placed] or [100]
    ax.set_xscale('log')
    ax.set_xlim(min(costs) / 1.5, max(costs) * 1.5)
    values = [point['top1'] for point in figures]
    margin = max(0.14 * (max(values) - min(values)), 1)
    ax.set_ylim(min(values) - margin, max(values) + margin)
    ax.set_title(data_set, loc='left', fontsize=11.5, fontweight='bold', color=INK)
    ax.set_xlabel('multiply-adds of one view (G, log scale)', color=MUTED)
    ax.set_ylabel("the paper's top-1 (%)", color=MUTED)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(colors=MUTED, which='both', length=0)
    ax.grid(color=GRID, lw=0.8)
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side == 'bottom')
        spine.set_color(GRID)

    for point in figures:
        color = COLORS.get(point['family'], MUTED)
        if point['macs'] is None:
            ax.axhline(point['top1'], color=color, ls=(0, (4, 3)), lw=1.3)
            ax.annotate(
                f'{_short(point)}, frames not known', (1, point['top1']), xycoords=('axes fraction', 'data'),
                xytext=(-4, -4), textcoords='offset points', ha='right', va='top', fontsize=9, color=color)
        else:
            ax.plot(
                point['macs'] / 1e9, point['top1'], 'o', ms=9, mew=1.8, color=color, zorder=3,
                mfc=color if point['of_weights'] else 'white')
    _label(ax, placed)


def _label(ax: 'Axes', points: list[dict[str, Any]]) -> None:
    """Puts labels left of points in the right half and right of the others.

    If two labels of one side would overlap, the upper one moves up, and a line leads to its point.
    """
    middle = math.prod(ax.get_xlim()) ** 0.5
    bottom, top = ax.get_ylim()
    gap, lowest = 0.03 * (top - bottom), {True: -math.inf, False: -math.inf}
    for point in sorted(points, key=lambda point: point['top1']):
        place = point['macs'] / 1e9
        on_left = place > middle
        lowest[on_left] = height = max(point['top1'], lowest[on_left] + gap)
        if height > point['top1']:
            ax.plot([place, place * (0.94 if on_left else 1.06)], [point['top1'], height], color=MUTED, lw=0.6)
        views = '' if point['views'] is None else f' x {point["views"]} views'
        ax.annotate(
            f'{_short(point)}, {point["frames"]} frames{views}', (place, height),
            xytext=(-9 if on_left else 9, 0), textcoords='offset points', ha='right' if on_left else 'left',
            va='center', fontsize=9, color=INK).set_in_layout(False)


def _short(point: dict[str, Any]) -> str:
    """A name without family and number of frames, which the plot shows in other ways."""
    name = point['architecture'].removeprefix('st_adapter_')
    return re.sub(r'_\d+f$', '', name if name != point['architecture'] else name.partition('_')[2])
