"""What the parts of `gpu.py` share: where to run, until when, and where results go as soon as they exist."""
import contextlib
import dataclasses
import fcntl
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ['Context', 'read_facts', 'write_facts']


def read_facts(out: Path) -> dict[str, Any]:
    """What is known so far, by part."""
    path = out / 'facts.json'
    return json.loads(path.read_text()) if path.exists() else {}


def write_facts(out: Path, note: dict[str, str] | None = None, **facts: Any) -> None:
    """Adds facts, and a note to those there are, whole or not at all; processes side by side wait for each other."""
    path = out / 'facts.json'
    with (out / 'log.txt').open('a') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_facts(out) | facts
        if note:
            known['notes'] = [*known.get('notes', []), note]
        partial = path.with_name('facts.tmp')
        partial.write_text(json.dumps(known, indent=1) + '\n')
        partial.replace(path)


@dataclasses.dataclass
class Context:
    """One part at work.

    Attributes:
        part: Its name.
        out: Folder of the results.
        rehearse: Whether it runs on a CPU in tiny sizes, only to see that all of it runs.
        deadline: When it should have ended, in units of `time.monotonic`.
    """
    part: str
    out: Path
    rehearse: bool
    deadline: float

    @property
    def device(self) -> str:
        """Where models run."""
        return 'cpu' if self.rehearse else 'cuda'

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def late(self, what: str, needed: float = 0.0) -> bool:
        """Whether the time is up; what is then left out is written down."""
        if self.left() > needed:
            return False
        self.note('left out', f'{what}: no time')
        return True

    def note(self, kind: str, text: str) -> None:
        """Writes down something for the report: `failed`, `left out`, `missing`."""
        print(f'{self.part}, {kind}: {text}', flush=True)
        write_facts(self.out, note={'part': self.part, 'kind': kind, 'text': text})

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """What fails in it is written down, with its traceback in the log, and the part goes on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            first = (str(error).strip().splitlines() or [''])[0]
            self.note('failed', f'{what}: {type(error).__name__}: {first[:300]}')

    def card(self) -> dict[str, Any]:
        """The card and its rates, as the first part measured them."""
        return read_facts(self.out).get('card', {})

    def columns(self) -> dict[str, Any]:
        """What every row says of the machine beside `hardware` and `torch`."""
        card = self.card()
        return {key: card.get(key) for key in ('driver', 'cuda', 'matrix_tflops', 'copy_gb_per_s')}

    def save(self, name: str, rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
        """Adds rows to a table of this run."""
        from benchmarks.common.timing import save
        if rows:
            save(self.out / name, [row | self.columns() for row in rows], keys)
