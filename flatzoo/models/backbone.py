"""Builds a timm image model that fits a super image: size and windows, with clear errors if nothing fits."""
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import timm
import torch
from timm.layers import to_2tuple
from timm.models import resolve_model_input_args
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

__all__ = [
    'building', 'check_image', 'check_windows', 'create_backbone', 'default_img_size', 'fit_windows', 'fitting_sizes',
    'image_cfg', 'image_weights', 'patch_size_of', 'resolve_stage_windows', 'trial_once',
]

_logger = logging.getLogger(__name__)

WindowSize = int | Sequence[int | Sequence[int] | None] | None
_NOT_TRIED = ('backbone_pretrained', 'device', 'dtype', 'num_classes')  # arguments that change nothing of a trial
_fitting: set[tuple] = set()  # models whose image fitted, by class and arguments
_built: ContextVar[tuple | None] = ContextVar('built', default=None)


@contextlib.contextmanager
def building(model_cls: type, model_args: dict[str, Any]) -> Iterator[None]:
    """Context in which a model is constructed, so that `trial_once` knows the model by its class and arguments."""
    args = {name: value for name, value in model_args.items() if name not in _NOT_TRIED}
    arch = str(args.get('backbone')).partition('.')[0]
    known = _is_plain(args) and ('backbone' not in args or timm.is_model(arch))  # a folder may change
    entry = timm.model_entrypoint(arch) if timm.is_model(arch) else None
    token = _built.set((model_cls, entry, repr(args)) if known else None)
    try:
        yield
    finally:
        _built.reset(token)


def trial_once(trial: Callable[[], None]) -> None:
    """Calls a trial of the image size, unless one was passed by a model of the same class and arguments.

    A trial takes most of the time of building a small model, and saved models are built twice.

    Args:
        trial: Raises an error if the image does not fit.
    """
    key = _built.get()
    if key not in _fitting:
        trial()
        if key is not None:
            _fitting.add(key)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def create_backbone(
        name: str,
        image_size: tuple[int, int],
        in_chans: int,
        pretrained: bool = False,
        **kwargs: Any,
) -> nn.Module:
    """Creates any timm model for images of a given size.

    Args:
        name: A timm model name, with or without a tag, or `hf-hub:org/name`.
        image_size: Height and width in pixels of its images. A model with a fixed input size gets it as `img_size`.
        in_chans: Channels of the images.
        pretrained: Whether timm loads the image weights.
        **kwargs: Arguments of the timm model, which raises TypeError for unknown ones.
    """
    _check_name(name)
    args = resolve_model_input_args(name, dict(img_size=image_size), in_chans=in_chans, **kwargs)
    return timm.create_model(pretrained=pretrained, **args)


def default_img_size(name: str) -> tuple[int, int]:
    """The image size `(height, width)` of a timm model's weights, the natural size of a frame for it."""
    return tuple(image_cfg(name)['input_size'][-2:])


def image_cfg(name: str) -> dict[str, Any]:
    """The configuration of a timm model's weights."""
    _check_name(name)
    return resolve_model_input_args(name)['pretrained_cfg']


def image_weights(name: str) -> dict[str, Any]:
    """The place of a registered model's weights and its normalisation of pixels, as fields of a configuration.

    A video model that starts from the weights of another model takes these fields. Do not write an address by hand: in
    timm some repositories have another name than the model.

    Args:
        name: `architecture.tag` of an image model of timm, or of another model of flatzoo.
    """
    cfg = timm.get_pretrained_cfg(name)
    place = {key: getattr(cfg, key) for key in ('hf_hub_id', 'hf_hub_filename') if getattr(cfg, key)}
    return {**place, 'license': cfg.license, 'mean': tuple(cfg.mean), 'std': tuple(cfg.std)}


def _check_name(name: str) -> None:
    if name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')):
        return
    arch = name.split('.', 1)[0]
    if not timm.is_model(arch):
        near = timm.list_models(f'*{arch.split("_")[0]}*')[:5]
        hint = f' Similar names: {", ".join(near)}.' if near else ''
        raise ValueError(f'backbone={name!r} is no timm model; timm.list_models() names them all.{hint}')


def patch_size_of(backbone: nn.Module) -> tuple[int, int] | None:
    """Height and width of the patches; an image must be a multiple of them. None if any size is accepted."""
    embed = getattr(backbone, 'patch_embed', getattr(backbone, 'stem', None))
    if getattr(embed, 'dynamic_img_pad', False):
        return None
    patch = getattr(embed, 'patch_size', None)
    return patch if patch is None else to_2tuple(patch)


def check_image(backbone: nn.Module, in_chans: int, image_size: tuple[int, int]) -> str | None:
    """Tries an image of the given size without computing anything (on the meta device).

    Returns:
        None if the backbone takes the image, or cannot be tried on the meta device. Otherwise the backbone's error.
    """
    patch = patch_size_of(backbone)
    if patch is not None and any(size % p for size, p in zip(image_size, patch)):
        return f'{image_size[0]}x{image_size[1]} pixels are no multiple of its patches of {patch[0]}x{patch[1]}'
    if isinstance(backbone, (Eva, VisionTransformer)) and backbone.patch_embed.img_size == tuple(image_size):
        return None  # built for this image; a trial takes half of the time of loading
    tensors = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
    meta = {key: torch.empty_like(tensor, device='meta', requires_grad=False) for key, tensor in tensors.items()}
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            image = torch.empty(1, in_chans, *image_size, device='meta', dtype=dtype)
            # tie_weights would leave meta tensors behind in modules that a model uses in several places
            torch.func.functional_call(backbone, meta, (image,), tie_weights=False)
    except NotImplementedError:
        return None
    except Exception as error:  # noqa: BLE001 - backbones raise anything from AssertionError to IndexError
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return None if 'meta' in text.lower() else text
    finally:
        backbone.train(training)
    return None


def fitting_sizes(
        fits: Any,
        img_size: tuple[int, int],
        count: int = 4,
        step: int = 4,
        multiple: int = 1,
) -> list[int]:
    """Square frame sizes near `img_size` for which `fits(size)` holds, nearest first, then sorted.

    Args:
        fits: Predicate of a frame side in pixels.
        img_size: The frame size `(height, width)` that does not fit.
        count: Largest number of sizes to return.
        step: Distance in pixels of the sizes that are tried.
        multiple: Sizes must be a multiple of this, so that the cells of a `scale=cell` layout are whole pixels.
    """
    base = max(img_size)
    candidates = sorted(range(step, 2 * base + 2 * step, step), key=lambda size: abs(size - base))
    found = []
    for size in candidates:
        if size % multiple == 0 and fits(size):
            found.append(size)
        if len(found) == count:
            break
    return sorted(found)


def resolve_stage_windows(
        window_size: WindowSize,
        image_size: tuple[int, int],
        patch_size: int,
        num_stages: int,
) -> list[tuple[int, int]]:
    """Windows `(height, width)` of every stage of a Swin Transformer.

    Args:
        window_size: One int for all stages, one `(height, width)`, or one entry per stage, where None stands for the
            whole map: the global last stage of SIFAR (Table 1).
        image_size: Height and width of the super image in pixels.
        patch_size: Side of a patch in pixels.
        num_stages: Number of stages. Each stage after the first halves the map.

    Raises:
        ValueError: If the entries do not match the number of stages.
    """
    maps = stage_maps(image_size, patch_size, num_stages)
    if window_size is None or isinstance(window_size, int):
        window_size = [window_size] * num_stages
    elif len(window_size) == 2 and num_stages != 2 and all(isinstance(w, int) for w in window_size):
        window_size = [tuple(window_size)] * num_stages
    if len(window_size) != num_stages:
        raise ValueError(f'window_size={window_size} has {len(window_size)} entries, the backbone {num_stages} stages.')
    if any(side < 1 for window in window_size if window is not None for side in to_2tuple(window)):
        raise ValueError(f'window_size={window_size} must be positive; None stands for the whole map of a stage.')
    return [
        size if window is None else ((window, window) if isinstance(window, int) else tuple(window))
        for window, size in zip(window_size, maps)
    ]


def stage_maps(image_size: tuple[int, int], patch_size: int, num_stages: int) -> list[tuple[int, int]]:
    """Feature map `(height, width)` of every stage of a Swin Transformer."""
    maps = [(image_size[0] // patch_size, image_size[1] // patch_size)]
    while len(maps) < num_stages:
        maps.append(((maps[-1][0] + 1) // 2, (maps[-1][1] + 1) // 2))
    return maps


def divides(maps: Sequence[tuple[int, int]], windows: Sequence[tuple[int, int]]) -> bool:
    """Whether every map is cut into whole windows. A window that is larger than the map counts as the map."""
    return all(m <= w or m % w == 0 for size, window in zip(maps, windows) for m, w in zip(size, window))


def check_windows(
        windows_of: Callable[[tuple[int, int]], Sequence[tuple[int, int]]],
        grid_size: tuple[int, int],
        img_size: tuple[int, int],
        patch_size: int,
        multiple: int = 1,
) -> None:
    """Refuses frames and windows that timm would crop or pad silently and without a mask.

    A frame must be whole patches. Every map that patch merging halves must be even, because otherwise features of two
    frames mix. Windows must divide their maps.

    Args:
        windows_of: Super image size in pixels -> window `(height, width)` of every stage.
        grid_size: Rows and columns of frames of full size, (1, 1) if they are scaled to make the image.
        img_size: Frame size in pixels.
        patch_size: Side of a patch in pixels.
        multiple: As for `fitting_sizes`.

    Raises:
        ValueError: A size does not fit. The message names it and frame sizes that fit.
    """
    image_size = (img_size[0] * grid_size[0], img_size[1] * grid_size[1])
    windows = windows_of(image_size)
    maps = stage_maps(image_size, patch_size, len(windows))

    def whole(size: tuple[int, int]) -> bool:
        stride = patch_size * 2 ** (len(windows) - 1)
        return all(s % patch_size == 0 and s * cells % stride == 0 for s, cells in zip(size, grid_size))

    def fits(size: int) -> bool:
        image = (size * grid_size[0], size * grid_size[1])
        return whole((size, size)) and divides(stage_maps(image, patch_size, len(windows)), windows_of(image))

    cells = '' if tuple(grid_size) == (1, 1) else f' in {grid_size[0]}x{grid_size[1]} cells'
    frames = f'img_size={img_size[0]}x{img_size[1]}{cells}'
    if not divides(maps, windows):
        stage = next(i for i, pair in enumerate(zip(maps, windows)) if not divides([pair[0]], [pair[1]]))
        reason = (
            f'{frames} gives stage {stage + 1} a map of {maps[stage][0]}x{maps[stage][1]}, which windows of '
            f'{windows[stage][0]}x{windows[stage][1]} do not divide.')
    elif not whole(img_size):
        reason = (
            f'{frames} makes an image of {image_size[0]}x{image_size[1]} pixels, which patches of {patch_size} pixels '
            f'and {len(windows)} stages do not halve evenly.')
    else:
        return
    sizes = fitting_sizes(fits, img_size, step=patch_size, multiple=multiple)
    hint = f'Frame sizes that fit: {", ".join(map(str, sizes))}.' if sizes else 'Choose other windows (window_size=).'
    raise ValueError(f'{reason} {hint}')


def fit_windows(
        backbone: nn.Module,
        grid_size: tuple[int, int],
        img_size: tuple[int, int],
        window_size: WindowSize = None,
        multiple: int = 1,
) -> None:
    """Gives the windows of a Swin-like backbone sizes that divide its maps.

    Args:
        backbone: Any image model. A model without windowed blocks is not changed.
        grid_size: Rows and columns of frames of full size, (1, 1) if they are scaled to make the image.
        img_size: Frame size in pixels.
        window_size: Windows of the caller. They are checked but not changed.
        multiple: As for `fitting_sizes`.

    Raises:
        ValueError: The windows do not divide the maps, and they were given by the caller or cannot be changed.
    """
    stages = []
    levels = getattr(backbone, 'layers', getattr(backbone, 'stages', None))
    for stage in levels if isinstance(levels, (nn.Sequential, nn.ModuleList)) else ():
        blocks = [m for m in stage.modules() if hasattr(m, 'window_size') and hasattr(m, 'shift_size')]
        if blocks:
            resolution = getattr(blocks[0], 'input_resolution', None) or blocks[0].feat_size
            stages.append((tuple(resolution), tuple(blocks[0].window_size)))
    if not stages or divides(*zip(*stages)):
        return
    if window_size is not None or not hasattr(backbone, 'set_input_size'):
        chosen = [window for _, window in stages] if window_size is None else window_size
        patch = to_2tuple(backbone.patch_embed.patch_size)[0]
        check_windows(
            lambda image_size: resolve_stage_windows(chosen, image_size, patch, len(stages)),
            grid_size, img_size, patch, multiple)
    windows = [tuple(_nearest_divisor(m, w) for m, w in zip(size, window)) for size, window in stages]
    backbone.set_input_size(window_size=windows)
    _logger.info(
        f'Windows set to {windows}, which divide the maps {[size for size, _ in stages]} of this super image '
        f'(the default ones, {[window for _, window in stages]}, do not).'
    )


def _nearest_divisor(size: int, window: int) -> int:
    """The divisor of a map's side whose ratio to the window is nearest to 1. For a prime side it is the whole side."""
    return min((d for d in range(1, size + 1) if size % d == 0), key=lambda d: (max(d / window, window / d), -d))
