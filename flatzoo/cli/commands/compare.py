"""Compare models: parameters, multiply-adds, memory, measured speed, what the papers print.

PATTERN picks names, with wildcards: 'sifar*', '*16f*', 'sifar_swin_b14.*'; without one, all models
are compared. Every set of weights is one line. Costs are counted without computing anything or
downloading weights, in about a second for each model. 'trainable' counts the parameters that
train when the backbone of an AM Flow model is frozen. '†' marks accuracies of papers for which
there are no weights. Notes below the table say what the figures mean, and what the papers print
for variants of the models.

Speeds are read from CSV files with the columns model, clips_per_s, hardware, precision and batch,
as the scripts in benchmarks/ write them. A model's fastest form and batch count. The table shows one
machine and names it below: the one on which most of the models were measured, or --machine, a part
of its name or precision. --json and --csv have all of them.

    flatzoo compare 'sifar*' 'flatten*'
    flatzoo compare --family image-to-video
    flatzoo compare --measured benchmarks/results/data/cpu_inference.csv --page docs/models

--family image-to-video shows another table: every way to make an image model see video, first on one
backbone and then as the papers have it. It has what is trained, what training keeps of a clip, what a
trained model takes on disk, and speeds of training from the files. PATTERN picks rows of it.

--page FOLDER writes FOLDER/comparison.html, a table that sorts itself at a click on a title, with
a plot of the papers' accuracies against multiply-adds (needs flatzoo[show]), and FOLDER.md, the
same in Markdown.
"""
import argparse
import csv
import io
import json
import shlex
import textwrap
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatzoo.zoo.catalogue import list_names

from .. import CommandError, write
from ..table import table_text

if TYPE_CHECKING:
    from flatzoo.console.progress import Progress
    from flatzoo.zoo.comparison import Section, Table

__all__ = ['matching_names']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo compare`."""
    parser.add_argument('patterns', nargs='*', metavar='PATTERN', help='names to compare (default: all)')
    parser.add_argument(
        '--measured', nargs='+', default=[], type=Path, metavar='FILE', help='CSV files of measured speeds')
    parser.add_argument(
        '--machine', default='', metavar='NAME', help='whose measured speeds are shown (default: of most models)')
    parser.add_argument(
        '--family', choices=['image-to-video'], help='compare the ways to make an image model see video')
    parser.add_argument(
        '--learned', type=Path, metavar='FILE',
        help='with --family: JSON file of accuracies, of benchmarks/learning/family.py, that stand below the table')
    output = parser.add_mutually_exclusive_group()
    output.add_argument('--json', action='store_true', help='print a JSON list of objects')
    output.add_argument('--csv', action='store_true', help='print CSV')
    output.add_argument('--page', type=Path, metavar='FOLDER', help='write a page with a sortable table and a plot')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo compare`: 0, or a `CommandError` if a pattern matches nothing or a file cannot be used."""
    if args.learned and not args.family:
        raise CommandError('--learned goes with --family image-to-video.')
    if args.machine and not args.measured:
        raise CommandError('--machine goes with --measured FILE: it chooses among the machines of the file.')
    rows, table = (_family if args.family else _models)(args)
    if args.page:
        from flatzoo.zoo.comparison_page import write_page

        try:
            measured = ['--measured', *map(str, args.measured)] if args.measured else []
            measured += ['--machine', args.machine] if args.machine else []
            family = ['--family', args.family] if args.family else []
            learned = ['--learned', str(args.learned)] if args.learned else []
            command = shlex.join(
                ['flatzoo', 'compare', *args.patterns, *family, *measured, *learned, '--page', str(args.page)])
            table = table if args.family else None
            write('\n'.join(map(str, write_page(rows, args.page, command, table, args.machine))))
        except (ImportError, OSError) as error:
            raise CommandError(error) from error
    elif args.json:
        write(json.dumps(rows, indent=2))
    elif args.csv:
        write(_csv(rows))
    else:
        cells = {
            column.title: (lambda row, text=column.text: text(row).replace('\n', '; '), column.right)
            for column in table.columns}
        notes = [textwrap.fill(text, 110) for text in (*table.settings, *table.notes)]
        write('\n\n'.join([table_text(rows, cells), *map(_section_text, table.sections), *notes]))
    return 0


def _models(args: argparse.Namespace) -> 'tuple[list[dict[str, Any]], Table]':
    names = matching_names(args.patterns)

    from flatzoo.console.progress import Progress
    from flatzoo.zoo.comparison import compare_models, read_measured, table_of

    try:
        measured = read_measured(args.measured)
    except (OSError, ValueError) as error:
        raise CommandError(error) from error
    with Progress(len(names), 'model') as bar:
        rows = compare_models(_counted(names, bar), measured)
    try:
        return rows, table_of(rows, args.machine)
    except ValueError as error:
        raise CommandError(error) from error


def _family(args: argparse.Namespace) -> 'tuple[list[dict[str, Any]], Table]':
    from flatzoo.console.progress import Progress
    from flatzoo.zoo.comparison import read_measured
    from flatzoo.zoo.image_to_video import compare_members, matching_members, members_table, read_learned

    try:
        members = matching_members(args.patterns)
        measured = read_measured(args.measured, passes=('forward', 'train'))
        learned = read_learned(args.learned) if args.learned else None
    except (OSError, ValueError) as error:
        raise CommandError(error) from error
    with Progress(len(members), 'row') as bar:
        rows = compare_members(members, measured, bar.update)
    try:
        return rows, members_table(rows, learned, args.machine)
    except ValueError as error:
        raise CommandError(error) from error


def _section_text(section: 'Section') -> str:
    cells = {title: (itemgetter(i), i > 0) for i, title in enumerate(section.titles)}
    return '\n\n'.join([section.title, table_text(section.rows, cells), textwrap.fill(section.note, 110)])


def _counted(names: list[str], bar: 'Progress') -> Iterator[str]:
    for name in names:
        yield name
        bar.update()


def matching_names(patterns: list[str]) -> list[str]:
    """Names of the video models that match any of the patterns, in the order of `flatzoo list`.

    Raises:
        CommandError: If nothing matches one of them.
    """
    found = set()
    for pattern in patterns or ['']:
        names = list_names(pattern)
        if not names:
            raise CommandError(
                f"no model matches {pattern!r}. Put wildcards around a part of a name ('*swin*'); 'flatzoo list' shows "
                'all.')
        found.update(names)
    return [name for name in list_names() if name in found]


def _csv(rows: list[dict[str, Any]]) -> str:
    """One line for each model: lists as text, and a column for each setting that speeds were measured in."""
    from flatzoo.zoo.comparison import fastest, figure_text, setting_of

    settings = dict.fromkeys((setting_of(entry), entry['pass']) for row in rows for entry in row['measured'])
    lines = []
    for row in rows:
        line = {key: value for key, value in row.items() if key not in ('img_size', 'measured', 'paper')}
        line['height'], line['width'] = row['img_size']
        line['paper_top1'] = '; '.join(map(figure_text, row['paper']))
        for setting, kind in settings:
            entry = fastest({'measured': [entry for entry in row['measured'] if entry['pass'] == kind]}, setting)
            title = 'clips_per_s' if kind == 'forward' else 'clips_per_s of training'
            line[f'{title}: {setting}'] = entry and entry['clips_per_s']
        lines.append(line)
    file = io.StringIO()
    writer = csv.DictWriter(file, lines[0], lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue().rstrip('\n')
