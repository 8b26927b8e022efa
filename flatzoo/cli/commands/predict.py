"""Name the action in video files.

Each CLIP is a file, a folder (searched for videos at any depth) or a pattern such as
'clips/**/*.mp4'. For each video the most probable classes are printed, the first one first.
A file that cannot be read is reported on standard error and the others go on; the exit code
is then 1.

    flatzoo predict clip.mp4
    flatzoo predict videos/ --model sifar_swin_b14.ibm_k400 --topk 3 --json > answers.json
    flatzoo predict clip.mp4 --model hf-hub:org/name
    flatzoo predict clip.mp4 --model runs/mine
    flatzoo predict clip.mp4 --model sifar_swin_b12 --checkpoint mine.safetensors --num-classes 51

--parquet answers very many files: Ray Data (pip install 'flatzoo[ray]') spreads them over processes, and
over the machines of the cluster that RAY_ADDRESS names. Started again with the same arguments it goes on
where it was cut off.

    flatzoo predict --files-from million.txt --model hf-hub:org/name --parquet answers/ --processes 8
"""
import argparse
import collections
import contextlib
import csv
import glob
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from flatzoo.console.text import printable
from flatzoo.inference.load import load_model, model_name

from .. import CommandError, write, write_error
from ..arguments import add_ema_arguments, add_view_arguments, chosen_protocol, count

if TYPE_CHECKING:
    from torch import Tensor

    from flatzoo import VideoModel
    from flatzoo.data.protocol import EvalProtocol

__all__ = ['Prediction', 'classify_file', 'classify_files', 'find_videos']

DEFAULT_MODEL = 'sifar_resnet10t'
MANY = 8  # files, from which on a progress bar is shown
LONG = 120  # seconds, from which on few frames say little of a video
LARGE = 500_000  # bytes that such a file has at least


class Prediction(NamedTuple):
    """One class and how probable it is.

    Attributes:
        label: Name of the class, `class 17` where the weights come without names.
        index: Its index in the logits.
        probability: Its softmax probability, 0...1.
    """

    label: str
    index: int
    probability: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo predict`."""
    parser.add_argument('clips', nargs='*', metavar='CLIP', help='video file, folder or pattern')
    parser.add_argument(
        '--files-from', metavar='FILE', help="text file with the path of a video in each line; '-' is standard input")
    parser.set_defaults(usage_error=parser.error)

    model = parser.add_argument_group('model')
    model.add_argument(
        '--model', default=DEFAULT_MODEL, metavar='NAME',
        help="a name that 'flatzoo list' shows, hf-hub:ORG/NAME or the FOLDER of a run (default: %(default)s)")
    model.add_argument('--checkpoint', metavar='FILE', help='weights to load in place of those of the name')
    add_ema_arguments(model)
    model.add_argument('--num-classes', type=count, metavar='N', help='number of classes (default: that of the name)')
    model.add_argument(
        '--allow-untrained', action='store_true', help='answer, at random, even if the classifier was never trained')
    model.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: cuda if there is one)')

    add_view_arguments(parser)

    work = parser.add_argument_group('work')
    work.add_argument(
        '--batch-size', type=count, default=8, metavar='N', help='views at a time (default: %(default)s)')
    work.add_argument(
        '--workers', type=count, default=min(8, os.cpu_count() or 1), metavar='N',
        help='files that are decoded at the same time, in each process (default: %(default)s)')
    work.add_argument(
        '--processes', type=count, metavar='N', help='of --parquet, each with a model (default: one, or one per GPU)')

    output = parser.add_argument_group('output')
    output.add_argument('--topk', type=count, default=5, metavar='K', help='classes per video (default: %(default)s)')
    form = output.add_mutually_exclusive_group()
    form.add_argument('--json', action='store_true', help='print one JSON list with an object for every file')
    form.add_argument('--csv', action='store_true', help='print CSV with a row for every class of every file')
    form.add_argument(
        '--parquet', metavar='FOLDER', help='write Parquet files there, a row for every file, or go on with them')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo predict`: 0 if every file was answered, 1 if not."""
    if not args.clips and args.files_from is None:
        args.usage_error('give a CLIP, or a list of them with --files-from')
    found = find_videos(args.clips)
    if args.files_from is not None:
        found += [(path, None) for path in _listed(args.files_from)]
    files = [path for path, error in found if error is None]
    answers: Iterator[tuple[str, list[Prediction] | Exception]] = iter(())
    frames = 0
    if files:
        args.model = model_name(args.model)
        model = load_model(
            args.model, args.checkpoint, args.num_classes, args.allow_untrained, args.device, use_ema=args.use_ema)
        protocol = chosen_protocol(model, args)
        frames = protocol.num_clips * model.num_frames
        if args.parquet is not None:
            from ..parquet import predict_to_parquet

            return predict_to_parquet(found, model, protocol, args)
        answers = classify_files(model, files, protocol, args.topk, args.batch_size, args.workers)
    try:
        return _report(found, answers, 'json' if args.json else 'csv' if args.csv else 'text', frames)
    except RuntimeError as error:
        if 'memory' not in str(error):  # of the device, or of the machine
            raise
        raise CommandError(f'{args.model} runs out of memory. Try a smaller --batch-size.') from error


def classify_file(
        model: 'VideoModel',
        path: str | os.PathLike,
        protocol: 'EvalProtocol | None' = None,
        topk: int = 5,
        batch_size: int = 8,
) -> list[Prediction]:
    """Names the action in a video file.

        model = timm.create_model('sifar_swin_b14.ibm_k400', pretrained=True)
        for label, index, probability in classify_file(model, 'clip.mp4'): ...

    Args:
        model: A video model; it is put into eval mode.
        path: The video file.
        protocol: Clips and crops over which the logits are averaged; those of the model's weights if None.
        topk: Number of classes to return, at most all.
        batch_size: Views that the model sees at a time.

    Returns:
        The most probable classes, the most probable one first.

    Raises:
        VideoError: If the file cannot be read as a video.
    """
    [(_, answer)] = classify_files(model, [path], protocol, topk, batch_size, workers=1)
    if isinstance(answer, Exception):
        raise answer
    return answer


def classify_files(
        model: 'VideoModel',
        paths: Iterable[str | os.PathLike],
        protocol: 'EvalProtocol | None' = None,
        topk: int = 5,
        batch_size: int = 8,
        workers: int = 1,
) -> Iterator[tuple[str | os.PathLike, list[Prediction] | Exception]]:
    """Names the actions in many video files, decoding the next ones while the model is busy.

    Args:
        model: A video model; it is put into eval mode.
        paths: The video files.
        protocol: Clips and crops over which the logits of a file are averaged; those of the model's weights if None.
        topk: Number of classes per file, at most all.
        batch_size: Views that the model sees at a time, of one file or several.
        workers: Files that are decoded at the same time.

    Yields:
        In the order of `paths`, the path and its predictions or, for a file that cannot be answered, the exception.
    """
    from flatzoo import eval_protocol

    model.eval()
    protocol = protocol or eval_protocol(model)

    def load(path: str | os.PathLike) -> 'Tensor | Exception':
        try:
            return protocol.load_views(path, model.num_frames, model.img_size)
        except Exception as error:  # noqa: BLE001 - whatever a file does to a decoder, the other files go on
            return error

    batch: list[tuple[str | os.PathLike, Tensor | Exception]] = []
    gathered = 0
    for path, views in _ahead(load, paths, workers):
        batch.append((path, views))
        gathered += 1 if isinstance(views, Exception) else len(views)
        if gathered >= batch_size:
            yield from _answers(model, batch, topk, batch_size)
            batch, gathered = [], 0
    yield from _answers(model, batch, topk, batch_size)


def find_videos(paths: Iterable[str]) -> list[tuple[str, str | None]]:
    """Finds the files that files, folders and patterns mean.

    Args:
        paths: Files, whatever their names; folders, in which files with a video's suffix are looked for at any
            depth, hidden ones left out; patterns (`*`, `?`, `[...]`, `**`) that the shell did not expand.

    Returns:
        Each file once, with None, or a path where there is nothing to find, with the reason.
    """
    found: dict[str, tuple[str, str | None]] = {}
    for path in paths:
        matches = [path]
        if glob.has_magic(path) and not os.path.lexists(path):
            matches = sorted(glob.glob(path, recursive=True))
            if not matches:
                found[path] = path, f'{path}: the pattern matches nothing. Check the path.'
        for match in matches:
            missing = None if os.path.lexists(match) else _not_there(match)
            for file, error in _videos_in(match) if os.path.isdir(match) else [(match, missing)]:
                found.setdefault(os.path.abspath(file), (file, error))
    return list(found.values())


def _not_there(path: str) -> str:
    """Why there is nothing at a path, and what to do."""
    scheme = re.match('([a-z][a-z0-9+.-]+)://', path, re.IGNORECASE)
    if scheme and scheme[1].lower() in ('http', 'https'):
        return (
            f'{path}: is an address, and only files are read. Download it first: curl -LO ADDRESS for a video file, '
            'yt-dlp ADDRESS for a page that plays one.')
    if scheme:
        return (
            f'{path}: is a stream or an address, and only files are read. Record a part of it first: ffmpeg -t 10 -i '
            'ADDRESS clip.mp4.')
    if path.isdecimal():
        return (
            f'{path}: no such file. If the camera {path} is meant: only files are read, so record some seconds first: '
            f"ffmpeg -f v4l2 -t 5 -i /dev/video{path} clip.mp4 on Linux. 'flatzoo demo' takes the camera of a browser.")
    return f'{path}: no such file. Check the path.'


def _listed(path: str) -> list[str]:
    try:
        with contextlib.nullcontext(sys.stdin) if path == '-' else open(path, errors='surrogateescape') as file:
            return [line for line in file.read().split('\n') if line]
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f'--files-from {path} cannot be read ({error}).') from error


def _videos_in(folder: str) -> Iterator[tuple[str, str | None]]:
    from flatzoo.data.files import is_video

    visited = set()  # links to folders are followed, in circles too
    empty = True
    errors: list[OSError] = []
    for here, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        if os.path.realpath(here) in visited:
            folders.clear()
            continue
        visited.add(os.path.realpath(here))
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        for name in sorted(names):
            if is_video(name):
                empty = False
                yield os.path.join(here, name), None
    for error in errors:
        yield error.filename, f'{error.filename}: cannot be opened ({error.strerror}). Check its permissions.'
    if empty and not errors:
        yield folder, f'{folder}: no video in this folder. A file is tried whatever its suffix if it is named itself.'


def _ahead(load: Callable, paths: Iterable, workers: int) -> Iterator[tuple]:
    """Yields (path, load(path)) in order, working ahead in threads by a few files."""
    pool = ThreadPoolExecutor(workers)
    waiting = collections.deque()
    try:
        for path in paths:
            waiting.append((path, pool.submit(load, path)))
            if len(waiting) > workers:
                path, future = waiting.popleft()
                yield path, future.result()
        while waiting:
            path, future = waiting.popleft()
            yield path, future.result()
    finally:  # after Ctrl-C there is nothing to wait for
        pool.shutdown(wait=False, cancel_futures=True)


def _answers(
        model: 'VideoModel',
        batch: list[tuple[str | os.PathLike, 'Tensor | Exception']],
        topk: int,
        batch_size: int,
) -> Iterator[tuple[str | os.PathLike, list[Prediction] | Exception]]:
    import torch

    clips = [views for _, views in batch if not isinstance(views, Exception)]
    logits = iter(())
    if clips:
        device = next(model.parameters()).device
        with torch.inference_mode():
            parts = [model(views.to(device)) for views in torch.cat(clips).split(batch_size)]
        logits = iter(torch.cat(parts).float().cpu().split([len(views) for views in clips]))
    labels = model.pretrained_cfg.get('label_names')
    for path, views in batch:
        if isinstance(views, Exception):
            yield path, views
            continue
        mean = next(logits).mean(0)
        if not mean.isfinite().all():
            yield path, ValueError(f'{os.fsdecode(path)}: the logits are not finite. Check the weights of the model.')
            continue
        top = mean.softmax(0).topk(min(topk, len(mean)))
        yield path, [
            Prediction(labels[index] if labels else f'class {index}', index, probability)
            for probability, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]


def _report(
        found: list[tuple[str, str | None]],
        answers: Iterator[tuple[str, list[Prediction] | Exception]],
        form: str,
        frames: int = 0,
) -> int:
    """Prints answers and errors in the order in which the files were given, and returns the exit code.

    Args:
        found: Files, with the reason where there is nothing to answer.
        answers: One for each of the others.
        form: `'text'`, `'json'` or `'csv'`.
        frames: Frames of a file that an answer comes from.
    """
    from flatzoo.console.progress import Progress

    long: list[str] = []
    entries: list[dict[str, Any]] = []
    failed = False
    if form == 'csv':
        write(_csv_lines([('path', 'rank', 'label', 'index', 'probability', 'error')]), is_data=True)
    with Progress(len(found), 'file', disable=len(found) < MANY) as progress:
        for number, (path, error) in enumerate(found):
            answer = error or next(answers)[1]
            if isinstance(answer, Exception):
                answer = _reason(path, answer)
            if isinstance(answer, str):
                failed = True
                entries.append({'path': path, 'error': answer})
                write_error(answer)
                if form == 'csv':
                    write(_csv_lines([(path, '', '', '', '', answer)]), is_data=True)
            elif form == 'json':
                top = [dict(item._asdict(), probability=round(item.probability, 6)) for item in answer]
                entries.append({'path': path, 'predictions': top})
            elif form == 'csv':
                rows = ((path, rank, *item[:2], f'{item[2]:.6f}', '') for rank, item in enumerate(answer, 1))
                write(_csv_lines(rows), is_data=True)
            else:
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
            f'the whole file, from {frames} frames of it, which say little about so long a video. Cut out the part '
            'that matters: ffmpeg -ss START -t 10 -i FILE part.mp4.', sys.stderr)
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


def _csv_lines(rows: Iterable[tuple]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue().removesuffix('\n')


def _reason(path: str, error: Exception) -> str:
    """One line that says why a file has no answer; those of `VideoError` name the file themselves."""
    from flatzoo.data.decode import VideoError

    text = ' '.join(str(error).splitlines())
    return text if isinstance(error, VideoError) or path in text else f'{path}: {type(error).__name__}: {text}'
