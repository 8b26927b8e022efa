"""WebDataset shards: many clips in a few large files, for disks and object stores that are slow with many small files.

A sample of a shard has the video as it is (or an uncompressed ZIP file of its frames, `.frames.zip`), its label
(`.cls`) and what else the list says about it (`.json`). Any reader of WebDataset can use it.

`SPLIT.index.json` beside the shards has the place of every clip. With it, clips are read by index, as from a folder:
the order of clips, resuming and exact evaluation work as with any other data set. From an object store, each clip costs
one request for its own bytes.
"""
import io
import json
import os
import random
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .clips import open_clip
from .decode import VideoError
from .files import frame_order, is_array, is_ours, is_video
from .frame_folder import FrameFolder
from .lists import SPLIT_NAMES, Clip, DataError, VideoList, some
from .multi_label import one_class_only
from .readers._labels import read_labels

__all__ = ['find_shards', 'index_shards', 'pack', 'read_index', 'read_member']

INDEX_VERSION = 1
ATTEMPTS = 4  # how often a request to an object store is tried
_FIELDS = ('name', 'classes', 'split', 'flip', 'metric', 'depth', 'note')


def pack(
        videos: VideoList,
        folder: str | os.PathLike,
        *,
        max_clips: int = 1000,
        max_bytes: int = 2 ** 30,
        seed: int = 0,
        progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[list[Path], list[str]]:
    """Writes the clips of a list into shards. They appear when all is written, the index last.

    The whole file of a clip is packed, even if the clip is only a part of it. Training clips are shuffled, so that the
    classes are also mixed for software that reads the shards one after the other.

    Shards are often passed on to others, and a list can name any file of the machine. Therefore a file is packed only
    if it opens as a video or as pictures, and only if its path lies below the folder of the data set
    (`VideoList.root`, if there is one). A symbolic link below that folder may lead elsewhere.

    Args:
        videos: The list; its split names the shards.
        folder: Folder for the shards. It is made if it does not exist.
        max_clips: Largest number of clips in a shard.
        max_bytes: Largest size of a shard in bytes, approximately.
        seed: Seed of the order of training clips.
        progress: Wraps the clips, for example tqdm.

    Returns:
        The shards, and a line for every file that could not be read and was left out.

    Raises:
        DataError: The folder has shards of this split already, no clip could be read, or clips have several classes.
        ImportError: The package webdataset is not installed.
    """
    try:
        import webdataset
    except ImportError as error:
        raise ImportError("packing needs webdataset: pip install 'flatzoo[webdataset]'") from error
    one_class_only(videos, 'shards hold one class per clip')
    folder, split = Path(folder), videos.split or 'all'
    if _index_path(folder, split).exists() or find_shards(folder, split):
        raise DataError(f'{folder}: has shards of the split {split} already. Choose another folder or remove them.')
    order = list(videos.clips)
    if split == 'train':
        random.Random(seed).shuffle(order)
    partial = folder / f'.{split}.partial'
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
    partial.mkdir(parents=True)
    failed, packed = [], {}
    pattern = f'{partial}/{split}-%06d.tar'.replace('%', '%%', str(partial).count('%'))
    with webdataset.ShardWriter(pattern, maxcount=max_clips, maxsize=max_bytes, verbose=0) as writer:
        for number, clip in enumerate(progress(order)):
            try:
                _check_place(clip, videos.root)
                with open_clip(clip, videos.depth) as reader:
                    if isinstance(reader, FrameFolder):
                        reader.check()
                suffix, data = _payload(clip)
            except (OSError, VideoError) as error:
                failed.append(str(error) if clip.path in str(error) else f'{clip.name}: {error}')
                continue
            key = f'{number:09d}'
            packed[key] = clip
            about = {'id': clip.id, 'label': videos.classes[clip.label], 'start': clip.start, 'end': clip.end}
            about |= {'unit': clip.unit} | ({'group': clip.group} if clip.group else {})
            writer.write({'__key__': key, suffix: data, 'cls': clip.label, 'json': about})
    if not packed:
        raise DataError(f'no clip of {videos.name} could be read: {some(failed)}')
    clips = []
    files = sorted(partial.glob('*.tar'))
    for path in files:
        for key, members in _samples(path):
            clips.append(replace(packed[key], path=path.name, member=_payload_member(members)))
    for path in files:
        os.replace(path, folder / path.name)
    _write_index(folder, replace(videos, clips=tuple(clips), split=split, missing=()))
    partial.rmdir()
    return [folder / path.name for path in files], failed


def read_index(root: Path | str, split: str) -> VideoList | None:
    """The list of the clips that `pack` wrote. None if there is no index.

    Args:
        root: Folder or URL of the shards.
        split: Name of the split.

    Raises:
        DataError: The index cannot be read.
    """
    names = [split] + [other for other in ('val', 'test') if split in ('val', 'test') and other != split]
    for name in names:
        try:
            if isinstance(root, str):
                where = f'{root.rstrip("/")}/{name}.index.json'
                data = json.loads(_fetch(where))
            else:
                where = _index_path(root, name)
                data = json.loads(where.read_text(encoding='utf-8'))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise DataError(f'{where}: cannot be read ({error}). Check the address or pack again.') from None
        if not isinstance(data, dict) or data.get('version') != INDEX_VERSION:
            raise DataError(f'{where}: is not an index of this version of flatzoo. Pack the shards again.')
        base = root.rstrip('/') if isinstance(root, str) else str(root)
        try:
            shards = [f'{base}/{_plain_name(shard)}' for shard in data['shards']]
            clips = [
                Clip(
                    shards[_count(shard)], _count(label), start, end, unit, id_,
                    (_text(member), _count(offset), _count(size)))
                for shard, member, offset, size, label, start, end, unit, id_ in data['clips']
            ]
            groups = data.get('groups')
            if groups:
                clips = [replace(clip, group=_text(group)) for clip, group in zip(clips, groups, strict=True)]
            return VideoList(clips=clips, **{field: data[field] for field in _FIELDS})
        except (KeyError, IndexError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise DataError(f'{where}: {error}') from None
            raise DataError(
                f'{where}: is not a complete index ({type(error).__name__}: {error}). Pack the shards again.'
            ) from None
    return None


def _plain_name(name: Any) -> str:
    """Checks the name of a shard: it must lie beside its index."""
    if not isinstance(name, str) or name in ('', '.', '..') or set(name) & set('/\\:?#\0'):
        raise DataError(f'names the shard {name!r}; a shard must lie beside its index. Get the index again.')
    return name


def _text(value: Any) -> str:
    if not isinstance(value, str) or '\0' in value:
        raise TypeError(f'{value!r} is no name')
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f'{value!r} is no number from 0 on')
    return value


def find_shards(folder: Path, split: str) -> list[Path]:
    """The sorted shards of a split in a folder. The split `all` has every shard."""
    found = sorted([*folder.glob('*.tar'), *folder.glob('*/*.tar')])
    if split == 'all':
        return found
    names = SPLIT_NAMES.get(split, (split,))
    return [path for path in found if path.parent.name in names or path.stem.split('-')[0].split('_')[0] in names]


def index_shards(
        files: Iterable[Path],
        names: Sequence[str] | None = None,
) -> tuple[list[Clip], tuple[str, ...]]:
    """The clips in shards on disk that have no index, and their classes.

    Args:
        files: The shards.
        names: Names of the classes, if a list has them.

    Raises:
        DataError: A file is not a tar file, or a sample has no label or one that is unlike the others.
    """
    entries = []
    for path in files:
        for key, members in _samples(path):
            member = _payload_member(members)
            if member is None:
                continue
            label = _label(path, key, members)
            about = _json_member(path, members)
            entries.append((path, member, label, about))
    labels, classes = read_labels(
        [label for *_, label, _ in entries], names,
        lambda place, why: DataError(f'{entries[place][0]}/{entries[place][1][0]}: {why}. Write the shards again.'))
    clips = [
        Clip(
            str(path),
            label,
            about.get('start') or 0,
            about.get('end'),
            about.get('unit') or 'frames',
            str(about.get('id') or member[0]),
            member,
            str(about.get('group') or ''),
        )
        for (path, member, _, about), label in zip(entries, labels, strict=True)
    ]
    return clips, classes


def read_member(clip: Clip) -> bytes:
    """The bytes of a clip in a shard, on disk or behind a URL.

    Raises:
        VideoError: The bytes cannot be read.
    """
    _, offset, size = clip.member
    try:
        if '://' in clip.path:
            data = _fetch(clip.path, offset, size)
        else:
            with open(clip.path, 'rb') as file:
                there = os.fstat(file.fileno()).st_size
                is_inside = 0 <= offset <= offset + size <= there  # a wrong index could ask for any amount of memory
                file.seek(offset if is_inside else 0)
                data = file.read(size if is_inside else 0)
    except OSError as error:
        raise VideoError(f'{clip.name}: cannot be read ({error}). Check the shard.') from None
    if len(data) != size:
        raise VideoError(f'{clip.name}: the shard ends too early. Get it again.')
    return data


def _index_path(folder: Path, split: str) -> Path:
    return folder / f'{split}.index.json'


def _write_index(folder: Path, videos: VideoList) -> None:
    shards = sorted({clip.path for clip in videos.clips})
    number = {shard: i for i, shard in enumerate(shards)}
    data = {'version': INDEX_VERSION, **{field: getattr(videos, field) for field in _FIELDS}, 'shards': shards}
    data['clips'] = [
        [number[c.path], *c.member, c.label, c.start, c.end, c.unit, c.id] for c in videos.clips
    ]  # fmt: skip
    if any(clip.group for clip in videos.clips):
        data['groups'] = [clip.group for clip in videos.clips]
    path = _index_path(folder, videos.split)
    partial = path.with_name(f'{path.name}.partial')
    partial.write_text(json.dumps(data), encoding='utf-8')
    os.replace(partial, path)


def _check_place(clip: Clip, root: str) -> None:
    """Refuses a file outside of the folder of the data set."""
    if root and '://' not in root and '://' not in clip.path:
        base, path = os.path.abspath(root), os.path.abspath(clip.path)
        if os.path.commonpath([base, path]) != base:
            raise VideoError(
                f'{clip.name}: lies outside of {root} and is not packed. Move it there, or give the folder that holds '
                'all files.')


def _payload(clip: Clip) -> tuple[str, bytes]:
    """Suffix and bytes of the file of a clip."""
    if clip.member is not None:
        return clip.member[0].partition('.')[2], read_member(clip)
    if not os.path.isdir(clip.path):
        suffix = os.path.splitext(clip.path)[1].lower().lstrip('.')
        if suffix == 'zip':
            suffix = 'frames.zip'
        elif not is_video(f'x.{suffix}') and not is_array(f'x.{suffix}'):
            suffix = 'mp4'  # readers look at the content
        return suffix, Path(clip.path).read_bytes()
    names = frame_order(os.listdir(clip.path))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), Path(clip.path, name).read_bytes())
    return 'frames.zip', buffer.getvalue()


_Member = tuple[str, int, int]


def _samples(path: Path) -> list[tuple[str, dict[str, _Member]]]:
    """Samples of a shard: the key, and for each suffix the name, offset and size of its member."""
    samples: dict[str, dict[str, _Member]] = {}
    try:
        with tarfile.open(path, 'r:') as archive:
            for info in archive:
                if info.isfile() and all(is_ours(part) for part in info.name.split('/') if part not in ('.', '..')):
                    folder, name = os.path.split(info.name)
                    key, _, suffix = name.partition('.')
                    members = samples.setdefault(os.path.join(folder, key), {})
                    members[suffix.lower()] = (info.name, info.offset_data, info.size)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f'{path}: is not a readable, uncompressed tar file ({error}). Get it again.') from None
    return [sample for key, members in samples.items() for sample in _apart(key, members)]


def _apart(key: str, members: dict[str, _Member]) -> list[tuple[str, dict[str, _Member]]]:
    """The samples of the members with one key: several if names contain dots, as in `v.g01.c01.mp4`.

    WebDataset cuts names at their first dot. If no label is found that way, names are cut at their last dot.
    """
    if 'cls' in members or 'json' in members or not any(suffix.endswith(('.cls', '.json')) for suffix in members):
        return [(key, members)]
    samples: dict[str, dict[str, _Member]] = {}
    for suffix, member in members.items():
        stem, dot, last = suffix.rpartition('.')
        if suffix.endswith('.frames.zip'):
            stem, last = suffix.removesuffix('.frames.zip'), 'frames.zip'
        samples.setdefault(f'{key}.{stem}' if dot else key, {})[last] = member
    return list(samples.items())


def _payload_member(members: dict[str, _Member]) -> _Member | None:
    videos = [member for suffix, member in members.items() if suffix == 'frames.zip' or is_video(f'x.{suffix}')]
    arrays = [member for suffix, member in members.items() if is_array(f'x.{suffix}')]
    return next(iter(videos + arrays), None)  # an array beside a video may be anything


def _bytes(path: Path, member: _Member) -> bytes:
    return read_member(Clip(str(path), 0, member=member))


def _json_member(path: Path, members: dict[str, _Member]) -> dict[str, Any]:
    try:
        about = json.loads(_bytes(path, members['json'])) if 'json' in members else {}
    except ValueError as error:
        raise DataError(f'{path}/{members["json"][0]}: is not JSON ({error}). Write the shard again.') from None
    return about if isinstance(about, dict) else {}


def _label(path: Path, key: str, members: dict[str, _Member]) -> str:
    if 'cls' in members:
        text = _bytes(path, members['cls']).decode('utf-8', 'replace').strip()
    else:
        text = _json_member(path, members).get('label')
    if text is None or text == '':
        raise DataError(f'{path}: the sample {key} has no label, neither {key}.cls nor "label" in {key}.json.')
    return str(text)


def _fetch(url: str, offset: int | None = None, size: int = 0) -> bytes:
    """All bytes behind a URL, or a range. It is tried several times, because object stores sometimes fail."""
    for attempt in range(ATTEMPTS):
        try:
            return (_fetch_http if url.startswith(('http://', 'https://')) else _fetch_other)(url, offset, size)
        except FileNotFoundError:
            raise
        except OSError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.5 * 2 ** attempt * (1 + random.Random(f'{url}{offset}{attempt}').random()))
    raise AssertionError('not reached')


def _fetch_http(url: str, offset: int | None, size: int) -> bytes:
    headers = {} if offset is None else {'Range': f'bytes={offset}-{offset + size - 1}'}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            if offset is not None and answer.status != 206:
                raise VideoError(f'{url}: the server does not send parts of files. Use another store.')
            return answer.read()
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(f'{url}: {error}') from None
        raise


def _fetch_other(url: str, offset: int | None, size: int) -> bytes:
    import fsspec  # comes with huggingface_hub; s3:// also needs s3fs, gs:// needs gcsfs

    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise DataError(f'{url}: {error}') from None
    return system.cat_file(path) if offset is None else system.cat_file(path, offset, offset + size)
