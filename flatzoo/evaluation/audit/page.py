"""The pages of an audit: HTML with bars, and Markdown, of the same numbers."""
import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .run import Audit, rank_models

__all__ = ['write_pages']

_STYLE = (
    'body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}'
    'table{border-collapse:collapse;margin:1em 0}'
    'td,th{padding:.25em .7em;text-align:right;border-bottom:1px solid #ddd}'
    'td:first-child,th:first-child{text-align:left}.bar{background:#dbe7f5;width:12em;height:1em;position:relative}'
    '.bar i{background:#3b76b5;display:block;height:100%}.verdict{font-size:1.4em;font-weight:600}')


def write_pages(audits: Sequence[Audit], path: str | os.PathLike, command: str = '') -> list[Path]:
    """Writes `PATH.html` and `PATH.md`, each under a temporary name first.

    Args:
        audits: Of one model or several.
        path: Path of the pages without a suffix; one of `.html` or `.md` is left out.
        command: What the pages say that they are made by.

    Returns:
        Both files.

    Raises:
        OSError: They cannot be written.
    """
    path = Path(path)
    path = path.with_suffix('') if path.suffix in ('.html', '.md') else path
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = _blocks(audits, command)
    texts = {'.html': _html(blocks), '.md': _markdown(blocks)}
    written = []
    for suffix, text in texts.items():
        file = path.with_name(path.name + suffix)
        partial = file.with_name(f'{file.name}.partial')
        try:
            partial.write_text(text, encoding='utf-8', errors='backslashreplace')
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
        written.append(file)
    return written


def _blocks(audits: Sequence[Audit], command: str) -> list[tuple[str, Any]]:
    """The content of the pages: pairs of a kind (title, verdict, text, table) and what it holds."""
    blocks: list[tuple[str, Any]] = [('title', 'Does it look at time?')]
    if command:
        blocks.append(('text', f'Made by: {command}'))
    if len(audits) > 1:
        try:
            rows = rank_models(audits)
        except ValueError as error:
            blocks.append(('text', f'No ranking: {error}'))
        else:
            blocks.append(('table', (
                ['model', 'verdict', 'gain by order (points)', 'gain by several frames', 'p against the one above'],
                [[row['name'], row['title'], f'{row["gain_order"]:.1f}', f'{row["gain_frames"]:.1f}', _p(row['p'])]
                 for row in rows])))
    for found in audits:
        blocks += _of_one(found)
    return blocks


def _of_one(found: Audit) -> list[tuple[str, Any]]:
    count, lost = len(found.labels), len(found.broken)
    blocks: list[tuple[str, Any]] = [
        ('heading', f'{found.name} on {found.data}'), ('verdict', found.verdict.sentence)]
    blocks += [('text', reason) for reason in found.verdict.reasons]
    blocks.append(('text', (
        f'{count} clips, {len(found.classes)} classes'
        + (f', {lost} clips could not be read and are left out' if lost else '')
        + f'; {found.seconds:.0f} s. Intervals are those of 95 %, differences after Agresti and Min. Bits: what an '
        'answer tells less of the class, in the mean, each control with a temperature of its own. p, one-sided: the '
        "smaller one of McNemar's exact test and a permutation test of the bits, twice, corrected for the number of "
        'controls (Holm).')))
    rows = [
        [row['shown'], f'{row["accuracy"]:.1f} %', '{:.0f} to {:.0f} %'.format(*row['interval']),
         '' if row['difference'] is None else '{:.0f} to {:.0f}'.format(*row['difference']),
         '' if row['bits'] is None else f'{row["bits"] + 0.0:.2f}', _p(row['p']),
         row['accuracy']]
        for row in found.rows()]
    blocks.append(('bars', (
        ['what is shown', 'right', 'interval', 'lost against in order (points)', 'bits lost', 'p'], rows)))
    if found.symmetric:
        pairs = '; '.join(f'{a} and {b}' for a, b in found.symmetric)
        blocks.append(('text', f'Reversed, these classes are taken for each other: {pairs}.'))
    if found.calibration is not None:
        values = found.calibration
        blocks.append(('text', (
            f'Expected calibration error {100 * values["before"]:.1f} %; with logits divided by the temperature '
            f'{values["temperature"]:.2f} it is {100 * values["after"]:.1f} % (each half of the clips with the '
            'temperature of the other half).')))
    controls = ('in_order', 'reversed', 'mean_of_shuffles', 'confident_frame', 'no_background')
    blocks.append(('table', (
        ['class', 'clips', *(name.replace('_', ' ') for name in controls)],
        [[row['class'], str(row['clips']), *(f'{row[name]:.0f} %' for name in controls)]
         for row in found.per_class()])))
    return blocks


def _p(value: float | None) -> str:
    return '' if value is None else '< 0.0001' if value < 1e-4 else f'{value:.2g}'


def _html(blocks: Sequence[tuple[str, Any]]) -> str:
    parts = [f'<!doctype html><meta charset="utf-8"><title>{html.escape(blocks[0][1])}</title><style>{_STYLE}</style>']
    tags = {'title': 'h1', 'heading': 'h2', 'text': 'p'}
    for kind, content in blocks:
        if kind in tags:
            parts.append(f'<{tags[kind]}>{html.escape(content)}</{tags[kind]}>')
        elif kind == 'verdict':
            parts.append(f'<p class="verdict">{html.escape(content)}</p>')
        else:
            head, rows = content
            cells = ''.join(f'<th>{html.escape(name)}</th>' for name in [*head, *[''] * (kind == 'bars')])
            body = ''
            for row in rows:
                texts = row[:-1] if kind == 'bars' else row
                bar = f'<td><div class="bar"><i style="width:{row[-1]:.1f}%"></i></div></td>' if kind == 'bars' else ''
                body += '<tr>' + ''.join(f'<td>{html.escape(text)}</td>' for text in texts) + bar + '</tr>'
            parts.append(f'<table><tr>{cells}</tr>{body}</table>')
    return '\n'.join(parts) + '\n'


def _markdown(blocks: Sequence[tuple[str, Any]]) -> str:
    parts = []
    for kind, content in blocks:
        if kind in ('title', 'heading'):
            parts.append(f'{"#" if kind == "title" else "##"} {_plain(content)}')
        elif kind == 'verdict':
            parts.append(f'**{_plain(content)}**')
        elif kind == 'text':
            parts.append(_plain(content))
        else:
            head, rows = content
            rows = [row[:-1] if kind == 'bars' else row for row in rows]
            lines = [head, ['---'] * len(head), *rows]
            parts.append('\n'.join('| ' + ' | '.join(map(_plain, line)) + ' |' for line in lines))
    return '\n\n'.join(parts) + '\n'


def _plain(text: str) -> str:
    """Text of a cell: class names are somebody else's, and may hold lines and bars."""
    return ' '.join(str(text).split()).replace('|', '\\|').replace('<', '&lt;')
