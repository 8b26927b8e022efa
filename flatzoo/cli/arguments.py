"""Arguments that several commands share."""
import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flatzoo.inference.load import DEFAULT_MODEL, load_model, model_name

from . import CommandError, write

if TYPE_CHECKING:
    from flatzoo import VideoModel
    from flatzoo.data.protocol import EvalProtocol

__all__ = [
    'KeyValues', 'add_answering_arguments', 'add_ema_arguments', 'add_model_arguments', 'add_precision_argument',
    'add_view_arguments', 'answering_model', 'chosen_protocol', 'count', 'model_loader',
]


def count(text: str) -> int:
    """Type of an argument that is a whole number of at least 1."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of at least 1')
    return number


_NOT_OF_THE_MODEL = {'allow_untrained', 'checkpoint', 'checkpoint_path', 'device', 'name', 'needs_head', 'pretrained'}


class KeyValues(argparse.Action):
    """timm's parser of KEY=VALUE arguments, with an error of argparse for what is none."""

    def __call__(self, parser, namespace, values, option_string=None):
        from timm.utils import ParseKwargs

        wrong = [value for value in values if '=' not in value]
        if wrong:
            parser.error(f'{option_string}: {wrong[0]!r} is not of the form KEY=VALUE')
        taken = [value for value in values if value.partition('=')[0] in _NOT_OF_THE_MODEL]
        if taken:
            parser.error(f'{option_string}: {taken[0]!r} is said by the options of the command, not here')
        ParseKwargs(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that change a named model. `load_model` takes them."""
    parser.add_argument('--checkpoint', metavar='FILE', help='weights to load in place of those of the name')
    add_ema_arguments(parser)
    parser.add_argument('--num-classes', type=count, metavar='N', help='number of classes (default: that of the name)')
    parser.add_argument(
        '--model-kwargs', nargs='*', default={}, action=KeyValues, metavar='KEY=VALUE',
        help='further arguments of the model, such as num_frames=16')


def add_answering_arguments(parser: argparse.ArgumentParser) -> None:
    """The model that answers, and how it computes. `answering_model` reads them."""
    model = parser.add_argument_group('model')
    model.add_argument(
        '--model', default=DEFAULT_MODEL, metavar='NAME',
        help="a name that 'flatzoo list' shows, hf-hub:ORG/NAME or the FOLDER of a run (default: %(default)s)")
    model.add_argument('--checkpoint', metavar='FILE', help='weights to load in place of those of the name')
    add_ema_arguments(model)
    model.add_argument('--num-classes', type=count, metavar='N', help='number of classes (default: that of the name)')
    model.add_argument(
        '--allow-untrained', action='store_true', help='give random answers if the classifier was never trained')
    model.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    add_precision_argument(model)


def answering_model(args: argparse.Namespace) -> 'VideoModel':
    """Loads the model that the arguments of `add_answering_arguments` name, prepared to answer fast.

    `args.model` becomes its full name. A precision other than that of the weights is said on standard error.

    Raises:
        ModelError: There is no such model, file or device, or the head of the model was never trained.
    """
    from flatzoo.runtime import precision_of

    args.model = model_name(args.model)
    model = model_loader(args)()
    if (precision := precision_of(model)) != 'fp32':
        write(f'computing in {precision}; --precision fp32 computes in the numbers of the weights', sys.stderr)
    return model


def model_loader(args: argparse.Namespace, **others: Any) -> 'Callable[[], VideoModel]':
    """What loads that model again in another process, with other values of arguments of `load_model`."""
    chosen = dict(
        name=args.model, checkpoint=args.checkpoint, num_classes=args.num_classes,
        allow_untrained=args.allow_untrained, device=args.device, use_ema=args.use_ema, precision=args.precision)
    return functools.partial(load_model, **{**chosen, **others})


def add_ema_arguments(parser: argparse.ArgumentParser) -> None:
    """Which weights of a training checkpoint to take."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--ema', dest='use_ema', action='store_const', const=True, default=None,
        help='take the moving average from a checkpoint that also has raw weights (the default, with a warning)')
    which.add_argument(
        '--raw', dest='use_ema', action='store_const', const=False,
        help='take the raw weights from a checkpoint that also has a moving average')


def add_precision_argument(parser: argparse.ArgumentParser, default: str = 'auto') -> None:
    """In which numbers the model computes; `flatzoo.runtime.prepare` takes it."""
    parser.add_argument(
        '--precision', choices=('auto', 'fp32', 'bf16', 'int8'), default=default,
        help='numbers to compute in; auto takes bf16 on GPUs and on CPUs that are several times as fast with it, and '
        'fp32 elsewhere; int8 is for linear layers on CPUs (default: %(default)s)')


def add_view_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that `chosen_protocol` reads."""
    views = parser.add_argument_group('views', 'What a model sees of a video; its logits are averaged over the views.')
    views.add_argument(
        '--views', choices=('paper', 'repository', 'fast'), default='paper',
        help='paper: as the paper measures the accuracy of the weights; repository: as the example of their official '
        'repository does, where that differs; fast: one clip, centre crop (default: %(default)s)')
    views.add_argument('--num-clips', type=count, metavar='N', help='clips per video')
    views.add_argument('--num-crops', type=int, choices=(1, 3), help='crops per clip')
    views.add_argument(
        '--fit', choices=('auto', 'crop', 'letterbox', 'stretch'), default='auto',
        help='how frames of another aspect ratio become those of the model: crop cuts off, letterbox adds black bars, '
        'stretch distorts; auto: as in the training of the weights (default: %(default)s)')


def chosen_protocol(model: 'VideoModel', args: argparse.Namespace) -> 'EvalProtocol':
    """The evaluation protocol of the model's weights, with what the arguments change.

    Raises:
        CommandError: If the weights have no protocol of the name that `--views` gives.
    """
    from flatzoo import eval_protocol
    from flatzoo.data.protocol import EvalProtocol

    try:
        if args.views == 'fast':
            own = eval_protocol(model)
            protocol = EvalProtocol(fit=own.fit, depth=own.depth)
        else:
            protocol = eval_protocol(model, args.views)
    except ValueError as error:
        raise CommandError(f'--views {args.views}: {error}, or fast') from error
    chosen = {'num_clips': args.num_clips, 'num_crops': args.num_crops, 'fit': args.fit if args.fit != 'auto' else None}
    return dataclasses.replace(protocol, **{key: value for key, value in chosen.items() if value is not None})
