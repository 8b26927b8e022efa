"""From a list of videos to the clips that a model is trained and tested on, ready for a `DataLoader`.

Only the frames that are sampled are decoded; they are cropped and resized a few at a time, so that a worker never holds
a clip in full size; and they stay uint8, which the model normalises on its own device.
"""
import contextlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .array_file import ArrayFile
from .clip_cache import ClipCache
from .decode import Backend, VideoError, VideoReader
from .files import is_array
from .frame_folder import FrameFolder
from .lists import Clip, VideoList
from .multi_label import label_targets
from .protocol import EvalProtocol
from .sampling import Sampling, dense_indices, span_indices, uniform_indices
from .transforms import Size, TrainTransform
from .views import equal_views, read_frames, read_views

Reader = VideoReader | FrameFolder | ArrayFile

__all__ = ['ClipDataset', 'clip_span', 'collate_clips', 'open_clip']


class ClipDataset(Dataset):
    """Clips of a `VideoList` as a map-style data set.

    An item is a dictionary with `index`, `label` (a number; where clips may have several classes, 1 for each class of
    the clip, float32 `[K]`) and `clip`: in training uint8 `[C, T, H, W]`; in evaluation all views of the protocol,
    `[V, C, T, H, W]`, over which the logits are averaged (`read_views` says what V is). C is 3 (RGB) or 1 (depth). A
    file that cannot be read raises nothing: its item has `error`, a line that names the file and says why, in place of
    `clip`. `collate_clips` makes batches of such items.

    All that is random in item i comes from (seed, epoch, i) alone, whatever the number and the order of workers; also
    what a transform draws from the default generators of torch, numpy and Python. These are left as they were. One
    thread at a time may read items of a process. The key (i, d) in place of i is item i drawn for the (d + 1)-th time
    in an epoch, which is random in another way.

    Args:
        videos: The list.
        num_frames: Frames per clip, T.
        img_size: Height and width of the frames, or one number for a square.
        train: Random clips for training; else the views of `protocol`.
        transform: Called in training on the cropped clip, uint8 `[T, C, H, W]`.
        sampling: Of training clips, `'uniform'` (`uniform_indices`) or `'dense'` (`dense_indices`).
        stride: Step between the frames of a dense training clip.
        span: Smallest and largest share of the video that a uniform training clip covers, see `span_indices`; None for
            `uniform_indices`.
        protocol: Views in evaluation; one clip and its centre if None.
        seed: Seed of the training clips.
        crop: Called in training on a few frames at a time, uint8 `[n, C, H, W]` to `[n, C, h, w]`, each time from the
            same state of torch's default generator, so that all frames get the same crop. `TrainTransform` with the
            `flip` of the list if None.
        shrink: Called in training before `crop` on a few frames at a time, uint8 `[n, C, H, W]` to `[n, C, h, w]`; each
            frame becomes the same whatever others come with it.
        cache: Keeps what is decoded: in training all frames of a clip, after `shrink`; in evaluation the views. Items
            are the same with and without it.
        backend: Decoder, see `VideoReader`.
        mirror: Share of training clips that are mirrored behind the crop, which then should not mirror.
        mirrored_labels: Label of each class in a clip that is mirrored so, see `flatzoo.data.lists.mirrored_labels`.

    Raises:
        ValueError: An argument that is not accepted.
    """

    def __init__(
            self,
            videos: VideoList,
            num_frames: int,
            img_size: Size,
            train: bool = True,
            transform: Callable[[Tensor], Tensor] | None = None,
            sampling: Sampling = 'uniform',
            stride: int | None = None,
            protocol: EvalProtocol | None = None,
            seed: int = 0,
            *,
            crop: Callable[[Tensor], Tensor] | None = None,
            shrink: Callable[[Tensor], Tensor] | None = None,
            cache: ClipCache | None = None,
            backend: Backend = 'auto',
            span: tuple[float, float] | None = None,
            mirror: float = 0.,
            mirrored_labels: Sequence[int] | None = None,
    ):
        EvalProtocol(sampling=sampling, stride=stride)  # checks them
        if not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(f'num_frames must be an integer of at least 1, got {num_frames!r}')
        if train and protocol is not None:
            raise ValueError('a protocol is for evaluation; leave it out or give train=False')
        if not train and not transform is crop is shrink is None:
            raise ValueError(
                'in evaluation the protocol says how frames are cropped; leave transform, crop and shrink out')
        if span is not None:
            if sampling != 'uniform':
                raise ValueError('span is for uniform sampling; leave it out')
            span_indices(1, 1, span)  # checks it
        self.videos = videos
        self.num_frames = num_frames
        self.img_size = img_size
        self.train = train
        self.transform = transform
        self.sampling = sampling
        self.stride = stride
        self.span = span
        self.protocol = protocol or EvalProtocol()
        self.seed = seed
        self.crop = crop or TrainTransform(img_size, flip=videos.flip)
        self.shrink = shrink or _as_it_is
        self.cache = cache
        self.backend = backend
        self.mirror = mirror
        self.mirrored_labels = mirrored_labels
        # In shared memory, so that workers that live on from epoch to epoch see it.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose clips are drawn."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draws other clips; to be called before each epoch, also with persistent workers, but not during one."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        index, draw = index if isinstance(index, tuple) else (index, 0)
        if not 0 <= index < len(self):
            raise IndexError(f'clip {index} of {len(self)}')
        clip = self.videos.clips[index]
        item = {'index': index, 'label': self._label(clip)}
        if not self.train:
            try:
                return item | {'clip': self._views(clip, index)}
            except VideoError as error:
                return item | {'error': _one_line(error)}
        with _seeded(self.seed, self.epoch, index, *[draw] * (draw > 0)):
            try:
                frames = self._train_frames(clip, index)  # [T, C, h, w]
            except VideoError as error:
                return item | {'error': _one_line(error)}
            if self.mirror and torch.rand(()) < self.mirror:
                frames = frames.flip(-1)
                item['label'] = self._label(clip, self.mirrored_labels)
            if self.transform is not None:
                frames = self.transform(frames)
            return item | {'clip': frames.transpose(0, 1).contiguous()}

    def _label(self, clip: Clip, renamed: Sequence[int] | None = None) -> int | Tensor:
        """The label, or in lists of several classes per clip 1 for each of the clip's own, float32 `[K]`."""
        if not self.videos.multi_label:
            return clip.label if renamed is None else renamed[clip.label]
        return label_targets([clip], len(self.videos.classes), renamed)[0]

    def _train_frames(self, clip: Clip, index: int) -> Tensor:
        kept = None if self.cache is None else self.cache.get(index)
        if kept is not None:
            return self._cropped(_Kept(kept), clip, 0, len(kept), _as_it_is)
        with open_clip(clip, self.videos.depth, self.backend) as reader:
            first, end = clip_span(clip, reader)
            if self.cache is not None and (kept := self._whole(reader, clip, first, end)) is not None:
                self.cache.put(index, kept)
                return self._cropped(_Kept(kept), clip, 0, len(kept), _as_it_is)
            return self._cropped(reader, clip, first, end, self.shrink)

    def _cropped(self, reader: Any, clip: Clip, first: int, end: int, shrink: Callable[[Tensor], Tensor]) -> Tensor:
        if self.sampling == 'dense':
            rows = dense_indices(end - first, self.num_frames, self.stride, training=True)
        elif self.span is not None:
            rows = span_indices(end - first, self.num_frames, self.span)
        else:
            rows = uniform_indices(end - first, self.num_frames, training=True)
        needed, places = rows[0].unique(return_inverse=True)
        state = torch.get_rng_state()

        def crop(frames: Tensor) -> Tensor:
            torch.set_rng_state(state)
            return self.crop(shrink(frames))

        return read_frames(reader, clip.name, needed + first, crop)[places]

    def _whole(self, reader: Any, clip: Clip, first: int, end: int) -> Tensor | None:
        """All frames of a clip, shrunk; None if there is no room for them, or some cannot be read."""
        try:
            size = self.shrink(reader.get_frames(torch.tensor([first]))).numel()
            if not self.cache.has_room((end - first) * size):
                return None
            return read_frames(reader, clip.name, torch.arange(first, end), self.shrink)
        except VideoError:  # perhaps none of those that this item needs
            return None

    def _views(self, clip: Clip, index: int) -> Tensor:
        """The views that `load_views` takes of a whole video file, here of any clip."""
        kept = None if self.cache is None else self.cache.get(index)
        if kept is not None:
            return kept.clone()
        with open_clip(clip, self.videos.depth, self.backend) as reader:
            span = clip_span(clip, reader)
            views = read_views(self.protocol, reader, clip.name, span, self.num_frames, self.img_size).contiguous()
        if self.cache is not None:
            self.cache.put(index, views)
        return views


class _Kept:
    """Frames in memory, `[T, C, H, W]`, read as those of a file."""

    def __init__(self, frames: Tensor):
        self.frames = frames

    def get_frames(self, indices: Tensor) -> Tensor:
        return self.frames[indices]


def _as_it_is(frames: Tensor) -> Tensor:
    return frames


def collate_clips(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of the items of a `ClipDataset`.

    Returns:
        `clip` (stacked), `label` and `index` (int64) of the items that could be read, and `broken`: (index, error) of
        the others. `clip` is None if nothing could be read. `label` is float32 `[B, K]` where clips may have several.
    """
    good = [item for item in items if 'clip' in item]
    labels = [item['label'] for item in good]
    dense = bool(labels) and isinstance(labels[0], Tensor)
    return {
        'clip': torch.stack(_alike([item['clip'] for item in good])) if good else None,
        'label': torch.stack(labels) if dense else torch.tensor(labels, dtype=torch.int64),
        'index': torch.tensor([item['index'] for item in good], dtype=torch.int64),
        'broken': [(item['index'], item['error']) for item in items if 'clip' not in item],
    }


def _alike(clips: list[Tensor]) -> list[Tensor]:
    return equal_views(clips) if clips[0].ndim == 5 else clips  # views, or clips of the training


@contextlib.contextmanager
def open_clip(clip: Clip, depth: int | None = None, backend: Backend = 'auto') -> Iterator['Reader']:
    """Opens the file, the folder of frames, the array or the member of a shard that a clip is in.

    Args:
        clip: The clip; `clip_span` says which frames of the reader are its own.
        depth: `VideoList.depth`.
        backend: Decoder, see `VideoReader`.

    Yields:
        A reader with `len()` and `get_frames(indices)`.

    Raises:
        VideoError: It cannot be read.
    """
    with contextlib.ExitStack() as stack:
        path = clip.path if clip.member is None else stack.enter_context(_extracted(clip))
        if os.path.isdir(path) or path.endswith('.zip'):
            yield stack.enter_context(FrameFolder(path, depth, clip.name))
        elif is_array(path):
            yield stack.enter_context(ArrayFile(path, depth, clip.name))
        elif depth is not None:
            raise VideoError(
                f'{clip.name}: depth maps come as a folder of images, or as an array (.npy, .npz, .mat); this is '
                'another file.')
        else:
            try:
                yield stack.enter_context(VideoReader(path, backend))
            except VideoError as error:  # name the shard, not the temporary file
                raise VideoError(str(error).replace(path, clip.name)) from None


def clip_span(clip: Clip, reader: 'Reader') -> tuple[int, int]:
    """First frame of a clip and the one behind its last, counted in the frames of its file.

    Raises:
        VideoError: The clip lies behind the end of its file.
    """
    length = len(reader)
    first, end = clip.start, length if clip.end is None else clip.end
    if clip.unit == 'seconds' and (clip.start or clip.end is not None):
        if not isinstance(reader, VideoReader):
            raise VideoError(f'{clip.name}: frames of folders and arrays have no times. Give start and end in frames.')
        times = reader.timestamps
        bounds = torch.tensor([clip.start, float('inf') if clip.end is None else clip.end], dtype=torch.float64)
        first, end = torch.searchsorted(times - times[0], bounds).tolist()
    first, end = int(first), min(int(end), length)
    if first >= end:
        raise VideoError(
            f'{clip.name}: the clip from {clip.start} to {clip.end} ({clip.unit}) lies outside of the {length} frames '
            'of the file. Correct the list or get the file again.')
    return first, end


@contextlib.contextmanager
def _extracted(clip: Clip) -> Iterator[str]:
    """A temporary file with the bytes of the member of a shard, in memory where there is room."""
    from .shards import read_member

    data = read_member(clip)
    suffix = os.path.splitext(clip.member[0])[1]
    path = None
    try:
        try:
            path = _write_temporary(data, suffix, '/dev/shm')
        except OSError:
            path = _write_temporary(data, suffix, None)
        yield path
    finally:
        if path is not None:
            os.unlink(path)


def _write_temporary(data: bytes, suffix: str, folder: str | None) -> str:
    with tempfile.NamedTemporaryFile(prefix='flatzoo-', suffix=suffix, dir=folder, delete=False) as file:
        try:
            file.write(data)
            file.flush()
        except OSError:
            os.unlink(file.name)
            raise
        return file.name


@contextlib.contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Default generators of torch (CPU), numpy and Python in a state that follows from `key`, and back."""
    seeds = np.random.SeedSequence([part & 0xFFFF_FFFF_FFFF_FFFF for part in key]).generate_state(3)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.random.default_generator.manual_seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    random.seed(int(seeds[2]))
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).splitlines())
