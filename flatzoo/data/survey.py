"""What the clips of a data set are like: their lengths, sizes and aspect ratios, found by opening some or all."""
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .clips import clip_span, open_clip
from .decode import VideoError
from .lists import Clip, VideoList
from .transforms import Size

__all__ = ['ClipFacts', 'centre_crop_loss', 'look_at', 'median', 'survey']


@dataclass(frozen=True)
class ClipFacts:
    """What one clip is like.

    Attributes:
        length: Number of its frames.
        height: Height of a frame in pixels, upright.
        width: Width of a frame in pixels, upright.
    """

    length: int
    height: int
    width: int

    @property
    def aspect(self) -> float:
        """Width : height."""
        return self.width / self.height


def look_at(clip: Clip, depth: int | None = None) -> ClipFacts:
    """Opens a clip and decodes its first frame.

    Args:
        clip: The clip.
        depth: `VideoList.depth`.

    Raises:
        VideoError: It cannot be read.
    """
    with open_clip(clip, depth) as reader:
        first, end = clip_span(clip, reader)
        height, width = reader.get_frames(torch.tensor([first])).shape[-2:]
        return ClipFacts(end - first, height, width)


def survey(videos: VideoList, count: int = 32) -> list[ClipFacts]:
    """Looks at clips that are spread evenly over a list, so that all classes of a sorted list have their share.

    Args:
        videos: The list.
        count: Number of clips to look at, at most all.

    Returns:
        What the clips that can be read are like, in the order of the list.
    """
    step = max(len(videos) / count, 1) if count else 1
    facts = []
    for index in sorted({int((row + 0.5) * step) for row in range(min(count, len(videos)))}):
        try:
            facts.append(look_at(videos.clips[min(index, len(videos) - 1)], videos.depth))
        except VideoError:  # the training names what cannot be read
            continue
    return facts


def centre_crop_loss(height: int, width: int, img_size: Size = 1) -> float:
    """Share of the longer side of a frame that a centre crop cuts off, 0...1.

    Args:
        height: Height of the frame.
        width: Width of the frame.
        img_size: Size of the crop, `(height, width)`, or one number for a square.
    """
    rows, columns = (img_size, img_size) if isinstance(img_size, int) else img_size
    aspect = width * rows / (height * columns)
    return 1 - min(aspect, 1 / aspect)


def median(values: Iterable[float]) -> float:
    """The middle value, the lower one of two; it is one of the values.

    Raises:
        ValueError: There are no values.
    """
    values = sorted(values)
    if not values:
        raise ValueError('there is no median of nothing')
    return values[(len(values) - 1) // 2]
