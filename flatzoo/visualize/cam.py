"""Where a model looks: class activation maps over super images, mapped back to the frames.

- `ablation`: how much the score of the class falls when a channel is set to 0. This is Ablation-CAM (Desai & Ramaswamy,
  WACV 2020), which SIFAR's Figure 5 uses. The head runs once per channel.
- `gradcam`: the same, estimated from the gradient of the score. This is Grad-CAM (Selvaraju et al., ICCV 2017). The
  head runs forward and backward once.
- `rollout`: where attention comes from, independent of the class (Abnar & Zuidema, ACL 2020). Plain transformers only.

Maps come from the last features before the classifier, so features are computed only once. There are two exceptions,
in which each channel costs a forward of the whole model:

- Where the classifier reads a class token, the patches no longer change the answer at that point. For such models, and
  for all methods with adapters, the maps are the input of the last attention (`norm1` of the last block), and `gradcam`
  is the default.
- Where the last map has a single point per frame, it cannot say where in a frame the evidence lies. The maps are then
  those of the last level of the backbone that has at least `POINTS` points along the sides of a cell, if one has.
"""
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from flatzoo.models.adapter_model import AdapterModel
from flatzoo.models.base import VideoModel
from flatzoo.models.videomae import VideoMAE

from .model import check_classes, class_indices, one_by_one, resting, whole_cells
from .rollout import attention_rollout

__all__ = ['METHODS', 'class_activation_maps', 'default_method', 'frame_maps']

Method = Literal['ablation', 'gradcam', 'rollout']
METHODS: tuple[Method, ...] = get_args(Method)
MAX_CHANNELS = 64  # where each one costs a forward of the model
POINTS = 2  # along the shorter side of a cell, at least, where the backbone has such a level
BATCH_VALUES = 2 ** 24  # of the maps that are ablated at a time: 64 MiB


def default_method(model: VideoModel) -> Method:
    """The default method for a model: `ablation`, or `gradcam` where ablation is expensive."""
    return 'gradcam' if _reads_tokens(model) else 'ablation'


def class_activation_maps(
        model: VideoModel,
        clip: Tensor,
        method: Method | None = None,
        target: int | Sequence[int] | Tensor | None = None,
        max_channels: int | None = None,
) -> Tensor:
    """Maps of the evidence for a class, over the images that the backbone gets.

    An ablated channel is set to 0, as in the paper.

    Args:
        model: A video model with a classifier.
        clip: `[B, C, T, H, W]`, float normalised or uint8.
        method: One of `METHODS`. None takes the result of `default_method`.
        target: The class: an index, one index per clip, or None for the most probable class of each clip. `rollout`
            ignores it.
        max_channels: Number of channels to ablate. Those with the largest mean are taken. The default is all, or 64
            where each channel costs a forward of the model.

    Returns:
        float32 `[B, K, h, w]`, 0...1, for the K images of `super_images` (each clip has its own scale, all its images
        the same). See `frame_maps` for those of the frames.

    Raises:
        ImportError: If grad-cam is not installed (`pip install 'flatzoo[show]'`); `rollout` does not need it.
        ValueError: If the method does not fit the model, or there is no such class.
    """
    method = default_method(model) if method is None else method
    if method not in METHODS:
        raise ValueError(f'method={method!r} is none of {", ".join(map(repr, METHODS))}.')
    if method != 'rollout':
        check_classes(model)
    with resting(model):
        clips = one_by_one(model, clip)
        if method == 'rollout':
            maps = [attention_rollout(model, one) for one in clips]
        else:
            targets = class_indices(model, clips, target)
            maps = [_maps(model, *args, method, max_channels) for args in zip(clips, targets, strict=True)]
    maps = torch.stack(maps)  # [B, K or tubelets, h, w]
    return maps.repeat_interleave(model.super_image.num_images // maps.shape[1], dim=1)


def frame_maps(model: VideoModel, maps: Tensor) -> Tensor:
    """Splits maps over the images of clips into maps of the frames.

    If cells do not cover a whole number of points, each point is first split into equal points.

    Args:
        model: The video model. Its layout is used.
        maps: `[B, K, h, w]`.

    Returns:
        `[B, T, h', w']`. A frame that lies in several cells gets their mean.

    Raises:
        ValueError: If the layout leaves a frame out.
    """
    maps = whole_cells(maps, model.grid_size)
    return model.super_image.inverse(maps.flatten(0, 1).unsqueeze(1)).squeeze(2)


def _finer_level(model: VideoModel, maps: Tensor) -> nn.Module | None:
    """The module of the last level that shows places within cells; None where the last maps do, or none can."""
    points = min(side / cells for side, cells in zip(maps.shape[-2:], model.grid_size, strict=True))
    if isinstance(model, VideoMAE) or points >= POINTS:
        return None
    cell = min(side / cells for side, cells in zip(model.image_size, model.grid_size, strict=True))
    levels = getattr(model.backbone, 'feature_info', None) or []
    fine = [info for info in levels if cell / info['reduction'] >= POINTS]
    if not fine or fine[-1] is levels[-1] or fine[-1]['reduction'] == levels[-1]['reduction']:
        return None
    try:
        return model.backbone.get_submodule(fine[-1]['module'])
    except AttributeError:  # a name that is none of a module
        return None


def _reads_tokens(model: VideoModel) -> bool:
    """Whether the input of the classifier no longer depends on the last patches."""
    return isinstance(model, AdapterModel) or model.global_pool == 'token'


class _End(nn.Module):
    """The end of a model, from its maps to the logits, in the form that grad-cam needs. `tap` is the observed layer.

    Args:
        tail: Maps `[n, D, h, w]`, with the images of a clip stacked vertically, to logits `[n, num_classes]`.
        like: A tensor on the device of the model.
    """

    def __init__(self, tail: Callable[[Tensor], Tensor], like: Tensor):
        super().__init__()
        self.tap = nn.Identity()
        self.tail = tail
        self.place = nn.Parameter(like.new_empty(0, dtype=torch.float32), requires_grad=False)  # asked for its device

    def forward(self, maps: Tensor) -> Tensor:
        return self.tail(self.tap(maps)).float()


def _maps(model: VideoModel, clip: Tensor, target: int, method: Method, max_channels: int | None) -> Tensor:
    """Maps `[K, h, w]` of one clip `[1, C, T, H, W]`. For VideoMAE, K counts tubelets."""
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.base_cam import BaseCAM
    except ImportError as error:
        raise ImportError("class activation maps need grad-cam: pip install 'flatzoo[show]'") from error

    class AblationCAM(BaseCAM):
        """Replaces grad-cam's ablation, which may set a channel to -1e7 instead of 0. A norm after that would fail."""

        def get_cam_weights(self, input_tensor, target_layers, targets, activations, grads):
            return _ablation_weights(self.model, input_tensor, target, max_channels).cpu().numpy()

    with _last_maps(model, clip) as (maps, tail, is_slow), torch.enable_grad():  # [K, D, h, w]
        stack = maps.float().transpose(0, 1).flatten(1, 2)[None]  # [1, D, K * h, w]

        def logits_of(x: Tensor) -> Tensor:
            return tail(x.to(maps.dtype).unflatten(2, (len(maps), -1)).transpose(1, 2))

        end = _End(logits_of, stack)
        if method == 'ablation':
            max_channels = max_channels or (MAX_CHANNELS if is_slow else stack.shape[1])
            cam = AblationCAM(end, [end.tap], uses_gradients=False)
        else:
            cam = GradCAM(end, [end.tap])
            cam.compute_input_gradient = True
        places = stack[0, 0].numel()  # scales the scores far above the 1e-7 that grad-cam adds
        found = cam(stack, [lambda logits: logits[target] * places])
        cam.activations_and_grads.release()
    return torch.from_numpy(found)[0].unflatten(0, (len(maps), -1))


@torch.no_grad()
def _ablation_weights(end: nn.Module, maps: Tensor, target: int, max_channels: int) -> Tensor:
    """Fall of the score without each channel `[1, D]`, relative to the largest; 0 for those that were not tried."""
    score = end(maps)[0, target]
    weights = torch.zeros_like(maps[:, :, 0, 0])
    tried = maps.abs().mean((2, 3))[0].topk(min(max_channels, maps.shape[1])).indices
    for channels in tried.split(max(1, min(MAX_CHANNELS, BATCH_VALUES // maps.numel()))):
        without = maps.repeat(len(channels), 1, 1, 1)
        without[torch.arange(len(channels)), channels] = 0
        weights[0, channels] = score - end(without)[:, target]
    return weights / weights.abs().max().clamp(min=1e-30)


@contextlib.contextmanager
def _last_maps(model: VideoModel, clip: Tensor) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor], bool]]:
    """The last maps of a clip that the classifier depends on, and a function from maps to logits.

    Yields:
        Maps `[K, D, h, w]`, a function from changed ones of n clips, `[n, K, D, h, w]`, to logits
        `[n, num_classes]`, and whether that runs the whole model.

    Raises:
        ValueError: The features of the backbone are not maps.
    """
    handle, tap, passes = None, None, 1
    seen: list[Tensor] = []
    kept: list[Tensor] = []
    calls: list[int] = []

    def look_or_change(module: nn.Module, args: tuple, out: Tensor) -> Tensor | None:
        if not seen:
            kept.append(out)
            return None
        calls.append(1)  # AIM runs the norm twice, once for time; its last output is looked at, and changed
        return seen.pop() if len(calls) == passes else None

    if model.num_images not in (1, model.super_image.num_images):
        raise ValueError(
            f'{_name(model)} sees grids and frames of a clip on two paths, so there is no single map of its images. '
            'Look at the importance of frames.')
    if _reads_tokens(model):
        blocks = getattr(model.backbone, 'blocks', None)
        norm = getattr(blocks[-1], 'norm1', None) if blocks else None
        if not isinstance(norm, nn.Module):
            raise ValueError(
                f'the classifier of {_name(model)} reads a class token, and it has no blocks[-1].norm1 to look at. '
                "Build it with global_pool='avg' if it takes that, or look at the importance of frames.")
        tap = norm
    try:
        with torch.no_grad():
            if tap is None:
                form = _MapForm(model, model.forward_features(clip))
                tap = _finer_level(model, form.maps)
            if tap is not None:
                handle = tap.register_forward_hook(look_or_change)
                model(clip)
                passes, form = len(kept), _MapForm(model, kept[-1])
                kept.clear()

        def tail(maps: Tensor) -> Tensor:
            changed = form.to_features(maps)
            if handle is None:
                return model.forward_head(changed)
            seen.append(changed)
            calls.clear()
            return model(clip.expand(len(maps), -1, -1, -1, -1))

        yield form.maps, tail, handle is not None
    finally:
        if handle is not None:
            handle.remove()


class _MapForm:
    """Converts features of one clip from the backbone's form to maps and back.

    Args:
        model: The video model.
        features: `[K, D, h, w]`, `[K, h, w, D]` or tokens `[K, N, D]`, of VideoMAE `[1, N, D]`.

    Attributes:
        maps: `[K, D, h, w]`, of VideoMAE for K tubelets.

    Raises:
        ValueError: If features are of another form.
    """

    def __init__(self, model: VideoModel, features: Tensor):
        self.features, self.kind = features, None
        if isinstance(features, Tensor) and features.ndim == 4:
            self.kind = 'NHWC' if str(model.output_fmt).endswith('NHWC') else 'NCHW'
            self.maps = features.permute(0, 3, 1, 2) if self.kind == 'NHWC' else features
        elif isinstance(features, Tensor) and features.ndim == 3:
            images = model.backbone.patch_embed.num_frames // model.backbone.patch_embed.tubelet_size if isinstance(
                model, VideoMAE) else 1
            for prefix in (getattr(model.backbone, 'num_prefix_tokens', 0), 0):
                grid = _grid((features.shape[1] - prefix) // images, model.image_size)
                if grid is not None and prefix + images * math.prod(grid) == features.shape[1]:
                    self.kind, self.prefix = 'tokens', prefix
                    self.maps = features[:, prefix:].unflatten(1, (images, *grid)).flatten(0, 1).permute(0, 3, 1, 2)
                    break
        if self.kind is None:
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f'the last features of {_name(model)} are no maps over its image ({shape}): no class activation maps. '
                'The importance of frames can be had of any model.')

    def to_features(self, maps: Tensor) -> Tensor:
        """Maps of n clips, `[n, K, D, h, w]`, in the form of the features."""
        if self.kind == 'NCHW':
            return maps.flatten(0, 1)
        rows = maps.flatten(0, 1).permute(0, 2, 3, 1)  # [n * K, h, w, D]
        if self.kind == 'NHWC':
            return rows
        tokens = rows.reshape(len(maps) * len(self.features), -1, rows.shape[-1])
        return torch.cat([self.features[:, :self.prefix].repeat(len(maps), 1, 1), tokens], dim=1)


def _grid(count: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of a number of tokens over an image, if they fill it evenly."""
    height, width = image_size
    rows = round(math.sqrt(count * height / width))
    fits = rows > 0 and count % rows == 0 and rows * width == count // rows * height
    return (rows, count // rows) if fits else None


def _name(model: VideoModel) -> str:
    return f'backbone={model._backbone_name!r}'
