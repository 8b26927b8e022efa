"""The comparison as pages: a self-contained HTML file whose table sorts itself, and Markdown for documentation."""
import html
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison import NOTES, Column, columns, printed_in, settings_of, variants_in
from .comparison_plot import COLORS, accuracy_figure

__all__ = ['write_page']

COMMAND = 'flatzoo compare --page'


def write_page(rows: Sequence[dict[str, Any]], folder: Path, command: str = COMMAND) -> list[Path]:
    """Writes `folder/comparison.html`, `folder/accuracy_cost.svg` where there is something to plot, and `folder.md`.

    Args:
        rows: Of `flatzoo.zoo.comparison.compare_models`.
        folder: Where to; made if it is not there.
        command: What the pages say that they are made by.

    Returns:
        The files that were written.

    Raises:
        ImportError: If matplotlib is not installed.
        OSError: If a file cannot be written.
    """
    svg = _svg(rows)
    folder = folder if folder.name not in ('', '..') else folder.resolve()  # files are named after it
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        folder / 'comparison.html': _html(rows, svg, command),
        folder.with_name(f'{folder.name}.md'): _markdown(rows, folder.name, bool(svg), command)}
    if svg:
        texts[folder / 'accuracy_cost.svg'] = svg
    for path, text in texts.items():
        partial = path.with_name(f'{path.name}.partial')
        try:
            partial.write_text(text, encoding='utf-8')
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return list(texts)


def _svg(rows: Sequence[dict[str, Any]]) -> str:
    """The plot, the same bytes for the same rows."""
    figure = accuracy_figure(rows)
    if figure is None:
        return ''
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({'svg.hashsalt': 'flatzoo', 'svg.fonttype': 'path'}):
        figure.savefig(file, format='svg', metadata={'Date': None})
    return file.getvalue()


def _markdown(rows: Sequence[dict[str, Any]], folder: str, with_plot: bool, command: str) -> str:
    table = columns(rows)
    lines = [
        '# Models side by side', '', f'Made by `{command}`; please do not edit.',
        f'[The same as a table that sorts itself]({folder}/comparison.html).', '']
    if with_plot:
        lines += [
            f'![Accuracies that the papers print against multiply-adds]({folder}/accuracy_cost.svg)', '',
            'Points are figures that the papers print, none of them measured by us; of hollow ones the name loads no '
            'such weights. Where no views stand beside a point, the paper does not print them.', '']
    for family in dict.fromkeys(row['family'] for row in rows):
        lines += [
            f'## {family}', '', _line(column.title for column in table),
            _line('---:' if column.right else '---' for column in table)]
        for row in rows:
            if row['family'] == family:
                name, *cells = (column.text(row).replace('\n', '<br>') or '-' for column in table)
                lines.append(_line([f'`{name}`', *cells]))
        lines.append('')
    notes = [*settings_of(table), *NOTES, *printed_in(rows), *variants_in(rows)]
    lines += ['## What the figures mean', '', *(f'- {note}' for note in notes)]
    return '\n'.join(lines) + '\n'


def _line(cells: Any) -> str:
    return f'| {" | ".join(cells)} |'


def _html(rows: Sequence[dict[str, Any]], svg: str, command: str) -> str:
    table = columns(rows)
    head = ''.join(_title(column) for column in table)
    body = '\n'.join(_row(row, table) for row in rows)
    colors = '\n'.join(f'tr[data-family="{name}"] {{ --family: {color}; }}' for name, color in COLORS.items())
    plot = f'<figure>{re.sub("^.*?(?=<svg)", "", svg, flags=re.DOTALL)}</figure>' if svg else ''
    texts = [*settings_of(table), *NOTES, *printed_in(rows), *variants_in(rows)]
    notes = ''.join(f'<li>{html.escape(text)}</li>' for text in texts)
    families = ', '.join(dict.fromkeys(row['family'] for row in rows))
    parts = {
        'COLORS': colors, 'PLOT': plot, 'HEAD': head, 'BODY': body, 'NOTES': notes, 'COMMAND': html.escape(command),
        'ABOUT': html.escape(f'{len(rows)} names: {families}.')}
    return re.sub('{([A-Z]+)}', lambda match: parts[match[1]], _TEMPLATE)


def _title(column: Column) -> str:
    note = html.escape(column.note)
    title = html.escape(column.title)
    if column.value is not None:
        title = f'<button>{title}</button>'
    return f'<th scope="col" class="{"r" if column.right else "l"}" title="{note}">{title}</th>'


def _row(row: dict[str, Any], table: Sequence[Column]) -> str:
    cells = []
    for column in table:
        text = html.escape(column.text(row)).replace('\n', '<br>') or '-'
        value = column.value(row) if column.value else None
        key = '' if value is None else f' data-value="{html.escape(str(value))}"'
        cells.append(f'<td class="{"r" if column.right else "l"}"{key}>{text}</td>')
    return f'<tr data-family="{html.escape(row["family"])}">{"".join(cells)}</tr>'


_TEMPLATE = '''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>flatzoo: models side by side</title>
<style>
:root { --ink: #1f2937; --muted: #6b7280; --line: #e5e7eb; --page: #f8fafc; --card: #fff; --hover: #eff6ff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --muted: #9ca3af; --line: #374151; --page: #111827; --card: #1f2937; --hover: #273449; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem; max-width: 1560px; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; letter-spacing: -0.02em; }
p { margin: 0.3rem 0 1.2rem; color: var(--muted); }
code { font-size: 0.92em; }
figure { margin: 0 0 1.2rem; padding: 1rem; background: #fff; border: 1px solid var(--line); border-radius: 12px; }
figure svg { display: block; width: 100%; max-width: 1100px; height: auto; margin: auto; }
input { width: 20rem; max-width: 100%; margin-bottom: 0.8rem; padding: 0.5rem 0.8rem; color: var(--ink); font: inherit;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.table { overflow: auto; max-height: 90vh; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { position: sticky; top: 0; z-index: 1; background: var(--card); font-weight: 600; vertical-align: bottom; }
th button { padding: 0; border: 0; background: none; color: inherit; font: inherit; text-align: inherit;
  cursor: pointer; }
th button::after { content: "\\2195"; margin-left: 0.3em; color: var(--muted); font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\2191"; color: var(--ink); }
th[aria-sort=descending] button::after { content: "\\2193"; color: var(--ink); }
.r { text-align: right; }
.l { text-align: left; }
td { white-space: nowrap; }
td:first-child { position: sticky; left: 0; background: var(--card); font-weight: 500;
  border-left: 4px solid var(--family, var(--muted)); }
th:first-child { left: 0; z-index: 2; }
td:last-child, th:last-child { color: var(--muted); font-style: italic; }
td:last-child { min-width: 27rem; white-space: normal; }
th:nth-child(6) { min-width: 9rem; }
tbody tr:hover td { background: var(--hover); }
tbody tr:last-child td { border-bottom: 0; }
ul { padding-left: 1.2rem; color: var(--muted); max-width: 62rem; }
li { margin-bottom: 0.4rem; }
{COLORS}
</style>
</head>
<body>
<h1>flatzoo: models side by side</h1>
<p>{ABOUT} Click a title to sort. Made by <code>{COMMAND}</code>.</p>
{PLOT}
<input type="search" placeholder="Part of a name, a family, a licence" aria-label="Filter">
<div class="table">
<table>
<thead><tr>{HEAD}</tr></thead>
<tbody>
{BODY}
</tbody>
</table>
</div>
<ul>{NOTES}</ul>
<script>
const body = document.querySelector('tbody');
const rows = [...body.rows];
const value = (row, column) => row.cells[column].dataset.value;
document.querySelectorAll('th button').forEach(button => button.addEventListener('click', () => {
  const title = button.parentNode, column = title.cellIndex;
  const sign = title.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
  document.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
  title.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending');
  const compare = (a, b) => {
    const [x, y] = [value(a, column), value(b, column)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);  // unknown ones come last
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  };
  body.append(...rows.sort(compare));
}));
document.querySelector('input').addEventListener('input', event => {
  const words = event.target.value.toLowerCase().split(/\\s+/);
  rows.forEach(row => {
    const text = (row.textContent + ' ' + row.dataset.family).toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  });
});
</script>
</body>
</html>
'''
