"""ZeroI2V: some attention heads look at other frames, and linear adapters can be merged into the backbone.

Paper: "ZeroI2V: Zero-Cost Adaptation of Pre-trained Transformers from Image to Video", Li, Zhu and Wang, ECCV 2024,
https://arxiv.org/abs/2310.01324. Official code (Apache-2.0): https://github.com/MCG-NJU/ZeroI2V.

Space-time dual-headed attention (STDHA) takes some channels of the keys and values from another frame of the clip:
k'[t] = k[t + o] if there is such a frame, else k[t]. Queries are not shifted. Each frame then attends over its own
tokens as usual. `frame_shifts` lists offsets o with their numbers of channels, counted from the first channel of the
first head. Linear adapters L(z) = z + s W_up W_down z, biases included, stand before and behind both frozen sublayers:

    x = x + L_attn_out(STDHA(L_attn_in(LN1 x)))
    x = x + L_mlp_out(MLP(L_mlp_in(LN2 x)))

An embedding of time is added in front of CLIP's first norm. The end is the norm of every frame, its class token, the
mean over the frames, and the classifier. Adapters, embedding of time, last norm and classifier are trained. W_up starts
at zero, but heads are shifted from the first step. After training, `merge_adapters()` leaves a plain transformer with
shifted heads. With A = I + s W_up W_down and b = s (W_up b_down + b_up), a linear layer W, c becomes W A, W b + c if
the adapter stood before it, and A W, A c + b if it stood behind it.

| M parameters, 8 frames, 400 classes | adapters | trained | total | merged | GMAC per view | merged, 3 views |
|---|---|---|---|---|---|---|
| `zeroi2v_clip_b` | 14.202 | 14.517 | 100.315 | 86.113 (paper: 86) | 162.8 | 422 (422) |
| `zeroi2v_clip_l` | 50.455 | 50.875 | 354.052 | 303.598 (304) | 751.6 | 1944 (1946) |

    model = timm.create_model('zeroi2v_clip_b', pretrained=True, num_classes=51)
    model.freeze_backbone()
    ...                                         # train
    model.merge_adapters()                      # optimize, export and save what is left

`flatzoo convert` takes the official files (before merging). The authors keep them on the Hub, but we could not confirm
their names, so no tag names them. The paper does not mention layer scale, which DINOv2 has. There adapters stand before
the layer scale, so that merging stays exact. The official code averages the probabilities of views; flatzoo averages
their logits. The official class for merged weights omits the third group of heads; here it is kept.
"""
from collections.abc import Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from flatzoo.data.protocol import EvalProtocol
from flatzoo.layers.bottleneck import Bottleneck
from flatzoo.layers.frame_shift import shift_frames

from .adapter_builder import (
    CLIP_B,
    CLIP_L,
    DINOV2_B,
    adapter_cfg,
    adapter_entry_point,
    check_numbers,
    check_places,
    register_adapter_records,
)
from .merge_adapters import merge_block
from .record import Paper
from .temporal_embed import TemporalEmbedModel, official_names

__all__ = ['ZeroI2V']  # timm's registry appends the entry points

_PLACES = ('attn_in', 'attn_out', 'mlp_in', 'mlp_out')


class ZeroI2V(TemporalEmbedModel):
    """A frozen image transformer with heads that look at other frames and linear adapters.

    Args:
        backbone: Name of a timm model; see `flatzoo.models.block_runner`. Hiera is refused.
        frame_shifts: Offsets in frames, or pairs of an offset and its number of channels, in the order of the channels.
        shift_div: An offset without a number gets 1 / `shift_div` of all channels. The default 12 is a head of a ViT-B.
        places: Places of adapters: `attn_in`, `attn_out`, `mlp_in`, `mlp_out`.
        adapter_scale: The constant s.
        bottleneck_ratio: Width of the adapters divided by that of a token.
        adapter_drop: Dropout within the adapters.
        merged: Whether the adapters were merged, so that there are none. `merge_adapters` sets it for saved models.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
        **kwargs: As for `AdapterModel`.

    Attributes:
        adapters: Per block, the adapters by their place.
        frame_shifts: Pairs of an offset and its number of channels.

    Raises:
        ValueError: If an argument is not accepted or does not fit the backbone.
    """
    method = 'ZeroI2V'
    attends_as_backbone = False
    refuses_hiera = 'the keys of its windows have no counterpart in another frame'
    official_keys = official_names(
        T_Adapter_in='attn_in', S_Adapter='attn_out', MLP_Adapter='mlp_in', MLP_Adapter_out='mlp_out')

    def __init__(
            self,
            backbone: str,
            frame_shifts: Sequence[int | Sequence[int]] = (-1, 1),
            shift_div: int = 12,
            places: Sequence[str] = _PLACES,
            adapter_scale: float = 0.5,
            bottleneck_ratio: float = 0.25,
            adapter_drop: float = 0.1,
            merged: bool = False,
            device=None,
            dtype=None,
            **kwargs: Any,
    ):
        super().__init__(backbone, device=device, dtype=dtype, **kwargs)
        check_numbers(
            shift_div=(shift_div, int), adapter_scale=(adapter_scale, float),
            bottleneck_ratio=(bottleneck_ratio, float))
        dim = self.runner.width(self.backbone.blocks[0])
        pairs = [(pair, dim // shift_div) if isinstance(pair, int) else tuple(pair) for pair in frame_shifts]
        whole = all(len(pair) == 2 and all(isinstance(n, int) for n in pair) and pair[1] > 0 for pair in pairs)
        if not whole or sum(channels for _, channels in pairs) > dim:
            raise ValueError(
                f'frame_shifts={list(frame_shifts)}: offsets, or pairs of an offset and its number of channels, are '
                f'accepted, with {dim} channels in all for {self._backbone_name} (shift_div={shift_div}).')
        self.frame_shifts, self.merged = pairs, merged
        places = [] if merged else check_places(places, _PLACES)
        shifts = [list(pair) for pair in pairs]
        self.adapter_args = dict(
            frame_shifts=shifts, places=places, adapter_scale=adapter_scale, bottleneck_ratio=bottleneck_ratio)
        self.adapters = nn.ModuleList(
            nn.ModuleDict({
                place: Bottleneck(
                    dim, int(bottleneck_ratio * dim), act=False, skip=True, scale=adapter_scale, drop=adapter_drop,
                    device=device, dtype=dtype) for place in places})
            for _ in self.backbone.blocks)
        self._build_heads()

    def _run_block(self, index: int, x: Tensor, position: Tensor | None) -> Tensor:
        block, runner, adapters = self.backbone.blocks[index], self.runner, self.adapters[index]

        def adapt(place: str, z: Tensor) -> Tensor:
            return adapters[place](z) if place in adapters else z

        z = adapt('attn_in', block.norm1(x))
        q, k, v = runner.qkv(block, z, position)
        k, v = (shift_frames(tensor, self.num_frames, self.frame_shifts) for tensor in (k, v))
        x = x + runner.attention_branch(block, adapt('attn_out', runner.attend(block, z, q, k, v)))
        z = block.mlp(adapt('mlp_in', block.norm2(x)))
        return x + runner.mlp_branch(block, adapt('mlp_out', z))

    @torch.jit.ignore
    def merge_adapters(self) -> 'ZeroI2V':
        """Merges the adapters into the linear layers of the backbone. Logits stay the same, except for rounding (1e-6).

        The merged model is saved, exported and optimised like any other. Its adapters can no longer be saved, because
        the backbone is not the published one.

        Returns:
            The model itself.

        Raises:
            ValueError: A layer cannot take its adapter, or weights are of half precision. Nothing is changed.
        """
        changes = [merge_block(block, places) for block, places in zip(self.backbone.blocks, self.adapters)]
        with torch.no_grad():
            for parameter, value in (pair for block in changes for pair in block):
                parameter.copy_(value)
        self.adapters = nn.ModuleList(nn.ModuleDict() for _ in self.backbone.blocks)
        self.merged, self.adapter_args['places'] = True, []
        self._model_args = {**self._model_args, 'merged': True}
        return self


PAPER = Paper(
    'ZeroI2V', 'arXiv:2310.01324', 'ZeroI2V: Zero-Cost Adaptation of Pre-trained Transformers from Image to Video',
    'Li, Xinhao and Zhu, Yuhan and Wang, Limin', 2024, 'li2024zeroi2v')


_VARIANTS = {  # name -> summary, backbone, stride of its protocol if it is dense, arguments
    'zeroi2v_clip_b': ('CLIP ViT-B/16, 8 frames, as for Kinetics-400', CLIP_B, 16, {}),
    'zeroi2v_clip_b_ssv2': (
        'CLIP ViT-B/16, 16 frames, as for Something-Something v2', CLIP_B, None,
        dict(num_frames=16, frame_shifts=(-1, 1, -2, 2), adapter_scale=1., adapter_drop=0.)),
    'zeroi2v_clip_l': ('CLIP ViT-L/14, 8 frames, as for Kinetics-400', CLIP_L, 16, dict(shift_div=8)),
    'zeroi2v_clip_l_32f': (
        'CLIP ViT-L/14, 32 frames, as for Kinetics-400', CLIP_L, 4,
        dict(num_frames=32, shift_div=8, frame_shifts=(-1, 1, -2))),
    'zeroi2v_clip_l_ssv2': (
        'CLIP ViT-L/14, 32 frames, as for Something-Something v2', CLIP_L, None,
        dict(num_frames=32, adapter_scale=1., frame_shifts=((-1, 128), (1, 128), (-2, 64), (2, 64), (-3, 64)))),
    'zeroi2v_dinov2_b': ('DINOv2 ViT-B/14, 8 frames', DINOV2_B, 16, {}),
}
default_cfgs = generate_default_cfgs({
    f'{name}.{backbone.partition(".")[2]}': adapter_cfg(PAPER, backbone, num_classes=400 if stride else 174)
    for name, (_, backbone, stride, _) in _VARIANTS.items()})
register_adapter_records(PAPER, {
    f'{name}.{backbone.partition(".")[2]}': EvalProtocol(
        rule='zeroi2v', **dict(sampling='dense', stride=stride, num_clips=3) if stride else dict(num_crops=3))
    for name, (_, backbone, stride, _) in _VARIANTS.items()})
for _name, (_summary, _backbone, _, _args) in _VARIANTS.items():
    globals()[_name] = adapter_entry_point(ZeroI2V, _name, f'ZeroI2V on a frozen {_summary}.', _backbone, **_args)
