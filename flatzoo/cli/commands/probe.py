"""Learn a classifier from few clips: a head on the features of a frozen network.

SOURCE is a folder that 'flatzoo embed' wrote, or the layout of a data set and its folder (SPEC ROOT), whose
clips the network --model then looks at first; --features keeps what it sees. The head learns from the split
train and is measured on val (or else test). Without these splits it is measured by cross-validation. The file
groups.csv in the folder of the data set (columns path and group) says which clips are of one person: they
stay together, and --leave-group-out measures on one person after the other.

  knn, ridge, logistic      by scikit-learn, on pooled features; the penalty is chosen by cross-validation
  attentive, step, linear   the probes of flatzoo, on tokens (flatzoo embed --tokens)

--out saves a model that every command takes. It names its backbone, with a digest of the weights, and
does not copy it. knn saves the features that it answers by. Where clips have several classes ('a|b' in a
list, an empty label for none), each class gets a score of its own, and the figure is the mean average
precision. Needs pip install 'flatzoo[probe]'.

    flatzoo probe features/ --out runs/mine
    flatzoo probe folder videos/ --model probe_dinov2_s --num-frames 4 --out runs/mine
    flatzoo predict new/ --model runs/mine
"""
import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatzoo.console.text import printable

from .. import CommandError, write
from ..arguments import KeyValues
from ..sources import is_spec, lists_or_files, one_line
from .embed import add_embedding_arguments, embedding_given, embedding_kwargs

if TYPE_CHECKING:
    from flatzoo.evaluation.probe import ProbeResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo probe`."""
    parser.add_argument(
        'sources', nargs='+', metavar='SOURCE', help='FEATURES, a folder of features; or SPEC ROOT of a data set')
    parser.add_argument(
        '--kind', choices=('knn', 'ridge', 'logistic', 'attentive', 'step', 'linear'), default='logistic',
        help='kind of head, see above (default: %(default)s)')
    parser.add_argument(
        '--leave-group-out', action='store_true',
        help='leave out one group (person) after the other, and measure on it; splits do not count')
    parser.add_argument(
        '--leave-out', nargs='+', default=[], metavar='GROUP',
        help='learn from all other groups, and measure on these; splits do not count')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the random folds and weights (default: 0)')
    parser.add_argument(
        '--probe-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE',
        help='of attentive, step and linear: probe_depth=1, lr=0.001, weight_decay=0.05, epochs=20, ...')

    output = parser.add_argument_group('output')
    output.add_argument('--out', metavar='FOLDER', help='save the model there')
    output.add_argument('--with-backbone', action='store_true', help='copy the backbone into the folder of --out')
    output.add_argument('--features', metavar='FOLDER', help='keep the features of SPEC ROOT there, for the next time')
    output.add_argument(
        '--report', metavar='FOLDER', help='write a table of the classes and the picture of the confusions there')
    output.add_argument('--per-class', action='store_true', help='print the accuracy of every class')
    output.add_argument('--json', action='store_true', help='print JSON in place of text')
    add_embedding_arguments(parser, required=False)


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo probe`: 0 if all clips have a feature, 1 if not."""
    from flatzoo.evaluation.probe import probe
    from flatzoo.evaluation.probe_model import can_borrow
    from flatzoo.inference.features import INDEX

    common = dict(
        kind=args.kind, leave_group_out=args.leave_group_out, leave_out=args.leave_out, seed=args.seed,
        probe_args=args.probe_kwargs)
    if args.with_backbone and args.out is None:
        raise CommandError('--with-backbone says what is saved: give --out FOLDER, too.')
    try:
        if is_spec(args.sources):
            if args.model is None:
                raise CommandError('SPEC ROOT needs a network that looks at the clips: --model NAME.')
            result = probe(
                lists_or_files(args.sources), model=args.model, features=args.features, **common,
                **embedding_kwargs(args))
        elif len(args.sources) == 1:
            source, given = args.sources[0], embedding_given(args) + ['--features'] * (args.features is not None)
            if os.path.isdir(source) and not os.path.exists(os.path.join(source, INDEX)):
                raise CommandError(
                    f"{source}: holds no features. If it holds clips, say how they are laid out, and which network "
                    f"looks at them: flatzoo probe folder {source} --model {args.model or 'NAME'}")
            if given:
                raise CommandError(
                    f'{given[0]} is for clips (SPEC ROOT). Features know their model, and how it looked at the clips.')
            result = probe(source, **common)
        else:
            raise CommandError('give one folder of features, or SPEC ROOT of a data set.')
        if args.out is not None:
            result.save(args.out, args.with_backbone)
        if args.report is not None:
            _write_report(Path(args.report), result)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(one_line(error, args.report or args.out)) from error
    write(json.dumps(_entry(result), indent=2) if args.json else _text(result, args.per_class))
    for note in result.notes:
        write(f'note: {note}.', sys.stderr)
    if args.out is not None:
        copied = args.kind != 'knn' and not args.with_backbone and not can_borrow(result.features.settings)
        why = ', with a copy of the backbone, since no name stands for its weights' if copied else ''
        write(f"saved: {args.out}{why}. Try 'flatzoo predict CLIP --model {args.out}'.", sys.stderr)
    return int(bool(result.features.errors))


def _text(result: 'ProbeResult', per_class: bool) -> str:
    low, high = result.interval
    penalty = f', {result.penalty}' if result.penalty else ''
    about = (
        f'  {result.evaluation.clips} clips: {result.tested_on}; {len(result.classes)} classes; '
        f'{result.kind}{penalty}; {result.seconds:.1f} s')
    if result.features.multi_label:
        lines = [
            f'{result.map:8.2f} %  mean average precision, between {low:.1f} and {high:.1f} % with 95 % confidence',
            f'{result.evaluation.micro_f1:8.2f} %  F1 of all decisions at the score 0.5', about]
        rows = sorted(result.evaluation.per_class(), key=lambda entry: entry['ap']) if per_class else ()
        return '\n'.join([*lines, *(
            f'{row["ap"]:8.2f} %  {printable(row["class"])}, {_clips(row["clips"])}, recall {row["recall"]:.1f} %'
            for row in rows)])
    lines = [
        f'{result.accuracy:8.2f} %  top-1, between {low:.1f} and {high:.1f} % with 95 % confidence',
        f'{result.evaluation.mean_class:8.2f} %  mean of the classes',
        about]
    if per_class:
        for entry in sorted(result.evaluation.per_class(), key=lambda entry: entry['top1']):
            taken = f', {entry["times"]} of them taken for {printable(entry["taken_for"])}' if entry['times'] else ''
            lines.append(f'{entry["top1"]:8.2f} %  {printable(entry["class"])}, {_clips(entry["clips"])}{taken}')
    return '\n'.join(lines)


def _clips(count: int) -> str:
    return f'{count} clip{"s" * (count != 1)}'


def _entry(result: 'ProbeResult') -> dict[str, Any]:
    names = ('map', 'micro_f1') if result.features.multi_label else ('top1', 'mean_class')
    figures = {name: round(getattr(result.evaluation, name), 4) for name in names}
    return {
        'kind': result.kind, **figures, 'interval': [round(end, 4) for end in result.interval],
        'clips': result.evaluation.clips,
        'tested_on': result.tested_on, 'penalty': result.penalty, 'notes': list(result.notes),
        'seconds': round(result.seconds, 2), 'model': result.features.settings['model'],
        'digest': result.features.settings['digest'], 'classes': result.evaluation.per_class()}


def _write_report(folder: Path, result: 'ProbeResult') -> None:
    """`classes.csv`; and `confusion.png` of single classes."""
    from flatzoo.evaluation.results import write_results
    from flatzoo.visualize.confusion import confusion_figure

    folder.mkdir(parents=True, exist_ok=True)
    rows = result.evaluation.per_class()
    write_results(folder / 'classes.csv', rows, rows[0])
    if result.features.multi_label:  # clips of several classes have no confusions
        return
    figure = confusion_figure(
        result.evaluation.confusion, result.evaluation.classes, f'{result.kind}: {result.accuracy:.2f} % top-1')
    partial = folder / 'confusion.png.partial'
    try:
        figure.savefig(partial, format='png', dpi=150)
        os.replace(partial, folder / 'confusion.png')
    finally:
        partial.unlink(missing_ok=True)
