"""The module that lays clips out as images, following a layout, and splits feature maps back into frames."""
import itertools
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._clip_check import looks_raw, no_tensor, refusal, warn_of_raw
from .layout import Index, Layout, LayoutSpec

__all__ = ['SuperImage', 'resize_images']


class SuperImage(nn.Module):
    """Lays clips out as images: `[B, C, T, H, W]` -> `[B * K, C, H', W']`.

    First empty cells are appended. Then frames are resized to `img_size` (bilinear, align_corners=False) and tiled.
    Every pixel is written once, directly into the image. The module works under autograd,
    `torch.compile(fullgraph=True)`, `torch.export`, TorchScript, channels_last, autocast and on the meta device.

    Args:
        num_frames: Frames T per clip.
        layout: A `Layout` or anything that it accepts.
        img_size: Size of one *frame*, an int or `(height, width)`. Frames of another size are resized to it. With None
            frames keep their size.
        mean: Per-channel mean of normalised clips, in the range 0...1. With `mean` and `std` a uint8 clip (0...255) is
            normalised here, on its device, before empty cells are filled. A float clip must already be normalised.
        std: Per-channel standard deviation, in the range 0...1.
        device: Device of the constants.
        dtype: Floating dtype of the images made from uint8 clips.

    Attributes:
        num_images: Images K per clip.
        grid_size: Rows and columns `(R, C)` of cells.
        index: The index map `[K, R, C]` as nested lists.

    Raises:
        ValueError: If the layout cannot hold `num_frames`, or `scale=cell` does not divide `img_size`.
    """

    boxes: list[list[int]]
    empty: list[list[int]]

    def __init__(
            self,
            num_frames: int,
            layout: LayoutSpec = 'grid',
            img_size: int | tuple[int, int] | None = None,
            mean: Sequence[float] | None = None,
            std: Sequence[float] | None = None,
            device=None,
            dtype=None,
    ):
        super().__init__()
        if not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(f'num_frames must be a whole number of at least 1 frame, got {num_frames!r}.')
        self.num_frames = num_frames
        self.layout = Layout(layout)
        self.index: Index = self.layout.index(self.num_frames).tolist()
        self.num_images = len(self.index)
        self.grid_size = (len(self.index[0]), len(self.index[0][0]))
        self.scale = self.layout.scale
        self.antialias = self.layout.antialias
        self.shuffles = self.layout.shuffles
        self.shuffles_in_eval = self.layout.shuffles_in_eval

        # padding 'last' becomes an ordinary index, so -1 is left only for constant padding
        last = self.num_frames - 1
        cells = self.index if self.layout.pad != 'last' else [
            [[last if f < 0 else f for f in row] for row in image] for image in self.index]
        self.boxes = [box for box in _boxes(cells) if box[6] >= 0]
        self.empty = [box for box in _boxes(cells) if box[6] < 0]
        self.pad_is_explicit = self.layout.pad is not None
        self.pad_value = 0. if self.layout.pad in (None, 'last') else float(self.layout.pad)
        self.set_img_size(img_size)

        self.normalizes = False
        self.looked = False  # whether a float clip was already checked for being normalised
        self._norm: tuple[tuple, list, list] = ((0,), [], [])
        dtype = dtype or torch.get_default_dtype()
        self.register_buffer('norm_scale', torch.empty(0, device=device, dtype=dtype), persistent=False)
        self.register_buffer('norm_shift', torch.empty(0, device=device, dtype=dtype), persistent=False)
        if mean is not None and std is not None:
            self.set_normalization(mean, std)

    @torch.jit.ignore
    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Sets how uint8 clips are normalised.

        Args:
            mean: Per-channel mean, in the range 0...1.
            std: Per-channel standard deviation, above 0.

        Raises:
            ValueError: If the two are not one value per channel each.
        """
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f'mean and std must each have one value per channel, std above 0; got {mean} and {std}.')
        # x / 255 normalised is one multiply-add: x * scale + shift
        self._norm = (len(mean), 1, 1), [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std)]
        self.normalizes = True
        self.norm_scale = self.norm_scale.new_empty(self._norm[0])
        self.norm_shift = self.norm_shift.new_empty(self._norm[0])
        self.init_non_persistent_buffers()

    @torch.jit.ignore
    def init_non_persistent_buffers(self) -> None:
        """Fills the normalisation constants. timm calls it after it has materialised a model from the meta device."""
        shape, scale, shift = self._norm
        for buffer, values in ((self.norm_scale, scale), (self.norm_shift, shift)):
            buffer.copy_(torch.tensor(values, dtype=torch.float64).reshape(shape))

    def set_img_size(self, img_size: int | tuple[int, int] | None) -> None:
        """Sets the frame size in pixels. With None frames keep their size.

        Raises:
            ValueError: If the cells of a `scale=cell` layout would not be whole pixels.
        """
        size = (0, 0) if img_size is None else _to_2tuple(img_size)
        if self.scale == 'cell':
            self._check_cells(size)
        self.img_size: tuple[int, int] = size

    @torch.jit.unused  # TorchScript may raise any exception instead
    def _check_cells(self, size: tuple[int, int]) -> None:
        rows, cols = self.grid_size
        if size[0] % rows or size[1] % cols:
            fits = [max(round(s / n), 1) * n for s, n in zip(size, self.grid_size)]
            raise ValueError(
                f'Layout {str(self.layout)!r} shrinks frames of {size[0]}x{size[1]} pixels into {rows}x{cols} cells of '
                f"equal size: use a frame of {fits[0]}x{fits[1]} pixels, or ',scale=composite', which fits any size."
            )

    @property
    @torch.jit.unused
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the backbone gets."""
        if self.scale != 'none':
            return self.img_size
        return self.img_size[0] * self.grid_size[0], self.img_size[1] * self.grid_size[1]

    @torch.jit.ignore
    def draw(self, batch_size: int, generator: torch.Generator | None = None, device=None) -> Tensor:
        """Draws the frame order of a `random` layout, to be passed to `forward` and `inverse`.

        Args:
            batch_size: Clips B; each one gets its own order.
            generator: Source of randomness; the same state gives the same order.
            device: Device of the result and of the generator.

        Returns:
            int64 tensor `[B, T]`, a permutation of the frames in every row.
        """
        return torch.rand(batch_size, self.num_frames, generator=generator, device=device).argsort(1)

    def forward(self, clip: Tensor, out: Tensor | None = None, order: Tensor | None = None) -> Tensor:
        """Lays clips out.

        Args:
            clip: `[B, C, T, H, W]`, float (normalised) or uint8 (0...255). With `mean` and `std`, float64 becomes the
                dtype of the module, and values that cannot be normalised ones cause one warning.
            out: A buffer `[B * K, C, H', W']` to write into, for callers that keep one. It must need no gradients.
            order: Frame order `[B, T]` of a `random` layout, from `draw`. By default a new one is drawn in training
                mode from the global generator, and frames keep their order in eval mode.

        Returns:
            Images `[B * K, C, H', W']`. The K images of a clip follow one another. If the module knows `mean` and
            `std`, images from uint8 clips are normalised; otherwise they are uint8.

        Raises:
            TypeError: The clip is not a tensor. The message has the line of code that makes it one.
            ValueError: The clip has another shape or dtype, or it is uint8 and the layout names no filling for its
                empty cells.
        """
        if not torch.jit.is_scripting():
            clip = self._taken(clip)
        self._check_clip(clip)
        if self.shuffles:
            if order is None and (self.training or self.shuffles_in_eval):
                order = torch.rand(clip.shape[0], self.num_frames, device=clip.device).argsort(1)
            if order is not None:
                clip = clip.gather(2, order[:, None, :, None, None].expand_as(clip))

        normalize = clip.dtype == torch.uint8 and self.normalizes
        height, width = self.img_size
        if height == 0:
            height, width = clip.shape[3], clip.shape[4]
            if self.scale == 'cell' and (height % self.grid_size[0] or width % self.grid_size[1]):
                self._check_cells((height, width))
        cell_height, cell_width = height, width
        if self.scale == 'cell':
            cell_height, cell_width = height // self.grid_size[0], width // self.grid_size[1]
        if clip.shape[3] != cell_height or clip.shape[4] != cell_width:
            if normalize:
                clip = clip.to(self.norm_scale.dtype)  # resizing rounds uint8
            # frames become channels, so that the clip need not be copied to a batch of frames
            channels = resize_images(clip.flatten(1, 2), cell_height, cell_width, self.antialias)
            clip = channels.unflatten(1, clip.shape[1:3])

        composite = self.scale == 'composite' and self.grid_size != (1, 1)
        image = self._tile(clip, None if composite else out, normalize)
        if composite:
            image = resize_images(image, height, width, self.antialias)
            if out is not None:
                self._check_out(out, image.shape, image.is_floating_point())
                image = out.copy_(image)
        return image

    def _tile(self, clip: Tensor, out: Tensor | None, normalize: bool) -> Tensor:
        """Writes frames `[B, C, T, h, w]` into images `[B * K, C, R * h, Cols * w]`."""
        batch, chans, _, height, width = clip.shape
        rows, cols = self.grid_size
        shape = [batch * self.num_images, chans, rows * height, cols * width]
        if out is None:
            dtype = self.norm_scale.dtype if normalize else clip.dtype
            channels_last = chans > 1 and clip.stride(1) == 1 and clip.stride(4) == chans  # as decoders give frames
            out = torch.empty(
                shape, dtype=dtype, device=clip.device,
                memory_format=torch.channels_last if channels_last else torch.contiguous_format,
            )
        else:
            self._check_out(out, shape, normalize or clip.is_floating_point())
        cells = out.view(batch, self.num_images, chans, rows, height, cols, width)
        for k, nk, r, nr, c, nc, frame, step_k, step_r, step_c in self.boxes:
            span_c = (nc - 1) * step_c + 1
            span_r = (nr - 1) * step_r + span_c
            span_k = (nk - 1) * step_k + span_r
            # two sliding windows over time put every frame of the box into its place without a copy
            source = clip.narrow(2, frame, span_k).unfold(2, span_r, step_k)  # [B, C, nk, h, w, span_r]
            source = source.unfold(5, span_c, step_r)[..., ::step_c]  # [B, C, nk, h, w, nr, nc]
            cells[:, k:k + nk, :, r:r + nr, :, c:c + nc].copy_(source.permute(0, 2, 1, 5, 3, 6, 4))
        if normalize:
            scale, shift = self.norm_scale, self.norm_shift
            if out.stride(1) == 1 and out.stride(3) == chans:
                # rows of pixels are copied whole, without loops over their three channels
                scale, shift = _in_pixels(scale, out.shape[3]), _in_pixels(shift, out.shape[3])
            out.mul_(scale).add_(shift)
        for k, nk, r, nr, c, nc, _, _, _, _ in self.empty:
            cells[:, k:k + nk, :, r:r + nr, :, c:c + nc] = self.pad_value
        return out

    def inverse(self, maps: Tensor, order: Tensor | None = None) -> Tensor:
        """Splits feature maps of super images into the maps of their frames.

        Args:
            maps: `[B * K, D, h', w']` with h' and w' multiples of the grid's rows and columns.
            order: The order `[B, T]` that `forward` was given, for a `random` layout.

        Returns:
            `[B, T, D, h, w]`. A frame that lies in several cells gets their mean.

        Raises:
            ValueError: If the map does not split into the grid's cells, or the layout leaves a frame out.
        """
        rows, cols = self.grid_size
        height, width = maps.shape[2] // rows, maps.shape[3] // cols
        if maps.shape[2] != height * rows or maps.shape[3] != width * cols or maps.shape[0] % self.num_images:
            raise ValueError(
                f'Maps of shape {tuple(maps.shape)} do not split into {self.num_images} image(s) of {rows}x{cols} '
                'cells: use a frame size that is a multiple of the stride of these features.'
            )
        cells = maps.reshape(-1, self.num_images, maps.shape[1], rows, height, cols, width)
        cells = cells.permute(0, 1, 3, 5, 2, 4, 6).flatten(1, 3)  # [B, K * R * Cols, D, h, w]
        flat = [frame for image in self.index for row in image for frame in row]
        places = [[cell for cell, frame in enumerate(flat) if frame == t] for t in range(self.num_frames)]
        if not all(places):
            missing = [t for t, cell in enumerate(places) if not cell]
            raise ValueError(f'Layout {str(self.layout)!r} leaves out the frames {missing}: they have no features.')
        if all(len(place) == 1 for place in places):
            frames = cells[:, [place[0] for place in places]]
        else:
            frames = torch.stack([cells[:, place].mean(1) for place in places], dim=1)
        if order is not None:
            frames = frames.gather(1, order.argsort(1)[:, :, None, None, None].expand_as(frames))
        return frames

    @torch.jit.unused  # a scripted module only gets tensors
    def _taken(self, clip: Any) -> Tensor:
        """Returns a valid clip, or raises an error that says how to make one."""
        if not isinstance(clip, Tensor):
            raise no_tensor(clip, self.num_frames, self._chans())
        if not self.normalizes:
            return clip
        if clip.dtype == torch.float64 and self.norm_scale.dtype != torch.float64:
            clip = clip.to(self.norm_scale.dtype)  # float64 is only the default of numpy; its precision is not needed
        if not torch.compiler.is_compiling() and not torch.jit.is_tracing() and not self.looked:
            largest = looks_raw(clip)
            # One warning is enough. On accelerators the check waits for the device, so only the first float clip is
            # checked.
            self.looked = largest > 0 or clip.is_floating_point() and clip.device.type not in ('cpu', 'meta')
            if largest:
                warn_of_raw(largest)
        return clip

    @torch.jit.unused
    def _chans(self) -> int | None:
        return self.norm_scale.shape[0] if self.normalizes else None

    @torch.jit.unused
    def _refuse(self, clip: Tensor) -> None:
        raise refusal(clip, self.num_frames, self._chans())

    def _check_clip(self, clip: Tensor) -> None:
        if clip.ndim != 5 or clip.shape[2] != self.num_frames:
            self._refuse(clip)
        if self.normalizes and clip.shape[1] != self.norm_scale.shape[0]:
            self._refuse(clip)
        if clip.dtype == torch.uint8:
            if not self.normalizes and len(self.empty) > 0:
                if not self.pad_is_explicit:
                    raise ValueError(
                        'A uint8 clip has no natural value for the empty cells of this layout. Name one, '
                        "such as ',pad=0' (black) or ',pad=last', or pass a normalised float clip."
                    )
                if self.pad_value < 0 or self.pad_value > 255 or self.pad_value != float(int(self.pad_value)):
                    raise ValueError(f'Empty cells of a uint8 image hold 0 to 255, not pad={self.pad_value}.')
        elif not clip.is_floating_point():
            raise ValueError(
                f'Expected a floating-point (normalised) or uint8 (0...255) clip, got {clip.dtype}. Give pixels of '
                '0 to 255 as clip.to(torch.uint8).')

    def _check_out(self, out: Tensor, shape: list[int], floating: bool) -> None:
        if list(out.shape) != list(shape) or out.is_floating_point() != floating:
            dtype = 'a floating dtype' if floating else 'uint8'
            raise ValueError(
                f'out= is {out.dtype} of shape {list(out.shape)}, this clip needs {dtype} and shape {list(shape)}.')

    def extra_repr(self) -> str:
        size = None if self.img_size == (0, 0) else self.img_size
        return f"num_frames={self.num_frames}, layout='{self.layout}', img_size={size}"


def _in_pixels(values: Tensor, width: int) -> Tensor:
    """Values per channel `[C, 1, 1]` -> `[C, 1, width]`, channels side by side in memory."""
    return values.flatten().repeat(width).view(width, values.numel()).t().unsqueeze(1)


def _boxes(index: Index) -> list[list[int]]:
    """Cuts an index map into few boxes. One strided copy can write each box.

    Returns:
        A list of `[k, nk, r, nr, c, nc, frame, step_k, step_r, step_c]`: cell (k + i, r + j, c + l) of the box holds
        frame `frame + i * step_k + j * step_r + l * step_c`. If `frame` is -1, the cells are empty. All full rows of a
        row-major grid are one box, so SIFAR's 8 frames in 3x3 take two copies and one fill.
    """
    free = {
        (k, r, c): frame for k, image in enumerate(index) for r, row in enumerate(image) for c, frame in enumerate(row)}
    boxes = []
    while free:
        cell, frame = next(iter(free.items()))
        size, step = _grow(free, cell)
        for offset in itertools.product(*map(range, size)):
            del free[_moved(cell, offset)]
        boxes.append([n for pair in zip(cell, size, strict=True) for n in pair] + [frame, *step])
    return boxes


def _grow(free: dict[tuple[int, ...], int], cell: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Size and steps `(images, rows, columns)` of the largest box that starts at a cell, grown by columns first."""
    first = free[cell]
    size, step = [1, 1, 1], [1, 1, 1]
    for axis in (2, 1, 0):
        while True:
            offset = [0, 0, 0]
            offset[axis] = size[axis]
            frame = free.get(_moved(cell, offset))
            if frame is None:
                break
            rise = (frame - first) // size[axis]
            if first >= 0 and rise < 1:  # sliding windows over time only go forwards
                break
            rises = [0, 0, 0] if first < 0 else [rise if a == axis else s for a, s in enumerate(step)]
            slab = [range(size[axis], size[axis] + 1) if a == axis else range(n) for a, n in enumerate(size)]
            expected = {o: first + sum(map(operator.mul, o, rises)) for o in itertools.product(*slab)}
            if (size[axis] > 1 and first >= 0 and rise != step[axis]) or any(
                    free.get(_moved(cell, o)) != frame for o, frame in expected.items()):
                break
            step[axis] = max(rise, 1)
            size[axis] += 1
    return size, step


def _moved(cell: Sequence[int], offset: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(operator.add, cell, offset))


def _to_2tuple(size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(s, int) and s > 0 for s in pair):
        raise ValueError(f'A size must be positive whole pixels, one number or (height, width), got {size!r}.')
    return pair[0], pair[1]


def resize_images(image: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """Bilinear resize (align_corners=False) of `[B, C, H, W]` in the image's own dtype, even if torch lacks a kernel.

    Args:
        image: Images of any number of channels, float or uint8.
        height: New height in pixels.
        width: New width in pixels.
        antialias: Whether to filter before sampling when shrinking.
    """
    half = image.dtype in (torch.bfloat16, torch.float16)
    on_cpu_or_float = image.dtype != torch.uint8 or image.device.type == 'cpu'
    source = image.float() if (half and antialias) or not on_cpu_or_float else image
    resized = F.interpolate(source, size=[height, width], mode='bilinear', align_corners=False, antialias=antialias)
    if image.dtype == torch.uint8 and not on_cpu_or_float:
        resized = resized.round().clamp(0, 255)
    return resized.to(image.dtype)
