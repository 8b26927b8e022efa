"""The command `flatzoo`: each file in `commands/` is one subcommand, found by its name; what they share lies here.

A subcommand's file has a docstring, whose first line is its summary in `flatzoo --help` and which is all of its own
`--help`; `add_arguments(parser)`; and `run(args) -> int`, which returns the exit code. Files import torch, timm and the
other rooms inside of `run`, so that help and usage errors do not wait for them.

Results go to standard output. Errors, warnings and progress go to standard error.
"""
import argparse
import contextlib
import importlib
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from typing import IO

from flatzoo.console.text import escape_controls
from flatzoo.inference.load import ModelError
from flatzoo.version import __version__

__all__ = ['CommandError', 'main', 'write', 'write_error']

_command = 'flatzoo'  # and the name of the subcommand


class CommandError(Exception):
    """A command cannot do its work. The user sees only the message."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
        argv: Arguments without the name of the program; those of the process if None.

    Returns:
        Exit code: 0 if all was done, 1 if something could not be (standard error says what), 130 after Ctrl-C, 141 if
        the reader of standard output has gone.

    Raises:
        SystemExit: From argparse, with 0 after `--help` and 2 for arguments that it does not accept.
    """
    global _command
    try:
        args = _parser().parse_args(argv)
        _command = f'flatzoo {args.command}'
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = args.run(args)
        sys.stdout.flush()
        return code
    except (CommandError, ModelError) as error:
        write_error(error)
        return 1
    except KeyboardInterrupt as error:  # with a text where there is something to say
        if str(error):
            write(f'{_command}: {error}', sys.stderr)
        return getattr(error, 'exit_code', 130)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # else the interpreter complains when it flushes at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def write(text: str, file: IO[str] | None = None, is_data: bool = False) -> None:
    """Prints a line beside any progress bar; characters that the encoding of the file lacks come out escaped.

    So do control characters, by which a class name of somebody's model could clear the screen or worse.

    Args:
        text: The line, or several.
        file: Where to; standard output if None.
        is_data: Whether a program reads it, so that every character but those that cannot be encoded stays.
    """
    from tqdm import tqdm

    file = sys.stdout if file is None else file
    encoding = getattr(file, 'encoding', None) or 'utf-8'
    text = text if is_data else escape_controls(text)
    text = text.encode(encoding, 'backslashreplace').decode(encoding)
    if file is sys.stdout and not file.isatty():
        print(text, file=file)  # no bar is there
    else:
        tqdm.write(text, file=file)
    file.flush()


def write_error(reason: object) -> None:
    """Prints why something could not be done on standard error, with the command in front, as argparse does."""
    write(f'{_command}: error: {reason}', sys.stderr)


def _show_warning(message: Warning | str, category: type, filename: str, lineno: int, *_: object) -> None:
    """Shows a warning without the line of code, which does not help the user."""
    write(f'warning: {message}', sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='flatzoo',
        description='Action recognition with image models: from a video file to the name of what happens in it.',
        epilog="'flatzoo COMMAND --help' says more about a command.",
    )
    parser.add_argument('--version', action='version', version=f'flatzoo {__version__}')
    commands = parser.add_subparsers(title='commands', dest='command', metavar='COMMAND', required=True)
    for name in sorted(module.name for module in pkgutil.iter_modules([os.path.join(__path__[0], 'commands')])):
        command = importlib.import_module(f'{__name__}.commands.{name}')
        text = command.__doc__ or ''
        subparser = commands.add_parser(
            name,
            help=text.partition('\n')[0].rstrip('.'),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
