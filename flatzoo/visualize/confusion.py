"""The confusion picture of a classifier: which classes it takes for which."""
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .fonts import families

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['confusion_figure']

NAMED = 60  # classes, up to which each has its name beside the picture
NUMBERED = 20  # classes, up to which each cell has its number


def confusion_figure(confusion: Tensor, classes: Sequence[str], title: str = '') -> 'Figure':
    """Draws the share of the clips of each class (rows) that are answered with each class (columns), in per cent.

    Classes that never occur, neither as truth nor as answer, are left out.

    Args:
        confusion: Counts `[K, K]`, true classes by predicted classes.
        classes: Names of the K classes.
        title: Line above the picture.

    Returns:
        A matplotlib figure, not shown.

    Raises:
        ImportError: If matplotlib is not installed (`pip install 'flatzoo[show]'`).
        ValueError: If the shape of `confusion` does not fit the classes.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'flatzoo[show]'") from error

    if confusion.shape != (len(classes), len(classes)):
        raise ValueError(f'{len(classes)} classes need a confusion matrix of that size, got {list(confusion.shape)}.')
    used = ((confusion.sum(0) + confusion.sum(1)) > 0).nonzero().flatten()
    counts = confusion[used][:, used].double()
    shares = (100 * counts / counts.sum(1, keepdim=True).clamp(min=1)).cpu()
    names = [classes[index] for index in used.tolist()]
    fonts = families(title + ''.join(names))

    named = len(names) <= NAMED
    side = min(max(3.0, 0.32 * len(names)), 14.0)  # inches
    margin = 0.075 * max(map(len, names), default=0) if named else 0.3
    figure = Figure(figsize=(side + margin + 1.2, side + margin + 0.6), layout='constrained')
    ax = figure.subplots()
    image = ax.imshow(shares.numpy(), cmap='Blues', vmin=0, vmax=100, interpolation='nearest')
    figure.colorbar(image, ax=ax, shrink=0.6, label='% of the clips of a class')
    ax.set(xlabel='answer', ylabel='class')
    if named:
        places = range(len(names))
        style = dict(fontsize=7, family=fonts, parse_math=False)  # a dollar in a name is one
        ax.set_xticks(places, names, rotation=90, **style)
        ax.set_yticks(places, names, **style)
    if len(names) <= NUMBERED:
        for row, column in (shares >= 0.5).nonzero().tolist():
            share = shares[row, column].item()
            ax.text(
                column, row, f'{share:.0f}', ha='center', va='center', fontsize=6,
                color='white' if share > 60 else 'black')
    if title:
        figure.suptitle(title, fontsize=9, family=fonts, parse_math=False)
    return figure
