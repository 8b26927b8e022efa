"""Serve a page on this machine that shows what a model sees of a video.

Drop a video or use the camera, choose model, layout and order of frames, and see the top 5, the image
that the backbone gets, the places that speak for the answer, and which frames matter. A timeline says
what happens when, in videos up to --max-seconds and in the camera as it films. The page works without a
network; weights that are not on this machine are downloaded when their model is chosen.
Needs pip install 'flatzoo[demo]'.

    flatzoo demo
    flatzoo demo --model runs/mine --model sifar_swin_b14.ibm_k400 --port 8000
"""
import argparse
import functools
import signal
import sys
from typing import TYPE_CHECKING

from flatzoo.inference.load import check_registered, load_model, model_name, weights_name_classes

from .. import CommandError, write
from ..arguments import add_precision_argument, count

if TYPE_CHECKING:
    from flatzoo import VideoModel
    from flatzoo.runtime import Precision

DEFAULT_MODEL = 'sifar_resnet10t.actions16'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `flatzoo demo`."""
    parser.add_argument(
        '--model', dest='models', action='append', metavar='NAME',
        help="a model to choose from, several times for several: a name that 'flatzoo list' shows, hf-hub:ORG/NAME or "
             'the FOLDER of a run (default: all registered ones with a trained head)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    add_precision_argument(parser)
    parser.add_argument(
        '--max-megabytes', type=count, default=500, metavar='N', help='largest video that is accepted (default: 500)')
    parser.add_argument(
        '--max-seconds', type=count, default=3600, metavar='N', help='longest video that is accepted (default: 3600)')
    parser.add_argument('--port', type=count, default=7860, metavar='N', help='port of the page (default: 7860)')
    parser.add_argument(
        '--host', default='127.0.0.1', metavar='ADDRESS',
        help='address to listen at; any but the default lets other machines use the page (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Runs `flatzoo demo` until Ctrl-C or SIGTERM."""
    import threading

    from flatzoo.demo.answer import Limits
    from flatzoo.demo.server import is_loopback, serve

    names = [model_name(name) for name in args.models] if args.models else _trained_models()
    for name in names:
        if ':' not in name:  # else it is hf-hub:... or local-dir:...
            check_registered(name)
    models = _Models(args.device, args.precision)
    try:
        models(names[0])  # what is wrong with it is said here and not in the page
    except ValueError as error:
        raise CommandError(error) from error
    if not is_loopback(args.host):
        write(
            f'warning: --host {args.host}: whoever reaches this machine can use the page, it asks for no password.',
            sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that uploads go, too
    try:
        with serve(models, names, Limits(args.max_megabytes, args.max_seconds), args.host, args.port) as address:
            write(f'{address}  (Ctrl-C ends it)')
            threading.Event().wait()
    except ImportError as error:
        raise CommandError(error) from error
    except (OSError, OverflowError) as error:  # OverflowError: no such port
        reason = str(error).partition('. ')[0].rstrip('.')  # what follows is advice to programs that use gradio
        raise CommandError(
            f'the page cannot be served at {args.host}, port {args.port} ({reason}). Choose another --port.') from error
    return 0


class _Models:
    """Loads models by name and layout, and keeps the last few."""

    def __init__(self, device: str, precision: 'Precision' = 'auto'):
        self.device, self.precision = device, precision
        self._kept = functools.lru_cache(maxsize=3)(self._load)

    def __call__(self, name: str, layout: str | None = None) -> 'VideoModel':
        return self._kept(name, layout)

    def _load(self, name: str, layout: str | None) -> 'VideoModel':
        return load_model(
            name, device=self.device, precision=self.precision, **({} if layout is None else {'layout': layout}))


def _trained_models() -> list[str]:
    import timm

    from flatzoo import list_models

    names = [name for name in list_models(pretrained=True) if weights_name_classes(timm.get_pretrained_cfg(name))]
    return sorted(names, key=lambda name: name != DEFAULT_MODEL)  # that one first: it is in the package
