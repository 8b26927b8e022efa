"""Error messages for invalid clips, with the line of code that repairs them. All of it runs outside of graphs."""
import warnings
from typing import Any

import torch
from torch import Tensor

__all__ = ['looks_raw', 'no_tensor', 'refusal', 'warn_of_raw']

_NORMALISED = 16.0  # no usual mean and standard deviation turn a pixel of 0...1 into such a large value


def no_tensor(clip: Any, num_frames: int, chans: int | None) -> TypeError:
    """The error for a clip that is an array or a list."""
    kind, shape, line = type(clip).__name__, _shape(clip) or [], ''
    if isinstance(clip, (list, tuple)) and clip:
        kind = f'{kind} of {len(clip)} {type(clip[0]).__name__}'
        line = 'torch.stack([torch.as_tensor(numpy.asarray(frame)) for frame in clip])'
        if isinstance(clip[0], Tensor):
            line = 'torch.stack(list(clip))'
        if (size := _shape(clip[0])) is not None:
            shape = [len(clip), *size]
    elif shape:
        line = 'torch.as_tensor(clip)'
    if type(clip).__module__.partition('.')[0] == 'numpy':
        kind, line = f'numpy.{kind}', 'torch.from_numpy(clip)'
    of_shape = f' of shape {shape}' if shape else ''
    give = f' Give {line}{_mend(shape, num_frames, chans)}.' if line else ''
    return TypeError(f'Expected a clip as torch.Tensor (B, C, T={num_frames}, H, W), got {kind}{of_shape}.{give}')


def refusal(clip: Tensor, num_frames: int, chans: int | None) -> ValueError:
    """The error for a clip of another shape."""
    shape = list(clip.shape)
    expected = f'Expected a clip of shape (B, C, T={num_frames}, H, W), got {shape}. '
    if mend := _mend(shape, num_frames, chans):
        return ValueError(f'{expected}Its dimensions seem to have another order: give clip{mend}.')
    if clip.ndim == 5 and clip.shape[2] == num_frames:
        return ValueError(
            f'Expected a clip of {chans} channels, (B, C, T, H, W), got {shape}. Build the model with in_chans= to '
            'match.')
    return ValueError(
        f'{expected}Sample that number of frames, or build the model with num_frames= to match.')


def looks_raw(clip: Tensor) -> float:
    """The largest of some values of a float clip's first frame, if it is too large for a normalised clip; else 0."""
    if type(clip) is not Tensor or not clip.is_floating_point() or clip.is_meta or clip.ndim != 5 or not clip.numel():
        return 0.0
    if clip.is_cuda and torch.cuda.is_current_stream_capturing():
        return 0.0
    try:
        largest = clip.detach()[0, :, 0, ::4, ::4].amax().item()
    except RuntimeError:  # inside of transforms such as vmap a tensor has no values
        return 0.0
    return largest if largest > _NORMALISED else 0.0


def warn_of_raw(largest: float) -> None:
    """Warns about a float clip of pixels."""
    warnings.warn(
        f'A float clip has values up to {largest:.0f}, but float clips must be normalised (about -3 to 3). Give pixels '
        'of 0 to 255 as clip.to(torch.uint8); the model then normalises them.', stacklevel=2)


def _mend(shape: list[int], num_frames: int, chans: int | None) -> str:
    """The call that puts the dimensions into the order of clips; empty if their order is not clear."""
    if chans is None or len(shape) not in (4, 5):
        return ''
    batched = len(shape) == 5
    first, second, _, last = shape[-4:]
    if first == chans:
        return '[None]' if not batched and second == num_frames else ''
    if second == chans:  # [T, C, H, W]
        return '.transpose(1, 2)' if batched else '.transpose(0, 1)[None]'
    if last == chans:  # [T, H, W, C]
        return '.permute(0, 4, 1, 2, 3)' if batched else '.permute(3, 0, 1, 2)[None]'
    return ''


def _shape(value: Any) -> list[int] | None:
    """Shape of an array, a tensor or a picture of Pillow."""
    if hasattr(value, 'shape'):
        return [int(size) for size in value.shape]
    if hasattr(value, 'getbands'):
        return [value.size[1], value.size[0], len(value.getbands())]
    return None
