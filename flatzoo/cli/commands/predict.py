"""Name the action in video files, or say what happens when (events, subtitles).

Each CLIP is a file, a folder (searched for videos at any depth) or a pattern such as
'clips/**/*.mp4'. For each video the most probable classes are printed, the first one first.
A file that cannot be read is reported on standard error and the others go on; the exit code
is then 1.

    flatzoo predict clip.mp4
    flatzoo predict match.mp4 --every 0.5 --events --subtitles match.srt
    flatzoo predict videos/ --json-lines answers.jsonl
    flatzoo predict videos/ --model sifar_swin_b14.ibm_k400 --topk 3 --json > answers.json
    flatzoo predict clip.mp4 --model hf-hub:org/name
    flatzoo predict clip.mp4 --model runs/mine
    flatzoo predict clip.mp4 --model sifar_swin_b12 --checkpoint mine.safetensors --num-classes 51

Each file gets one answer. With --every, each window of a video gets an answer. --events, --subtitles,
--timeline and --annotate join these answers into events.

--csv FILE.csv and --json-lines FILE.jsonl write into a file. Started again with the same arguments, the
command goes on where it was cut off: answered files are skipped. Without FILE they print.

--parquet answers very many files: Ray Data (pip install 'flatzoo[ray]') spreads them over processes, and
over the machines of the cluster that RAY_ADDRESS names. Start it again with the same arguments to continue
an interrupted run.

    flatzoo predict --files-from million.txt --model hf-hub:org/name --parquet answers/ --processes 8
"""
import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flatzoo.console.text import printable
from flatzoo.data.workers import available_cores

from .. import CommandError, write, write_error
from ..arguments import add_answering_arguments, add_view_arguments, answering_model, chosen_protocol, count
from ..outputs import csv_line, note_scores, open_answers, wants_events, weights_of
from ..windows import add_window_arguments, asks_for_windows, predict_long, said_precision, window_protocol

if TYPE_CHECKING:
    from flatzoo import VideoModel
    from flatzoo.data.protocol import EvalProtocol
    from flatzoo.inference.classifier import Prediction
    from flatzoo.inference.resume import AnswerFile

MANY = 8  # files, from which on a progress bar is shown
LONG = 120  # seconds, from which on few frames say little of a video
COLUMNS = ('path', 'rank', 'label', 'index', 'probability', 'error')  # of CSV
LARGE = 500_000  # bytes that such a file has at least


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo predict`."""
    parser.add_argument('clips', nargs='*', metavar='CLIP', help='video file, folder or pattern')
    parser.add_argument(
        '--files-from', metavar='FILE', help="text file with the path of a video in each line; '-' is standard input")
    parser.set_defaults(usage_error=parser.error)

    add_answering_arguments(parser)

    add_view_arguments(parser)

    add_window_arguments(parser)

    work = parser.add_argument_group('work')
    work.add_argument(
        '--batch-size', type=count, default=8, metavar='N', help='views at a time (default: %(default)s)')
    work.add_argument(
        '--workers', type=count, default=available_cores(), metavar='N',
        help='files that are decoded at the same time, in each process (default: %(default)s)')
    work.add_argument(
        '--processes', type=count, metavar='N',
        help='processes for --parquet and for --every, each with its own model (default: one, or one per GPU; for many '
        'files with --every on a CPU one on every two cores)')

    output = parser.add_argument_group('output')
    output.add_argument('--topk', type=count, default=5, metavar='K', help='classes per video (default: %(default)s)')
    form = output.add_mutually_exclusive_group()
    form.add_argument('--json', action='store_true', help='print one JSON list with an object for every file')
    form.add_argument(
        '--csv', nargs='?', const='-', metavar='FILE.csv',
        help='print CSV with a row for every class of every file, or write it to FILE.csv')
    form.add_argument(
        '--json-lines', nargs='?', const='-', metavar='FILE.jsonl',
        help='print an object for every file in a line of its own as the answers come, or write it to FILE.jsonl')
    form.add_argument(
        '--parquet', metavar='FOLDER',
        help='write Parquet files there, a row for every file (with --every: a file for every video, a row for every '
        'window), or continue an earlier run')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo predict`: 0 if every file was answered, 1 if not."""
    _sort_out_files(args)
    if not args.clips and args.files_from is None:
        args.usage_error('give a CLIP, or a list of them with --files-from')
    from flatzoo.inference.classifier import classify_files
    from flatzoo.inference.find import find_videos

    found = find_videos(args.clips)
    if args.files_from is not None:
        found += [(path, None) for path in _listed(args.files_from)]
    files = [path for path, error in found if error is None]
    answers: Iterator[tuple[str, list[Prediction] | Exception]] = iter(())
    frames, computed = 0, {}
    if files:
        model = answering_model(args)
        protocol = chosen_protocol(model, args)
        note_scores(model, asks_for_windows(args) and not wants_events(args))
        if asks_for_windows(args):
            return _long_videos(found, model, protocol, args)
        frames, computed = protocol.num_clips * model.num_frames, said_precision(model)
        if args.parquet is not None:
            from ..parquet import predict_to_parquet

            return predict_to_parquet(found, model, protocol, args)
    form = 'json' if args.json else 'csv' if args.csv else 'json-lines' if args.json_lines else 'text'
    file = args.csv or args.json_lines
    try:
        if file in (None, '-'):
            if files:
                answers = classify_files(model, files, protocol, args.topk, args.batch_size, args.workers)
            return _report(found, answers, form, frames, computed)
        settings = {
            'model': args.model, 'checkpoint': args.checkpoint and os.path.abspath(args.checkpoint),
            'weights': weights_of(model) if files else None, 'protocol': protocol.to_dict() if files else None,
            'topk': args.topk, **computed}
        with open_answers(file, settings, COLUMNS) as kept:
            if files:
                waiting = [path for path in files if path not in kept.done]
                if before := len(files) - len(waiting):
                    write(f'{before} of {len(files)} files were answered before', sys.stderr)
                answers = classify_files(model, waiting, protocol, args.topk, args.batch_size, args.workers)
            return _report(found, answers, form, frames, computed, kept)
    except RuntimeError as error:
        if 'memory' not in str(error):  # of the device, or of the machine
            raise
        raise CommandError(f'{args.model} runs out of memory. Try a smaller --batch-size.') from error


def _sort_out_files(args: argparse.Namespace) -> None:
    """`--csv clip.mp4` prints CSV of a clip: what follows an option without its suffix is a clip, never written to."""
    for option, suffixes in (('csv', ('.csv',)), ('json_lines', ('.jsonl', '.ndjson'))):
        value = getattr(args, option)
        if value not in (None, '-') and not value.lower().endswith(suffixes):
            args.clips.append(value)
            setattr(args, option, '-')


def _long_videos(
        found: list[tuple[str, str | None]],
        model: 'VideoModel',
        protocol: 'EvalProtocol',
        args: argparse.Namespace,
) -> int:
    try:
        return predict_long(found, model, window_protocol(protocol, args), args)
    except RuntimeError as error:
        if 'memory' not in str(error):
            raise
        raise CommandError(f'{args.model} runs out of memory. Try a smaller --batch-size.') from error


def _listed(path: str) -> list[str]:
    try:
        with contextlib.nullcontext(sys.stdin) if path == '-' else open(path, errors='surrogateescape') as file:
            return [line for line in file.read().split('\n') if line]
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f'--files-from {path} cannot be read ({error}).') from error


def _report(
        found: list[tuple[str, str | None]],
        answers: Iterator[tuple[str, list['Prediction'] | Exception]],
        form: str,
        frames: int = 0,
        computed: dict[str, str] | None = None,
        kept: 'AnswerFile | None' = None,
) -> int:
    """Prints answers and errors in the order in which the files were given, and returns the exit code.

    Args:
        found: Files, with the reason where there is nothing to answer.
        answers: One for each of the others.
        form: `'text'`, `'json'`, `'json-lines'` or `'csv'`.
        frames: Frames of a file that an answer comes from.
        computed: What objects of JSON say of how they were computed.
        kept: Where rows of CSV or JSON lines go, with those of an earlier run; None to print them.
    """
    from flatzoo.console.progress import Progress
    from flatzoo.inference.classifier import reason_of

    long: list[str] = []
    entries: list[dict[str, Any]] = []
    failed = False
    if form == 'csv' and kept is None:
        write(csv_line(COLUMNS), is_data=True)
    done = {} if kept is None else kept.done
    left = sum(path not in done for path, _ in found)
    with Progress(left, 'file', disable=left < MANY) as progress:
        for number, (path, error) in enumerate(found):
            if error is None and path in done:
                if done[path] is not None:  # of an earlier run; the exit code tells of it, too
                    failed = True
                    write_error(done[path])
                continue
            answer = error or next(answers)[1]
            if isinstance(answer, Exception):
                answer = reason_of(path, answer)
            if isinstance(answer, str):
                failed = True
                entry = {'path': path, 'error': answer}
                rows = [(path, '', '', '', '', answer)]
                write_error(answer)
            else:
                top = [dict(item._asdict(), probability=round(item.probability, 6)) for item in answer]
                entry = {'path': path, 'predictions': top, **(computed or {})}
                rows = [(path, rank, *item[:2], f'{item[2]:.6f}', '') for rank, item in enumerate(answer, 1)]
            if kept is not None:
                kept.write(rows if form == 'csv' else [entry])
            elif form == 'csv':
                write('\n'.join(map(csv_line, rows)), is_data=True)
            elif form == 'json-lines':
                write(json.dumps(entry), is_data=True)
            elif form == 'json':
                entries.append(entry)
            elif not isinstance(answer, str):
                gap = '\n' if number else ''
                lines = [f'{probability:8.1%}  {printable(label)}' for label, _, probability in answer]
                write(gap + '\n'.join([printable(path), *lines]))
            if not isinstance(answer, str) and (seconds := _long(path)):
                long.append(f'{path} ({_minutes(seconds)})')
            progress.update()
    if form == 'json':
        write(json.dumps(entries, indent=2))
    if long:
        write(
            f'note: {", ".join(long[:3])}{f" and {len(long) - 3} more" if len(long) > 3 else ""}: an answer is one for '
            f'the whole file, from {frames} frames of it, which say little about so long a video. --every 0.5 says '
            'what happens when, --events from when to when.', sys.stderr)
    return int(failed)


def _long(path: str) -> float | None:
    """Seconds that a video lasts; None if that is not long."""
    from flatzoo.data.decode import VideoError, VideoReader

    try:
        if os.path.getsize(path) < LARGE:
            return None
        with VideoReader(path) as video:
            seconds = (video.timestamps[-1] - video.timestamps[0]).item()
    except (OSError, VideoError):
        return None
    return seconds if seconds >= LONG else None


def _minutes(seconds: float) -> str:
    return f'{seconds / 60:.0f} minutes'
