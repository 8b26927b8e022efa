"""Where the answers for windows and events go: a table, JSON, rows of CSV or JSON lines, Parquet."""
import argparse
import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flatzoo.console.text import printable

from . import CommandError, write

if TYPE_CHECKING:
    from flatzoo.inference.events import Event
    from flatzoo.inference.resume import AnswerFile
    from flatzoo.inference.windows import Record

__all__ = ['Output', 'csv_line', 'line_of', 'note_scores', 'open_answers', 'open_output', 'wants_events']

COLUMNS = {
    'records': ('path', 'start', 'end', 'label', 'index', 'probability', 'error'),
    'events': ('path', 'start', 'end', 'label', 'score', 'error'),
}


def wants_events(args: argparse.Namespace) -> bool:
    """Whether the answers are joined into events."""
    return args.events or any(value is not None for value in (args.subtitles, args.timeline, args.annotate))


class Output:
    """Where answers go. This one prints a table.

    Attributes:
        done: Videos that were answered before, with the error or None.
    """

    def __init__(self, args: argparse.Namespace, settings: dict[str, Any]):
        self.args = args
        self.computed = {'precision': settings['precision']} if 'precision' in settings else {}  # in objects of JSON
        self.kind = 'events' if wants_events(args) else 'records'
        self.done: dict[str, str | None] = {}
        self.path = ''
        self.count = 0

    def begin(self, path: str) -> None:
        """A video comes."""
        self.path = path
        self.count += 1

    def add(self, answer: 'Record | Event') -> None:
        """An answer of the present video."""
        if self.path:
            write(f'{"" if self.count == 1 else chr(10)}{printable(self.path)}')
            self.path = ''
        write(line_of(answer))

    def end(self, error: str | None) -> None:
        """The present video is done."""
        if error is None and self.path and self.kind == 'events':
            write(f'{"" if self.count == 1 else chr(10)}{printable(self.path)}\nno events')

    def close(self) -> None:
        """All is done. It may be called more than once."""


def line_of(answer: 'Record | Event') -> str:
    """An answer for people."""
    value = answer.score if hasattr(answer, 'score') else answer.probability
    return f'{_clock(answer.start)} - {_clock(answer.end)}  {value:6.1%}  {printable(answer.label)}'


def _clock(value: float) -> str:
    """Seconds as `0:01:02.50`."""
    hundredths = round(value * 100)
    whole = hundredths // 100
    return f'{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}.{hundredths % 100:02d}'


class _JsonOutput(Output):
    def __init__(self, args: argparse.Namespace, settings: dict[str, Any]):
        super().__init__(args, settings)
        self.entries: list[dict[str, Any]] | None = []

    def begin(self, path: str) -> None:
        self.entries.append({'path': path, **self.computed, self.kind: []})

    def add(self, answer: 'Record | Event') -> None:
        self.entries[-1][self.kind].append(answer.to_dict())

    def end(self, error: str | None) -> None:
        if error is not None:
            self.entries[-1]['error'] = error

    def close(self) -> None:
        if self.entries is not None:
            write(json.dumps(self.entries, indent=2))
        self.entries = None


class _RowOutput(Output):
    """Rows of CSV or JSON lines, to standard output or a file, which an interrupted run goes on with."""

    def __init__(self, args: argparse.Namespace, is_csv: bool, file: str, settings: dict[str, Any]):
        super().__init__(args, settings)
        self.is_csv, self.columns = is_csv, COLUMNS[self.kind]
        self.file = None
        if file == '-':
            if is_csv:
                write(csv_line(self.columns), is_data=True)
            return
        self.file = open_answers(file, settings, self.columns)
        self.done = self.file.done

    def begin(self, path: str) -> None:
        self.path = path
        self.rows = 0

    def add(self, answer: 'Record | Event') -> None:
        self._write({'path': self.path, **answer.to_dict(), **self.computed})

    def end(self, error: str | None) -> None:
        if error is not None or (self.rows == 0 and self.file is not None):
            self._write({'path': self.path, 'error': error})  # or nothing would say that the video was answered

    def _write(self, values: dict[str, Any]) -> None:
        self.rows += 1
        row: Any = values
        if self.is_csv:
            row = tuple('' if values.get(name) is None else values[name] for name in self.columns)
        if self.file is not None:
            self.file.write([row])
        elif self.is_csv:
            write(csv_line(row), is_data=True)
        else:
            write(json.dumps(row), is_data=True)

    def close(self) -> None:
        if self.file is not None:
            self.file.__exit__(*sys.exc_info())
            self.file = None


class _ParquetOutput(Output):
    """A Parquet file for each video, in a folder; those that are there are done."""

    def __init__(self, args: argparse.Namespace, settings: dict[str, Any]):
        super().__init__(args, settings)
        from flatzoo.inference.parquet import open_folder

        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise CommandError("--parquet needs pyarrow: pip install 'flatzoo[ray]'.") from error
        try:
            self.folder = open_folder(args.parquet, settings)
        except (OSError, ValueError) as error:
            raise CommandError(' '.join(str(error).split())) from error
        self.done = _Done(self._file)

    def _file(self, path: str) -> str:
        digest = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()[:12]
        stem = os.path.splitext(os.path.basename(path))[0]
        return os.path.join(self.folder, f'{printable(stem, 60)}-{digest}.parquet')

    def begin(self, path: str) -> None:
        self.path, self.rows = path, []

    def add(self, answer: 'Record | Event') -> None:
        row = answer.to_dict()
        row.pop('top', None)
        self.rows.append({'path': printable(self.path), **row})

    def end(self, error: str | None) -> None:
        import pyarrow
        import pyarrow.parquet

        if error is not None or not self.path:  # tried again when the command is
            return
        kinds = {'index': pyarrow.int32(), 'path': pyarrow.string(), 'label': pyarrow.string()}
        schema = pyarrow.schema({
            name: kinds.get(name, pyarrow.float64()) for name in COLUMNS[self.kind] if name != 'error'})
        target = self._file(self.path)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(self.rows, schema), f'{target}.partial')
        os.replace(f'{target}.partial', target)
        self.path = ''

    def close(self) -> None:
        self.path = ''


class _Done(dict):
    """The videos whose file is there."""

    def __init__(self, file: Callable[[str], str]):
        super().__init__()
        self.file = file

    def __contains__(self, path: object) -> bool:
        return os.path.exists(self.file(str(path)))

    def __missing__(self, path: str) -> None:
        return None


def open_output(args: argparse.Namespace, settings: dict[str, Any]) -> Output:
    if args.json:
        return _JsonOutput(args, settings)
    if args.parquet is not None:
        return _ParquetOutput(args, settings)
    for form in ('csv', 'json_lines'):
        if getattr(args, form) is not None:
            return _RowOutput(args, form == 'csv', getattr(args, form), settings)
    return Output(args, settings)


def open_answers(file: str, settings: dict[str, Any], columns: tuple[str, ...]) -> 'AnswerFile':
    """Opens a file of answers, new or of an interrupted run.

    Raises:
        CommandError: It cannot be used.
    """
    from flatzoo.inference.resume import AnswerFile

    try:
        return AnswerFile(file, settings, columns)
    except OSError as error:
        raise CommandError(f'{file} cannot be written ({error.strerror}).') from error
    except ValueError as error:
        raise CommandError(str(error)) from error


def weights_of(model: Any) -> str:
    """The digest of the weights, by which the settings of answers tell a model from the same one trained again."""
    from flatzoo.weights.adapter_file import state_digest

    return state_digest(model.state_dict())


def csv_line(row: tuple) -> str:
    """A row of CSV without the end of the line."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerow(row)  # so that line breaks within a name are quoted
    return text.getvalue().removesuffix('\n')


def note_scores(model: Any, in_windows: bool = False) -> None:
    """Says, of a model whose clips may have several classes, what its numbers are.

    Args:
        model: The video model.
        in_windows: Whether each window of a video gets the name of one class, in place of events of each class.
    """
    if model.multi_label:
        rest = '; a window has the name of the highest' if in_windows else ''
        write(f'scores of classes by themselves: a clip may have several, and they do not add up to 100 %{rest}',
              sys.stderr)
