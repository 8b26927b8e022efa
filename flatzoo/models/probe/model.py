"""Probes: a frozen image network, and a small head that reads the tokens of all frames.

`attentive` is the probe of V-JEPA 2 (arXiv:2506.09985, official code https://github.com/facebookresearch/vjepa2, MIT):
three blocks of self-attention and a learned query over all tokens, without positions, so that the order of the frames
does not matter unless `positions='sincos'`. Its `probe_depth=1` is linear in the number of tokens.

`step` is STEP, Self-attentive Temporal Embedding Probing (arXiv:2503.24298): each frame has a learned position, and one
class token of the clip attends once to all tokens, with a third of a block's parameters. Order matters. The paper's
three changes are taken from its abstract; the details of the attention block are inferred, there is no code.

`linear` is a linear layer on the mean of the frames' pooled features, the baseline.

    model = timm.create_model('probe_dinov2_b', probe='step', pretrained=True, num_classes=174)
    model.freeze_backbone()
    ...                                         # train
    model.save_adapters('mine.safetensors')     # the probe alone, loaded again by load_adapters()

`probe` takes any `backbone=`: tokens are the patches of a transformer (`class_token=True`: all tokens) or the pixels of
a CNN's last map. Frames of several clips of a video are one clip to the probe (the paper's temporal segments); its
spatial views are averaged as probabilities there, as logits here. The accuracies that the paper prints are the best of
20 probes (5 learning rates x 4 weight decays) on the validation set: choose on held-out training clips.
"""
from typing import Any

import torch
from timm.layers import get_device_dtype
from torch import Tensor, nn

from flatzoo.layers.layout import LayoutSpec
from flatzoo.weights.checkpoint import unwrap_checkpoint

from ..adapter_model import AdapterModel
from ..backbone import default_img_size
from ..base import Size, VideoModel, average_images
from ..superimage import cfg_of_backbone
from .pooler import AttentivePooler, StepPooler, add_positions, as_tokens, check_heads

__all__ = ['Probe']


class Probe(AdapterModel):
    """An image network whose tokens of all frames are read by a probe.

    Args:
        backbone: Any timm image model.
        num_frames: Frames T per clip.
        layout: `time:1` is the only layout, because frames are looked at one by one.
        img_size: Frame size in pixels, that of the backbone's weights by default.
        num_classes: Number of classes. 0 gives the pooled features of the probe, `[B, D]`.
        probe: `attentive`, `step` or `linear`.
        probe_depth: Blocks of the attentive probe, the last of which is the query's.
        probe_heads: Attention heads of the probe; by default 16, and of `step` one per 64 channels.
        probe_mlp_ratio: Hidden width of the attentive probe's MLPs over that of the tokens.
        class_token: Whether class tokens and registers of the frames are read, too.
        positions: `sincos` adds the position of its frame to each token of the attentive probe. None adds nothing.
        **kwargs: As for `VideoModel`. Arguments that it does not know go to the backbone.

    Raises:
        ValueError: If an argument is unknown or does not fit the backbone.
    """
    method, layout_reason = 'A probe', 'reads frames one by one'
    # the backbone runs as in any video model, not block by block
    forward_intermediates = VideoModel.forward_intermediates
    forward_features = VideoModel.forward_features
    frame_maps = VideoModel.frame_maps
    group_matcher = VideoModel.group_matcher
    set_grad_checkpointing = VideoModel.set_grad_checkpointing

    def __init__(
            self,
            backbone: str = 'vit_base_patch14_dinov2',
            num_frames: int = 8,
            layout: LayoutSpec = 'time:1',
            img_size: Size | None = None,
            num_classes: int = 400,
            probe: str = 'attentive',
            probe_depth: int = 4,
            probe_heads: int | None = None,
            probe_mlp_ratio: float = 4.,
            class_token: bool = False,
            positions: str | None = None,
            **kwargs: Any,
    ):
        if probe not in ('attentive', 'step', 'linear'):
            raise ValueError(f"probe={probe!r} is none of 'attentive', 'step', 'linear'.")
        if positions not in (None, 'sincos') or positions and probe != 'attentive':
            raise ValueError(f"positions={positions!r}: 'sincos' is accepted, for probe='attentive', or None.")
        if not isinstance(probe_depth, int) or probe_depth < 1:
            raise ValueError(f'probe_depth={probe_depth!r}: a whole number of at least 1 is accepted.')
        self._check_layout(layout)
        VideoModel.__init__(
            self, backbone, num_frames, layout, default_img_size(backbone) if img_size is None else img_size,
            num_classes=0, **kwargs)
        self.check_input_size()
        dim, dd = self.backbone.num_features, self._device_dtype()
        self.adapter_args = dict(probe=probe, class_token=class_token, positions=positions)
        if probe != 'linear':
            heads = probe_heads or (16 if probe == 'attentive' else max(dim // 64, 1))
            check_heads(dim, heads)
            self.adapter_args |= dict(probe_heads=heads)
        if probe == 'attentive':
            self.adapter_args |= dict(probe_depth=probe_depth, probe_mlp_ratio=probe_mlp_ratio)
            self.pooler = AttentivePooler(dim, heads, probe_depth, probe_mlp_ratio, **dd)
        else:
            self.pooler = StepPooler(dim, num_frames, heads, **dd) if probe == 'step' else nn.Identity()
        self.probe, self.has_positions = probe, positions is not None
        self.num_skipped = 0 if class_token else getattr(self.backbone, 'num_prefix_tokens', 0)
        self.channels_first = str(self.output_fmt).upper().endswith('NCHW')
        self._num_classes = num_classes
        self._build_heads()

    def _device_dtype(self) -> dict[str, Any]:
        return get_device_dtype(self.backbone)

    def _build_heads(self) -> None:
        self.unpooled = self.global_pool == ''
        if self._num_classes and self.unpooled:
            raise ValueError("global_pool='' leaves tokens, which have no logits: it takes num_classes=0.")
        self.head = nn.Identity()
        if self._num_classes:
            self.head = nn.Linear(self.head_hidden_size, self._num_classes, **self._device_dtype())
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
        self.head.train(self.training)

    def _complete_cfg(self, cfg: dict[str, Any]) -> dict[str, Any]:
        return cfg_of_backbone(self, cfg, classifier='head')

    @property
    def head_hidden_size(self) -> int:
        return self.backbone.head_hidden_size if self.probe == 'linear' else self.backbone.num_features

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            **backbone_args: Any,
    ) -> None:
        """As in `VideoModel`.

        Raises:
            ValueError: Also for another number of frames of STEP, which has learned their positions.
        """
        if self.probe == 'step' and (num_frames or self.num_frames) != self.num_frames:
            raise ValueError(
                f'STEP has learned positions of {self.num_frames} frames: build a model with num_frames={num_frames}.')
        super().set_input_size(img_size, num_frames, layout, **backbone_args)

    def prune_intermediate_layers(
            self,
            indices: int | list[int] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> list[int]:
        """Removes the layers that the given levels do not need, and with `prune_head` also the probe."""
        dim = self.backbone.num_features
        levels = self.backbone.prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=prune_head)
        if prune_head or self.backbone.num_features != dim:
            self.pooler, self.probe, self._num_classes = nn.Identity(), 'linear', 0
            self._build_heads()
        return levels

    def forward_head(self, x: Tensor, pre_logits: bool = False, frame_indices: Tensor | None = None) -> Tensor:
        """Features of `forward_features` -> logits `[B, num_classes]`, or what the probe pools if `pre_logits`.

        Args:
            x: Features of the frames in the backbone's shape.
            pre_logits: Whether to leave out the classifier.
            frame_indices: Which frames of the video they are, `[T]` or `[B, T]`, for `positions='sincos'`; by default
                0...T-1.
        """
        if self.probe == 'linear':
            x = average_images(self.backbone.forward_head(x, pre_logits=True), self.num_images)
            return x if pre_logits or self.unpooled else self.head(x)
        x = as_tokens(x, self.num_images, self.num_skipped, self.channels_first)
        if self.unpooled:
            return x.flatten(1, 2)
        if self.has_positions:
            x = add_positions(x, frame_indices)
        x = self.pooler(x if self.probe == 'step' else x.flatten(1, 2))
        return x if pre_logits else self.head(x)

    @property
    def encodes_frames(self) -> bool:
        return True

    def forward_frames(self, x: Tensor) -> Tensor:
        return self.backbone.forward_features(self.frame_images(x))

    def forward_clips(self, x: Tensor) -> Tensor:
        return self.forward_head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Clips `[B, C, T, H, W]`, float normalised or uint8 -> logits `[B, num_classes]`."""
        return self.forward_head(self.backbone.forward_features(self.super_image(x)))

    @torch.jit.ignore
    def filter_checkpoint(self, state_dict: dict[str, Any]) -> dict[str, Tensor]:
        """As of every `AdapterModel`; the probe may have the names of the official code (`classifier.pooler....`)."""
        names = {'classifier.linear.': 'head.', 'classifier.pooler.': 'pooler.'}
        weights = unwrap_checkpoint(state_dict)
        for official, ours in names.items():
            weights = {ours + key.removeprefix(official) if key.startswith(official) else key: tensor
                       for key, tensor in weights.items()}
        if any(key.startswith('pooler.') for key in weights) and not any(k.startswith('backbone.') for k in weights):
            raise RuntimeError(
                'This is a probe without its backbone: load the backbone by pretrained=True and the probe by '
                'load_adapters() or, under official names, model.pooler.load_state_dict().')
        return super().filter_checkpoint(weights)
