"""A text file of answers that an interrupted run goes on with: JSON lines or CSV, a block of rows for each video."""
import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

__all__ = ['AnswerFile', 'other_run']


def other_run(path: str | os.PathLike, there: Mapping[str, Any], now: Mapping[str, Any]) -> ValueError:
    """The error of answers that the settings of a run do not fit.

    Args:
        path: Where the answers are.
        there: The settings of these answers.
        now: Those of the run.
    """
    if {**there, 'weights': None} == {**now, 'weights': None}:  # trained again since
        return ValueError(
            f'{path}: holds the answers of other weights of {now["model"]}. Give another file or folder, or remove '
            'this one, and all is answered anew.')
    return ValueError(
        f'{path}: holds the answers of another run ({json.dumps(there)}). Give the same arguments again, or another '
        'file or folder.')


class AnswerFile:
    """A file to which answers are added, video by video.

    Beside it lies `NAME.run.json` with the settings of the run, so that the answers of two models are never mixed, and
    with the size of the file when the run ended. After a run that did not end, the rows of its last video may not be
    all: they are taken out, and that video is answered again.

    Args:
        path: The file; its suffix says whether it holds CSV (`.csv`, with a header and a column `path`) or JSON lines
            (objects with `path`). Both have `error` where there is no answer.
        settings: Everything that changes the answers, in values that JSON can hold.
        header: Columns of CSV.

    Attributes:
        done: The videos that are answered, as they were named, with the error or None.

    Raises:
        ValueError: The file holds answers of other settings, or something else.
        OSError: It cannot be written.
    """

    def __init__(self, path: str | os.PathLike, settings: Mapping[str, Any], header: tuple[str, ...] = ()):
        self.path = Path(path)
        self.is_csv = self.path.suffix.lower() == '.csv'
        self.done: dict[str, str | None] = {}
        beside = self.path.with_name(f'{self.path.name}.run.json')
        self._beside, self._settings = beside, json.loads(json.dumps(dict(settings)))
        whole = None
        begun = self.path.exists() and self.path.stat().st_size > 0
        if begun:
            if not beside.exists():
                raise ValueError(
                    f'{self.path}: was not written by such a run (there is no {beside.name}). Give a new file.')
            there = json.loads(beside.read_text(encoding='utf-8'))
            if there.get('settings') != self._settings:
                raise other_run(self.path, there.get('settings') or {}, self._settings)
            whole = there.get('whole') == self.path.stat().st_size
        self._tell(None)
        self._file: IO[str] = open(self.path, 'a+', encoding='utf-8', errors='surrogateescape', newline='')
        try:
            if begun:
                self._read(keep_last=bool(whole))
            elif self.is_csv:
                self.write([header])
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> 'AnswerFile':
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._file.close()
        if error is None:
            self._tell(self.path.stat().st_size)

    def write(self, rows: list[Any]) -> None:
        """Adds rows: tuples for CSV, dictionaries for JSON lines."""
        if self.is_csv:
            csv.writer(self._file, lineterminator='\n').writerows(rows)
        else:
            self._file.writelines(json.dumps(row) + '\n' for row in rows)
        self._file.flush()

    def _tell(self, whole: int | None) -> None:
        text = json.dumps({'settings': self._settings, 'whole': whole}, indent=2)
        self._beside.write_text(text, encoding='utf-8')

    def _read(self, keep_last: bool) -> None:
        last, begin = None, None
        for start, row in self._rows():
            path = None if row is None else row.get('path')
            if path is None:  # torn
                begin = start if begin is None else begin
                break
            if path != last:
                last, begin = path, start
            self.done[path] = row.get('error') or None
        if begin is not None and not keep_last:
            self.done.pop(last, None)
            self._file.seek(0, os.SEEK_END)
            self._file.truncate(begin)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """Each row with the place where it starts; None for one that cannot be read."""
        with open(self.path, 'rb') as file:
            places = [0]

            def lines() -> Iterator[str]:
                for line in file:
                    places[0] += len(line)
                    yield line.decode('utf-8', 'surrogateescape')

            if self.is_csv:
                table = csv.reader(lines())
                names = next(table, [])
                start = places[0]
                for values in table:
                    yield start, dict(zip(names, values)) if len(values) == len(names) else None
                    start = places[0]
                return
            start = 0
            for line in lines():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                yield start, row if isinstance(row, dict) and line.endswith('\n') else None
                start = places[0]
