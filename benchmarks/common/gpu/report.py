"""The page of a run, from what is known of it so far."""
import csv
from collections import Counter
from pathlib import Path
from typing import Any

from .context import read_facts

__all__ = ['GOALS', 'write_report']

GOALS = {'clips_per_s': 2200, 'of_matrix_rate': 0.6, 'of_floor': 2}
SHOWN = {
    'kernel_errors.csv': ('operator', 'tokens', 'frames', 'precision', 'result', 'error', 'same_twice'),
    'kernel_speed.csv': (
        'clips', 'tokens', 'frames', 'pass', 'variant', 'ms', 'of_attention', 'of_block', 'extra_mib', 'floor_ms',
        'of_floor'),
    'models.csv': (
        'model', 'variant', 'pass', 'frames', 'size', 'batch', 'clips_per_s', 'of_plain', 'of_matrix_rate', 'peak_mb',
        'error', 'backend'),
    'layout.csv': ('what', 'batch', 'ms', 'of_copy', 'of_optimized'),
}
TITLES = {
    'kernel_errors.csv': 'AM flow kernels against float64', 'kernel_speed.csv': 'AM flow kernels, time and floor',
    'models.csv': 'Models', 'layout.csv': 'The layout alone'}


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def goals(out: Path) -> list[str]:
    """What was aimed at, and what was reached."""
    def best(rows: list[dict], column: str, choose=max) -> dict[str, str] | None:
        rows = [row for row in rows if row.get(column)]
        return choose(rows, key=lambda row: float(row[column]), default=None)

    lines = []
    models = [row for row in rows_of(out / 'models.csv') if row['model'].startswith('sifar_swin_b12')]
    top = best([row for row in models if row['pass'] == 'forward'], 'clips_per_s')
    if top:
        share = float(top['of_matrix_rate'] or 'nan')
        lines.append(
            f'- SIFAR-B-12, inference: {top["clips_per_s"]} clips/s ({top["variant"]}, batch {top["batch"]}), '
            f'{share:.0%} of the card\'s own matrix rate. Goal: {GOALS["clips_per_s"]} on an H200, or '
            f'{GOALS["of_matrix_rate"]:.0%}.')
    kernels = [row for row in rows_of(out / 'kernel_speed.csv') if row['variant'] == 'flow, triton']
    for of in sorted({row['pass'] for row in kernels}):
        mine = [row for row in kernels if row['pass'] == of]
        low, high = best(mine, 'of_floor', min), best(mine, 'of_floor')
        if low and high:
            lines.append(
                f'- AM flow kernel, {of}: {low["of_floor"]} to {high["of_floor"]} times its floor (most at '
                f'{high["tokens"]} tokens, {high["frames"]} frames). Goal: at most {GOALS["of_floor"]}.')
    return lines or ['- Nothing was measured yet.']


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Rows in Markdown."""
    lines = [columns, ['---'] * len(columns), *([row.get(column) or '' for column in columns] for row in rows)]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def write_report(out: Path, rehearse: bool) -> str:
    """Writes `gpu.md` and returns it."""
    facts = read_facts(out)
    card, tests, notes = (facts.get(key, {}) for key in ('card', 'tests', 'notes'))
    outcomes = Counter(tests.values())
    blocks = [
        '# On a GPU', '**A rehearsal on a CPU in tiny sizes: no figure of it means anything.**' if rehearse else '',
        '`python benchmarks/gpu.py`, which says what the parts are. '
        + ', '.join(f'{key} {value}' for key, value in card.items() if key not in ('device', 'packages')) + '. '
        + ', '.join(f'{name} {version}' for name, version in card.get('packages', {}).items()) + '.',
        '## Goals', '\n'.join(goals(out)),
        '## Parts', table(
            [{'part': name, **part} for name, part in facts.get('parts', {}).items()],
            ('part', 'ended', 'seconds', 'limit')),
        '## GPU tests', ', '.join(f'{count} {outcome}' for outcome, count in outcomes.items()) or 'None ran.',
        '\n'.join(f'- {name}: {outcome}' for name, outcome in tests.items() if outcome != 'passed'),
        '## Training on rendered actions', ', '.join(f'{key} {value}' for key, value in facts.get('learn', {}).items())]
    for name, columns in SHOWN.items():
        rows = rows_of(out / name)
        if rows:
            blocks += [f'## {TITLES[name]}', table(rows, columns)]
    if notes:
        blocks += ['## What did not run', '\n'.join(f'- {n["part"]}, {n["kind"]}: {n["text"]}' for n in notes)]
    text = '\n\n'.join(block for block in blocks if block) + '\n'
    partial = out / 'gpu.tmp'
    partial.write_text(text)
    partial.replace(out / 'gpu.md')
    return text
