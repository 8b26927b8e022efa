"""Ray: many processes, on this machine or on the cluster that `RAY_ADDRESS` names."""
import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from flatzoo.console.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from .embedder import Embedder
    from .features import FeatureRow

__all__ = ['cluster', 'import_ray', 'spread_rows']

BLOCK = 32  # clips that a process takes at a time


def import_ray() -> Any:
    """Imports Ray, which tells nobody that it is used.

    Raises:
        ImportError: Ray is not installed.
    """
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # tells nobody
    os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')
    try:
        import pyarrow  # noqa: F401
        import ray
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ImportError("batches of files are spread by Ray Data: pip install 'flatzoo[ray]'") from error
    logging.getLogger('ray.data').setLevel(logging.ERROR)
    return ray


@contextlib.contextmanager
def cluster(ray: Any, processes: int) -> Iterator[None]:
    """Connects to a Ray cluster. A cluster that it started is stopped at the end.

    Args:
        ray: What `import_ray` gave.
        processes: Processes that work at the same time.
    """
    if ray.is_initialized():
        yield
        return
    quiet = dict(log_to_driver=False, logging_level='error')
    if os.environ.get('RAY_ADDRESS'):
        ray.init(**quiet)
    else:  # Ray's CPUs are a count, not cores: one for each process, one to move data
        ray.init('local', num_cpus=processes + 1, include_dashboard=False, **quiet)
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    context.enable_progress_bars = False
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        ray.shutdown()


def spread_rows(
        waiting: Sequence[tuple['FeatureRow', Any, int | None]],
        embedder: 'Embedder',
        batch_size: int,
        workers: int,
        processes: int,
        progress: bool,
) -> Iterator[tuple['FeatureRow', 'Tensor | None']]:
    """As `flatzoo.inference.embed.compute_rows`, in the processes of Ray; rows come as they are ready.

    Raises:
        ImportError: Ray is not installed.
        ValueError: The model has no name by which each process could load it.
        RuntimeError: The processes fail.
    """
    if embedder.name is None:
        raise ValueError('several processes load the model by its name: give a name or a folder, not a model.')
    ray = import_ray()
    size = max(1, min(BLOCK, len(waiting) // (4 * processes)))
    blocks = [list(waiting[start:start + size]) for start in range(0, len(waiting), size)]
    device = str(next(embedder.model.parameters()).device)
    with cluster(ray, processes), Progress(len(waiting), 'clip', disable=not progress) as bar:
        kind = ray.remote(num_cpus=1, num_gpus=float(device.startswith('cuda')))(_Embedding)
        actors = [kind.remote(embedder.settings, device.partition(':')[0]) for _ in range(min(processes, len(blocks)))]
        pool = ray.util.ActorPool(actors)
        try:
            for found in pool.map_unordered(
                    lambda actor, block: actor.rows.remote(block, batch_size, workers), blocks):
                yield from found
                bar.update(len(found))
        except ray.exceptions.RayError as error:
            cause = getattr(error, 'cause', None) or error
            lines = str(cause).strip().splitlines() or ['']
            raise RuntimeError(f'the processes of Ray failed ({type(cause).__name__}): {lines[-1]}') from error


class _Embedding:
    """The part that runs in the processes of Ray."""

    def __init__(self, settings: dict[str, Any], device: str):
        from .embedder import Embedder

        self.embedder = Embedder.of_settings(settings, device)

    def rows(self, block: list[Any], batch_size: int, workers: int) -> list[tuple[Any, Any]]:
        from .embed import compute_rows

        return list(compute_rows(block, self.embedder, batch_size, workers, False))
