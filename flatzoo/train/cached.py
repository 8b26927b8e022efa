"""Decodes the clips of a small data set once: what is kept, in which size, and whether it fits into the bound.

In training each epoch takes other frames of a clip, so that all its frames are kept, not larger than a crop can show.
Evaluation takes the same views each time, which are kept as they are.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from flatzoo.data.clip_cache import ClipCache
from flatzoo.data.fit import Fit
from flatzoo.data.lists import VideoList
from flatzoo.data.survey import ClipFacts
from flatzoo.data.transforms import TrainTransform, resize
from flatzoo.data.workers import local_processes
from flatzoo.models import VideoModel

from .recipe import Recipe

__all__ = ['Caches', 'Shrink', 'make_caches']


class Shrink:
    """Shrinks frames before they are kept. Smaller frames stay as they are.

    Args:
        side: Pixels that the measured side gets, at least 1.
        fit: Of `'crop'` the shorter side is measured, else the longer one, which becomes the side of the whole frame.
    """

    def __init__(self, side: int, fit: Fit):
        self.side, self.fit = side, fit

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after shrinking."""
        factor = self.side / (min(height, width) if self.fit == 'crop' else max(height, width))
        return (height, width) if factor >= 1 else (max(round(height * factor), 1), max(round(width * factor), 1))

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames `[n, C, H, W]` to `[n, C, h, w]`."""
        return resize(frames, self.size(*frames.shape[-2:]))


@dataclass(frozen=True)
class Caches:
    """What a run keeps.

    Attributes:
        train: Frames of the training clips; None if nothing is kept.
        val: Views of the evaluation; None likewise.
        shrink: Applied to all training frames, kept or not; None if nothing is kept.
        line: The line for the user; empty if the recipe wants no cache.
    """
    train: ClipCache | None = None
    val: ClipCache | None = None
    shrink: Shrink | None = None
    line: str = ''


def make_caches(
        recipe: Recipe,
        model: VideoModel,
        train: VideoList,
        val: VideoList | None,
        facts: Sequence[ClipFacts],
) -> Caches:
    """Decides whether the clips are kept. The decision follows from the recipe and the clips alone.

    Args:
        recipe: The recipe, whose `fit` is chosen.
        model: The model.
        train: The training clips.
        val: The evaluation clips.
        facts: What some of the training clips are like.
    """
    bound = round(recipe.cache_gb * 1e9)
    if not bound or not facts:
        return Caches()
    shrink = Shrink(math.ceil(max(model.img_size) / _smallest_crop(recipe)), recipe.fit)
    per_clip = sum(one.length * math.prod(shrink.size(one.height, one.width)) for one in facts) / len(facts)
    needed = per_clip * model.in_chans * len(train)
    views = 0 if val is None else len(val) * model.in_chans * model.num_frames * math.prod(model.img_size)
    if needed + views > bound:
        return Caches(line=f'clips are decoded in each epoch: all their frames would take about '
                           f'{(needed + views) / 1e9:.1f} GB of memory, more than --cache-gb {recipe.cache_gb:g}')
    share = 1 / local_processes()
    rest = round((bound - views) * share)
    return Caches(
        ClipCache(len(train), min(round(1.5 * needed * share), rest)),  # 1.5: it is an estimate
        None if val is None else ClipCache(len(val), round(views * share)), shrink,
        f'clips are decoded once and kept in about {(needed + views) / 1e9:.2g} GB of memory (--cache-gb 0 for none)')


def _smallest_crop(recipe: Recipe) -> float:
    """Side of the smallest crop as a share of the frame."""
    if recipe.no_aug:
        return 1
    if recipe.scale is None:
        return min(TrainTransform(1).scales)
    return max(math.sqrt(recipe.scale[0]), 0.05)
