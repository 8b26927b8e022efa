"""`flatzoo predict --parquet`: answers for very many files, by Ray Data."""
import argparse
import contextlib
import functools
import os
import sys
from typing import TYPE_CHECKING, Any

from flatzoo.runtime import precision_of

from . import CommandError, write, write_error
from .arguments import model_loader
from .outputs import weights_of

if TYPE_CHECKING:
    from flatzoo import VideoModel
    from flatzoo.data.protocol import EvalProtocol

__all__ = ['predict_to_parquet']


def predict_to_parquet(
        found: list[tuple[str, str | None]],
        model: 'VideoModel',
        protocol: 'EvalProtocol',
        args: argparse.Namespace,
) -> int:
    """Answers what has no answer in the folder yet.

    Args:
        found: Files, with the reason where there is nothing to answer, `find_videos`.
        model: The model; the processes load one each.
        protocol: Views over which logits are averaged.
        args: The arguments of `flatzoo predict`.

    Returns:
        0 if all files have an answer, from now or before, else 1.

    Raises:
        CommandError: If Ray is not installed, the folder cannot be used, or the processes fail.
    """
    import torch

    from flatzoo.console.progress import Progress
    from flatzoo.inference.classifier import classify_files
    from flatzoo.inference.parquet import answered_files, file_key, open_folder, run_batches

    checkpoint = None if args.checkpoint is None else os.path.abspath(args.checkpoint)
    name = args.model
    if name.startswith('local-dir:'):
        name = f'local-dir:{os.path.abspath(name.removeprefix("local-dir:"))}'
    settings: dict[str, Any] = {
        'model': name, 'checkpoint': checkpoint, 'weights': weights_of(model),
        'num_classes': model.num_classes, 'num_frames': model.num_frames,
        **({} if args.use_ema is None else {'use_ema': args.use_ema}),
        'img_size': list(model.img_size), 'protocol': protocol.to_dict(), 'topk': args.topk,
        **({} if (precision := precision_of(model)) == 'fp32' else {'precision': precision}),
    }
    on_gpu = next(model.parameters()).is_cuda
    gpus = torch.cuda.device_count() if on_gpu else 0
    processes = args.processes or max(1, gpus)
    share = 0.0
    if on_gpu:  # several processes can share a GPU of this machine
        share = 1.0 if os.environ.get('RAY_ADDRESS') else min(1.0, gpus / processes)
    load = model_loader(
        args, name=name, checkpoint=checkpoint, device='cuda' if on_gpu else args.device, precision=precision)
    answer = functools.partial(
        classify_files, protocol=protocol, topk=args.topk, batch_size=args.batch_size, workers=args.workers)

    lost = [error for _, error in found if error is not None]
    for error in lost:
        write_error(error)
    files = {file_key(path): path for path, error in found if error is None}
    try:
        folder = open_folder(args.parquet, settings)
        before = answered_files(folder)
        waiting = [path for key, path in files.items() if key not in before]
        failed = 0
        answers = run_batches(waiting, folder, load, answer, processes, share)
        with (
            contextlib.closing(answers),
            Progress(len(waiting), 'file', disable=not waiting) as bar,
        ):
            for _, error in answers:
                bar.update()
                if error is not None:
                    failed += 1
                    write_error(error)
    except ImportError as error:
        raise CommandError("--parquet needs Ray Data: pip install 'flatzoo[ray]'.") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise CommandError(' '.join(str(error).split())) from error
    done = [before[key] for key in files if key in before]
    failed_before = sum(error is not None for error in done)
    write(
        f'{len(waiting) - failed} files answered, {failed} not; {len(done)} were done before'
        + (f', {failed_before} of them without an answer' if failed_before else ''), sys.stderr)
    write(str(folder))
    return int(bool(lost or failed or failed_before))
