"""How a run ends early: with one error that says why, what to do, and what was saved."""
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from . import checkpoint as files

if TYPE_CHECKING:
    from .loop import Trainer

__all__ = ['Interruption', 'TrainingInterrupted', 'TrainingStopped', 'clear_ends', 'leave_interrupts']


class TrainingStopped(RuntimeError):
    """A run could not continue. The message says why and what was saved."""


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended a run. The message says at which update, and where it will resume.

    Attributes:
        exit_code: Exit code of a program that a signal ends: 128 plus the number of the signal.
    """

    def __init__(self, text: str = '', number: int = signal.SIGINT):
        super().__init__(text)
        self.exit_code = 128 + number


class Interruption:
    """Ctrl-C and SIGTERM during a run.

    A run of one process finishes its update, saves a checkpoint and ends. A second signal ends it at once. Several
    processes may be at different updates, so they end at once and resume from the last checkpoint.

    Attributes:
        number: The signal that came, None without a signal.
        can_wait: Whether the run is inside an update. It checks for signals after the update.
    """

    def __init__(self, alone: bool):
        self.alone = alone
        self.number: int | None = None
        self.can_wait = False

    @contextlib.contextmanager
    def noticed(self) -> Iterator[None]:
        """Handles the signals that would end the process.

        It does nothing in threads, and leaves signals that other code handles or ignores.
        """
        former = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                    former[number] = signal.signal(number, self._came)
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _came(self, number: int, frame: FrameType | None) -> None:
        first, self.number = self.number is None, number
        if not (first and self.alone and self.can_wait):
            raise TrainingInterrupted(number=number)


def leave_interrupts(worker: int) -> None:
    """Makes a decoding process ignore Ctrl-C. It continues until the training process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def clear_ends(trainer: 'Trainer') -> Iterator[None]:
    """Turns errors that end a run early into `TrainingStopped`, and signals into `TrainingInterrupted`."""
    process = os.getpid()
    try:
        with trainer.interruption.noticed():
            yield
    except KeyboardInterrupt as error:
        if os.getpid() != process:  # a process that decodes, which was forked from this one
            raise
        number = trainer.interruption.number or signal.SIGINT
        raise TrainingInterrupted(_interrupted(trainer), number) from error
    except TrainingStopped as error:
        raise TrainingStopped(f'{error} {_rest(trainer)}') from error.__cause__
    except Exception as error:  # noqa: BLE001 - looked at, and passed on if it is none of these
        if trainer.interruption.number is not None:  # the signal took processes that this one needs
            raise TrainingInterrupted(_interrupted(trainer), trainer.interruption.number) from error
        if files.is_out_of_memory(error):
            raise TrainingStopped(
                f'out of memory on {trainer.processes.device} at update {trainer.update} with '
                f'{trainer.recipe.batch_size} clips per step. Halve --batch-size and double --grad-accum-steps, or use '
                f'--grad-checkpointing or --amp. {_rest(trainer)}') from error
        if files.is_full(error):
            raise TrainingStopped(
                f'the disk of {trainer.folder} is full, or takes no file of this size. Make room there. '
                f'{_rest(trainer)}') from error
        raise


def _interrupted(trainer: 'Trainer') -> str:
    """The message after a signal. Only the first process prints it."""
    if not trainer.processes.first:
        return ''
    text = f'interrupted at update {trainer.update}, --resume auto goes on'
    if trainer.kept is None:
        return f'{text} from the start: nothing was saved yet.'
    where = 'there' if trainer.kept == trainer.update else f'behind update {trainer.kept}'
    return f'{text} {where}, from {trainer.folder / files.LAST}.'


def _rest(trainer: 'Trainer') -> str:
    last = trainer.folder / files.LAST
    if not last.exists():
        return 'Nothing was saved yet.'
    return f'The last good checkpoint is {last}; --resume auto goes on from it.'
