"""How the accuracy of a model is measured: which clips and crops of a video it sees.

An accuracy means little without this, so each set of weights keeps its protocol beside it, as torchvision's weights do.
"""
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .decode import VideoError, VideoReader
from .official_sampling import RULES, official_indices
from .sampling import dense_indices, uniform_indices
from .transforms import EvalTransform, Size, resize

__all__ = ['EvalProtocol', 'read_frames']

AT_ONCE = 4  # frames that are held in full size


@dataclass(frozen=True)
class EvalProtocol:
    """Clips and crops of a video over which a model's logits are averaged.

    The default is one clip and its centre. SIFAR's paper takes 3 crops of one clip, `EvalProtocol(num_crops=3)`; the
    example of its official repository takes 3 clips and 3 crops, `EvalProtocol(num_clips=3, num_crops=3)`.

    Attributes:
        sampling: `'uniform'` (`uniform_indices`) or `'dense'` (`dense_indices`).
        num_clips: clips per video.
        num_crops: crops per clip, 1 (centre) or 3 (`three_crop`).
        stride: step between the frames of a dense clip; None for uniform sampling.
        scale_up: whether crops are taken with a margin, from frames resized to `img_size / 0.875`.

        rule: whose official code says where clips begin and what short videos repeat (`official_indices`); None for
            flatzoo's own `uniform_indices` and `dense_indices`, which also stand in for clips that a rule does not know
            (several uniform ones of ST-Adapter and AIM).

    Raises:
        ValueError: a value that is not accepted.
    """
    sampling: str = 'uniform'
    num_clips: int = 1
    num_crops: int = 1
    stride: int | None = None
    scale_up: bool = False
    rule: str | None = None

    def __post_init__(self):
        if self.sampling not in ('uniform', 'dense'):
            raise ValueError(f"sampling must be 'uniform' or 'dense', got {self.sampling!r}")
        if not _is_count(self.num_clips):
            raise ValueError(f'num_clips must be an integer of at least 1, got {self.num_clips!r}')
        if not _is_count(self.num_crops) or self.num_crops not in (1, 3):
            raise ValueError(f'num_crops must be 1 or 3, got {self.num_crops!r}')
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(f'rule={self.rule!r} is none of {", ".join(map(repr, RULES))}.')
        if not isinstance(self.scale_up, bool):
            raise ValueError(f'scale_up must be true or false, got {self.scale_up!r}')
        if self.sampling == 'dense' and not _is_count(self.stride):
            raise ValueError(f'dense sampling needs a stride of at least 1, got {self.stride!r}')
        if self.sampling == 'uniform' and self.stride is not None:
            raise ValueError(f'uniform sampling takes no stride, got {self.stride!r}; leave it out')

    @property
    def views(self) -> int:
        """Number of clips that the model sees per video: `num_clips * num_crops`."""
        return self.num_clips * self.num_crops

    def to_dict(self) -> dict[str, Any]:
        """The protocol as a dictionary that JSON can hold."""
        values = asdict(self)
        return values if self.rule else {key: value for key, value in values.items() if key != 'rule'}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'EvalProtocol':
        """The protocol that `to_dict` described; what is left out has its default.

        Raises:
            ValueError: an unknown key or a value that is not accepted.
        """
        known = [field.name for field in fields(cls)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(
                f'unknown keys in an evaluation protocol: {", ".join(map(repr, unknown))}; '
                f'known are {", ".join(known)}')
        return cls(**values)

    def sample(self, length: int, num_frames: int) -> Tensor:
        """Frame indices of the clips of a video with `length` frames, int64 `[num_clips, num_frames]`."""
        if self.rule is not None and (self.sampling == 'dense' or self.num_clips == 1 or self.rule == 'zeroi2v'):
            return official_indices(self.rule, length, num_frames, self.stride, self.num_clips)
        if self.sampling == 'dense':
            return dense_indices(length, num_frames, self.stride, self.num_clips)
        return uniform_indices(length, num_frames, self.num_clips)

    def load_views(
            self,
            path: str | os.PathLike,
            num_frames: int,
            img_size: Size,
            backend: str = 'auto',
            transform: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Decodes a video into all the views of the protocol, each needed frame once.

        Args:
            path: the video file.
            num_frames: frames per clip (T).
            img_size: `(height, width)` of a frame, or one number for a square.
            backend: decoder, see `VideoReader`.
            transform: replaces the crops of the protocol and `img_size`: from uint8 `[T, C, H, W]` to `[T, C, h, w]`,
                or to several views `[V, T, C, h, w]`.

        Returns:
            Views `[views, C, T, height, width]`, uint8 unless the transform changes that, the clips of the first crop
            first: `model(views).mean(0)` are the logits of the video.

        Raises:
            VideoError: the file cannot be read, or its frames do not fit the crops.
            ValueError: what the transform returns has another shape.
        """
        with VideoReader(path, backend) as video:
            return self.read_views(video, os.fsdecode(path), (0, len(video)), num_frames, img_size, transform)

    def read_views(
            self,
            reader: Any,
            name: str,
            span: tuple[int, int],
            num_frames: int,
            img_size: Size,
            transform: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """`load_views` of a part of what is open already.

        Args:
            reader: What has `get_frames(indices)`, such as a `VideoReader` or a `FrameFolder`.
            name: What messages call it.
            span: The first frame of the part, and the one behind its last.
            num_frames: See `load_views`, as for all that follows.
            img_size: Size of a frame.
            transform: In place of the crops.
        """
        crops = transform or EvalTransform(img_size, self.num_crops, self.scale_up)
        needed, rows = self.sample(span[1] - span[0], num_frames).unique(return_inverse=True)  # rows: [num_clips, T]
        if transform is None:
            frames = read_frames(reader, name, needed + span[0], crops.resize)
        else:
            frames = reader.get_frames(needed + span[0])  # [N, C, H, W]
        clips = []
        for clip_rows in rows:
            clip = crops(frames[clip_rows])
            if not isinstance(clip, Tensor) or clip.ndim not in (4, 5) or clip.shape[-4] != num_frames:
                got = list(clip.shape) if isinstance(clip, Tensor) else type(clip).__name__
                raise ValueError(
                    f'a transform must return [T, C, h, w] or [V, T, C, h, w] with T = {num_frames}, got {got}')
            clips.append(clip[None] if clip.ndim == 4 else clip)  # [V, T, C, h, w]
        views = torch.stack(clips, dim=1).flatten(0, 1)  # [V * num_clips, T, C, h, w]
        return views.transpose(1, 2)


def read_frames(reader: Any, name: str, indices: Tensor, shrink: Callable[[Tensor], Tensor]) -> Tensor:
    """Frames `[N, C, h, w]` that `shrink` makes of those of a reader; only a few are held in full size.

    Args:
        reader: What has `get_frames(indices)`.
        name: What messages call it.
        indices: N frame indices.
        shrink: From uint8 `[n, C, H, W]` to `[n, C, h, w]`.

    Raises:
        VideoError: The frames cannot be read, or `shrink` raised `ValueError` as they fit no crop.
    """
    parts = []
    for part in indices.split(AT_ONCE):
        frames = reader.get_frames(part)
        try:
            parts.append(shrink(frames))
        except ValueError as error:
            raise VideoError(f'{name}: {error}') from None
    return torch.cat([resize(part, parts[0].shape[-2:]) for part in parts])  # a stream may change its size on the way


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
