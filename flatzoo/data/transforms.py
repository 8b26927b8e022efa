"""From decoded frames to the frames that a model sees: resize, crop, flip, all on uint8 and the same for every frame.

Functions take frames `[..., C, H, W]` with any leading dimensions and never change the type of the pixels; the model
normalises later, on its own device. `EvalTransform` and `TrainTransform` put them together as SIFAR does. In their
place any callable on uint8 `[T, C, H, W]` will do, such as a torchvision v2 transform.

Resizing is `F.interpolate(..., mode='bilinear', antialias=True)` on uint8, the fastest path on a CPU and within one
grey level of Pillow, with which the published models were trained.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .fit import FITS, Fit

__all__ = [
    'EvalTransform',
    'TrainTransform',
    'WholeFrame',
    'center_crop',
    'letterbox',
    'multi_scale_crop',
    'random_horizontal_flip',
    'resize',
    'resize_short_side',
    'three_crop',
]

Size = int | tuple[int, int]
MAX_ASPECT = 32  # long side : short side; beyond it, covering the crop would take memory without bound


def resize(frames: Tensor, size: Size) -> Tensor:
    """Resizes frames to exactly `size`, whatever their aspect ratio.

    Args:
        frames: `[..., C, H, W]`, uint8 or floating point.
        size: `(height, width)`, or one number for a square.

    Returns:
        Frames `[..., C, height, width]` of the same type; the same tensor if the size is right already.
    """
    size = _pair(size)
    _check_frames(frames)
    if tuple(frames.shape[-2:]) == size:
        return frames
    batch = frames if frames.ndim == 4 else frames.reshape(-1, *frames.shape[-3:])  # 4-d keeps its memory format
    batch = F.interpolate(batch, size=size, mode='bilinear', align_corners=False, antialias=True)
    return batch if frames.ndim == 4 else batch.reshape(*frames.shape[:-2], *size)


def resize_short_side(frames: Tensor, size: Size) -> Tensor:
    """Resizes frames, keeping their aspect ratio, to the smallest size that covers `size`.

    For a square this is the usual rule: the short side becomes `size`, the long side follows, rounded down. Frames that
    are too small are enlarged.

    Args:
        frames: `[..., C, H, W]`, uint8 or floating point.
        size: `(height, width)` to cover, or one number for a square.

    Returns:
        Frames `[..., C, h, w]` with h >= height, w >= width and one of them equal.

    Raises:
        ValueError: Frames more than 32 times as long as wide.
    """
    height, width = _pair(size)
    _check_frames(frames)
    h, w = frames.shape[-2:]
    _check_aspect(h, w)
    if h * width <= w * height:
        return resize(frames, (height, w * height // h))
    return resize(frames, (h * width // w, width))


def letterbox(frames: Tensor, size: Size) -> Tensor:
    """Shrinks or enlarges frames until they just fit into `size`, and fills the rest with black bars on both sides.

    Black, as in the bars of films and, in depth maps, of what was not measured.

    Args:
        frames: `[..., C, H, W]`, uint8 or floating point.
        size: `(height, width)`, or one number for a square.

    Returns:
        Frames `[..., C, height, width]` of the same type that show the whole of `frames`.
    """
    height, width = _pair(size)
    h, w = _check_frames(frames)
    if h * width <= w * height:
        frames = resize(frames, (max(round(h * width / w), 1), width))
    else:
        frames = resize(frames, (height, max(round(w * height / h), 1)))
    return _with_bars(frames, height, width)


def _with_bars(frames: Tensor, height: int, width: int) -> Tensor:
    room = height - frames.shape[-2], width - frames.shape[-1]
    if room == (0, 0):
        return frames
    return F.pad(frames, (room[1] // 2, room[1] - room[1] // 2, room[0] // 2, room[0] - room[0] // 2))


class WholeFrame:
    """Gives frames the aspect ratio of `img_size` without cutting anything off: the step before a training crop.

    The frames keep their resolution, so that a crop of the result is as sharp as one of the video.

    Args:
        img_size: `(height, width)` whose aspect ratio is wanted, or one number for a square.
        fit: `'letterbox'` adds black bars, `'stretch'` enlarges the shorter side.
    """

    def __init__(self, img_size: Size, fit: Fit):
        self.img_size = _pair(img_size)
        self.fit = _checked_fit(fit)
        if fit == 'crop':
            raise ValueError("a whole frame is fitted by 'letterbox' or 'stretch', got 'crop'")

    def __call__(self, frames: Tensor) -> Tensor:
        """Frames `[..., C, H, W]` to `[..., C, h, w]`, h >= H, w >= W, one of them equal.

        Raises:
            ValueError: Frames more than 32 times as long as wide.
        """
        height, width = self.img_size
        h, w = _check_frames(frames)
        _check_aspect(h, w)
        canvas = (max(round(w * height / width), h), w) if h * width <= w * height else (
            h, max(round(h * width / height), w))
        return _with_bars(frames, *canvas) if self.fit == 'letterbox' else resize(frames, canvas)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.img_size}, {self.fit!r})'


def center_crop(frames: Tensor, size: Size) -> Tensor:
    """Crops the middle of frames `[..., C, H, W]` to `[..., C, height, width]` (a view)."""
    height, width = _pair(size)
    h, w = _check_frames(frames, height, width)
    return _crop(frames, round((h - height) / 2), round((w - width) / 2), height, width)


def three_crop(frames: Tensor, size: Size) -> Tensor:
    """SIFAR's three test crops.

    If a side of the frames is as long as the crop, they are the start, the end and the middle of the other side (left,
    right, centre of a landscape video); else top left, bottom right and centre.

    Args:
        frames: `[..., C, H, W]`, not smaller than `size`.
        size: `(height, width)`, or one number for a square.

    Returns:
        `[3, ..., C, height, width]`.
    """
    height, width = _pair(size)
    h, w = _check_frames(frames, height, width)
    # Where one side has no room, the two corners are the ends of the other side.
    return torch.stack([_crop_at(frames, place, height, width) for place in ((0, 0), (4, 4), (2, 2))])


def multi_scale_crop(
        frames: Tensor,
        size: Size,
        scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66),
        *,
        max_distort: int = 1,
        generator: torch.Generator | None = None,
) -> Tensor:
    """Random crop out of fixed sizes and places, resized to `size`: the training crop of TSN and SIFAR.

    Height and width of the crop are two of the scales times the short side of the frames, at most `max_distort` steps
    of the list apart. It lies at one of 13 places: corners, middles of the sides, centre, and halfway between the
    centre and the corners.

    Args:
        frames: `[..., C, H, W]`; all get the same crop.
        size: `(height, width)` of the result, or one number for a square.
        scales: Relative side lengths, in descending order, each in (0, 1].
        max_distort: How many steps of `scales` height and width may lie apart; 0 crops squares.
        generator: Source of the draws; None is torch's default one.

    Returns:
        Frames `[..., C, height, width]`.
    """
    height, width = _pair(size)
    h, w = _check_frames(frames)
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise ValueError(f'scales must be numbers in (0, 1], got {scales!r}')
    sides = [max(int(min(h, w) * scale), 1) for scale in scales]
    # A side within two pixels of the wanted one becomes the wanted one, which spares a resize.
    heights = [height if abs(side - height) < 3 and height <= h else side for side in sides]
    widths = [width if abs(side - width) < 3 and width <= w else side for side in sides]
    pairs = [(a, b) for i, a in enumerate(heights) for j, b in enumerate(widths) if abs(i - j) <= max_distort]
    crop_h, crop_w = pairs[_draw(len(pairs), generator)]
    place = _PLACES[_draw(len(_PLACES), generator)]
    return resize(_crop_at(frames, place, crop_h, crop_w), (height, width))


# The 13 places of a crop: (y, x) in quarters of the free room.
_PLACES = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(y, x) for y in (1, 3) for x in (1, 3)]


def random_horizontal_flip(frames: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    """Mirrors all frames `[..., C, H, W]` left to right, or none of them, with probability `p`."""
    return frames.flip(-1) if torch.rand((), generator=generator).item() < p else frames


class EvalTransform:
    """The frames of a clip as SIFAR is tested on them: short side to `img_size`, then the centre or three crops.

    Args:
        img_size: `(height, width)` of a crop, or one number for a square.
        num_crops: 1 (centre) or 3 (`three_crop`). Where all three would be the same pixels, as those of a square video
            without a margin are, there is one view.
        scale_up: Resize to `img_size / 0.875` first, so that the crops leave a margin. The published commands don't
            (`--disable_scaleup`).
        fit: `'crop'` as above. `'letterbox'` (black bars) and `'stretch'` show the whole frame, which is one view,
            without a margin: `num_crops` and `scale_up` then say nothing.
    """

    def __init__(self, img_size: Size, num_crops: int = 1, scale_up: bool = False, fit: Fit = 'crop'):
        if num_crops not in (1, 3):
            raise ValueError(f'num_crops must be 1 or 3, got {num_crops!r}')
        self.img_size = _pair(img_size)
        self.num_crops = num_crops
        self.scale_up = scale_up
        self.fit = _checked_fit(fit)

    def resize(self, clip: Tensor) -> Tensor:
        """The first step alone, `[T, C, H, W]` to `[T, C, h, w]`, for a reader that cannot keep large frames."""
        _check_clip(clip)
        height, width = self.img_size
        if self.fit != 'crop':
            return letterbox(clip, self.img_size) if self.fit == 'letterbox' else resize(clip, self.img_size)
        cover = (int(height / 0.875 + 0.5), int(width / 0.875 + 0.5)) if self.scale_up else self.img_size
        return resize_short_side(clip, cover)

    def __call__(self, clip: Tensor) -> Tensor:
        """Uint8 clip `[T, C, H, W]`, resized already or not, to views `[V, T, C, height, width]`.

        V is `num_crops`, and 1 where three crops would be the same.
        """
        clip = self.resize(clip)
        height, width = clip.shape[-2:]
        if self.num_crops == 1:
            return center_crop(clip, self.img_size)[None]
        same = max(height - self.img_size[0], width - self.img_size[1]) < 4  # see `_crop_at`
        return three_crop(clip, self.img_size)[:1 if same else 3]

    def __repr__(self) -> str:
        return (f'{type(self).__name__}({self.img_size}, num_crops={self.num_crops}, scale_up={self.scale_up}, '
                f'fit={self.fit!r})')


class TrainTransform:
    """The frames of a clip as SIFAR is trained on them: `multi_scale_crop`, then a horizontal flip.

    Switch the flip off where left and right matter to the labels, as in Something-Something ("pushing something from
    left to right"). The official code means to do so, but misspells the name of the data set and flips.

    Draws come from torch's default generator, which a `DataLoader` seeds apart for each worker, unless a call names
    another.

    Args:
        img_size: `(height, width)`, or one number for a square.
        flip: Mirror half of the clips.
        scales: Side lengths of the crop relative to the short side of the frames.
        fit: `'crop'` takes the crop out of the frames as they are. `'letterbox'` and `'stretch'` first make them whole
            frames of the aspect ratio of `img_size`, see `WholeFrame`.
    """

    def __init__(
            self,
            img_size: Size,
            flip: bool = True,
            scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66),
            fit: Fit = 'crop',
    ):
        self.img_size = _pair(img_size)
        self.flip = flip
        self.scales = tuple(scales)
        self.fit = _checked_fit(fit)

    def __call__(self, clip: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Uint8 clip `[T, C, H, W]` to `[T, C, height, width]`."""
        _check_clip(clip)
        if self.fit != 'crop':
            clip = WholeFrame(self.img_size, self.fit)(clip)
        clip = multi_scale_crop(clip, self.img_size, self.scales, generator=generator)
        return random_horizontal_flip(clip, generator=generator) if self.flip else clip

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.img_size}, flip={self.flip}, scales={self.scales}, fit={self.fit!r})'


def _checked_fit(fit: str) -> Fit:
    if fit not in FITS:
        raise ValueError(f'fit must be one of {", ".join(FITS)}, got {fit!r}')
    return fit


def _check_aspect(h: int, w: int) -> None:
    if max(h, w) > MAX_ASPECT * min(h, w):
        raise ValueError(
            f'frames of {w}x{h} pixels (width x height) are too long to be resized: at most {MAX_ASPECT}:1 is '
            'accepted. Crop them first.')


def _pair(size: Size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise ValueError(f'a size must be a positive integer or (height, width), got {size!r}')
    return pair


def _check_frames(frames: Tensor, height: int = 1, width: int = 1) -> tuple[int, int]:
    """Height and width of frames `[..., C, H, W]` that have room for a crop of `height` x `width`."""
    if frames.ndim < 3 or 0 in frames.shape:
        raise ValueError(
            f'frames must have the shape [..., C, H, W] without an empty dimension, got {list(frames.shape)}')
    h, w = frames.shape[-2:]
    if h < height or w < width:
        raise ValueError(f'frames of {h}x{w} pixels are smaller than the crop of {height}x{width}; resize them first')
    return h, w


def _check_clip(clip: Tensor) -> None:
    if clip.ndim != 4 or clip.dtype != torch.uint8:
        raise ValueError(f'a clip must be uint8 frames [T, C, H, W], got {clip.dtype} of shape {list(clip.shape)}')


def _crop(frames: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return frames[..., top:top + height, left:left + width]


def _crop_at(frames: Tensor, place: tuple[int, int], height: int, width: int) -> Tensor:
    # Quarters are whole pixels, rounded down before they are multiplied: the last place may miss the edge by 3 pixels.
    h, w = frames.shape[-2:]
    return _crop(frames, place[0] * ((h - height) // 4), place[1] * ((w - width) // 4), height, width)


def _draw(count: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(count, (), generator=generator))
