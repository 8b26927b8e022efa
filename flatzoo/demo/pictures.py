"""The pictures of an answer as HTML, in the colours of the page. They are part of it and never stored in a file."""
import base64
import html
import io
from typing import TYPE_CHECKING

from .answer import Answer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['PICTURES', 'picture_html']

PICTURES = {
    'The super image': 'What the backbone gets, cell by cell. Hatched cells are empty.',
    'Where the evidence lies': 'Yellow places speak most for the first answer.',
    'The same in time': 'The frames that the model saw, and the evidence in each of them.',
    'Which frames matter': 'How far the probability of the first answer falls when a frame gives way to its neighbour.',
}
WIDE = 'Which frames matter'  # has small letters: it is scrolled on a phone
INK, PAPER = '#e5e7eb', '#1f2937'  # of a dark page


def picture_html(answer: Answer | None, dark: bool = False, why: str = '') -> list[str]:
    """HTML of the four pictures of `PICTURES`, or of placeholders for them.

    Args:
        answer: What they show; None for placeholders.
        dark: Whether the page is dark.
        why: What a placeholder says.
    """
    if answer is None:
        data = [None] * 4
    else:
        why = ' '.join(answer.notes)
        figures = answer.super_image, answer.maps, answer.importance
        image, maps, importance = (None if figure is None else _png(figure, dark) for figure in figures)
        data = [image, maps, answer.animation, importance]
    return [_picture(title, text, picture, why) for (title, text), picture in zip(PICTURES.items(), data)]


def _picture(title: str, text: str, data: bytes | None, why: str) -> str:
    if data is None:
        shown = f'<div class="empty">{html.escape(why)}</div>'
    else:
        kind = 'gif' if data.startswith(b'GIF') else 'png'
        shown = f'<img alt="{title}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
        if title == WIDE:
            shown = f'<div class="wide">{shown}</div>'
    return f'<section class="flatzoo-picture"><h3>{title}</h3><p>{text}</p>{shown}</section>'


def _png(figure: 'Figure', dark: bool) -> bytes:
    if dark:
        _darken(figure)
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=130, bbox_inches='tight', pad_inches=0.05, facecolor=figure.get_facecolor())
    return file.getvalue()


def _darken(figure: 'Figure') -> None:
    """Turns what is black on white into light on dark. What has colours of its own stays, such as numbers in cells."""
    from matplotlib.colors import same_color
    from matplotlib.lines import Line2D
    from matplotlib.spines import Spine
    from matplotlib.text import Text

    figure.set_facecolor(PAPER)
    for axes in figure.axes:
        axes.set_facecolor(PAPER)
        axes.tick_params(color=INK, labelcolor=INK)
    for artist in figure.findobj(lambda artist: isinstance(artist, (Text, Line2D))):
        if same_color(artist.get_color(), 'black'):
            artist.set_color(INK)
    for spine in figure.findobj(Spine):
        spine.set_edgecolor(INK)
