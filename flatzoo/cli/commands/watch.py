"""Name the action in a camera, a live stream or a growing file, as it happens.

SOURCE is a camera (camera:0, /dev/video0), an address (rtsp://, http://, udp:// and others), '-' for a video on
standard input, or a file that still grows. There is one line for each window of time, with the seconds from its
last frame to the answer (latency). Ctrl-C ends it.

If the model is slower than a camera or an address, the oldest frames are dropped, and counted. Standard input
and files wait instead, so that no frame is lost. A camera or address that is lost is opened again, after 1, 2,
4 ... 30 seconds.

    flatzoo watch camera:0
    flatzoo watch rtsp://camera.local/stream --model runs/mine --json-lines
    ffmpeg -i rtsp://camera.local/stream -c copy -f mpegts - | flatzoo watch -
    flatzoo watch recording.ts --every 1 --events
"""
import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import CommandError, write
from ..arguments import add_answering_arguments, add_view_arguments, answering_model, chosen_protocol, count
from ..outputs import line_of, note_scores
from ..windows import add_event_arguments, event_options, record_classes, said_precision, seconds, window_protocol

if TYPE_CHECKING:
    from flatzoo.inference.watch import Sighting
    from flatzoo.inference.windows import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo watch`."""
    parser.add_argument('source', metavar='SOURCE', help="camera:0, an address, '-' or a growing file")
    parser.set_defaults(usage_error=parser.error)

    add_answering_arguments(parser)
    add_view_arguments(parser)

    windows = parser.add_argument_group('time')
    windows.add_argument(
        '--every', type=seconds, default=0.5, metavar='S', help='an answer every S seconds (default: %(default)s)')
    windows.add_argument(
        '--window', type=seconds, metavar='S',
        help="seconds of a window (default: as long as the clips of the model's training; 2 if it does not say)")
    windows.add_argument('--events', action='store_true', help='print events as they end, in place of every answer')
    add_event_arguments(windows)

    source = parser.add_argument_group('source')
    source.add_argument(
        '--stall', type=seconds, default=10.0, metavar='S',
        help='seconds without data after which a source is lost, and a growing file complete (default: %(default)s)')
    source.add_argument(
        '--retries', type=int, default=10, metavar='N',
        help='how often in a row a lost camera or address is opened again (default: %(default)s)')
    waits = source.add_mutually_exclusive_group()
    waits.add_argument(
        '--drop', action='store_const', const=True, help='drop the oldest frames of standard input and files, too')
    waits.add_argument(
        '--wait', dest='drop', action='store_const', const=False, help='never drop frames, also of addresses')

    output = parser.add_argument_group('output')
    output.add_argument('--topk', type=count, default=5, metavar='K', help='classes per answer (default: %(default)s)')
    output.add_argument('--json-lines', action='store_true', help='print an object for every answer in its own line')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo watch` until the source ends."""
    from flatzoo.data.decode import VideoError
    from flatzoo.data.decode.live import kind_of
    from flatzoo.inference.watch import watch
    from flatzoo.inference.windows import plan_windows

    options = event_options(args)
    try:
        kind_of(args.source)
        model = answering_model(args)
        plan = plan_windows(model, args.every, args.window, window_protocol(chosen_protocol(model, args), args))
        write(
            f'windows of {plan.window:g} s ({plan.source}{"; --window says another" if plan.is_default else ""}), one '
            f'every {plan.every:g} s; Ctrl-C ends', sys.stderr)
        note_scores(model, in_windows=not args.events)
        sightings = watch(
            args.source, model, plan, record_classes(args, model, args.events), args.stall, args.retries, args.drop,
            note=lambda line: write(f'note: {line}', sys.stderr))
        with contextlib.closing(sightings):
            _print(sightings, args, dict(options, multi_label=model.multi_label), said_precision(model))
    except VideoError as error:
        raise CommandError(str(error)) from error
    except KeyboardInterrupt:
        return 0  # that is how it ends
    return 0


def _print(sightings: Iterator['Sighting'], args: argparse.Namespace, options: dict, computed: dict) -> None:
    from flatzoo.inference.events import iter_events

    total = 0

    def until_interrupted() -> Iterator['Sighting']:
        with contextlib.suppress(KeyboardInterrupt):  # ends the stream; an event that still lasts is reported
            yield from sightings

    def records() -> Iterator['Record']:
        nonlocal total
        for sighting in until_interrupted():
            total += sighting.dropped
            if sighting.dropped:
                write(
                    f'note: the model is too slow: {sighting.dropped} frames were dropped ({total} so far)', sys.stderr)
            if not args.events and args.json_lines:
                write(json.dumps({
                    **sighting.record.to_dict(), 'latency': round(sighting.latency, 3), 'dropped': sighting.dropped,
                    **computed}), is_data=True)
            elif not args.events:
                write(f'{line_of(sighting.record)}  ({sighting.latency * 1000:.0f} ms)')
            yield sighting.record

    if not args.events:
        for _ in records():
            pass
        return
    for event in iter_events(records(), **options):
        line = json.dumps({**event.to_dict(), **computed}) if args.json_lines else line_of(event)
        write(line, is_data=args.json_lines)
