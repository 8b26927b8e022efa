"""TSM: an image CNN whose channels move one frame along time, at no cost.

Paper: "TSM: Temporal Shift Module for Efficient Video Understanding", Lin, Gan and Han, ICCV 2019,
https://arxiv.org/abs/1811.08383. Official code: https://github.com/mit-han-lab/temporal-shift-module (MIT).

The network runs over every frame. In front of each residual branch 1/8 of the channels comes from the next frame and
1/8 from the frame before (`shift='both'`), so a 2D convolution sees three frames. The logits of the frames are
averaged. With `shift='past'` only 1/8 comes from the frame before, and nothing from the next one. Such a network can
answer while a video runs.

    model = timm.create_model('tsm_online_mobilenetv2_100', pretrained=True).eval()
    state = None
    for frame in video:                             # [B, C, H, W], normalised or uint8
        logits, state = model.step(frame, state)    # their mean over the frames is model(clip)

A clip of one frame does not give the answer of the image network, because a quarter of its channels is zero.
"""
from typing import Any

import torch
from torch import Tensor, nn

from flatzoo.layers import Layout
from flatzoo.layers.layout import LayoutSpec
from flatzoo.weights.checkpoint import account_for_keys, image_checkpoint, prefixed_weights, unwrap_checkpoint

from ..backbone import default_img_size
from ..base import Size, VideoModel
from ..superimage import cfg_of_backbone
from .names import rename, with_places
from .non_local import insert_non_local
from .shift import TemporalShift, frames_are_clips, insert_shifts

__all__ = ['TSM']


class TSM(VideoModel):
    """An image CNN with temporal shifts.

    Args:
        backbone: A timm CNN with residual or inverted-residual blocks.
        num_frames: Frames T per clip. The same weights take any number.
        layout: `time:1` is the only layout, because frames are looked at one by one.
        img_size: Frame size in pixels. By default that of the backbone's weights.
        shift: `both` directions, or only from the `past`.
        shift_div: 1 / `shift_div` of the channels, rounded down, move in one direction.
        shift_place: `blockres`, in front of the residual branch, or `block`, in front of the whole block.
        non_local: Whether stages 2 and 3 of a ResNet get non-local blocks.
        **kwargs: As for `VideoModel`. Arguments that it does not know go to the backbone.

    Raises:
        ValueError: If an argument is unknown, or the backbone has no place for a shift.
    """

    def __init__(
            self,
            backbone: str = 'resnet50',
            num_frames: int = 8,
            layout: LayoutSpec = 'time:1',
            img_size: Size | None = None,
            shift: str = 'both',
            shift_div: int = 8,
            shift_place: str = 'blockres',
            non_local: bool = False,
            **kwargs: Any,
    ):
        for name, value, accepted in (
                ('shift', shift, ('both', 'past')), ('shift_place', shift_place, ('blockres', 'block'))):
            if value not in accepted:
                raise ValueError(f'{name}={value!r} is none of {", ".join(map(repr, accepted))}.')
        if not isinstance(shift_div, int) or shift_div < 2:
            raise ValueError(f'shift_div={shift_div!r}: a whole number of at least 2 is accepted.')
        if non_local and shift == 'past':
            raise ValueError("non_local=True attends to future frames, so it cannot be used with shift='past'.")
        _check_layout(layout)
        super().__init__(
            backbone, num_frames, layout, default_img_size(backbone) if img_size is None else img_size, **kwargs)
        self.streams = shift == 'past'
        insert_shifts(self.backbone, backbone, num_frames, shift_div, self.streams, shift_place)
        if non_local:
            insert_non_local(self.backbone, backbone, num_frames, kwargs.get('device'), kwargs.get('dtype'))
        self._init_classifier()
        self.check_input_size()

    def _complete_cfg(self, cfg: dict[str, Any]) -> dict[str, Any]:
        return cfg_of_backbone(self, cfg)

    def _init_classifier(self) -> None:
        classifier = self.get_classifier()
        if isinstance(classifier, nn.Linear):
            nn.init.normal_(classifier.weight, std=0.001)
            nn.init.zeros_(classifier.bias)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        self._init_classifier()

    def _check_image(self, backbone: nn.Module, super_image: Any) -> None:
        with frames_are_clips(backbone):  # the trial is one image
            super()._check_image(backbone, super_image)

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            **backbone_args: Any,
    ) -> None:
        _check_layout(self.layout if layout is None else layout)
        super().set_input_size(img_size, num_frames, layout, **backbone_args)
        for module in self.backbone.modules():
            if hasattr(module, 'num_frames'):
                module.num_frames = self.num_frames

    def step(self, frame: Tensor, state: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Classifies the next frame of a stream. The model must have `shift='past'`.

        Args:
            frame: `[B, C, H, W]`, one frame of B streams, float normalised or uint8 (0...255).
            state: The state from the last step. None at the start of a stream.

        Returns:
            The logits of this frame `[B, num_classes]`, and the new state: for each shift the channels that the next
            frame needs, `[B, C_i // shift_div, h_i, w_i]`. The mean of the logits over the frames of a clip equals
            `model(clip)`.

        Raises:
            ValueError: The model uses future frames, or frame and state do not fit it.
        """
        if not self.streams:
            raise ValueError("This model uses future frames: build it with shift='past' (tsm_online_...).")
        shifts = [module for module in self.backbone.modules() if isinstance(module, TemporalShift)]
        if state is not None and len(state) != len(shifts):
            raise ValueError(f'A state of this model is a list of {len(shifts)} tensors, got {len(state)}.')
        try:
            for shift, past in zip(shifts, state or [None] * len(shifts), strict=True):
                shift.streams, shift.past = True, past
            logits = self.backbone(self.frame_images(frame))
            return logits, [shift.past for shift in shifts]
        finally:
            for shift in shifts:
                shift.streams, shift.past = False, None

    @torch.jit.ignore
    def filter_checkpoint(self, state_dict: dict[str, Any]) -> dict[str, Tensor]:
        """Accepts weights of this class, of the official code, of mmaction2 (ResNets), or of the image backbone.

        Raises:
            RuntimeError: Keys are left over or missing, or the weights were trained with shifts in other places.
        """
        state_dict, tells_places = rename(unwrap_checkpoint(state_dict), self.backbone)
        if any(key.startswith('backbone.') for key in state_dict):
            return account_for_keys(self, state_dict)
        if tells_places:
            return account_for_keys(self, prefixed_weights(state_dict))
        weights = {key.removeprefix('backbone.'): tensor for key, tensor in image_checkpoint(state_dict, self).items()}
        return account_for_keys(self, prefixed_weights(with_places(weights, self.backbone)), optional=('.nl.',))


def _check_layout(layout: LayoutSpec) -> None:
    if str(Layout(layout)) != str(Layout('time:1')):
        raise ValueError(
            f"layout={str(layout)!r}: TSM looks at frames one by one, so layout='time:1' is the only one. For "
            "frames in one image use 'superimage'.")
