"""How the accuracy of a model is measured: which clips and crops of a video it sees.

An accuracy means little without this. Each set of weights therefore keeps its protocol, as torchvision's weights do.
`flatzoo.data.views` reads the clips and crops that a protocol describes.
"""
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from .decode import Backend
from .fit import FITS, Fit
from .official_sampling import RULES, Rule, official_indices
from .sampling import Sampling, dense_indices, uniform_indices
from .transforms import Size

__all__ = ['EvalProtocol']


@dataclass(frozen=True)
class EvalProtocol:
    """Clips and crops of a video over which a model's logits are averaged.

    The default is one clip and its centre. SIFAR's paper takes 3 crops of one clip, `EvalProtocol(num_crops=3)`; the
    example of its official repository takes 3 clips and 3 crops, `EvalProtocol(num_clips=3, num_crops=3)`.

    Attributes:
        sampling: `'uniform'` (`uniform_indices`) or `'dense'` (`dense_indices`).
        num_clips: Clips per video.
        num_crops: Crops per clip, 1 (centre) or 3 (`three_crop`).
        stride: Step between the frames of a dense clip; None for uniform sampling.
        scale_up: Whether crops are taken with a margin, from frames resized to `img_size / 0.875`.
        fit: How a frame becomes one of the model's aspect ratio: `'crop'`, `'letterbox'` (black bars) or `'stretch'`.
            The latter two show the whole frame, so that there is one crop and no margin, whatever is asked for. It is
            that of the training; what was saved before there was a choice is `'crop'`.
        depth: Of weights for depth maps, the reading that became 255 in their training. None for RGB, or unknown.
        rule: The method whose official code decides where clips begin and which frames of short videos are repeated,
            see `official_indices`. None uses flatzoo's own `uniform_indices` and `dense_indices`. These are also used
            for clips that a rule does not define (several uniform clips of ST-Adapter and AIM).

    Raises:
        ValueError: A value that is not accepted.
    """
    sampling: Sampling = 'uniform'
    num_clips: int = 1
    num_crops: int = 1
    stride: int | None = None
    scale_up: bool = False
    rule: Rule | None = None
    fit: Fit = 'crop'
    depth: int | None = None

    def __post_init__(self):
        if self.sampling not in ('uniform', 'dense'):
            raise ValueError(f"sampling must be 'uniform' or 'dense', got {self.sampling!r}")
        if not _is_count(self.num_clips):
            raise ValueError(f'num_clips must be an integer of at least 1, got {self.num_clips!r}')
        if not _is_count(self.num_crops) or self.num_crops not in (1, 3):
            raise ValueError(f'num_crops must be 1 or 3, got {self.num_crops!r}')
        if self.rule is not None and self.rule not in RULES:
            raise ValueError(f'rule={self.rule!r} is none of {", ".join(map(repr, RULES))}.')
        if self.fit not in FITS:
            raise ValueError(f'fit must be one of {", ".join(FITS)}, got {self.fit!r}')
        if self.depth is not None and not _is_count(self.depth):
            raise ValueError(f'depth must be an integer of at least 1 or None, got {self.depth!r}')
        if not isinstance(self.scale_up, bool):
            raise ValueError(f'scale_up must be true or false, got {self.scale_up!r}')
        if self.sampling == 'dense' and not _is_count(self.stride):
            raise ValueError(f'dense sampling needs a stride of at least 1, got {self.stride!r}')
        if self.sampling == 'uniform' and self.stride is not None:
            raise ValueError(f'uniform sampling takes no stride, got {self.stride!r}; leave it out')
        if self.fit != 'crop':  # three crops of the whole frame are one
            object.__setattr__(self, 'num_crops', 1)
            object.__setattr__(self, 'scale_up', False)

    @property
    def views(self) -> int:
        """Number of clips that the model sees per video: `num_clips * num_crops`.

        Of a square video, whose three crops are one, there are as few as `num_clips`.
        """
        return self.num_clips * self.num_crops

    def to_dict(self) -> dict[str, Any]:
        """The protocol as a dictionary that JSON can hold."""
        # left out, so that an older flatzoo reads what it can evaluate
        usual = {'rule': None, 'fit': 'crop', 'depth': None}
        return {key: value for key, value in asdict(self).items() if key not in usual or value != usual[key]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'EvalProtocol':
        """The protocol that `to_dict` described. Missing keys get their defaults.

        Raises:
            ValueError: An unknown key or a value that is not accepted.
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
            backend: Backend = 'auto',
            transform: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """`flatzoo.data.views.load_views` with this protocol."""
        from .views import load_views

        return load_views(self, path, num_frames, img_size, backend, transform)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
