"""The video model: a super image in front of any timm backbone, with timm's contract for models, written once.

Everything that timm users know from image models works on clips. The backbone does the work. This class translates
names (`backbone.` in front), sizes (`img_size` is one *frame*) and shapes (`[B, C, T, H, W]` as input).
"""
import copy
import difflib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import load_pretrained, register_notrace_function, register_notrace_module
from torch import Tensor, nn

from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.temporal import TemporalContract
from flatzoo.layers import Layout, SuperImage
from flatzoo.layers.layout import LayoutSpec
from flatzoo.layers.super_image import resize_images
from flatzoo.weights.checkpoint import (
    account_for_keys,
    choose_weights,
    image_checkpoint,
    load_checkpoint,
    unwrap_checkpoint,
)

from .backbone import check_image, create_backbone, fit_windows, fitting_sizes, patch_size_of, trial_once
from .borrowed import Borrowed, complete_weights
from .recompute import recompute_activations
from .timm_private import global_pool_of, update_model_input_size

__all__ = ['Size', 'VideoModel', 'channel_stats', 'check_output_fmt', 'prefixed']

register_notrace_module(SuperImage)  # fx: it looks at shapes and dtypes

Size = int | tuple[int, int]


@register_notrace_function  # fx: it looks at the number of dimensions
def average_images(x: Tensor, num_images: int) -> Tensor:
    """Mean over the K images of a clip, `[B * K, D]` -> `[B, D]`. Maps that are not pooled stay as they are."""
    if num_images > 1 and x.ndim == 2:
        x = x.unflatten(0, (-1, num_images)).mean(1)
    return x


class VideoModel(nn.Module):
    """A timm image model that classifies clips laid out as images.

    A clip `[B, C, T, H, W]` becomes K images, which are folded into the batch. Their logits are averaged. Float clips
    must be normalised. uint8 clips (0...255) are normalised on the model's device with the mean and standard deviation
    of its weights.

    Args:
        backbone: Name of a timm model.
        num_frames: Frames T per clip.
        layout: How frames lie in the image, see `flatzoo.layers.Layout`.
        img_size: Size of one frame in pixels, `int` or `(height, width)`. Frames of other sizes are resized.
        in_chans: Channels per frame.
        num_classes: Number of classes. 0 gives pooled features.
        backbone_pretrained: Whether timm loads the backbone's image weights.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
        **backbone_args: Further arguments of the timm model (`drop_path_rate`, `global_pool`, `embed_dim`, ...).

    Raises:
        TypeError: Neither this class nor the timm model knows an argument. The message names a similar one.
        ValueError: Layout, frame size and backbone do not fit together. The message says what would fit.
    """
    bfloat16_blurs = False  # whether bfloat16 loses what the model looks at
    _own_backbone_args: tuple[str, ...] = ()  # arguments of the backbone that only the class sets

    # properties that TorchScript must not compile
    __jit_unused_properties__ = [
        'layout', 'num_frames', 'img_size', 'grid_size', 'image_size', 'num_classes', 'in_chans', 'num_features',
        'head_hidden_size', 'feature_info', 'global_pool', 'output_fmt', 'pretrained_cfg', '_model_args',
        '_backbone_name', 'encodes_frames',
    ]

    def __init__(
            self,
            backbone: str,
            num_frames: int = 8,
            layout: LayoutSpec = 'grid',
            img_size: Size = 224,
            in_chans: int = 3,
            num_classes: int = 400,
            backbone_pretrained: bool = False,
            device=None,
            dtype=None,
            **backbone_args: Any,
    ):
        super().__init__()
        super_image = SuperImage(num_frames, layout, img_size)
        try:
            self.backbone = create_backbone(
                backbone, super_image.image_size, in_chans, pretrained=backbone_pretrained, num_classes=num_classes,
                device=device, dtype=dtype, **backbone_args,
            )
        except TypeError as error:
            raise _unknown_argument(type(self), backbone, backbone_args, error) or error from error
        except (AssertionError, RuntimeError, IndexError, ZeroDivisionError) as error:
            if _can_be_built(backbone, super_image.image_size, in_chans):  # so the size is not the reason
                asked = dict(backbone_args, **(dict(pretrained=True) if backbone_pretrained else {}))
                asked = {name: value for name, value in asked.items() if name not in self._own_backbone_args}
                raise ValueError(f'backbone={backbone!r} does not take {asked}: {error}') from error
            raise ValueError(self._misfit(backbone, super_image, error)) from error
        if isinstance(self.backbone, VideoModel):
            raise ValueError(f'backbone={backbone!r} is a video model itself; name an image model.')
        cfg = self.backbone.pretrained_cfg
        self.super_image = SuperImage(
            num_frames, layout, img_size, *channel_stats(cfg, in_chans), device=device, dtype=dtype)
        self.num_images: int = self.super_image.num_images
        fit_windows(
            self.backbone, self.layout.growth(num_frames), self.img_size, backbone_args.get('window_size'),
            self.layout.size_step(num_frames))
        self.use_ema: bool | None = None  # whether to take the moving average of a checkpoint; None warns
        self.head_trained = False  # until weights with a classifier of this size are loaded
        self.saved_protocol: EvalProtocol | None = None  # of a saved model; registered weights have it in their record
        self.borrowed: Borrowed | None = None  # whose backbone a saved model borrows, which its file then lacks
        self.temporal_contract: TemporalContract | None = None  # length of the clips of its training, if known
        self.multi_label = False  # whether each class has a score of its own (sigmoid), and a clip may have several
        self.lender_args: dict[str, Any] = {}  # by which the model that lends it is built
        self._pretrained_cfg: dict[str, Any] = {}
        self._args = dict(num_frames=num_frames, layout=str(self.layout))
        self._traits = dict(
            img_size=self.img_size,
            fixed_input_size=True,  # frames are always resized to img_size
            first_conv=prefixed(self.backbone._traits.get('first_conv') or cfg.get('first_conv')),
        )

    @staticmethod
    def _misfit(backbone: str, super_image: SuperImage, error: Any, sizes: list[int] | None = None) -> str:
        (height, width), (rows, cols) = super_image.image_size, super_image.grid_size
        hint = f' Frame sizes that fit: {", ".join(map(str, sizes))}.' if sizes else ' Try another img_size or layout.'
        return (
            f'backbone={backbone!r} does not take the super image of {height}x{width} pixels that {rows}x{cols} cells '
            f'with img_size={super_image.img_size[0]}x{super_image.img_size[1]} and layout={str(super_image.layout)!r} '
            f'make: {str(error).strip() or type(error).__name__}.{hint}'
        )

    # What the model is made of

    @property
    def layout(self) -> Layout:
        """How the frames lie in the image."""
        return self.super_image.layout

    @property
    def num_frames(self) -> int:
        """Frames T per clip."""
        return self.super_image.num_frames

    @property
    def img_size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        return self.super_image.img_size

    @property
    def grid_size(self) -> tuple[int, int]:
        """Rows and columns of frames in an image."""
        return self.super_image.grid_size

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the image that the backbone gets."""
        return self.super_image.image_size

    @property
    def num_classes(self) -> int:
        """Classes of the current head, 0 if there is none."""
        return self.backbone.num_classes

    @property
    def in_chans(self) -> int:
        """Channels per frame."""
        return self.backbone.in_chans

    @property
    def num_features(self) -> int:
        """Channels of the last feature map."""
        return self.backbone.num_features

    @property
    def head_hidden_size(self) -> int:
        """Channels of the classifier's input."""
        return self.backbone.head_hidden_size

    @property
    def output_fmt(self) -> Any:
        """Memory order of `forward_features`, `NHWC` for Swin Transformers."""
        return getattr(self.backbone, 'output_fmt', 'NCHW')

    @property
    def global_pool(self) -> Any:
        """Type of pooling in front of the classifier."""
        return global_pool_of(self.backbone)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, reduction and module of every feature level, as in timm. Reductions count in the super image."""
        return [dict(info, module=prefixed(info['module'])) for info in self.backbone.feature_info]

    # timm assigns these two after construction. The model must react to both.

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """timm's configuration of the weights. Its mean and standard deviation normalise uint8 clips."""
        return self._pretrained_cfg

    @pretrained_cfg.setter
    def pretrained_cfg(self, cfg: dict[str, Any]) -> None:
        cfg = self._complete_cfg(cfg)
        labels = cfg.get('label_names')
        if labels is not None and len(labels) != self.num_classes:
            cfg = {key: value for key, value in cfg.items() if key not in ('label_names', 'label_descriptions')}
        self._pretrained_cfg = cfg
        self.super_image.set_normalization(*channel_stats(cfg, self.in_chans))

    @property
    def _model_args(self) -> dict[str, Any]:
        """Arguments from which timm rebuilds the model. They are written into its config.json."""
        return self._args

    @_model_args.setter
    def _model_args(self, args: dict[str, Any]) -> None:
        self._args = self._recorded_args(dict(args, layout=str(Layout(args.get('layout', self.layout)))))

    # Hooks of both, for subclasses

    def _complete_cfg(self, cfg: dict[str, Any]) -> dict[str, Any]:
        """Completes the configuration that timm assigns."""
        return cfg

    def _recorded_args(self, args: dict[str, Any]) -> dict[str, Any]:
        """Selects, from the arguments that the model was built with, those that rebuild it."""
        return {name: value for name, value in args.items() if name not in _OF_LOADING}

    # The timm contract

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay, those of the backbone."""
        names = self.backbone.no_weight_decay() if hasattr(self.backbone, 'no_weight_decay') else ()
        return {f'backbone.{name}' for name in names}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups by depth for layer-wise learning rates, those of the backbone."""
        matcher = {}
        for name, spec in self.backbone.group_matcher(coarse=coarse).items():
            if isinstance(spec, (list, tuple)):
                spec = [(_prefixed_pattern(pattern), suffix) for pattern, suffix in spec]
            elif spec is not None:
                spec = _prefixed_pattern(spec)
            matcher[name] = spec
        return matcher

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True, selective: bool = False) -> None:
        """Recomputes activations in the backward pass to save memory.

        Args:
            enable: Whether to recompute.
            selective: Whether to keep the results of linear layers and convolutions and to recompute only the rest.
                This saves about half of the memory at the same speed. Otherwise whole blocks run twice.

        Raises:
            ValueError: If nothing of the backbone can be recomputed selectively.
        """
        self.backbone.set_grad_checkpointing(enable and not selective)
        if recompute_activations(self.backbone, enable and selective) == 0 and enable and selective:
            raise ValueError(
                f'{type(self.backbone).__name__} has no blocks (classes called ...Block) without batch norm, so '
                'selective=True does not apply; use set_grad_checkpointing() without it.')

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier layer."""
        return self.backbone.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier by an untrained one.

        Args:
            num_classes: Number of classes. 0 removes the classifier.
            global_pool: New type of pooling. None keeps it.
        """
        if global_pool is None:
            self.backbone.reset_classifier(num_classes)
        else:
            self.backbone.reset_classifier(num_classes, global_pool)
        self.head_trained = self.multi_label = False
        self.pretrained_cfg = self._pretrained_cfg  # drops label names if the number of classes differs

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            **backbone_args: Any,
    ) -> None:
        """Changes frame size, number of frames or layout, and with them the size of the super image.

        Args:
            img_size: New frame size in pixels. None keeps it.
            num_frames: New number of frames. None keeps it.
            layout: New layout. None keeps it.
            **backbone_args: Arguments of the backbone's own `set_input_size`, such as `window_size`.

        Raises:
            ValueError: The new super image does not fit the backbone. The model keeps its size.
        """
        old = self.super_image
        mean_std = channel_stats(self.pretrained_cfg or self.backbone.pretrained_cfg, self.in_chans)
        new = SuperImage(
            num_frames or old.num_frames, old.layout if layout is None else layout, img_size or old.img_size, *mean_std,
            device=old.norm_scale.device, dtype=old.norm_scale.dtype,
        ).train(old.training)
        trial = _share_tensors(self.backbone)
        try:
            _resize(trial, old, new, backbone_args)
        except (AssertionError, RuntimeError) as error:
            raise ValueError(self._misfit(self._backbone_name, new, error)) from error
        self._check_image(trial, new)
        changed = _resize(self.backbone, old, new, backbone_args)
        self.super_image, self.num_images = new, new.num_images
        update_model_input_size(self, new.img_size, num_frames=new.num_frames, layout=str(new.layout), **changed)

    def check_input_size(self) -> None:
        """Tries the super image on the meta device.

        Raises:
            ValueError: The backbone does not take it. The message names frame sizes that work.
        """
        trial_once(lambda: self._check_image(self.backbone, self.super_image))

    def _check_image(self, backbone: nn.Module, super_image: SuperImage) -> None:
        error = check_image(backbone, self.in_chans, super_image.image_size)
        if error is None:
            return
        rows, cols = super_image.layout.growth(super_image.num_frames)
        patch = patch_size_of(backbone)
        resizable = hasattr(backbone, 'set_input_size')
        fixed = not resizable and backbone._traits.get('fixed_input_size')  # another size needs another model

        def fits(size: int) -> bool:
            image_size = (rows * size, cols * size)
            if patch is not None and any(side % p for side, p in zip(image_size, patch)):
                return False
            if fixed:
                return patch is not None
            trial = _share_tensors(backbone)
            try:
                if resizable:
                    trial.set_input_size(img_size=image_size)
            except (AssertionError, RuntimeError, ValueError):
                return False
            return check_image(trial, self.in_chans, image_size) is None

        search = dict(count=2, step=16) if patch is None else dict(count=4, step=4)
        multiple = super_image.layout.size_step(super_image.num_frames)
        sizes = fitting_sizes(fits, super_image.img_size, multiple=multiple, **search)
        raise ValueError(self._misfit(self._backbone_name, super_image, error, sizes))

    @property
    def _backbone_name(self) -> str:
        return self.backbone.pretrained_cfg.get('architecture', type(self.backbone).__name__)

    def frame_maps(self, maps: Tensor, order: Tensor | None = None) -> Tensor:
        """Splits a feature map of the super image into the maps of its frames.

        Args:
            maps: `[B * K, D, h', w']`, as `forward_intermediates` returns them.
            order: The order `[B, T]` of the frames, from `super_image.draw`, if they were shuffled.

        Returns:
            `[B, T, D, h, w]`.

        Raises:
            ValueError: If a frame is not a whole number of features high and wide.
        """
        return self.super_image.inverse(maps, order)

    def forward_intermediates(
            self,
            x: Tensor,
            indices: int | list[int] | None = None,
            norm: bool = False,
            stop_early: bool = False,
            output_fmt: str = 'NCHW',
            intermediates_only: bool = False,
            per_frame: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features of several depths.

        Args:
            x: Clips `[B, C, T, H, W]`.
            indices: The last n levels if int, all if None, or the levels to take.
            norm: Whether to apply the final norm where it fits.
            stop_early: Whether to stop after the last level that is asked for.
            output_fmt: `NCHW`, or `NLC` for backbones that offer it.
            intermediates_only: Whether to return the list alone.
            per_frame: Whether to return the maps of the frames, `[B, T, D, h, w]`, and not those of the super images,
                `[B * K, D, h', w']`.

        Returns:
            The list of maps, or the final features and the list.
        """
        if not hasattr(self.backbone, 'forward_intermediates'):
            raise RuntimeError(f'{type(self.backbone).__name__} of this timm has no forward_intermediates().')
        check_output_fmt(output_fmt, per_frame)
        order = None
        if per_frame and (self.super_image.shuffles_in_eval or self.super_image.shuffles and self.training):
            order = self.super_image.draw(x.shape[0], device=x.device)  # needed below, to put the maps back into order
        out = self.backbone.forward_intermediates(
            self.super_image(x, order=order), indices=indices, norm=norm, stop_early=stop_early, output_fmt=output_fmt,
            intermediates_only=intermediates_only,
        )
        if not per_frame:
            return out
        if intermediates_only:
            return [self.frame_maps(maps, order) for maps in out]
        return out[0], [self.frame_maps(maps, order) for maps in out[1]]

    def prune_intermediate_layers(
            self,
            indices: int | list[int] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> list[int]:
        """Removes the layers that the given levels do not need, and returns these levels."""
        return self.backbone.prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=prune_head)

    def forward_features(self, x: Tensor) -> Tensor:
        """Unpooled features of the super images in the backbone's shape: `[B, C, T, H, W]` -> `[B * K, ...]`."""
        return self.backbone.forward_features(self.super_image(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features -> logits `[B, num_classes]`, or pooled features `[B, D]` if `pre_logits`."""
        return average_images(self.backbone.forward_head(x, pre_logits=pre_logits), self.num_images)

    def forward(self, x: Tensor) -> Tensor:
        """Clips `[B, C, T, H, W]`, float normalised or uint8 -> logits `[B, num_classes]`."""
        return average_images(self.backbone(self.super_image(x)), self.num_images)

    # One frame at a time

    @property
    def encodes_frames(self) -> bool:
        """Whether frames are encoded one by one up to a late step over the clip.

        Then `forward_clips(forward_frames(frames))` is what the model gives for clips, and frames that several clips
        share, such as overlapping windows of a video, have to be encoded once only.
        """
        return False

    def forward_frames(self, x: Tensor) -> Tensor:
        """Frames `[N, C, H, W]`, float normalised or uint8 -> what `forward_clips` takes of each, `[N, ...]`.

        For models that `encodes_frames`.
        """
        return self.backbone(self.frame_images(x))

    def forward_clips(self, x: Tensor) -> Tensor:
        """What `forward_frames` gave of the frames of clips, clip after clip, `[B * T, ...]` -> logits of the clips.

        For models that `encodes_frames`.
        """
        return average_images(x, self.num_images)

    def frame_images(self, frame: Tensor) -> Tensor:
        """Single frames `[B, C, H, W]`, float normalised or uint8, as the super image would hand them to the backbone.

        Raises:
            ValueError: If they have another shape or type.
        """
        if frame.ndim != 4 or frame.shape[1] != self.in_chans:
            raise ValueError(f'Expected a frame of shape (B, C={self.in_chans}, H, W), got {list(frame.shape)}.')
        as_bytes = frame.dtype == torch.uint8
        if not as_bytes and not frame.is_floating_point():
            raise ValueError(f'Expected a floating-point (normalised) or uint8 (0...255) frame, got {frame.dtype}.')
        frame = frame.to(self.super_image.norm_scale.dtype) if as_bytes else frame
        if tuple(frame.shape[2:]) != self.img_size:
            frame = resize_images(frame, *self.img_size, self.layout.antialias)
        return frame * self.super_image.norm_scale + self.super_image.norm_shift if as_bytes else frame

    @torch.jit.ignore
    def probabilities(self, logits: Tensor) -> Tensor:
        """What the logits say of each class, 0...1: softmax; or, of a model whose clips may have several classes
        (`multi_label`), the score of each class by itself, sigmoid.

        Args:
            logits: `[..., num_classes]`.
        """
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)

    # Weights

    @torch.jit.ignore
    def load_state_dict(self, state_dict: dict[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in torch. Also notes whether the weights have a classifier."""
        result = super().load_state_dict(state_dict, strict=strict, assign=assign)
        names = self.classifier_keys()
        self.head_trained = bool(names) and names <= set(state_dict)
        return result

    @torch.jit.ignore
    def classifier_keys(self) -> set[str]:
        """Names of the classifier's parameters. Empty if it was removed."""
        classifier = self.get_classifier()
        modules = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
        kept = {id(p) for module in modules if isinstance(module, nn.Module) for p in module.parameters()}
        if not kept:
            return set()
        return {name for name, parameter in self.named_parameters() if id(parameter) in kept}

    @torch.jit.ignore
    def load_pretrained(self, path: str | Path) -> None:
        """Loads a weight file that timm's own loaders would refuse or misread. timm calls it for `custom_load`."""
        sources = ('url', 'file', 'hf_hub_id', 'source')
        cfg = {key: value for key, value in self.pretrained_cfg.items() if key not in sources}
        weights = self.choose_weights(load_checkpoint(path))
        if self.borrowed is not None:
            weights = complete_weights(self, weights, self.borrowed)
        cfg.update(custom_load=False, state_dict=weights)
        load_pretrained(
            self, cfg, num_classes=self.num_classes, in_chans=self.in_chans, strict=False,
            filter_fn=lambda weights, model: model.filter_checkpoint(weights))

    @torch.jit.ignore
    def choose_weights(self, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
        """The weights inside a training checkpoint: the moving average or the raw ones, see `use_ema` and
        `flatzoo.weights.checkpoint.choose_weights`.
        """
        return choose_weights(checkpoint, self.use_ema)

    @torch.jit.ignore
    def filter_checkpoint(self, state_dict: dict[str, Any]) -> dict[str, Tensor]:
        """Renames weights of the video model or of its image backbone to the names of this model.

        Raises:
            RuntimeError: If keys are left over or missing.
        """
        state_dict = unwrap_checkpoint(state_dict)
        if not any(key.startswith('backbone.') for key in state_dict):
            state_dict = image_checkpoint(state_dict, self)
        return account_for_keys(self, state_dict)


def check_output_fmt(output_fmt: str, per_frame: bool, accepted: Sequence[str] = ()) -> None:
    """Checks two arguments of `forward_intermediates`.

    Args:
        output_fmt: The format of the maps.
        per_frame: Whether maps of frames are returned.
        accepted: The formats of the model. If empty, the backbone checks the format.

    Raises:
        ValueError: The format is not accepted, or it does not go with `per_frame`.
    """
    if accepted and output_fmt not in accepted:
        raise ValueError(f'output_fmt={output_fmt!r} must be one of {", ".join(map(repr, accepted))}.')
    if per_frame and output_fmt != 'NCHW':
        raise ValueError(f"per_frame=True gives maps, so output_fmt must be 'NCHW', got {output_fmt!r}.")


def _can_be_built(backbone: str, image_size: tuple[int, int], in_chans: int) -> bool:
    """Whether a backbone takes images of this size if all its other arguments have their defaults."""
    try:
        create_backbone(backbone, image_size, in_chans, device='meta')
    except Exception:  # noqa: BLE001 - any failure counts: this size cannot be built
        return False
    return True


def _unknown_argument(
        model_cls: type,
        backbone: str,
        args: dict[str, Any],
        error: TypeError,
) -> TypeError | None:
    """The error for a misspelt argument, made from the error of the backbone's constructor."""
    found = re.search(r"(?:unexpected keyword|multiple values for(?: keyword)?) argument '(\w+)'", str(error))
    if found is None or found[1] not in args:
        return None
    known = {
        name: None for cls in model_cls.__mro__ if cls.__module__.startswith('flatzoo.')
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and name not in ('self', 'backbone_pretrained')}
    near = difflib.get_close_matches(found[1], [*known, *_OF_BACKBONES], n=1)
    hint = f'did you mean {near[0]}?' if near else f"flatzoo's are {', '.join(known)}"
    return TypeError(f'{found[1]} is no argument of {model_cls.__name__}, nor of its backbone {backbone}: {hint}')


_OF_LOADING = ('backbone_pretrained', 'mmap', 'use_ema')  # arguments that say how a model was loaded

_OF_BACKBONES = (
    'drop_rate', 'drop_path_rate', 'global_pool', 'embed_dim', 'depths', 'num_heads', 'act_layer', 'norm_layer')


def _share_tensors(module: nn.Module) -> nn.Module:
    """A copy of a module that shares its parameters and buffers, for a trial."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


def _resize(backbone: nn.Module, old: SuperImage, new: SuperImage, backbone_args: dict[str, Any]) -> dict[str, Any]:
    """Fits a backbone to a new super image. Returns the arguments, besides its size, that rebuild it."""
    if hasattr(backbone, 'set_input_size'):
        backbone.set_input_size(img_size=new.image_size, **backbone_args)
        layout, count = new.layout, new.num_frames
        fit_windows(
            backbone, layout.growth(count), new.img_size, backbone_args.get('window_size'), layout.size_step(count))
        names = ('window_size', 'patch_size', *backbone_args)
        return {key: value for key, value in backbone._model_args.items() if key in names}
    if backbone_args:
        raise TypeError(
            f'{type(backbone).__name__} takes no {", ".join(backbone_args)} in set_input_size(), which has img_size, '
            'num_frames and layout.')
    if backbone._traits.get('fixed_input_size') and new.image_size != old.image_size:
        raise ValueError(
            f'{type(backbone).__name__} cannot change its input size after construction: '
            'build a new model with the img_size, num_frames and layout you want.'
        )
    return {}


def channel_stats(cfg: dict[str, Any], in_chans: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel. If the weights have another channel count, their average is used."""
    mean, std = (tuple(cfg.get(key) or default) for key, default in (('mean', (0.,)), ('std', (1.,))))
    if len(mean) != in_chans:
        mean, std = (sum(mean) / len(mean),) * in_chans, (sum(std) / len(std),) * in_chans
    return mean, std


def prefixed(name: Any) -> Any:
    """A module name, or several, or None, with `backbone.` in front."""
    if name is None or isinstance(name, str):
        return f'backbone.{name}' if name else name
    return tuple(f'backbone.{part}' for part in name)


def _prefixed_pattern(pattern: str) -> str:
    """The pattern of a group matcher with `backbone.` in front. timm matches from the start of a name."""
    unanchored = re.sub(r'(?<![\[\\])\^', '', pattern)  # not in [^...] and not escaped
    return rf'^backbone\.(?:{unanchored})'
