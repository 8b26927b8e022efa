"""The comparison as pages: a self-contained HTML file with a sortable table, and Markdown for the documentation."""
import html
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .comparison import Column, Section, Table, table_of
from .comparison_plot import COLORS, accuracy_figure, follow_color_scheme

__all__ = ['write_page']

COMMAND = 'flatzoo compare --page'
SPARSE = 1 / 3  # a choice that fewer rows have is not shown at first, and shows only these rows


def write_page(
        rows: Sequence[dict[str, Any]], folder: Path, command: str = COMMAND, table: Table | None = None,
        machine: str = '') -> list[Path]:
    """Writes `folder/comparison.html`, `folder/accuracy_cost.svg` (if there is something to plot) and `folder.md`.

    Args:
        rows: Rows of `flatzoo.zoo.comparison.compare_models`, or those of a table.
        folder: The folder. It is made if it does not exist.
        command: The command that the pages name as their origin.
        table: Columns and notes. The default is those of `compare_models`, which have a plot, too.
        machine: Without a table: part of the name of the machine whose speeds are shown.

    Returns:
        The files that were written.

    Raises:
        ImportError: If matplotlib is not installed.
        OSError: If a file cannot be written.
        ValueError: If nothing was measured on such a machine.
    """
    svg = _svg(rows) if table is None else ''
    table = table_of(rows, machine) if table is None else table
    folder = folder if folder.name not in ('', '..') else folder.resolve()  # files are named after it
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        folder / 'comparison.html': _html(rows, table, svg, command),
        folder.with_name(f'{folder.name}.md'): _markdown(rows, table, folder.name, bool(svg), command)}
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
    """The plot, with its words as text. The same rows give the same bytes."""
    figure = accuracy_figure(rows)
    if figure is None:
        return ''
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({'svg.hashsalt': 'flatzoo', 'svg.fonttype': 'none'}):
        figure.savefig(file, format='svg', metadata={'Date': None})
    return follow_color_scheme(file.getvalue())


def _markdown(rows: Sequence[dict[str, Any]], table: Table, folder: str, with_plot: bool, command: str) -> str:
    lines = [
        f'# {table.title}', '', f'Made by `{command}`; please do not edit.',
        f'[The same as a table that sorts itself]({folder}/comparison.html).', '']
    if with_plot:
        lines += [
            f'![Accuracies that the papers print against multiply-adds]({folder}/accuracy_cost.svg)', '',
            'Points are figures that the papers print, none of them measured by us; of hollow ones the name loads no '
            'such weights. Where no views stand beside a point, the paper does not print them.', '']
    for group in dict.fromkeys(map(_group, rows)):
        members = [row for row in rows if _group(row) == group]
        shown = [column for column in table.columns if any(map(column.text, members))]
        lines += [
            f'## {group}', '', _line(column.title for column in shown),
            _line('---:' if column.right else '---' for column in shown)]
        for row in members:
            name, *cells = (column.text(row).replace('\n', '<br>') or '-' for column in shown)
            lines.append(_line([f'`{name}`', *cells]))
        lines.append('')
    for section in table.sections:
        lines += [
            f'## {section.title}', '', section.note, '', _line(section.titles),
            _line('---' if i == 0 else '---:' for i in range(len(section.titles))), *map(_line, section.rows), '']
    lines += ['## What the figures mean', '', *(f'- {note}' for note in (*table.settings, *table.notes))]
    return '\n'.join(lines) + '\n'


def _group(row: dict[str, Any]) -> str:
    return row.get('group') or row['family']


def _line(cells: Any) -> str:
    return f'| {" | ".join(cells)} |'


def _html(rows: Sequence[dict[str, Any]], table: Table, svg: str, command: str) -> str:
    columns = table.page_columns
    first = {selection: _first_choice(rows, columns, selection) for selection in _selections(columns)}
    hidden = [bool(column.choice) and first[column.selection] != column.choice for column in columns]
    colors = '\n'.join(f'tr[data-family="{name}"] {{ --family: {color}; }}' for name, color in COLORS.items())
    plot = f'<figure>{re.sub("^.*?(?=<svg)", "", svg, flags=re.DOTALL)}</figure>' if svg else ''
    families = ', '.join(dict.fromkeys(row['family'] for row in rows))
    parts = {
        'TITLE': html.escape(table.title), 'COLORS': colors, 'PLOT': plot, 'COMMAND': html.escape(command),
        'CHOICES': ''.join(_select(rows, columns, *choice) for choice in first.items()),
        'HEAD': ''.join(map(_title, columns, hidden)),
        'BODY': '\n'.join(_row(row, columns, hidden) for row in rows),
        'NOTES': ''.join(f'<li>{_with_code(html.escape(text))}</li>' for text in table.notes),
        'SECTIONS': '\n'.join(map(_section, table.sections)),
        'ABOUT': html.escape(f'{len(rows)} names: {families}.')}
    return re.sub('{([A-Z]+)}', lambda match: parts[match[1]], _TEMPLATE)


def _section(section: Section) -> str:
    heads = ''.join(
        f'<th scope="col" class="{"r" if i else "l"}">{html.escape(title)}</th>'
        for i, title in enumerate(section.titles))
    rows = '\n'.join(
        '<tr>' + ''.join(
            f'<td class="{"r" if i else "l"}" data-label="{html.escape(section.titles[i])}">{html.escape(cell)}</td>'
            for i, cell in enumerate(row)) + '</tr>' for row in section.rows)
    return '\n'.join([
        f'<h2>{html.escape(section.title)}</h2>', f'<p>{_with_code(html.escape(section.note))}</p>',
        f'<div class="table">\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n</div>'])


def _selections(columns: Sequence[Column]) -> list[str]:
    """What can be chosen, in the order of the columns."""
    return list(dict.fromkeys(column.selection for column in columns if column.choice))


def _with_code(text: str) -> str:
    return re.sub('`(.*?)`', r'<code>\1</code>', text)


def _is_sparse(rows: Sequence[dict[str, Any]], column: Column) -> bool:
    return sum(bool(column.text(row)) for row in rows) < SPARSE * len(rows)


def _first_choice(rows: Sequence[dict[str, Any]], columns: Sequence[Column], selection: str) -> str:
    """Which choice of a selection is shown at first; none (empty) where all of them are mostly empty."""
    column = next(column for column in columns if column.selection == selection)
    return '' if _is_sparse(rows, column) and not column.chosen else column.choice


def _select(rows: Sequence[dict[str, Any]], columns: Sequence[Column], selection: str, first: str) -> str:
    options = {'': f'<option value=""{"" if first else " selected"}>not shown</option>'}
    for column in columns:
        if column.selection == selection and column.choice not in options:
            sparse = ' data-sparse' if _is_sparse(rows, column) else ''
            chosen = ' selected' if column.choice == first else ''
            options[column.choice] = f'<option{sparse}{chosen}>{html.escape(column.choice)}</option>'
    selection = html.escape(selection)
    return f'<label>{selection} <select data-selection="{selection}">{"".join(options.values())}</select></label>'


def _title(column: Column, hidden: bool) -> str:
    title = html.escape(column.title)
    about = f'<small>{html.escape(column.choice)}</small>' if column.choice else ''
    button = f'<button>{title}</button>' if column.value is not None else title
    choice = (
        f' data-selection="{html.escape(column.selection)}" data-choice="{html.escape(column.choice)}"'
        if column.choice else '')
    return (f'<th scope="col" class="{_side(column)}" title="{html.escape(column.note)}"{choice}'
            f'{" hidden" * hidden}>{button}{about}</th>')


def _side(column: Column) -> str:
    return 'r' if column.right else 'l'


def _row(row: dict[str, Any], columns: Sequence[Column], hidden: Sequence[bool]) -> str:
    cells = []
    for column, is_hidden in zip(columns, hidden, strict=True):
        value = column.value(row) if column.value else None
        key = '' if value is None else f' data-value="{html.escape(str(value))}"'
        cells.append(
            f'<td class="{_side(column)}" data-label="{html.escape(column.title)}"{key}{" hidden" * is_hidden}>'
            f'{_cell(column, row)}</td>')
    return f'<tr data-family="{html.escape(row["family"])}">{"".join(cells)}</tr>'


def _cell(column: Column, row: dict[str, Any]) -> str:
    """Text of a cell; of figures with an explanation the latter is small."""
    text = html.escape(column.text(row)) or '-'
    if column.choice:
        text = re.sub(r'^([\d.]+) (\(.*\))( †)?$', r'\1\3 <small>\2</small>', text, flags=re.MULTILINE)
    return text.replace('\n', '<br>')


_TEMPLATE = '''<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>flatzoo: {TITLE}</title>
<style>
:root { color-scheme: light dark;
  --ink: #1f2937; --muted: #6b7280; --line: #e5e7eb; --page: #f8fafc; --card: #fff; --hover: #eff6ff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --muted: #9ca3af; --line: #374151; --page: #111827; --card: #1f2937; --hover: #273449; }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0 auto; padding: 2rem 1.5rem; max-width: 1560px; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; letter-spacing: -0.02em; }
p { margin: 0.3rem 0 1.2rem; color: var(--muted); }
code { font-size: 0.92em; overflow-wrap: anywhere; }
figure { margin: 0 0 1.2rem; padding: 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
figure svg { display: block; width: 100%; max-width: 1100px; height: auto; margin: auto; }
form { display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; align-items: center; margin-bottom: 0.8rem; }
label { color: var(--muted); max-width: 100%; }
input, select { padding: 0.5rem 0.8rem; max-width: 100%; color: var(--ink); font: inherit; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
input { width: 20rem; }
.table { overflow: auto; max-height: 90vh; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { position: sticky; top: 0; z-index: 1; background: var(--card); font-weight: 600; vertical-align: bottom; }
th button { padding: 0; border: 0; background: none; color: inherit; font: inherit; text-align: inherit;
  cursor: pointer; }
th button::after { content: "\\2195"; margin-left: 0.3em; color: var(--muted); font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\2191"; color: var(--ink); }
th[aria-sort=descending] button::after { content: "\\2193"; color: var(--ink); }
small { color: var(--muted); font-size: 0.85em; font-weight: 400; }
th small { display: block; }
.r { text-align: right; }
.l { text-align: left; }
td { white-space: nowrap; }
td[data-label*=top-1] { min-width: 15rem; white-space: normal; }
td:first-child { position: sticky; left: 0; background: var(--card); font-weight: 500;
  border-left: 4px solid var(--family, var(--muted)); }
th:first-child { left: 0; z-index: 2; }
tbody tr:hover td { background: var(--hover); }
tbody tr:last-child td { border-bottom: 0; }
ul { padding-left: 1.2rem; color: var(--muted); max-width: 62rem; }
li { margin-bottom: 0.4rem; overflow-wrap: anywhere; }
@media (max-width: 720px) {  /* a card for each model: nothing scrolls sideways, and nothing is covered */
  body { padding: 1rem 0.8rem; }
  label, select, input { width: 100%; }
  figure { overflow-x: auto; padding: 0.4rem; }
  figure svg { width: 720px; }
  .table { max-height: none; border: 0; background: none; }
  table, thead, tbody { display: block; }
  thead tr { display: flex; flex-wrap: wrap; gap: 0.4rem; margin-bottom: 0.8rem; }
  th { position: static; padding: 0.25rem 0.6rem; border: 1px solid var(--line); border-radius: 999px; }
  th small { display: none; }
  tbody tr { display: grid; grid-template-columns: repeat(3, 1fr); margin-bottom: 0.7rem; padding: 0.3rem;
    background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--family, var(--muted));
    border-radius: 8px; }
  td, td.r, td[data-label*=top-1] { min-width: 0; padding: 0.25rem 0.5rem; border: 0; text-align: left;
    white-space: normal; overflow-wrap: anywhere; }
  td::before { content: attr(data-label); display: block; color: var(--muted); font-size: 0.75em; }
  td:first-child { position: static; border: 0; font-weight: 700; }
  td:first-child::before { content: none; }
  td:first-child, td[data-label*=top-1] { grid-column: 1 / -1; }
}
{COLORS}
</style>
</head>
<body>
<h1>flatzoo: {TITLE}</h1>
<p>{ABOUT} Click a title to sort. Made by <code>{COMMAND}</code>.</p>
{PLOT}
<form onsubmit="return false">
<input type="search" placeholder="Part of a name, a family, a licence" aria-label="Filter">
{CHOICES}
</form>
<div class="table">
<table>
<thead><tr>{HEAD}</tr></thead>
<tbody>
{BODY}
</tbody>
</table>
</div>
{SECTIONS}
<ul>{NOTES}</ul>
<script>
const body = document.querySelector('tbody');
const rows = [...body.rows];
const titles = [...document.querySelector('thead').querySelectorAll('th')];
const selects = [...document.querySelectorAll('select')];
const search = document.querySelector('input');
const value = (row, column) => row.cells[column].dataset.value;
document.querySelectorAll('th button').forEach(button => button.addEventListener('click', () => {
  const title = button.parentNode, column = title.cellIndex;
  const down = title.dataset.choice !== undefined;  // accuracy and speed: the best first
  const order = title.getAttribute('aria-sort') || (down ? 'ascending' : 'descending');
  const sign = order === 'ascending' ? -1 : 1;
  titles.forEach(other => other.removeAttribute('aria-sort'));
  title.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending');
  const compare = (a, b) => {
    const [x, y] = [value(a, column), value(b, column)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);  // unknown ones come last
    return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
  };
  body.append(...rows.sort(compare));
}));
const refresh = () => {
  const needed = {};  // of a choice that few rows have, a row must have something
  titles.forEach((title, column) => {
    if (title.dataset.choice === undefined) return;
    const select = selects.find(other => other.dataset.selection === title.dataset.selection);
    const shown = select.value === title.dataset.choice;
    title.hidden = !shown;
    rows.forEach(row => { row.cells[column].hidden = !shown; });
    if (shown && select.selectedOptions[0].dataset.sparse !== undefined) (needed[select.value] ??= []).push(column);
  });
  const words = search.value.toLowerCase().split(/\\s+/);
  rows.forEach(row => {
    const text = (row.textContent + ' ' + row.dataset.family).toLowerCase();
    row.hidden = !words.every(word => text.includes(word))
      || Object.values(needed).some(columns => columns.every(column => value(row, column) === undefined));
  });
};
search.addEventListener('input', refresh);
selects.forEach(select => select.addEventListener('change', refresh));
refresh();
</script>
</body>
</html>
'''
