"""Rendered actions and verbs as video files: one clip, a folder per class, or a data set with `train` and `val`."""
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import torch

from .actions import ACTIONS, clip_seed, render_action
from .scenes import Split
from .verbs import VERBS, render_verb

__all__ = ['KINDS', 'Kind', 'write_action', 'write_action_folder', 'write_action_splits']

Kind = Literal['actions', 'verbs']
KINDS: dict[Kind, tuple[str, ...]] = {'actions': ACTIONS, 'verbs': VERBS}
"""The sets that can be written, and their classes. The first sixteen verbs are the actions in more renderings."""


def write_action(
        path: str | os.PathLike,
        label: int | str,
        seed: int,
        size: int = 128,
        num_frames: int = 32,
        fps: int | Fraction = 16,
        *,
        kind: Kind = 'actions',
        camera_shake: float = 0.0,
        split: Split = 'train',
        crf: int = 23,
) -> Path:
    """Writes one clip of an action as an H.264 video file. The file appears when it is complete.

    Args:
        path: File to write, for example `clip.mp4`; its folder must exist.
        label: Label or name of the action.
        seed: See `render_action`.
        size: Height and width in pixels, even.
        num_frames: Number of frames.
        fps: Frames per second.
        kind: `'actions'` (`render_action`) or `'verbs'` (`render_verb`).
        camera_shake: See `render_action`.
        split: See `render_action`.
        crf: Constant rate factor of the encoder: 0 is lossless, 51 is the worst quality.

    Returns:
        The path.

    Raises:
        ValueError: If an argument lies outside its range.
    """
    import av

    if size % 2:
        raise ValueError(f'H.264 needs an even size, got {size}')
    path = Path(path)
    render = render_verb if kind == 'verbs' else render_action
    clip = render(label, seed, num_frames, size, camera_shake=camera_shake, split=split)
    partial = path.with_name(f'{path.name}.partial')
    try:
        with av.open(str(partial), 'w', format='mp4') as container:
            stream = container.add_stream('libx264', rate=fps, options={'crf': str(crf), 'threads': '1'})
            stream.width = stream.height = size
            stream.pix_fmt = 'yuv420p'
            for frame in clip.permute(0, 2, 3, 1).contiguous().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
            container.mux(stream.encode())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def write_action_folder(
        root: str | os.PathLike,
        clips_per_class: int,
        *,
        seed: int = 0,
        size: int = 128,
        num_frames: int = 32,
        fps: int | Fraction = 16,
        camera_shake: float = 0.0,
        split: Split = 'train',
) -> list[Path]:
    """Writes a data set of video files, one folder per action: `root/moves_left/00000.mp4` and so on.

    Args:
        root: Folder to write into; made if missing.
        clips_per_class: Number of files in each folder.
        seed: Seed of the whole set; sets of different seeds share no clip.
        size: See `write_action`.
        num_frames: See `write_action`.
        fps: See `write_action`.
        camera_shake: See `render_action`.
        split: See `render_action`.

    Returns:
        The files, class by class.

    Raises:
        ValueError: If an argument lies outside its range.
    """
    paths = []
    for label, name in enumerate(ACTIONS):
        folder = Path(root) / name.replace(' ', '_')
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(clips_per_class):
            scene_seed = clip_seed(seed, i * len(ACTIONS) + label)
            path = folder / f'{i:05d}.mp4'
            write_action(path, label, scene_seed, size, num_frames, fps, camera_shake=camera_shake, split=split)
            paths.append(path)
    return paths


def write_action_splits(
        root: str | os.PathLike,
        clips_per_class: int,
        *,
        kind: Kind = 'actions',
        actions: Sequence[str] | None = None,
        seed: int = 0,
        size: int = 96,
        num_frames: int = 16,
        fps: int | Fraction = 8,
        workers: int = 1,
        done: Callable[[Path], object] | None = None,
) -> list[Path]:
    """Writes a data set to train on: `root/train/moves_left/00000.mp4`, `root/val/moves_left/00000.mp4` and so on.

    A fifth of the clips, at least one of each action, are for `val`. They come from the split 'test' of the
    renderings, whose scenes and textures `train` does not show. Several processes render the clips; their bytes do
    not depend on the number of processes.

    Args:
        root: Folder to write into; made if missing.
        clips_per_class: Number of clips of each action, at least 2.
        kind: `'actions'`, or `'verbs'`: 48 verbs and 'nothing'.
        actions: The actions, of `KINDS[kind]`; None for all.
        seed: Seed of the whole set; sets of different seeds share no clip.
        size: See `write_action`.
        num_frames: See `write_action`.
        fps: See `write_action`.
        workers: Number of processes. With 1 no other process is started.
        done: Called with each file after it is written.

    Returns:
        The files, those of `train` first.

    Raises:
        ValueError: If an argument lies outside its range.
    """
    if clips_per_class < 2:
        raise ValueError(f'train and val need a clip of each action, got {clips_per_class} clips')
    classes = KINDS[kind]
    validation = max(1, clips_per_class // 5)
    jobs = []
    for split, of, clips in (('train', 'train', clips_per_class - validation), ('val', 'test', validation)):
        for action in classes if actions is None else actions:
            if action not in classes:
                raise ValueError(f'there is no {action!r} among the {kind}; there are {", ".join(classes)}')
            label = classes.index(action)
            folder = Path(root, split, action.replace(' ', '_'))
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(clips):
                scene_seed = clip_seed(seed, i * len(classes) + label)
                jobs.append((folder / f'{i:05d}.mp4', label, scene_seed, size, num_frames, fps, kind, of))
    if workers == 1:
        for job in jobs:
            _write_job(job)
            if done is not None:
                done(job[0])
        return [job[0] for job in jobs]
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    context = multiprocessing.get_context('spawn')  # torch's threads do not live through a fork
    with ProcessPoolExecutor(min(workers, len(jobs)), context, torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(_write_job, job): job[0] for job in jobs}
        try:
            for future in as_completed(futures):
                future.result()
                if done is not None:
                    done(futures[future])
        except BaseException:  # nothing is begun any more after an error or Ctrl-C
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [job[0] for job in jobs]


def _write_job(job: tuple) -> None:
    *arguments, kind, split = job
    write_action(*arguments, kind=kind, split=split)
