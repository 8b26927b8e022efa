"""`flatzoo predict --every`: what happens when, in long videos."""
import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flatzoo.data.workers import available_cores

from . import CommandError, write, write_error
from .arguments import model_loader
from .outputs import Output, open_output, wants_events, weights_of

if TYPE_CHECKING:
    from flatzoo import VideoModel
    from flatzoo.data.protocol import EvalProtocol
    from flatzoo.inference.events import Event
    from flatzoo.inference.spread import FileRecords
    from flatzoo.inference.windows import Record, WindowPlan

__all__ = [
    'add_event_arguments', 'add_window_arguments', 'asks_for_windows', 'event_options', 'predict_long',
    'record_classes', 'said_precision', 'seconds', 'window_protocol',
]

MANY = 8  # files, from which on a progress bar is shown
PICTURES = ('.png', '.svg', '.pdf')


def seconds(text: str) -> float:
    """Type of an argument that is a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.001 <= value < 1e6:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of seconds, such as 0.5')
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0, up to 1')
    return value


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of long videos."""
    windows = parser.add_argument_group(
        'long videos', 'What happens when: an answer every few tenths of a second, and events made of them.')
    windows.add_argument(
        '--every', type=seconds, metavar='S',
        help='answer for a window every S seconds, in place of once for the whole file (default with one of the '
        'options below: 0.5)')
    windows.add_argument(
        '--window', type=seconds, metavar='S',
        help="seconds of a window (default: as long as the clips of the model's training; 2 if it does not say)")
    windows.add_argument(
        '--events', action='store_true', help='join the answers into events: start, end, label, score')
    windows.add_argument(
        '--subtitles', metavar='FILE', help='write the events of a video as subtitles, FILE.srt or FILE.vtt')
    windows.add_argument(
        '--timeline', metavar='FILE', help='draw probabilities and events of a video, FILE.png, .svg or .pdf')
    windows.add_argument(
        '--annotate', metavar='FILE', help='write a copy of a video, FILE.mp4, with its events in the picture')
    add_event_arguments(windows)


def add_event_arguments(group: Any) -> None:
    """The arguments by which answers become events."""
    group.add_argument(
        '--high', type=_share, default=0.5, metavar='P',
        help='probability that an event reaches (default: %(default)s)')
    group.add_argument(
        '--low', type=_share, default=0.3, metavar='P',
        help='probability that it keeps from its start to its end (default: %(default)s)')
    group.add_argument(
        '--smooth', type=int, metavar='N',
        help='answers over which probabilities are averaged, an odd number (default: as many as begin within one '
        'window: 3 with windows of 2 seconds every 0.5)')
    group.add_argument(
        '--min-seconds', type=seconds, default=0.0, metavar='S', help='leave out shorter events (default: none)')


def record_classes(args: argparse.Namespace, model: 'VideoModel', makes_events: bool) -> int:
    """Classes per record: as asked, and enough of them for events."""
    from flatzoo.inference.events import classes_for_events

    return max(args.topk, classes_for_events(model.multi_label)) if makes_events else args.topk


def event_options(args: argparse.Namespace) -> dict[str, Any]:
    """The chosen options of `flatzoo.events`; a wrong pair is a usage error."""
    from flatzoo.inference.events import iter_events

    options = dict(high=args.high, low=args.low, smooth=args.smooth, min_seconds=args.min_seconds)
    try:
        iter_events((), **options)
    except ValueError as error:
        args.usage_error(str(error))
    return options


def asks_for_windows(args: argparse.Namespace) -> bool:
    """Whether the arguments ask for answers over time."""
    wanted = args.every, args.window, args.subtitles, args.timeline, args.annotate
    return args.events or any(value is not None for value in wanted)


def window_protocol(protocol: 'EvalProtocol', args: argparse.Namespace) -> 'EvalProtocol':
    """The protocol of a window: one clip, unless `--num-clips` says otherwise."""
    several = args.num_clips is not None and protocol.sampling == 'uniform'
    return protocol if several else dataclasses.replace(protocol, num_clips=1)


def said_precision(model: 'VideoModel') -> dict[str, str]:
    """What the settings of answers say of the numbers in which the model computes: nothing where it is fp32."""
    from flatzoo.runtime import precision_of

    return {} if (precision := precision_of(model)) == 'fp32' else {'precision': precision}


def check_outputs(args: argparse.Namespace, videos: Sequence[str]) -> None:
    """Refuses output files before any work is done."""
    for option, suffixes in (('subtitles', ('.srt', '.vtt')), ('timeline', PICTURES), ('annotate', ('.mp4',))):
        path = getattr(args, option)
        if path is None:
            continue
        if len(videos) > 1:
            args.usage_error(f'--{option} is of one video; {len(videos)} are given')
        if os.path.splitext(path)[1].lower() not in suffixes:
            args.usage_error(f'--{option} {path}: give a name that ends in {" or ".join(suffixes)}')
        folder = os.path.dirname(path) or '.'
        if not os.path.isdir(folder):
            raise CommandError(f'--{option} {path}: there is no folder {folder}.')
        if any(os.path.exists(path) and os.path.exists(video) and os.path.samefile(path, video) for video in videos):
            args.usage_error(f'--{option} {path}: that is the video itself, which would be lost; give another name')
    if args.timeline is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise CommandError("--timeline needs matplotlib: pip install 'flatzoo[show]'.") from error


def predict_long(
        found: list[tuple[str, str | None]],
        model: 'VideoModel',
        protocol: 'EvalProtocol',
        args: argparse.Namespace,
) -> int:
    """Answers every window of every video, and returns the exit code.

    Args:
        found: Files, with the reason where there is nothing to answer.
        model: The model.
        protocol: Sampling and crops of a window.
        args: The arguments of `flatzoo predict`.

    Raises:
        CommandError: An output cannot be written.
    """
    from flatzoo.inference.windows import DEFAULT_EVERY, plan_windows

    options = dict(event_options(args), multi_label=model.multi_label)
    check_outputs(args, [path for path, _ in found])
    try:
        plan = plan_windows(model, args.every or DEFAULT_EVERY, args.window, protocol)
    except ValueError as error:
        raise CommandError(str(error)) from error
    write(
        f'windows of {plan.window:g} s ({plan.source}{"; --window says another" if plan.is_default else ""}), one '
        f'every {plan.every:g} s', sys.stderr)
    settings = {
        'model': args.model, 'checkpoint': args.checkpoint and os.path.abspath(args.checkpoint),
        'weights': weights_of(model), 'protocol': protocol.to_dict(),
        'every': plan.every, 'window': plan.window, 'topk': args.topk,
        'events': options if wants_events(args) else None, **said_precision(model)}
    with contextlib.closing(open_output(args, settings)) as output:
        try:
            return _answer_all(found, model, plan, options, args, output)
        except BrokenPipeError:  # the next program wants no more
            raise
        except OSError as error:
            raise CommandError(f'{error.filename or "the output"} cannot be written ({error.strerror}).') from error


def _answer_all(
        found: list[tuple[str, str | None]],
        model: 'VideoModel',
        plan: 'WindowPlan',
        options: dict[str, Any],
        args: argparse.Namespace,
        output: 'Output',
) -> int:
    from flatzoo.console.progress import Progress
    from flatzoo.inference.classifier import reason_of

    failed = 0
    waiting = [path for path, error in found if error is None and path not in output.done]
    left = sum(path not in output.done for path, _ in found)
    with (
        contextlib.closing(_records_of(waiting, model, plan, args)) as answers,
        Progress(left, 'file', disable=left < MANY) as progress,
    ):
        for path, error in found:
            if error is None and path in output.done:
                if output.done[path] is not None:  # of an earlier run; the exit code tells of it, too
                    failed += 1
                    write_error(output.done[path])
                continue
            output.begin(path)
            if error is None:
                try:
                    with contextlib.closing(next(answers)) as records:
                        _answer(path, records, options, args, output)
                except (CommandError, OSError, KeyboardInterrupt):
                    raise
                except Exception as raised:  # noqa: BLE001 - whatever a file does to a decoder, the others go on
                    if 'memory' in str(raised) and isinstance(raised, RuntimeError):
                        raise
                    error = reason_of(path, raised)
            if error is not None:
                failed += 1
                write_error(error)
            output.end(error)
            progress.update()
    output.close()
    return int(bool(failed))


def _records_of(
        files: list[str],
        model: 'VideoModel',
        plan: 'WindowPlan',
        args: argparse.Namespace,
) -> 'Iterator[Iterator[Record]]':
    """The records of each file: of many files by several processes, else one after the other by this one."""
    from flatzoo.inference.windows import predict_windows

    def say(line: str) -> None:
        write(f'note: {line}', sys.stderr)

    options = dict(
        every=plan.every, window=plan.window, topk=record_classes(args, model, wants_events(args)),
        protocol=plan.protocol, batch_size=args.batch_size)
    processes = _processes(len(files), model, args)
    if processes == 1:
        for path in files:
            yield predict_windows(path, model, note=say, **options)
        return
    from flatzoo.inference.spread import SpreadError, spread_windows
    from flatzoo.runtime import precision_of

    load = model_loader(args, precision=precision_of(model))
    threads = max(1, available_cores() // processes)
    try:
        with contextlib.closing(spread_windows(files, load, processes, threads, **options)) as answers:
            for answer in answers:
                for line in answer.notes:
                    say(line)
                yield _replay(answer)
    except SpreadError as error:
        raise CommandError(str(error)) from error


def _replay(answer: 'FileRecords') -> 'Iterator[Record]':
    yield from answer.records
    if answer.error is not None:
        raise answer.error


def _processes(count: int, model: 'VideoModel', args: argparse.Namespace) -> int:
    """How many processes answer so many files: as asked; else, on a CPU, one on every two cores if there are many."""
    if args.processes is not None:
        return min(args.processes, max(count, 1))
    if count < MANY or next(model.parameters()).device.type != 'cpu':
        return 1
    return max(1, min(available_cores() // 2, count))  # each decodes in a thread beside that of the model


def _answer(
        path: str,
        answers: 'Iterator[Record]',
        options: dict[str, Any],
        args: argparse.Namespace,
        output: 'Output',
) -> None:
    from flatzoo.inference.events import iter_events
    from flatzoo.inference.subtitles import subtitles

    kept: list[Record] = []

    def records() -> 'Iterator[Record]':
        for record in answers:
            if args.timeline is not None:
                kept.append(dataclasses.replace(record, logits=None))
            yield record

    if not wants_events(args):
        for record in records():
            output.add(record)
        return
    events: list[Event] = []
    for event in iter_events(records(), **options):
        events.append(event)
        output.add(event)
    if args.subtitles is not None:
        with open(args.subtitles, 'w', encoding='utf-8') as file:
            file.write(subtitles(events, args.subtitles))
    if args.timeline is not None:
        from flatzoo.visualize.timeline import timeline_figure

        timeline_figure(kept, events, os.path.basename(path)).savefig(args.timeline, dpi=130)
    if args.annotate is not None:
        from flatzoo.inference.annotate import annotate

        annotate(path, args.annotate, events)
