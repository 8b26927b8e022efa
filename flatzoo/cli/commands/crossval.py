"""Train once for each person, to measure the accuracy on new people.

Leave-one-group-out: of all clips of the data set those of one group, such as a person, are held out, a
model is trained on all others, and the held-out clips are asked; so for each group in turn. Groups are
those of groups.csv (columns path and group) in ROOT, or of the column group of a list of clips, see
'flatzoo data --help'. Options are those of 'flatzoo train', whose splits both go into the pool.

The figure is that of the last epoch, which nothing has chosen. Each run lies in a folder of its own
below --output, beside crossval.csv, the table of all. With --resume auto the runs that are there are
gone on with, or taken as they are.

    flatzoo crossval folder videos/ --model sifar_resnet10t --pretrained --output runs/people
    flatzoo crossval csv:missing=skip list.csv --config runs/mine/args.yaml --groups anna bert
"""
import argparse
import contextlib
import json
import re
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import CommandError, write
from . import train as train_command

if TYPE_CHECKING:
    from flatzoo.train.recipe import Recipe

__all__ = ['add_arguments', 'run']

TABLE = 'crossval.csv'
OUTPUT = 'runs/crossval'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo crossval`: those of `flatzoo train` and the groups."""
    train_command.add_arguments(parser)
    parser.add_argument(
        '--groups', nargs='+', metavar='NAME', help='groups to hold out (default: all, one after another)')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo crossval`; prints a line for each group and the mean."""
    from timm.utils.distributed import world_info_from_env

    from flatzoo.train.recipe import Recipe, load_recipe

    known = Recipe.__dataclass_fields__
    options = {name: value for name, value in vars(args).items() if name in known}
    try:
        recipe = load_recipe(args.config, **options)
    except ValueError as error:
        raise CommandError(' '.join(str(error).split())) from error
    if not recipe.root:
        raise CommandError('name the data set: flatzoo crossval SPEC ROOT, or a --config that has its spec and root')
    if world_info_from_env()[2] > 1:
        raise CommandError(
            'crossval is one process. With several GPUs start it once for each, with --device cuda:N, --groups and an '
            '--output of its own.')
    if recipe.hold_out is not None or recipe.test_split is not None:
        raise CommandError('each group is held out in turn; leave --hold-out and --test-split out.')
    output = Path(options.get('output') or OUTPUT)
    _check_classes(recipe)
    groups = args.groups or _groups(recipe)
    rows = []
    for group in groups:
        folder = output / folder_name(group)
        write(f'{group} is held out ({len(rows) + 1} of {len(groups)})', sys.stderr)
        own = argparse.Namespace(**{**vars(args), 'hold_out': group, 'output': str(folder)})
        del own.groups
        with contextlib.redirect_stdout(sys.stderr):  # the folders of the runs are not what was asked for
            train_command.run(own)
        rows.append(_row(group, folder))
    _say(rows, output)
    return 0


def _row(group: str, folder: Path) -> dict[str, Any]:
    from flatzoo.train.checkpoint import RESULTS

    results = json.loads((folder / RESULTS).read_text(encoding='utf-8'))
    last = results['last']
    row = results.get('averaged', last)  # the mean of several epochs, if that was asked for
    return {
        'group': group, 'clips': results['eval_clips'], 'top1': row['eval_top1'], 'epoch': last['epoch'],
        'train_clips': results['train_clips']}


def _say(rows: list[dict[str, Any]], output: Path) -> None:
    from flatzoo.train.checkpoint import write_csv

    try:
        write_csv(output / TABLE, rows)
    except OSError as error:
        raise CommandError(f'{output / TABLE} cannot be written: {error.strerror}') from error
    for row in rows:
        write(f'{row["top1"]:8.2f} %  {row["group"]}, {row["clips"]} clips')
    clips = sum(row['clips'] for row in rows)
    pooled = sum(row['top1'] * row['clips'] for row in rows) / clips
    text = f'{pooled:8.2f} %  of all {clips} held-out clips'
    if len(rows) > 1:
        shares = [row['top1'] for row in rows]
        text += (f'; mean of the {len(rows)} groups {statistics.mean(shares):.2f} %, standard deviation '
                 f'{statistics.stdev(shares):.2f}')
    write(text)


def folder_name(group: str) -> str:
    """A name for the folder of a group: letters, digits and `._-` stay."""
    return re.sub(r'[^\w.-]', '_', group).lstrip('.') or '_'


def _check_classes(recipe: 'Recipe') -> None:
    from flatzoo.data.lists import DataError
    from flatzoo.data.multi_label import one_class_only
    from flatzoo.train.build import read_lists

    try:
        one_class_only(read_lists(recipe)[0], 'crossval counts right answers')
    except (DataError, OSError) as error:
        raise CommandError(' '.join(str(error).split())) from error


def _groups(recipe: 'Recipe') -> list[str]:
    from flatzoo.data.lists import DataError, read_videos

    try:
        splits = [recipe.train_split] + [recipe.val_split] * (recipe.val_split not in ('none', recipe.train_split))
        clips = [clip for split in splits for clip in read_videos(recipe.spec, recipe.root, split).clips]
    except (DataError, OSError) as error:
        raise CommandError(' '.join(str(error).split())) from error
    groups = sorted({clip.group for clip in clips} - {''})
    if len(groups) < 2:
        raise CommandError(
            f'{recipe.root}: its clips have {len(groups)} groups, and two are needed. Write groups.csv there, with the '
            'columns path and group.')
    if len({folder_name(group) for group in groups}) < len(groups):
        raise CommandError('two groups would have the same folder; name them with letters, digits and ._- alone.')
    return groups
