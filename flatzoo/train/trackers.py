"""Curves of a run for whoever watches many: TensorBoard, Weights & Biases, MLflow and Trackio, by their own libraries.

Each is an extra: `pip install 'flatzoo[wandb]'`. Where and as whom they log, they learn by their own means
(`WANDB_MODE`, `MLFLOW_TRACKING_URI`, ...). The ids of the runs lie in `tracker.json` in the folder of the run, so that
a resumed run goes on with the same curves.
"""
import contextlib
import importlib.util
import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .checkpoint import write_file
from .recipe import Recipe, RecipeError

__all__ = ['check_trackers', 'open_trackers']

IDS = 'tracker.json'


def check_trackers(recipe: Recipe) -> None:
    """Refuses trackers that are not installed.

    Raises:
        RecipeError: One is not.
    """
    for name in recipe.tracker or ():
        if name != 'none' and importlib.util.find_spec(name) is None:
            raise RecipeError(f"tracker {name}: {name} is not installed: pip install 'flatzoo[{name}]'")


@contextlib.contextmanager
def open_trackers(
        recipe: Recipe,
        folder: Path,
        update: int,
        report: Callable[[str], None],
) -> Iterator[Callable[[Mapping[str, Any], int], None]]:
    """Opens the trackers of a run. A tracker that fails later is named once and left out: training goes on.

    Args:
        recipe: The recipe; without `tracker`, TensorBoard is taken if it is installed.
        folder: Folder of the run.
        update: Updates that are done.
        report: Called with a line for the user.

    Yields:
        A function of (numbers by name, update), which logs them.

    Raises:
        RecipeError: A tracker cannot be opened.
    """
    names = [name for name in dict.fromkeys(recipe.tracker or ()) if name != 'none']
    if recipe.tracker is None and importlib.util.find_spec('tensorboard') is not None:
        names = ['tensorboard']
    open_ones: dict[str, _Tracker] = {}
    ids = _read_ids(folder)

    def log(numbers: Mapping[str, Any], at: int) -> None:
        for name, tracker in list(open_ones.items()):
            with _or_without(name, open_ones, report):
                tracker.log(dict(numbers), at)

    try:
        for name in names:
            try:
                with _to_stderr():
                    open_ones[name] = _KINDS[name](recipe, folder, update, ids)
            except Exception as error:  # noqa: BLE001 - these libraries raise anything
                why = ' '.join(str(error).split())[:300] or type(error).__name__
                raise RecipeError(f'tracker {name} cannot be opened: {why}') from error
        if ids:
            write_file(folder / IDS, lambda file: file.write(json.dumps(ids).encode()))
        yield log
    finally:
        for name, tracker in list(open_ones.items()):
            with _or_without(name, open_ones, report):
                tracker.close()


@contextlib.contextmanager
def _or_without(name: str, open_ones: dict[str, Any], report: Callable[[str], None]) -> Iterator[None]:
    try:
        with _to_stderr():
            yield
    except Exception as error:  # noqa: BLE001 - a server that is away is no reason to end a run
        open_ones.pop(name, None)
        report(f'warning: {name} does not take the curves any more: {" ".join(str(error).split())[:300]}')


def _to_stderr() -> contextlib.AbstractContextManager:
    """Sends what these libraries print to standard error: standard output is for results."""
    return contextlib.redirect_stdout(sys.stderr)


def _read_ids(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / IDS).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


class _Tracker:
    """One tracker. `ids` holds the ids of runs by tracker; a new run adds its own."""

    def __init__(self, recipe: Recipe, folder: Path, update: int, ids: dict[str, str]):
        raise NotImplementedError

    def log(self, numbers: dict[str, Any], update: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class _TensorBoard(_Tracker):
    def __init__(self, recipe: Recipe, folder: Path, update: int, ids: dict[str, str]):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=update + 1)

    def log(self, numbers: dict[str, Any], update: int) -> None:
        for name, number in numbers.items():
            self.writer.add_scalar(name, number, update)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class _Wandb(_Tracker):
    def __init__(self, recipe: Recipe, folder: Path, update: int, ids: dict[str, str]):
        import wandb

        ids.setdefault('wandb', uuid.uuid4().hex[:8])
        self.run = wandb.init(
            project=recipe.tracker_project, name=folder.name, id=ids['wandb'], resume='allow', dir=str(folder),
            config=recipe.to_dict())

    def log(self, numbers: dict[str, Any], update: int) -> None:
        self.run.log(numbers, step=update)

    def close(self) -> None:
        self.run.finish()


class _Trackio(_Tracker):
    def __init__(self, recipe: Recipe, folder: Path, update: int, ids: dict[str, str]):
        import trackio

        ids.setdefault('trackio', f'{folder.name}-{uuid.uuid4().hex[:8]}')
        self.run = trackio.init(
            project=recipe.tracker_project, name=ids['trackio'], resume='allow', config=recipe.to_dict())

    def log(self, numbers: dict[str, Any], update: int) -> None:
        self.run.log(numbers, step=update)

    def close(self) -> None:
        self.run.finish()


class _MLflow(_Tracker):
    def __init__(self, recipe: Recipe, folder: Path, update: int, ids: dict[str, str]):
        from mlflow import MlflowClient

        self.client = MlflowClient()
        if 'mlflow' not in ids:
            found = self.client.get_experiment_by_name(recipe.tracker_project)
            experiment = found.experiment_id if found else self.client.create_experiment(recipe.tracker_project)
            run = self.client.create_run(experiment, run_name=folder.name)
            ids['mlflow'] = run.info.run_id
            for name, value in recipe.to_dict().items():
                self.client.log_param(ids['mlflow'], name, str(value)[:500])
        else:
            self.client.update_run(ids['mlflow'], status='RUNNING')
        self.run_id = ids['mlflow']

    def log(self, numbers: dict[str, Any], update: int) -> None:
        for name, number in numbers.items():
            self.client.log_metric(self.run_id, name, float(number), step=update)

    def close(self) -> None:
        self.client.set_terminated(self.run_id)


_KINDS: dict[str, type[_Tracker]] = {
    'tensorboard': _TensorBoard, 'wandb': _Wandb, 'mlflow': _MLflow, 'trackio': _Trackio}
