"""Features of clips: in memory, and as files.

A folder of features holds shards, `features-*.safetensors`, and `index.parquet`, which has a row for each clip: the
file, the part of it, its class, split and group, the times of the frames, the model and a digest of its weights, and
the shard and the row where its feature lies. The index is written anew after every shard and renamed, so that it never
names what is not there.
"""
import json
import os
import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = ['FeatureRow', 'FeatureStore', 'Features', 'INDEX', 'load_features']

INDEX = 'index.parquet'
"""The file that makes a folder one of features."""
MARK = '|'  # between the classes of a clip that has several
_META = b'flatzoo'
FORMAT = 1


class FeatureRow(NamedTuple):
    """What the index says of a clip.

    Attributes:
        path: Absolute path of the file, or its address.
        member: Name of the member of a shard, else empty.
        start: Where the clip starts in the file.
        end: Where it ends, None for the end of the file.
        unit: `'frames'` or `'seconds'`, of both.
        id: The publisher's name of the clip.
        label: Name of the class, None if nobody has said it. Where clips may have several, their names with `|`
            between; empty if the clip shows none of them.
        split: Name of the split, or empty.
        group: Person or place that the clip is of, None if none is named.
        times: Seconds from the begin of the file of the frames that were seen; empty for folders of frames.
        size: Bytes of the file when it was read, -1 if unknown.
        mtime: When it was changed last, in nanoseconds, -1 if unknown.
        shard: Name of the file that has the feature, None after an error.
        row: The place in it.
        error: Why there is no feature, None if there is one.
    """
    path: str
    member: str = ''
    start: float = 0.0
    end: float | None = None
    unit: str = 'frames'
    id: str = ''
    label: str | None = None
    split: str = ''
    group: str | None = None
    times: tuple[float, ...] = ()
    size: int = -1
    mtime: int = -1
    shard: str | None = None
    row: int = -1
    error: str | None = None

    @property
    def key(self) -> tuple:
        """What tells one clip from another."""
        return self.path, self.member, self.start, self.end, self.unit


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N clips.

    Attributes:
        values: `[N, ...]`: `[N, D]` of clips, `[N, T, D]` per frame, `[N, K, ...]` as tokens.
        rows: What is known of each clip.
        classes: Names of the classes.
        settings: What the features were made with (`Embedder.settings`): model, digest of its weights, views.
        errors: Rows of the clips that have no feature, with the reason.
        multi_label: Whether a clip may have several classes, whose names stand in its label with `|` between.
    """
    values: Tensor
    rows: tuple[FeatureRow, ...]
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    errors: tuple[FeatureRow, ...] = field(default=(), repr=False)
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f'Features({list(self.values.shape)}, {len(self.classes)} classes, model={self.settings.get("model")!r})'

    @property
    def labels(self) -> Tensor:
        """Index of the class of each clip, int64 `[N]`; -1 for clips without a class.

        Raises:
            ValueError: Clips may have several classes.
        """
        if self.multi_label:
            raise ValueError('these clips may have several classes: take targets in place of labels.')
        place = {name: index for index, name in enumerate(self.classes)}
        return torch.tensor([place.get(row.label, -1) for row in self.rows], dtype=torch.int64)

    @property
    def targets(self) -> Tensor:
        """1 for the classes of each clip, float32 `[N, K]`; zeros for clips of no class or without a label."""
        place = {name: index for index, name in enumerate(self.classes)}
        targets = torch.zeros(len(self.rows), len(self.classes))
        for target, row in zip(targets, self.rows):
            names = (row.label or '').split(MARK) if self.multi_label else [row.label]
            target[[place[name] for name in names if name in place]] = 1
        return targets

    @property
    def groups(self) -> tuple[str | None, ...]:
        """Group of each clip."""
        return tuple(row.group for row in self.rows)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that there are, sorted."""
        return tuple(sorted({row.split for row in self.rows}))

    def select(self, indices: Sequence[int] | Tensor) -> 'Features':
        """The clips with these indices."""
        indices = torch.as_tensor(indices, dtype=torch.int64)
        rows = tuple(self.rows[index] for index in indices.tolist())
        return replace(self, values=self.values[indices], rows=rows, errors=())

    def of_split(self, split: str) -> 'Features':
        """The clips of a split."""
        return self.select([index for index, row in enumerate(self.rows) if row.split == split])

    def pooled(self) -> Tensor:
        """A feature of each clip, float32 `[N, D]`. Features of frames are averaged.

        Raises:
            ValueError: They are tokens.
        """
        if self.settings.get('tokens'):
            raise ValueError(
                'these features are tokens, which only the probes attentive, step and linear read. Embed once more '
                'without tokens.')
        values = self.values.float()
        return values.mean(1) if values.ndim == 3 else values


def load_features(folder: str | os.PathLike, split: str | None = None) -> Features:
    """Reads a folder that `flatzoo.embed` or `flatzoo embed` wrote.

        features = flatzoo.load_features('features/')
        features.values, features.labels, features.classes

    Args:
        folder: The folder.
        split: Only the clips of this split; all if None.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder holds no features, or is damaged.
        ImportError: pyarrow is not installed.
    """
    store = FeatureStore(folder)
    if store.settings is None:
        if not store.folder.is_dir():
            raise FileNotFoundError(f"{folder}: there is no such folder. 'flatzoo embed' writes one.")
        raise ValueError(f"{folder}: holds no {INDEX}, so no features. Give a folder that 'flatzoo embed' wrote.")
    rows = [row for row in store.rows.values() if split is None or row.split == split]
    good = [row for row in rows if row.shard is not None]
    if not good:
        known = ', '.join(sorted({row.split or '(none)' for row in store.rows.values()}))
        raise ValueError(f'{folder}: has no features of the split {split}; its splits: {known}.')
    return Features(
        store.read(good), tuple(good), store.classes, store.settings, tuple(row for row in rows if row.shard is None),
        store.multi_label)


class FeatureStore:
    """The files of a folder of features.

    Args:
        folder: The folder; it need not be there.

    Attributes:
        folder: The folder.
        settings: Of the features there; None if there are none.
        classes: Names of the classes.
        multi_label: Whether a clip may have several of them.
        rows: Rows of the index by `FeatureRow.key`.

    Raises:
        ValueError: The index is damaged, or of a newer flatzoo.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.settings: dict[str, Any] | None = None
        self.classes: tuple[str, ...] = ()
        self.multi_label = False
        self.rows: dict[tuple, FeatureRow] = {}
        parquet = _parquet()
        path = self.folder / INDEX
        if not path.exists():
            return
        try:
            table = parquet.read_table(path)
            meta = json.loads((table.schema.metadata or {})[_META])
            newer = meta['format'] > FORMAT
            self.settings, self.classes = meta['settings'], tuple(meta['classes'])
            self.multi_label = bool(meta.get('multi_label', False))
            columns = [table[name].to_pylist() for name in FeatureRow._fields]
        except Exception as error:  # noqa: BLE001 - pyarrow raises its own types, KeyError and ValueError
            raise ValueError(
                f'{path}: is damaged, or no index of features ({" ".join(str(error).split())[:200]}). Remove the '
                'folder and embed again.') from error
        if newer:
            raise ValueError(f'{path}: came from a newer flatzoo. Update it: pip install -U flatzoo.')
        for values in zip(*columns, strict=True):
            row = FeatureRow(*values)._replace(times=tuple(values[FeatureRow._fields.index('times')] or ()))
            self.rows[row.key] = row

    def open(self, settings: Mapping[str, Any]) -> None:
        """Makes the folder, or checks that its features were made with the same settings.

        Raises:
            ValueError: The features there are of another model, of other weights or other settings.
        """
        settings = json.loads(json.dumps(dict(settings)))
        if self.settings is None:
            if self.folder.is_dir() and any(
                    path.name != '.lock' and not path.name.startswith('features-') for path in self.folder.iterdir()):
                raise ValueError(f'{self.folder}: is not empty and holds no features. Give a new folder.')
            self.folder.mkdir(parents=True, exist_ok=True)
        elif self.settings != settings:
            names = [name for name in settings if self.settings.get(name) != settings[name]]
            if 'model' in names:
                names = ['model']  # all else follows
            other = ', '.join(
                f'{name} {_short(self.settings.get(name))} (now {_short(settings[name])})' for name in names)
            raise ValueError(
                f'{self.folder}: holds features of {other}. Features of different weights or settings cannot be mixed: '
                'give the same again, or another folder.')
        self.settings = settings

    def add(self, values: Sequence[Tensor], rows: Sequence[FeatureRow], failed: Iterable[FeatureRow] = ()) -> None:
        """Writes a shard and the index.

        Args:
            values: A feature for each of `rows`.
            rows: What is known of the clips.
            failed: Clips without a feature.

        Raises:
            OSError: They cannot be written. The folder stays as it was.
        """
        name = f'features-{uuid.uuid4().hex[:12]}.safetensors' if rows else None
        try:
            if name is not None:
                _write(self.folder / name, lambda path: save_file({'features': torch.stack(list(values))}, path))
            kept = dict(self.rows)
            kept |= {row.key: row._replace(shard=name, row=place) for place, row in enumerate(rows)}
            kept |= {row.key: row for row in failed}
            self._write_index(kept)
        except Exception:
            if name is not None:
                (self.folder / name).unlink(missing_ok=True)
            raise
        self.rows = kept

    def update(
            self, rows: Iterable[FeatureRow], classes: Sequence[str], multi_label: bool = False,
            gone: Container[tuple] = ()) -> None:
        """Writes what lists say now.

        Args:
            rows: Rows that are there, with their class, split and group of now.
            classes: The classes of the lists. Former ones stay as long as a clip has them.
            multi_label: Whether a clip may have several.
            gone: Keys of rows to take out.
        """
        kept = {key: row for key, row in (self.rows | {row.key: row for row in rows}).items() if key not in gone}
        used = {name for row in kept.values() for name in (row.label or '').split(MARK)} | {
            row.label for row in kept.values()}
        self.classes = tuple(dict.fromkeys((*(name for name in self.classes if name in used), *classes)))
        self.multi_label = multi_label
        if kept:  # nothing is written before there is a feature
            self._write_index(kept)
        self.rows = kept

    def read(self, rows: Sequence[FeatureRow]) -> Tensor:
        """The features of some rows, `[N, ...]`.

        Raises:
            ValueError: A shard is damaged or not there.
        """
        places: dict[str, list[tuple[int, int]]] = {}
        for index, row in enumerate(rows):
            places.setdefault(row.shard, []).append((index, row.row))
        out: Tensor | None = None
        for name, pairs in places.items():
            path = self.folder / name
            try:
                with safe_open(path, 'pt') as file:
                    values = file.get_tensor('features')
                targets, sources = (torch.tensor(side) for side in zip(*pairs))
                out = values.new_empty(len(rows), *values.shape[1:]) if out is None else out
                out[targets] = values[sources]
            except (OSError, SafetensorError, IndexError, RuntimeError) as error:
                raise ValueError(
                    f'{path}: is damaged or not there ({" ".join(str(error).split())[:200]}). Remove the folder and '
                    'embed again.') from error
        return out

    def remove_orphans(self) -> None:
        """Removes shards that the index does not name, of a run that was killed, or of files that have changed."""
        used = {row.shard for row in self.rows.values()}
        for path in self.folder.glob('features-*'):
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _write_index(self, rows: Mapping[tuple, FeatureRow]) -> None:
        import pyarrow

        text, number = pyarrow.string(), pyarrow.int64()
        kinds = dict(
            path=text, member=text, start=pyarrow.float64(), end=pyarrow.float64(), unit=text, id=text, label=text,
            split=text, group=text, times=pyarrow.list_(pyarrow.float64()), size=number, mtime=number, shard=text,
            row=number, error=text)
        columns = {name: [getattr(row, name) for row in rows.values()] for name in FeatureRow._fields}
        columns['model'] = [self.settings['model']] * len(rows)  # for whoever reads the index alone
        columns['digest'] = [self.settings['digest']] * len(rows)
        flag = {'multi_label': True} if self.multi_label else {}
        meta = json.dumps({'format': FORMAT, 'settings': self.settings, 'classes': list(self.classes), **flag})
        schema = pyarrow.schema({**kinds, 'model': text, 'digest': text}, {_META: meta.encode()})
        table = pyarrow.table(columns, schema=schema)
        _write(self.folder / INDEX, lambda path: _parquet().write_table(table, path))


def _short(value: Any) -> str:
    return value[:15] if isinstance(value, str) and value.startswith('sha256:') else str(value)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("the index of features is a Parquet file: pip install 'flatzoo[probe]'") from error
    return pyarrow.parquet


def _write(path: Path, write: Any) -> None:
    """Writes under a temporary name, then renames.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    from flatzoo.hub.staging import is_full

    partial = path.with_name(f'{path.name}.partial')
    try:
        partial.touch()
        mode = partial.stat().st_mode  # as of any new file; safetensors' are the owner's alone
        write(partial)
        partial.chmod(mode)
        os.replace(partial, path)
    except Exception as error:
        if is_full(error):
            raise OSError(
                f'{path.parent}: the disk is full. The features before are kept: make room and start again, or give '
                'another folder.') from error
        raise
    finally:
        partial.unlink(missing_ok=True)
