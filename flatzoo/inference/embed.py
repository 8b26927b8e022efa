"""Features of clips: files become tensors, in memory or in a folder that the next run goes on with."""
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flatzoo.console.progress import Progress
from flatzoo.data.clips import clip_span, open_clip
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.data.lists import Clip, DataError, NotThere, VideoList, read_videos
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.views import read_views

from .ahead import load_ahead
from .cut import cut_windows
from .embedder import Embedder
from .features import MARK, FeatureRow, Features, FeatureStore, load_features
from .find import find_videos
from .ray_cluster import spread_rows

if TYPE_CHECKING:
    from flatzoo.models import VideoModel

__all__ = ['compute_rows', 'embed', 'every_split']

SHARD_BYTES = 2 ** 28  # of features, after which a shard is written,
SECONDS = 60.0  # or after this time
SPLITS = ('train', 'val', 'test')


def embed(
        source: Any,
        model: 'str | VideoModel | Embedder',
        out: str | os.PathLike | None = None,
        *,
        batch_size: int = 8,
        workers: int | None = None,
        progress: bool = False,
        processes: int = 1,
        note: Callable[[str], None] | None = None,
        **kwargs: Any,
) -> Features:
    """Features of clips, by any model of flatzoo or any image model of timm.

        features = flatzoo.embed('videos/', 'vit_small_patch14_dinov2.lvd142m', 'features/')
        features.values    # [N, D]

    Given the same folder again, it computes only what is not there yet. Classes, splits and groups follow the lists.
    Clips whose files have gone from the folders of `source` are taken out; those of other lists stay.

    Args:
        source: A `VideoList` or several; or files, folders and patterns, whose clips have no classes.
        model: A name, a model or an `Embedder`, see there.
        out: Folder for the features; None keeps them in memory alone.
        batch_size: Views that the model sees at a time.
        workers: Files that are decoded at the same time. None means one per core, at most eight.
        progress: Whether to show the progress on standard error.
        processes: More than one are spread by Ray over this machine, or over the cluster that `RAY_ADDRESS` names; each
            has a model of its own. Needs a model with a name.
        note: Called with a sentence about what is there already.
        **kwargs: Further arguments of `Embedder`: `per`, `tokens`, `dtype`, `num_frames`, ...

    Returns:
        The features of the clips of `source`. Clips that cannot be read are in `Features.errors`.

    Raises:
        ModelError: There is no such model, or it has no weights.
        ValueError: There is nothing to embed, or the folder holds features of another model or other weights.
        OSError: The folder cannot be written. What it held before is kept.
        ImportError: pyarrow is not installed, which `out` needs, or Ray, which several processes need.
        RuntimeError: The processes of Ray fail.
    """
    lists, lost, roots = _lists(source)
    store = None if out is None else FeatureStore(out)
    embedder = model if isinstance(model, Embedder) else Embedder(model, **kwargs)
    if isinstance(model, Embedder) and kwargs:
        raise ValueError(f'{", ".join(kwargs)}: is said by the Embedder, not here.')
    workers = min(8, os.cpu_count() or 1) if workers is None else workers
    if embedder.window is not None:
        lists = [cut_windows(videos, embedder.window, workers) for videos in lists]
    wanted = _rows(lists)
    classes = tuple(dict.fromkeys(name for videos in lists for name in videos.classes if _has_classes(videos)))
    several = any(videos.multi_label for videos in lists)
    if several and (marked := [name for name in classes if MARK in name]):
        raise ValueError(f'where clips may have several classes, no class may have {MARK} in its name: {marked[0]}')
    if not wanted:
        raise ValueError('there is no clip to embed. Check the files and folders.')

    def compute(items: list[tuple[FeatureRow, Clip, int | None]]) -> Iterator[tuple[FeatureRow, Tensor | None]]:
        if processes > 1 and items:
            return spread_rows(items, embedder, batch_size, workers, processes, progress)
        return compute_rows(items, embedder, batch_size, workers, progress)

    if store is None:
        features = _in_memory(compute(list(wanted.values())), classes, embedder)
        return replace(features, errors=features.errors + lost, multi_label=several)

    store.open(embedder.settings)
    with _locked(store):
        store = FeatureStore(out)  # while the model was loaded, another process may have written
        store.open(embedder.settings)
        listed = {key for key, (row, *_) in wanted.items() if row.label is not None}
        gone = {key for key, row in store.rows.items() if key not in wanted and _is_gone(row.path, roots)}
        there = {key: store.rows[key] for key in wanted if key in store.rows}
        same = {
            key: row for key, row in there.items()
            if row.shard is not None and (row.size, row.mtime) == (wanted[key][0].size, wanted[key][0].mtime)}
        store.update(
            (_as_listed(row, wanted[key][0]) for key, row in same.items()), classes,
            several or store.multi_label and not store.rows.keys() <= listed | gone, gone)
        store.remove_orphans()
        if note is not None and same:
            note(f'{len(same)} of {len(wanted)} clips have their feature already')
        if note is not None and gone:
            note(f'{len(gone)} clips are not there any more and are taken out')
        waiting = [item for key, item in wanted.items() if key not in same]
        _compute_into(store, compute(waiting))
        store.remove_orphans()
    features = load_features(out) if any(store.rows[key].shard for key in wanted) else None
    if features is None:
        raise ValueError(f'none of the {len(wanted)} clips has a feature: {store.rows[next(iter(wanted))].error}')
    kept = [index for index, row in enumerate(features.rows) if row.key in wanted]
    return replace(
        features.select(kept), errors=tuple(row for row in features.errors if row.key in wanted) + lost)


def every_split(spec: str, root: str | os.PathLike, splits: Sequence[str] = ()) -> list[VideoList]:
    """The lists of all splits that a data set has, or of those that are named.

    Args:
        spec: Layout of the data set, see `read_videos`.
        root: Its folder.
        splits: Names of splits. Empty takes `train`, `val` and `test` as far as they are there, else `all`.

    Raises:
        DataError: The data set is not laid out so, or has no such split.
    """
    if splits:
        return [read_videos(spec, root, split) for split in splits]
    found: dict[str, VideoList] = {}
    for split in SPLITS:
        try:
            videos = read_videos(spec, root, split)
        except NotThere:
            continue
        if not any(videos.clips == other.clips for other in found.values()):  # one evaluation split has both names
            found[split] = videos
    return list(found.values()) or [read_videos(spec, root, 'all')]


def _lists(source: Any) -> tuple[list[VideoList], tuple[FeatureRow, ...], tuple[str, ...]]:
    """The lists of a source, rows for paths that lead to no file, and the folders that were looked through."""
    if isinstance(source, VideoList):
        source = [source]
    items = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    if items and all(isinstance(item, VideoList) for item in items):
        if len({videos.depth for videos in items}) > 1:
            raise ValueError('some lists are of depth maps and some are not. Embed them one by one.')
        return items, (), _folders(videos.root for videos in items if videos.root)
    found = find_videos([os.fsdecode(item) for item in items])
    lost = tuple(FeatureRow(path, error=error) for path, error in found if error is not None)
    clips = tuple(Clip(path, 0) for path, error in found if error is None)
    if lost and not clips:
        raise ValueError(' '.join(row.error for row in lost))
    return [VideoList('files', clips, ('class 0',))], lost, _folders(map(os.fsdecode, items))


def _as_listed(row: FeatureRow, now: FeatureRow) -> FeatureRow:
    """A row with what its list says now. Files that were named without a list say nothing, and take nothing away."""
    if now.label is None:
        return row
    return row._replace(id=now.id, label=now.label, split=now.split, group=now.group)


def _folders(paths: Iterable[str]) -> tuple[str, ...]:
    return tuple(os.path.join(os.path.abspath(path), '') for path in paths if '://' not in path and os.path.isdir(path))


def _is_gone(path: str, roots: tuple[str, ...]) -> bool:
    return path.startswith(roots) and not os.path.lexists(path)


def _has_classes(videos: VideoList) -> bool:
    return videos.name != 'files' or bool(videos.root)


def _rows(lists: Sequence[VideoList]) -> dict[tuple, tuple[FeatureRow, Clip, int | None]]:
    """The rows of all clips by their keys, without what is computed, with the clip and the depth of its list."""
    rows = {}
    for videos in lists:
        labelled = _has_classes(videos)
        for clip in videos.clips:
            path, size, mtime = clip.path, -1, -1
            if '://' not in path:
                path = os.path.abspath(path)
                try:
                    status = os.stat(path)
                    size, mtime = status.st_size, status.st_mtime_ns
                except OSError:
                    pass  # whoever reads it says what is wrong
            row = FeatureRow(
                os.fsencode(path).decode('utf-8', 'backslashreplace'), clip.member[0] if clip.member else '',
                float(clip.start), None if clip.end is None else float(clip.end), clip.unit, clip.id,
                MARK.join(videos.classes[label] for label in clip.all_labels) if labelled else None, videos.split,
                clip.group or None, size=size, mtime=mtime)
            rows.setdefault(row.key, (row, clip, videos.depth))
    return rows


def _in_memory(
        found: Iterator[tuple[FeatureRow, Tensor | None]], classes: tuple[str, ...], embedder: Embedder) -> Features:
    values, rows, failed = [], [], []
    for row, value in found:
        if value is None:
            failed.append(row)
        else:
            values.append(value)
            rows.append(row)
    if not values:
        raise ValueError(f'none of the {len(failed)} clips has a feature: {failed[0].error}')
    return Features(torch.stack(values), tuple(rows), classes, embedder.settings, tuple(failed))


def _compute_into(store: FeatureStore, found: Iterator[tuple[FeatureRow, Tensor | None]]) -> None:
    values: list[Tensor] = []
    rows: list[FeatureRow] = []
    failed: list[FeatureRow] = []
    last, full = time.monotonic(), False

    def flush() -> None:
        if rows or failed:
            store.add(values, rows, failed)
            for part in (values, rows, failed):
                part.clear()

    try:
        for row, value in found:
            if value is None:
                failed.append(row)
            else:
                values.append(value)
                rows.append(row)
            size = len(values) * values[0].nbytes if values else 0
            if size >= SHARD_BYTES or time.monotonic() - last > SECONDS:
                try:
                    flush()
                except OSError:
                    full = True
                    raise
                last = time.monotonic()
    finally:  # also after Ctrl-C: what is computed is kept
        if not full:
            flush()


def compute_rows(
        waiting: Sequence[tuple[FeatureRow, Clip, int | None]],
        embedder: Embedder,
        batch_size: int,
        workers: int,
        progress: bool,
) -> Iterator[tuple[FeatureRow, Tensor | None]]:
    """Computes features.

    Args:
        waiting: Rows without what is computed, each with its clip and the depth of its list.
        embedder: What computes.
        batch_size: Views that the model sees at a time.
        workers: Files that are decoded at the same time.
        progress: Whether to show the progress on standard error.

    Yields:
        Each row with its feature, or with an error and None.
    """
    model, protocol = embedder.model, embedder.protocol

    def load(item: tuple[FeatureRow, Clip, int | None]) -> tuple[Tensor, tuple[float, ...]] | Exception:
        try:
            return _read(item[1], item[2], protocol, model)
        except Exception as error:  # noqa: BLE001 - whatever a file does to a decoder, the other files go on
            return error

    batch: list[tuple[FeatureRow, Any]] = []
    with Progress(len(waiting), 'clip', disable=not progress or not waiting) as bar:
        ahead = math.ceil(2 * batch_size / protocol.num_clips)  # clips of two batches: one is embedded meanwhile
        for (row, _, _), loaded in load_ahead(load, waiting, max(1, workers), ahead):
            batch.append((row, loaded))
            views = sum(len(part[0]) for _, part in batch if not isinstance(part, Exception))
            if views >= batch_size:
                yield from _embed_batch(batch, embedder, batch_size)
                bar.update(len(batch))
                batch = []
        yield from _embed_batch(batch, embedder, batch_size)
        bar.update(len(batch))


def _embed_batch(
        batch: Sequence[tuple[FeatureRow, Any]],
        embedder: Embedder,
        batch_size: int,
) -> Iterator[tuple[FeatureRow, Tensor | None]]:
    clips = [part[0] for _, part in batch if not isinstance(part, Exception)]
    features: Iterable[Tensor] = iter(())
    if clips:
        if {clip.shape[1] for clip in clips} != {embedder.model.in_chans}:
            raise ValueError(
                f'the clips have {clips[0].shape[1]} channels, the model takes {embedder.model.in_chans}. Give a model '
                'that was built with in_chans= of the data.')
        parts = [embedder(views) for views in torch.cat(clips).split(batch_size)]
        features = iter(torch.cat(parts).split([len(views) for views in clips]))
    for row, part in batch:
        if isinstance(part, Exception):
            yield row._replace(error=_reason(row, part)), None
            continue
        views = next(features)
        value = views[0].clone() if len(views) == 1 else views.float().mean(0).to(views.dtype)
        if not value.isfinite().all():
            yield row._replace(
                error=f'{row.path}: the features are not finite. Check the weights of the model.'), None
            continue
        yield row._replace(times=part[1]), value


def _read(
        clip: Clip,
        depth: int | None,
        protocol: EvalProtocol,
        model: 'VideoModel',
) -> tuple[Tensor, tuple[float, ...]]:
    """Views `[V, C, T, H, W]` of a clip, and the times in seconds of the frames that they show."""
    with open_clip(clip, depth) as reader:
        first, end = clip_span(clip, reader)
        views = read_views(protocol, reader, clip.name, (first, end), model.num_frames, model.img_size)
        times: tuple[float, ...] = ()
        if isinstance(reader, VideoReader):
            seen = protocol.sample(end - first, model.num_frames).flatten() + first
            stamps = reader.timestamps
            times = tuple(round(value, 6) for value in (stamps[seen] - stamps[0]).tolist())
        return views.contiguous(), times


def _reason(row: FeatureRow, error: Exception) -> str:
    text = ' '.join(str(error).splitlines())
    return text if isinstance(error, (VideoError, DataError)) else f'{row.path}: {type(error).__name__}: {text}'


def _locked(store: FeatureStore) -> Any:
    from filelock import FileLock, Timeout

    lock = FileLock(store.folder / '.lock')
    try:
        return lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f'{store.folder}: another process writes there now. Wait for it, or give another folder.') from error
    except (OSError, NotImplementedError):  # a file system without locks
        import contextlib

        return contextlib.nullcontext()
