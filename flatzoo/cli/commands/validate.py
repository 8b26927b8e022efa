"""Measure the accuracy of models on a data set.

SPEC is the layout of the data set and ROOT its folder, see 'flatzoo data --help'. Each --model is a
name that 'flatzoo list' shows, hf-hub:ORG/NAME, the folder of a run, or a pattern such as 'sifar*', which
stands for all that have a trained classifier for these classes. The clips and crops of a video over
which the logits are averaged are those by which the accuracy of the weights is measured; the options
below change them.

Accuracy is the share of the clips of the list, in per cent. A file that cannot be read is named,
counted in the column 'broken', and counts as wrong; the exit code is then 1. Listed files that are not
there are an error, or with SPEC:missing=skip are left out and counted in the column 'missing'.

--results writes timm's columns and those of video to a CSV file, after each model. torchrun shares the
clips out to several processes; no clip counts twice and none is left out.

    flatzoo validate ucf101:fold=1 UCF101/ --model runs/mine
    flatzoo validate kinetics k400/ --model 'sifar*' --results k400.csv --resume --report k400/
    flatzoo validate ssv2 ssv2/ --model sifar_swin_b14.ibm_ssv2 --order normal reverse shuffle
    torchrun --nproc-per-node 8 -m flatzoo validate kinetics k400/ --model sifar_swin_b14.ibm_k400
"""
import argparse
import contextlib
import glob
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatzoo.console.text import printable
from flatzoo.data.workers import default_workers
from flatzoo.inference.load import ModelError, load_model, model_name, weights_name_classes

from .. import CommandError, write, write_error
from ..arguments import (
    KeyValues,
    add_ema_arguments,
    add_precision_argument,
    add_view_arguments,
    chosen_protocol,
    count,
)

if TYPE_CHECKING:
    from flatzoo import VideoModel
    from flatzoo.data.lists import VideoList
    from flatzoo.evaluation.evaluate import Evaluation
    from flatzoo.evaluation.multi_label import MultiLabelEvaluation

__all__ = ['add_arguments', 'run']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo validate`."""
    parser.add_argument('spec', metavar='SPEC', help='layout of the data set and its options')
    parser.add_argument('root', metavar='ROOT', help='folder of the data set')
    parser.add_argument('--split', default='val', metavar='NAME', help='train, val, test or all (default: %(default)s)')

    model = parser.add_argument_group('model')
    model.add_argument('--model', nargs='+', required=True, metavar='NAME', help='names or patterns')
    model.add_argument(
        '--checkpoint', metavar='FILE',
        help='weights to load in place of those of the name; without a tag in the name, its classes are those of SPEC')
    add_ema_arguments(model)
    model.add_argument(
        '--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE',
        help='arguments of the model, such as num_frames=16')
    model.add_argument(
        '--allow-untrained', action='store_true', help='measure models whose classifier was never trained, too')
    model.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    add_precision_argument(model, 'fp32')

    add_view_arguments(parser)
    parser.add_argument(
        '--order', nargs='+', choices=('normal', 'reverse', 'shuffle'), default=['normal'], metavar='ORDER',
        help='order of the frames: normal, reverse, shuffle, or several of them (default: normal)')
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N', help='seed of the shuffled order (default: %(default)s)')

    work = parser.add_argument_group('work')
    work.add_argument(
        '--batch-size', type=count, default=8, metavar='N', help='views at a time (default: %(default)s)')
    work.add_argument(
        '--workers', type=_number, default=default_workers(), metavar='N',
        help='processes that decode, 0 for none (default: %(default)s, one for each core there is)')

    output = parser.add_argument_group('output')
    output.add_argument('--results', metavar='FILE', help='CSV file with a row for every model and order')
    output.add_argument('--resume', action='store_true', help='continue --results: measure only what has no row there')
    output.add_argument(
        '--report', metavar='FOLDER',
        help='write a table of the classes, the confusion matrix and its picture there, for every model and order')
    output.add_argument('--per-class', action='store_true', help='print the accuracy of every class')
    output.add_argument('--json', action='store_true', help='print one JSON list in place of text')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo validate`: 0 if all models were measured on all clips, 1 if not."""
    if args.resume and not args.results:
        raise CommandError('--resume needs --results FILE, the file to go on with.')
    if args.report:
        _check_matplotlib()
    with _distributed(args.device) as device:
        return _validate(args, device)


def _validate(args: argparse.Namespace, device: str) -> int:
    from flatzoo.data.lists import DataError, read_videos
    from flatzoo.evaluation.results import json_row, read_results, write_results

    names = _names(args)
    if args.checkpoint and len(names) > 1:
        raise CommandError(f'--checkpoint {args.checkpoint} is of one model; --model names {len(names)}.')
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            videos = read_videos(args.spec, args.root, args.split)
        rows = _from_first(lambda: read_results(args.results)) if args.results else []
    except (DataError, OSError, ValueError) as error:
        raise CommandError(' '.join(str(error).split())) from error
    if rows and not args.resume:
        raise CommandError(
            f'{args.results} has {len(rows)} rows already. Go on with it by --resume, or give another file.')
    for warning in caught:
        _say(f'warning: {warning.message}')

    entries: list[dict[str, Any]] = []
    failed, kept = False, 0
    for name, by_pattern in names.items():
        try:
            model, matched = _model_for(name, videos, args, device, by_pattern)
        except (CommandError, ModelError) as error:
            if len(names) == 1:
                raise
            failed |= not isinstance(error, _OtherClasses)
            if isinstance(error, _OtherClasses):
                _say(f'skipped: {error}')
            elif _is_first():
                write_error(error)
            continue
        for order in args.order:
            entry = _measure(name, model, matched, order, args, rows)
            if entry is None:
                _say(f'{name} ({order}): has a row in {args.results}')
                kept += 1
                continue
            row, evaluation = entry
            failed |= bool(evaluation.broken)
            rows.append(row)
            entries.append({**json_row(row), 'classes': evaluation.per_class()})
            if not _is_first():
                continue
            for _, reason in evaluation.broken:
                write_error(reason)
            try:
                if args.results:
                    write_results(args.results, rows)
                if args.report:
                    _write_report(Path(args.report), row, evaluation)
            except OSError as error:
                raise CommandError(f'the results cannot be written: {error}') from error
            if not args.json:
                write(_text(row, evaluation, matched.metric, args.per_class))
        del model
    if args.json and _is_first():
        write(json.dumps(entries, indent=2))
    if not entries and not kept:
        raise CommandError(f'no model of {" ".join(args.model)} could be measured on {videos.name}.')
    return int(failed)


class _OtherClasses(CommandError):
    """A model that a pattern found was trained on the classes of another data set."""


def _names(args: argparse.Namespace) -> dict[str, bool]:
    """Names of the models, and whether a pattern stands for each."""
    import timm

    from flatzoo.zoo.catalogue import list_names

    names: dict[str, bool] = {}
    for pattern in map(model_name, args.model):
        if ':' in pattern or not glob.has_magic(pattern):
            names[pattern] = False
            continue
        found = list_names(pattern)
        trained = [name for name in found if weights_name_classes(timm.get_pretrained_cfg(name))]
        if not (found if args.allow_untrained else trained):
            why = 'has trained weights' if found else 'is there'
            raise CommandError(f"no model that matches {pattern!r} {why}. 'flatzoo list --pretrained' shows all.")
        for name in found if args.allow_untrained else trained:
            names.setdefault(name, True)
    return names


def _model_for(
        name: str,
        videos: 'VideoList',
        args: argparse.Namespace,
        device: str,
        by_pattern: bool,
) -> tuple['VideoModel', 'VideoList']:
    """The model, and the list with its classes; a `CommandError` on all processes if one of them cannot have it."""
    import timm

    from flatzoo.data.lists import DataError
    from flatzoo.evaluation.evaluate import match_classes

    def load() -> tuple['VideoModel', 'VideoList']:
        num_classes = None
        if ':' not in name and timm.is_model(name.partition('.')[0]):
            with contextlib.suppress(RuntimeError):  # no such tag, which load_model says
                cfg = timm.get_pretrained_cfg(name)
                if weights_name_classes(cfg) and (not args.checkpoint or '.' in name):
                    match(videos, cfg.num_classes, cfg.label_names)  # before anything is downloaded
                else:
                    num_classes = len(videos.classes)
        model = load_model(
            name, args.checkpoint, num_classes, args.allow_untrained, device, videos.in_chans,
            **{'use_ema': args.use_ema, 'precision': args.precision, **args.model_kwargs})
        return model, match(videos, model.num_classes, model.pretrained_cfg.get('label_names'))

    def match(*arguments: Any) -> 'VideoList':
        try:
            return match_classes(*arguments)
        except DataError as error:
            kind = _OtherClasses if by_pattern else CommandError
            raise kind(f'{name}: {error}') from error

    return _agreed(load)


def _measure(
        name: str,
        model: 'VideoModel',
        videos: 'VideoList',
        order: str,
        args: argparse.Namespace,
        rows: list[dict[str, Any]],
) -> tuple[dict[str, Any], 'Evaluation | MultiLabelEvaluation'] | None:
    """The row of a model and what was counted; None if `rows` has it already."""
    from flatzoo.evaluation.evaluate import evaluate
    from flatzoo.evaluation.results import result_row, result_setting

    protocol = chosen_protocol(model, args)
    checkpoint = None if args.checkpoint is None else os.path.abspath(args.checkpoint)
    root = args.root if '://' in args.root else os.path.abspath(args.root)
    which = {} if args.use_ema is None else {'use_ema': args.use_ema}
    setting = result_setting(name, model, videos, protocol, order, checkpoint, root, {**which, **args.model_kwargs})
    if any(all(str(row[key]) == value for key, value in setting.items()) for row in rows):
        return None
    _say(f'{name} ({order})')
    try:
        evaluation = evaluate(
            model, videos, protocol, batch_size=args.batch_size, workers=args.workers, order=order, seed=args.seed,
            progress=True)
    except RuntimeError as error:
        if 'memory' not in str(error):  # of the device, or of the machine
            raise
        raise CommandError(f'{name} runs out of memory. Try a smaller --batch-size.') from error
    except ValueError as error:
        raise CommandError(f'{name}: {error}') from error
    return result_row(setting, model, videos, evaluation), evaluation


def _text(
        row: dict[str, Any], evaluation: 'Evaluation | MultiLabelEvaluation', metric: str, per_class: bool) -> str:
    order = '' if row['order'] == 'normal' else f', frames in {row["order"]} order'
    if hasattr(evaluation, 'map'):
        return '\n'.join([f'{row["model"]}{order}', *_multi_label_lines(row, evaluation, per_class)])
    lines = [
        f'{row["model"]}{order}',
        f'{row["top1"]:8.2f} %  top-1',
        *([f'{row["top5"]:8.2f} %  top-5'] if len(evaluation.classes) > 5 else []),  # else it says nothing
        f'{row["mean_class"]:8.2f} %  mean of the classes' + (', by which this data is judged' * (metric != 'top1')),
        _setting_line(row),
    ]
    if row['broken']:
        answered = row['clips'] - row['broken']
        rest = f'; {row["top1"] * row["clips"] / answered:.2f} % of the others are right' if answered else ''
        lines.append(f'  {row["broken"]} clips could not be answered and count as wrong{rest}')
    if row['missing']:
        lines.append(f'  {row["missing"]} listed files are not there and were left out')
    if per_class:
        for entry in sorted(evaluation.per_class(), key=lambda entry: entry['top1']):
            taken = f', {entry["times"]} of them taken for {printable(entry["taken_for"])}' if entry['times'] else ''
            lines.append(f'{entry["top1"]:8.2f} %  {printable(entry["class"])}, {entry["clips"]} clips{taken}')
    return '\n'.join(lines)


def _setting_line(row: dict[str, Any]) -> str:
    return (
        f'  {row["clips"]} clips of {row["data"]} ({row["split"]}), {row["num_frames"]} frames of {row["img_size"]} '
        f'pixels, {row["views"]} view{"s" * (row["views"] != 1)}, {row["gmacs_views"]:g} G multiply-adds a video')


def _multi_label_lines(row: dict[str, Any], evaluation: 'MultiLabelEvaluation', per_class: bool) -> list[str]:
    lines = [
        f'{evaluation.map:8.2f} %  mean average precision of the classes (a clip may have several)',
        f'{evaluation.micro_f1:8.2f} %  F1 of all decisions at the score 0.5',
        f'{evaluation.top1:8.2f} %  of the clips that have a class have their highest score at one of theirs',
        _setting_line(row)]
    if row['broken']:
        lines.append(f'  {row["broken"]} clips could not be answered and come last in the order of every class')
    if row['missing']:
        lines.append(f'  {row["missing"]} listed files are not there and were left out')
    if per_class:
        for entry in sorted(evaluation.per_class(), key=lambda entry: entry['ap']):
            lines.append(
                f'{entry["ap"]:8.2f} %  {printable(entry["class"])}, {entry["clips"]} clips, recall '
                f'{entry["recall"]:.1f} %')
    return lines


def _write_report(folder: Path, row: dict[str, Any], evaluation: 'Evaluation | MultiLabelEvaluation') -> None:
    """`NAME.classes.csv`; and `NAME.confusion.csv` (pairs that occur) and `NAME.confusion.png` of single classes."""
    from flatzoo.evaluation.results import write_results
    from flatzoo.visualize.confusion import confusion_figure

    folder.mkdir(parents=True, exist_ok=True)
    name = ''.join(character if character.isalnum() or character in '._-' else '_' for character in row['model'])
    name += '' if row['order'] == 'normal' else f'.{row["order"]}'
    table = [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in entry.items()}
        for entry in evaluation.per_class()]
    if table:
        write_results(folder / f'{name}.classes.csv', table, table[0])
    if hasattr(evaluation, 'map'):  # clips of several classes have no confusions
        return
    pairs = [
        {'class': evaluation.classes[true], 'answer': evaluation.classes[answer], 'clips': evaluation.confusion[
            true, answer].item()}
        for true, answer in evaluation.confusion.nonzero().tolist()]
    write_results(folder / f'{name}.confusion.csv', pairs, ('class', 'answer', 'clips'))
    figure = confusion_figure(
        evaluation.confusion, evaluation.classes, f'{row["model"]}, {row["order"]} order: {row["top1"]:.2f} % top-1')
    partial = folder / f'{name}.confusion.png.partial'
    try:
        figure.savefig(partial, format='png', dpi=150)
        os.replace(partial, folder / f'{name}.confusion.png')
    finally:
        partial.unlink(missing_ok=True)


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise CommandError("--report draws with matplotlib: pip install 'flatzoo[show]'.") from error


# Several processes

@contextlib.contextmanager
def _distributed(device: str) -> Iterator[str]:
    """Joins the processes of torchrun or Slurm, if any; gives the device of this one."""
    from timm.utils.distributed import init_distributed_device_so, is_distributed_env

    if not is_distributed_env():
        yield device
        return
    import torch
    import torch.distributed as dist

    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        yield init_distributed_device_so(device)['device']
        dist.barrier()  # the first one may still be writing
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_first() -> bool:
    import torch.distributed as dist

    return not dist.is_initialized() or dist.get_rank() == 0


def _say(text: str) -> None:
    if _is_first():
        write(text, sys.stderr)


def _from_first(action: Callable[[], Any]) -> Any:
    """What an action gives on the first process, which may be the only one that has the file."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return action()
    box: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            box = [action()]
        except (OSError, ValueError) as error:
            box = [error]
    dist.broadcast_object_list(box)
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]


def _agreed(action: Callable[[], Any]) -> Any:
    """What an action gives on this process, or its `CommandError` if it fails on any: all go on, or none."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return action()
    result, error = None, None
    try:
        result = action()
    except (CommandError, ModelError) as failure:
        error = failure
    errors: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error and (type(error), str(error)))
    for kind_and_text in filter(None, errors):
        raise kind_and_text[0](kind_and_text[1])
    return result


def _number(text: str) -> int:
    return 0 if text == '0' else count(text)
