"""How a run ends before its time: with one error that says why, what to do, and what is left of it."""
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import checkpoint as files

if TYPE_CHECKING:
    from .loop import Trainer

__all__ = ['TrainingStopped', 'clear_ends']


class TrainingStopped(RuntimeError):
    """Why a run could not go on, and what is left of it."""


@contextlib.contextmanager
def clear_ends(trainer: 'Trainer') -> Iterator[None]:
    """Turns what ends a run before its time into `TrainingStopped`."""
    try:
        yield
    except TrainingStopped as error:
        raise TrainingStopped(f'{error} {_rest(trainer)}') from error.__cause__
    except Exception as error:  # noqa: BLE001 - looked at, and passed on if it is none of these
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


def _rest(trainer: 'Trainer') -> str:
    last = trainer.folder / files.LAST
    if not last.exists():
        return 'Nothing was saved yet.'
    return f'The last good checkpoint is {last}; --resume auto goes on from it.'
