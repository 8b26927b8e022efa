"""A table of text: what `flatzoo list` and `flatzoo compare` print."""
from collections.abc import Callable
from typing import Any

from flatzoo.console.text import printable

__all__ = ['Columns', 'size_text', 'table_text']

# title -> cell of a row, and whether it is flush right
Columns = dict[str, tuple[Callable[[dict[str, Any]], Any], bool]]


def table_text(rows: list[dict[str, Any]], columns: Columns) -> str:
    """Lines of equally wide columns below their titles; cells that are empty, None or 0 show as '-'."""
    lines = [tuple(columns)] + [tuple(printable(cell(row) or '-') for cell, _ in columns.values()) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    flush_right = [right for _, right in columns.values()]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, flush_right, strict=True)
        ).rstrip()
        for line in lines
    )


def size_text(size: list[int]) -> str:
    """Height and width in pixels, or one number for both."""
    height, width = size
    return str(height) if height == width else f'{height}x{width}'
