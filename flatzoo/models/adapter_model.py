"""A frozen image transformer with trained adapters beside its blocks: the part that all such methods share.

The backbone runs over every frame, block by block. A method says how one block runs (`_run_block`), what it adds to the
tokens in front of the blocks (`_embed`) and how frames become one clip (`_pool`). The loop over the blocks,
recomputing, freezing, features of all depths, pruning, heads, image weights and files of what is trained are here.
"""
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import get_device_dtype
from timm.models import checkpoint, get_model_args
from torch import Tensor, nn

from flatzoo.data.protocol import EvalProtocol
from flatzoo.layers import Layout
from flatzoo.layers.layout import LayoutSpec
from flatzoo.weights.adapter_file import read_adapter_file, weight_digest, write_adapter_file
from flatzoo.weights.checkpoint import account_for_keys, image_checkpoint, unwrap_checkpoint
from flatzoo.weights.official_adapters import rename_official

from .base import Size, VideoModel, check_output_fmt, prefixed
from .block_runner import BlockRunner, HieraRunner, block_runner
from .builder import eval_protocol
from .timm_private import feature_take_indices

__all__ = ['AdapterModel']

_logger = logging.getLogger(__name__)


class AdapterModel(VideoModel):
    """A `VideoModel` with a frozen backbone. Everything outside of `backbone.` is trained.

    The model has its own classifiers; the backbone has none. Nothing is frozen until `freeze_backbone()`. A subclass
    builds its adapters, one entry per block, and ends its constructor with `_build_heads()`.

    Args:
        backbone: Name of a timm model; see `flatzoo.models.block_runner` for those that are accepted.
        num_frames: Frames T per clip.
        layout: Most methods look at frames one by one, so `time:1` is their only layout.
        img_size: Frame size in pixels, any that the backbone takes.
        in_chans: Channels per frame.
        num_classes: Number of classes; 0 for pooled features.
        drop_rate: Dropout in front of the classifier.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
        **kwargs: As for `VideoModel`. Arguments that it does not know go to the backbone.

    Attributes:
        runner: Runs the steps of the backbone's blocks.
        adapters: The trained modules beside each block.
        head: The classifier.
        adapter_args: The arguments that determine the tensors outside of the backbone. JSON can hold them.
        frozen: Whether the backbone is frozen.

    Raises:
        ValueError: If the method cannot run the backbone, or an argument does not fit.
    """
    method = 'This method'  # its name in messages
    layout_reason = 'looks at frames one by one'
    refuses_hiera: str | None = None  # why the method cannot run a Hiera, if so
    trained_in_backbone: tuple[str, ...] = ()  # parts of the backbone that the method trains and saves, too
    by_block: tuple[str, ...] = ('adapters',)  # modules with one entry per block
    official_keys: tuple[tuple[str, str], ...] = ()  # patterns of the official code's names -> ours
    args_of_old_files: dict[str, Any] = {}  # arguments that older adapter files lack, with their values
    attends_as_backbone = True  # whether a block attends once, over the tokens of one image, with keys of its own
    merged = False  # whether the adapters are part of the backbone
    adapters: nn.ModuleList
    adapter_args: dict[str, Any]
    frozen = False

    # properties that TorchScript must not compile
    __jit_unused_properties__ = [*VideoModel.__jit_unused_properties__, 'num_prefix_tokens']

    def __init__(
            self,
            backbone: str,
            num_frames: int = 8,
            layout: LayoutSpec = 'time:1',
            img_size: Size = 224,
            in_chans: int = 3,
            num_classes: int = 400,
            drop_rate: float = 0.,
            device=None,
            dtype=None,
            **kwargs: Any,
    ):
        self._check_layout(layout)
        super().__init__(
            backbone, num_frames=num_frames, layout=layout, img_size=img_size, in_chans=in_chans, num_classes=0,
            device=device, dtype=dtype, **kwargs)
        self.runner: BlockRunner = block_runner(self.backbone, backbone, self.method)
        if self.refuses_hiera and isinstance(self.runner, HieraRunner):
            raise ValueError(f'backbone={backbone!r}: {self.method} cannot run a Hiera: {self.refuses_hiera}.')
        self.check_input_size()
        self.grad_checkpointing = False
        self.head_drop = nn.Dropout(drop_rate)  # not the backbone's, which is off when it is frozen
        self.adapter_args = {}
        self._num_classes = num_classes
        self._has_image_weights = bool(kwargs.get('backbone_pretrained'))

    def _check_layout(self, layout: LayoutSpec) -> None:
        if str(Layout(layout)) != str(Layout('time:1')):
            raise ValueError(
                f"layout={str(layout)!r}: {self.method} {self.layout_reason}, so layout='time:1' is the only one. "
                "For frames in one image use 'superimage'.")

    def _build_heads(self) -> None:
        """A fresh classifier."""
        if self._num_classes and self.global_pool == '':
            raise ValueError("global_pool='' keeps tokens, which have no logits. Use num_classes=0 with it.")
        self.head = nn.Identity()
        if self._num_classes:
            self.head = nn.Linear(self.head_hidden_size, self._num_classes, **self._device_dtype())
        self.head.train(self.training)

    def _device_dtype(self) -> dict[str, Any]:
        """Device and dtype of what is trained."""
        has_own = next(self.adapters.parameters(), None) is not None
        return get_device_dtype(self.adapters if has_own else self.backbone)

    @property
    def num_classes(self) -> int:
        """Classes of the current heads, 0 if there are none."""
        return self._num_classes

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens of a frame in front of its patches: class token and registers."""
        return self.runner.num_prefix_tokens(self.backbone)

    # How a clip runs through the model

    def _images(self, x: Tensor) -> Tensor:
        """Clips `[B, C, T, H, W]` -> the images of the backbone. Those of a clip follow one another."""
        return self.super_image(x)

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images `[B * K, C, H, W]` -> tokens `[B * K, N, D]` in front of the blocks, and rotary positions."""
        return self.runner.embed(self.backbone, images)

    def _run_block(self, index: int, x: Tensor, position: Tensor | None, **options: Any) -> Tensor | tuple:
        """One block with its adapters: tokens `[B * K, N, D]` -> tokens, or a tuple of tokens and further results."""
        raise NotImplementedError

    def _run_blocks(
            self,
            images: Tensor,
            taps: Sequence[int] = (),
            stop: int | None = None,
            **options: Any,
    ) -> tuple[Tensor, list[Tensor], list[tuple]]:
        """The loop over the blocks.

        Args:
            images: `[B * K, C, H, W]`.
            taps: Blocks whose output is returned.
            stop: Number of blocks to run, all by default.
            **options: For `_run_block`.

        Returns:
            The last tokens `[B * K, N, D]`, the tokens behind each of `taps`, and the further results of each block.
        """
        x, positions = self._embed(images)
        kept, beside = [], []
        for index in range(len(self.backbone.blocks))[:stop]:
            args = (index, x, self.runner.position(self.backbone, positions, index))
            if self.grad_checkpointing:
                out = checkpoint(self._run_block, *args, **options)
            else:
                out = self._run_block(*args, **options)
            x, *more = out if isinstance(out, tuple) else (out,)
            beside.append(tuple(more))
            if index in taps:
                kept.append(x)
        return x, kept, beside

    def _final(self, x: Tensor) -> Tensor:
        """Tokens of the last block `[B * K, N, D]` -> normed, `[B, K, N, D]`."""
        return self.runner.norm(self.backbone, x).unflatten(0, (-1, self.num_images))

    def _pool(self, x: Tensor) -> Tensor:
        """Features `[B, T, N, D]` -> `[B, D]`: the backbone's pooling of each frame, then the mean over the frames.

        Without pooling (`global_pool=''`) the mean over the frames of every token, `[B, N, D]`.
        """
        pooled = self.backbone.forward_head(x.flatten(0, 1), pre_logits=True)
        return pooled.unflatten(0, (-1, x.shape[1])).mean(1)

    def forward_features(self, x: Tensor) -> Tensor:
        """Adapted tokens of all frames after the final norm: `[B, C, T, H, W]` -> `[B, T, N, D]`."""
        return self._final(self._run_blocks(self._images(x))[0])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens `[B, T, N, D]` -> logits `[B, num_classes]`, or pooled features `[B, D]` if `pre_logits`."""
        x = self.head_drop(self._pool(x))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Clips `[B, C, T, H, W]`, float normalised or uint8 -> logits `[B, num_classes]`."""
        return self.forward_head(self.forward_features(x))

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
        """Adapted features of several depths, the clip as batch.

        Args:
            x: Clips `[B, C, T, H, W]`.
            indices: The last n levels if int, all if None, or the levels to take: blocks, or stages of a Hiera.
            norm: Whether to apply the final norm.
            stop_early: Whether to stop after the last level that is asked for.
            output_fmt: `NCHW` for maps of the frames `[B, T, D, h, w]`, `NLC` for their patches `[B, T, h * w, D]`.
            intermediates_only: Whether to return the list alone.
            per_frame: Whether to return maps of frames, see `frame_maps`, if the images of the method are not frames.

        Returns:
            The list of maps, or the final tokens `[B, T, N, D]` and the list.
        """
        check_output_fmt(output_fmt, per_frame, ('NCHW', 'NLC'))
        blocks = [int(info['module'].rpartition('.')[2]) for info in self.backbone.feature_info]
        levels, _ = feature_take_indices(sum(block < len(self.backbone.blocks) for block in blocks), indices)
        taps = sorted({blocks[level] for level in levels})
        x, kept, _ = self._run_blocks(self._images(x), taps, stop=max(taps) + 1 if stop_early else None)
        maps = []
        for index, tokens in zip(taps, kept, strict=True):
            tokens = self.runner.norm(self.backbone, tokens) if norm else tokens
            tokens = self.runner.in_rows(self.backbone, tokens, index)[:, self.num_prefix_tokens:]  # [B * T, h * w, D]
            if output_fmt == 'NCHW':
                grid = self.runner.grid_size(self.backbone, self.image_size, index)
                tokens = tokens.transpose(1, 2).unflatten(2, grid)
            tokens = tokens.unflatten(0, (-1, self.num_images))
            maps.append(self.frame_maps(tokens) if per_frame else tokens)
        return maps if intermediates_only else (self._final(x), maps)

    def frame_maps(self, maps: Tensor, order: Tensor | None = None) -> Tensor:
        """Maps of the images, `[B, K, D, h, w]` or `[B * K, D, h, w]` -> of the frames, `[B, T, D, h, w]`."""
        return super().frame_maps(maps.flatten(0, 1) if maps.ndim == 5 else maps, order)

    # The timm contract

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups by depth. Adapters of a block are as deep as the block; heads come last."""
        matcher = super().group_matcher(coarse)
        matcher['blocks'] = [*matcher['blocks'], (rf'^(?:{"|".join(self.by_block)})\.(\d+)', None)]
        return matcher

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True, selective: bool = False) -> None:
        """Recomputes each block with its adapters in the backward pass to save memory. Clips stay whole.

        Raises:
            ValueError: For `selective`. Adapters sit inside of the blocks, so only whole blocks can be recomputed.
        """
        if selective:
            raise ValueError(
                f'{self.method} recomputes whole blocks: use set_grad_checkpointing() without selective=True.')
        super().set_grad_checkpointing(enable)
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces all classifiers by fresh ones.

        Args:
            num_classes: Number of classes; 0 to remove the classifiers.
            global_pool: New type of pooling of a frame, unchanged if None.
        """
        super().reset_classifier(0, global_pool)
        self._num_classes = num_classes
        self._build_heads()
        self.pretrained_cfg = self._pretrained_cfg  # drops label names if the number of classes differs

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            **backbone_args: Any,
    ) -> None:
        """Changes the frame size or the number of frames, see `VideoModel.set_input_size`.

        Raises:
            ValueError: They do not fit the method or the backbone. Both keep their size.
        """
        self._check_layout(self.layout if layout is None else layout)
        super().set_input_size(img_size, num_frames, layout, **backbone_args)

    def prune_intermediate_layers(
            self,
            indices: int | list[int] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> list[int]:
        """Removes the blocks that the given levels do not need, with their adapters, and returns these levels."""
        width = self.backbone.head_hidden_size
        levels = self.backbone.prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=prune_head)
        self.adapters = self.adapters[:len(self.backbone.blocks)]
        # features of another width have no classifier
        self._prune_heads(prune_head or self.backbone.head_hidden_size != width)
        return levels

    def _prune_heads(self, remove: bool) -> None:
        """Removes what follows the blocks, if it is to be removed."""
        if remove:
            self._num_classes = 0
            self._build_heads()

    # Freezing

    @torch.jit.ignore
    def freeze_backbone(self, freeze: bool = True) -> None:
        """Freezes the backbone: no gradients, and eval mode even in `train()`.

        Some methods also train a part of the backbone (`trained_in_backbone`). That part stays trainable.

        Optimisers of timm take only trainable parameters; those of torch skip parameters without a gradient. Copies of
        the model stay frozen; saved weights do not store it.

        Args:
            freeze: False trains the backbone, too.
        """
        self.frozen = freeze
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(not freeze or name.partition('.')[0] in self.trained_in_backbone)
        if freeze:
            self.backbone.zero_grad()  # else an optimiser that has the backbone would use old gradients
        self.train(self.training)

    def train(self, mode: bool = True) -> 'AdapterModel':
        """As in torch, but a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    # Weights

    @torch.jit.ignore
    def filter_checkpoint(self, state_dict: dict[str, Any]) -> dict[str, Tensor]:
        """Takes weights of this class, of the method's official code, or of the image backbone without its classifier.

        If an official file has only the trained part, the backbone's image weights are added.

        Raises:
            RuntimeError: If keys are left over or missing, or there are only adapters.
        """
        state_dict = unwrap_checkpoint(state_dict)
        self._fit_old_weights(state_dict)
        official = rename_official(state_dict, self.official_keys)
        if official is not None:
            return account_for_keys(self, self._complete(official))
        if any(key.startswith('backbone.') and not self._is_own(key) for key in state_dict):
            return account_for_keys(self, self._resized(state_dict))
        if any(key.startswith('adapters.') for key in state_dict):
            raise RuntimeError(
                'These are adapters without their backbone, as save_adapters() writes them. Build the model with '
                'model_from_adapters(), or load them into a model with load_adapters().')
        names = self.backbone.pretrained_cfg.get('classifier') or ()
        classifiers = prefixed((names,) if isinstance(names, str) else names)
        weights = {
            key: tensor for key, tensor in self._image_names(image_checkpoint(state_dict, self)).items()
            if key.rpartition('.')[0] not in classifiers}
        fresh = tuple(name for name in self.state_dict() if not name.startswith('backbone.'))
        weights = account_for_keys(self, weights, optional=fresh)
        _logger.info(
            f'The backbone {self._backbone_name} gets its image weights. The other {len(fresh)} tensors (adapters, '
            'heads and the like) are untrained: call freeze_backbone() and train them.')
        return weights

    def _resized(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of this class fitted to the model, such as embeddings of another number of frames."""
        return state_dict

    def _image_names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Image weights of the backbone under the names of this class."""
        return weights

    def _complete(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Renamed weights of the official code, with the backbone that its files may lack."""
        own = {name: tensor for name, tensor in weights.items() if not name.startswith('backbone.')}
        images = {
            name.removeprefix('backbone.'): tensor for name, tensor in weights.items() if name.startswith('backbone.')}
        if images:
            images = image_checkpoint(images, self)
        elif self._has_image_weights:
            images = {name: t for name, t in self.state_dict().items() if name.startswith('backbone.')}
        else:
            images = image_checkpoint(self._published_image_weights(), self)
            names = self.backbone.pretrained_cfg.get('classifier') or ()
            classifiers = prefixed((names,) if isinstance(names, str) else names)
            images = {name: t for name, t in images.items() if name.rpartition('.')[0] not in classifiers}
        return self._resized({**own, **images})

    def _published_image_weights(self) -> dict[str, Tensor]:
        """The backbone's image weights, from the Hub or its cache."""
        name = self._image_weights_name()
        try:
            return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
        except Exception as error:
            raise RuntimeError(
                f'These weights are only what {self.method} trains; the backbone needs the image weights {name}, '
                f'which cannot be loaded: {str(error).strip().rstrip(".")}. Load them once with access to the Hub, or '
                'join both files in one state dict.') from error

    def _image_weights_name(self) -> str:
        cfg = self.backbone.pretrained_cfg
        return f'{cfg.get("architecture")}.{cfg.get("tag")}'

    @torch.jit.ignore
    def save_adapters(self, path: str | Path) -> None:
        """Saves everything outside of the backbone, with a digest of the backbone, class names and protocol.

        Args:
            path: A safetensors file. It is written under a temporary name and renamed. Its folder is made if missing.

        Raises:
            ValueError: If the adapters were merged into the backbone.
        """
        if self.merged:
            raise ValueError(
                'The adapters were merged into the backbone, which is no longer the published one. Save the whole '
                'model with flatzoo.save_pretrained().')
        write_adapter_file(path, self.adapter_tensors(), dict(
            model=self.pretrained_cfg.get('architecture'), model_args=get_model_args(self),
            adapter_args=self.adapter_args, backbone=self._backbone_name, backbone_digest=self._digest(),
            label_names=self.pretrained_cfg.get('label_names'), protocol=eval_protocol(self).to_dict()))

    @torch.jit.ignore
    def load_adapters(self, path: str | Path) -> None:
        """Loads a file of `save_adapters`, if the backbone is exactly the one that it was trained on.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: The file is damaged or foreign, or it was made for another backbone, other weights, other
                arguments or other classes. Nothing is loaded.
        """
        tensors, header = read_adapter_file(path)
        if header['backbone'] != self._backbone_name:
            raise ValueError(
                f'{path}: these adapters were trained on backbone={header["backbone"]!r}, this model has '
                f'{self._backbone_name!r}. Build the model with the former.')
        if not self.args_of_old_files.keys() <= header['adapter_args'].keys():
            self._fit_old_weights(tensors)
        there, here = {**self.args_of_old_files, **header['adapter_args']}, json.loads(json.dumps(self.adapter_args))
        other = [f'{name}={there.get(name)!r} (here {here[name]!r})' for name in here if there.get(name) != here[name]]
        if other:
            raise ValueError(
                f'{path}: these adapters were built with {", ".join(other)}. Build the model with the same.')
        given, wanted = ({name: list(t.shape) for name, t in own.items()} for own in (tensors, self.adapter_tensors()))
        if given != wanted:
            name = next(name for name in (*wanted, *given) if given.get(name) != wanted.get(name))
            raise ValueError(
                f'{path}: {name} has the shape {given.get(name)}, in this model {wanted.get(name)}. Build the model '
                f'with num_classes={header["model_args"].get("num_classes")} and the other arguments of the file.')
        digest = self._digest()
        if header['backbone_digest'] != digest:
            raise ValueError(
                f'{path}: these adapters were trained on {self._backbone_name} with weights of '
                f'{header["backbone_digest"]}, this model has weights of {digest}. Load those (pretrained=True if they '
                'came from the Hub) and build the model with the same img_size, in_chans and dtype, which change them.')
        protocol = EvalProtocol.from_dict(header['protocol']) if 'protocol' in header else None
        self.load_state_dict(tensors, strict=False)
        self.saved_protocol = protocol
        self.pretrained_cfg = {**self.pretrained_cfg, 'label_names': header.get('label_names')}

    def _fit_old_weights(self, weights: dict[str, Any]) -> None:
        """Gives the model the form that it had when the weights were made, if it has changed since."""

    @torch.jit.ignore
    def adapter_tensors(self) -> dict[str, Tensor]:
        """What `save_adapters` saves: the state dict without the frozen part of the backbone."""
        return {name: tensor for name, tensor in self.state_dict().items() if self._is_own(name)}

    def _is_own(self, name: str) -> bool:
        """Whether the method trains this tensor."""
        place, _, rest = name.partition('.')
        return place != 'backbone' or rest.partition('.')[0] in self.trained_in_backbone

    def _digest(self) -> str:
        """The digest of the frozen part of the backbone."""
        return weight_digest(self.backbone, without=self.trained_in_backbone)
