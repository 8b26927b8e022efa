"""AM Flow: adapters for time on a frozen image transformer, which see motion in the change of its attention maps.

Paper: "AM Flow: Adapters for Temporal Processing in Action Recognition", Agrawal, Ali, Dantcheva and Bremond, 2024,
https://arxiv.org/abs/2411.02065. No official code or weights are known.

The image transformer runs over every frame. AM flow is the change of its attention map from one frame to the next,
summed per key token (equation 3). If the camera moves, an aligning encoder first makes the frames comparable (equations
4 and 5). Scaled parallel adapters run beside both sublayers of every block. The adapter beside attention sees AM flow
(equations 1 and 6). The activations of their bottlenecks go through temporal units, each with its own logits.

The paper states the equations, an aligning encoder with 12 heads and linear attention, two temporal units per block,
the mean of all logits (25 for ViT-B), and flow in all blocks (AM/12) or in the first and the last (AM/2). It does not
state the widths, the layout of encoder and temporal units, the role of heads and class token, where tokens are
averaged, the flow of the last frame, and how to train. Our choices:

- Heads are channels. Class token and registers take part. Tokens are averaged before the temporal units.
- The last frame repeats the flow of the last pair. W_up starts at zero.
- The backbone's own logits are those of the last frame's adapted features. With `backbone_logits='plain'` they come
  from a second pass without adapters.
- Temporal units normalise what they see, see `flatzoo.models.amflow.temporal_unit`. Without that they learn little.
- Widths are arguments. Those of the names without suffix come closest to the parameters that the paper prints for
  ViT-B, within 2 % in sum. `benchmarks/results/amflow_parameters.md` says what cannot be met, and why.

Start with a `_lite` model.

| M parameters (400 classes), trained / all | `_tcn` | `_lstm` | `_transformer` |
|---|---|---|---|
| `amflow_dinov2_s` | 93.6 / 115.2 | 394.8 / 416.4 | 95.9 / 117.5 |
| `amflow_dinov2_b` | 129.4 / 215.1 | 444.2 / 530.0 | 178.2 / 263.9 |
| `amflow_dinov2_l` | 314.7 / 617.9 | 960.8 / 1264.0 | 487.1 / 790.3 |
| `amflow_clip_b` | 129.4 / 215.1 | 444.2 / 530.0 | 178.2 / 264.0 |
| `amflow_dinov2_s`, `_lite` | 9.3 / 30.9 | 13.6 / 35.2 | 13.8 / 35.4 |
| `amflow_dinov2_b`, `_lite` | 13.0 / 98.7 | 17.3 / 103.1 | 17.5 / 103.2 |
| `amflow_dinov2_l`, `_lite` | 30.5 / 333.7 | 39.2 / 342.5 | 39.6 / 342.8 |
| `amflow_clip_b`, `_lite` | 13.0 / 98.8 | 17.3 / 103.1 | 17.5 / 103.3 |
| `amflow_dinov2_b_smarthome` (AM/2, vanilla, 31 classes) | | 84.7 / 170.4 | |

We chose the widths of S and L: the bottleneck is 5/6 of the backbone's width, as in B, in steps of 64.

    model = timm.create_model('amflow_dinov2_b_tcn_lite', pretrained=True, num_classes=51)
    model.freeze_backbone()
    ...                                         # train
    model.save_adapters('mine.safetensors')     # all but the backbone
    model = flatzoo.models.model_from_adapters('mine.safetensors')

`pretrained=True` loads the image weights of the backbone, DINOv2 or OpenAI's CLIP, both Apache-2.0. Everything else is
untrained. `backbone=` takes any other plain ViT, with its own weights and their licence
(`model.pretrained_cfg['license']`). MetaCLIP and most Hiera weights are not for commercial use; DINOv3 has a licence of
its own.

The adapters of some other methods can be merged into the backbone after training. These cannot: there is a ReLU between
their two matrices, and AM flow differs from clip to clip.
"""
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from flatzoo.layers import attention_map_flow, attention_received
from flatzoo.layers.layout import LayoutSpec

from ..adapter_builder import build_adapter_model, model_from_adapters
from ..adapter_model import AdapterModel
from ..backbone import image_weights
from ..base import Size
from ..record import register_records
from .adapters import HyperAdapter, HyperNetwork, ParallelAdapter, SerialAdapter
from .aligning_encoder import AligningEncoder
from .facts import PAPER, record
from .logit_fusion import HeadBank, LogitFusion
from .temporal_unit import LSTMUnit, TCNUnit, TransformerUnit

__all__ = ['AMFlow', 'amflow_from_adapters']  # timm's registry appends the entry points

_logger = logging.getLogger(__name__)

_CHOICES = dict(
    flow=('aligned', 'vanilla', 'none'), temporal=('tcn', 'lstm', 'transformer'),
    adapter=('parallel', 'serial', 'hyper'), fusion=('mean', 'linear', 'random'), squeeze=('before', 'after'),
    unit_norm=('batch', 'none'), backbone_logits=('adapted', 'plain'),
)


class AMFlow(AdapterModel):
    """An image transformer with adapters that see how its attention changes from frame to frame.

    The backbone runs over every frame. Each of its two sublayers has an adapter beside it. The adapter beside attention
    also takes AM flow, the change of the block's attention map to the next frame. The activations of both bottlenecks
    are averaged over tokens; each goes through a temporal unit and a linear head. The logits of all units and those of
    the last frame's features of the backbone are fused.

    Nothing is frozen until `freeze_backbone()`. The method trains everything that is not under `backbone.`.

    The flow has the precision of the queries and keys. In bfloat16, also under autocast, changes of attention below
    half a percent are lost. The output of the aligning encoder is a difference, so it has noise of that size.

    The arguments are many and flat, as timm's are: each keyword of `timm.create_model` is one of them, is written into
    `config.json` and `adapter_args`, and overrides the entry point's. They come in groups: clip and classes (`backbone`
    to `num_classes`), method (`flow` to `bottleneck`), aligning encoder (`aligner_*`), and temporal units (`tcn_*`,
    `lstm_*`, `transformer_*` with `max_frames`), of which only those of the chosen kind are used.

    Args:
        backbone: Name of a timm model; see `flatzoo.models.block_runner` for those that are accepted.
        num_frames: Frames T per clip, at least 2.
        layout: `time:1` is the only layout, because frames are looked at one by one.
        img_size: Frame size in pixels, any that the backbone takes.
        in_chans: Channels per frame.
        num_classes: Number of classes. 0 gives pooled features of the last frame.
        flow: `aligned` (equations 4 and 5: for moving cameras), `vanilla` (equation 3) or `none`.
        temporal: Temporal units: `tcn`, `lstm` or `transformer`.
        am_blocks: Blocks with AM flow and temporal units, counted from 0, or from the end if negative. None takes all
            blocks. The other blocks only get adapters. The paper's AM/2 is `(0, -1)`.
        adapter: `parallel` to the sublayer, `serial` behind it, or `hyper`: parallel, with the weights of all adapters
            from one shared network.
        fusion: How logits are fused: by their `mean`, by learned `linear` weights, or by fixed `random` weights.
        squeeze: Where tokens are averaged: `before` the temporal units, or `after` them. In the second case the units
            run for every token.
        unit_norm: How temporal units normalise their vectors first: `batch`, without weights, or `none`.
        flow_grad: Whether gradients flow through queries and keys into earlier blocks. Without them training is
            cheaper.
        backbone_logits: Source of the backbone's own logits: the `adapted` features of the last frame, or a second,
            `plain` pass of the last frame through the backbone without adapters. The paper allows both readings.
        bottleneck: Width of the adapters' bottleneck and of the input of the temporal units.
        aligner_dim: Width of the aligning encoder.
        aligner_depth: Its layers.
        aligner_mlp_dim: Hidden width of its MLPs.
        aligner_heads: Its attention heads.
        tcn_dim: Channels of the TCN.
        tcn_kernel_size: Frames of its kernels, odd.
        tcn_dilations: Dilations of its convolutions.
        lstm_dim: Width of the LSTM's state.
        lstm_depth: Its layers.
        transformer_mlp_dim: Hidden width of the temporal transformer's MLP.
        transformer_depth: Its blocks.
        transformer_heads: Its attention heads.
        max_frames: Number of frames for which the temporal transformer has positions.
        device: Device of parameters and buffers.
        dtype: Floating dtype of parameters and buffers.
        **kwargs: As for `VideoModel`. Arguments that it does not know go to the backbone.

    Attributes:
        adapters: Per block, the adapters `attn` and `mlp`. A block that pools its tokens has no `attn`.
        aligners: Aligning encoders by block.
        temporal: Temporal units `attn` and `mlp` by block.
        head: Classifier of the last frame's features.
        side_head: Classifiers of the temporal units.
        am_blocks: Indices of the blocks with AM flow and temporal units.

    Raises:
        ValueError: If an argument is unknown, or does not fit the backbone or the clip.
    """
    method = 'AM Flow'
    layout_reason = 'compares one frame with the next'
    by_block = ('adapters', 'aligners', 'temporal')
    args_of_old_files = {'backbone_logits': 'adapted', 'unit_norm': 'none'}

    def __init__(
            self,
            backbone: str,
            num_frames: int = 8,
            layout: LayoutSpec = 'time:1',
            img_size: Size = 224,
            in_chans: int = 3,
            num_classes: int = 400,
            flow: str = 'aligned',
            temporal: str = 'tcn',
            am_blocks: Sequence[int] | None = None,
            adapter: str = 'parallel',
            fusion: str = 'mean',
            squeeze: str = 'before',
            unit_norm: str = 'batch',
            flow_grad: bool = True,
            backbone_logits: str = 'adapted',
            bottleneck: int = 640,
            aligner_dim: int = 192,
            aligner_depth: int = 4,
            aligner_mlp_dim: int = 2048,
            aligner_heads: int = 12,
            tcn_dim: int = 320,
            tcn_kernel_size: int = 5,
            tcn_dilations: Sequence[int] = (1, 2, 4),
            lstm_dim: int = 1024,
            lstm_depth: int = 2,
            transformer_mlp_dim: int = 2048,
            transformer_depth: int = 1,
            transformer_heads: int = 8,
            max_frames: int = 32,
            device=None,
            dtype=None,
            **kwargs: Any,
    ):
        chosen = dict(
            flow=flow, temporal=temporal, adapter=adapter, fusion=fusion, squeeze=squeeze, unit_norm=unit_norm,
            backbone_logits=backbone_logits)
        for name, value in chosen.items():
            if value not in _CHOICES[name]:
                raise ValueError(f'{name}={value!r} is none of {", ".join(map(repr, _CHOICES[name]))}.')
        self._check_clip_args(num_frames, flow, temporal, max_frames)
        super().__init__(
            backbone, num_frames=num_frames, layout=layout, img_size=img_size, in_chans=in_chans,
            num_classes=num_classes, device=device, dtype=dtype, **kwargs)
        self.flow, self.squeeze, self.serial, self.flow_grad = flow, squeeze, adapter == 'serial', flow_grad
        self.backbone_logits = backbone_logits
        self.am_blocks = self._resolve_blocks(am_blocks)
        widths = dict(
            bottleneck=bottleneck, aligner_dim=aligner_dim, aligner_depth=aligner_depth,
            aligner_mlp_dim=aligner_mlp_dim, aligner_heads=aligner_heads, tcn_dim=tcn_dim,
            tcn_kernel_size=tcn_kernel_size, tcn_dilations=_numbers('tcn_dilations', tcn_dilations), lstm_dim=lstm_dim,
            lstm_depth=lstm_depth, transformer_mlp_dim=transformer_mlp_dim, transformer_depth=transformer_depth,
            transformer_heads=transformer_heads, max_frames=max_frames)
        for name, value in widths.items():
            for number in value if isinstance(value, list) else [value]:
                if not isinstance(number, int) or number < 1:
                    raise ValueError(f'{name}={value!r}: whole numbers of at least 1 are accepted.')
        # what the numbers depend on, beside the backbone
        self.adapter_args: dict[str, Any] = dict(chosen, am_blocks=self.am_blocks, **widths)

        dd = dict(device=device, dtype=dtype)
        blocks = self.backbone.blocks
        flow_dims = {i: self.runner.num_heads(blocks[i]) for i in self.am_blocks} if flow != 'none' else {}
        self.hypernetwork = self._hypernetwork(set(flow_dims.values()), **dd) if adapter == 'hyper' else None
        self.adapters = nn.ModuleList()
        for i, block in enumerate(blocks):
            places = nn.ModuleDict()
            if self.runner.keeps_tokens(block):
                places['attn'] = self._adapter(self.runner.width(block), flow_dims.get(i, 0), **dd)
            places['mlp'] = self._adapter(self.runner.width(block), 0, **dd)
            self.adapters.append(places)
        self.aligners = nn.ModuleDict({
            str(i): AligningEncoder(num_heads, aligner_dim, aligner_depth, aligner_mlp_dim, aligner_heads, **dd)
            for i, num_heads in flow_dims.items() if flow == 'aligned'})
        self.temporal = nn.ModuleDict({
            str(i): nn.ModuleDict({place: self._temporal_unit(**dd) for place in ('attn', 'mlp')})
            for i in self.am_blocks})
        self.fusion = LogitFusion(2 * len(self.am_blocks) + 1, fusion, **dd)
        self._build_heads()
        self.register_load_state_dict_pre_hook(_fit_old_weights)

    # What the model is made of

    @staticmethod
    def _check_clip_args(num_frames: int, flow: str, temporal: str, max_frames: int) -> None:
        if num_frames == 1 and flow != 'none':
            raise ValueError("num_frames=1: AM flow compares frames. Give 2 or more, or flow='none'.")
        if temporal == 'transformer' and num_frames > max_frames:
            raise ValueError(
                f'num_frames={num_frames} is more than max_frames={max_frames}, for which the temporal transformer has '
                f'positions: build the model with max_frames={num_frames}.')

    def _resolve_blocks(self, indices: Sequence[int] | None) -> list[int]:
        """Indices of blocks from 0 upwards, in order."""
        blocks = self.backbone.blocks
        able = [i for i, block in enumerate(blocks) if self.runner.keeps_tokens(block)]
        if indices is None:
            return able
        indices, depth = _numbers('am_blocks', indices), len(blocks)
        found = sorted({i + depth if i < 0 else i for i in indices if -depth <= i < depth})
        if len(found) != len(indices) or not found or not set(found) <= set(able):
            pooling = [i for i in range(depth) if i not in able]
            but = f', but {", ".join(map(str, pooling))}, which pool their tokens' if pooling else ''
            raise ValueError(
                f'am_blocks={indices} must name at least one block, each once; {self._backbone_name} has blocks '
                f'0 to {depth - 1} (or -{depth} to -1){but}.')
        return found

    def _hypernetwork(self, flow_dims: set[int], **dd: Any) -> HyperNetwork:
        widths = {self.runner.width(block) for block in self.backbone.blocks}
        if len(widths) > 1 or len(flow_dims) > 1:
            raise ValueError(
                f"adapter='hyper' makes the weights of all adapters with one network, which takes blocks of one width; "
                f'{self._backbone_name} has widths {sorted(widths)}. Use another adapter or backbone.')
        return HyperNetwork(*widths, self.adapter_args['bottleneck'], *(flow_dims or (0,)), **dd)

    def _adapter(self, dim: int, flow_dim: int, **dd: Any) -> nn.Module:
        if self.hypernetwork is not None:
            return HyperAdapter(self.hypernetwork, flow_dim, **dd)
        return (SerialAdapter if self.serial else ParallelAdapter)(
            dim, self.adapter_args['bottleneck'], flow_dim, **dd)

    def _temporal_unit(self, **dd: Any) -> nn.Module:
        args = self.adapter_args
        dim, norm = args['bottleneck'], args['unit_norm']
        if args['temporal'] == 'tcn':
            return TCNUnit(dim, args['tcn_dim'], args['tcn_kernel_size'], args['tcn_dilations'], norm, **dd)
        if args['temporal'] == 'lstm':
            return LSTMUnit(dim, args['lstm_dim'], args['lstm_depth'], norm, **dd)
        return TransformerUnit(
            dim, args['transformer_mlp_dim'], args['transformer_depth'], args['transformer_heads'], args['max_frames'],
            norm, **dd)

    def _build_heads(self) -> None:
        """Fresh classifiers, of the last frame and of the temporal units."""
        super()._build_heads()
        self.side_head = nn.Identity()
        units = self._units()
        if self._num_classes and units:
            self.side_head = HeadBank(len(units), units[0].out_dim, self._num_classes, **self._device_dtype())
        self.side_head.train(self.training)

    @property
    def bfloat16_blurs(self) -> bool:
        """Whether bfloat16 loses what the model looks at: aligned flow is a small difference of large numbers."""
        return self.flow == 'aligned' and bool(self.am_blocks)

    @property
    def patch_grids(self) -> list[tuple[int, int]]:
        """Rows and columns of patches of a frame in every block of `am_blocks`."""
        return [self.runner.grid_size(self.backbone, self.image_size, i) for i in self.am_blocks]

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches of a frame, if all of `patch_grids` are the same (not for Hiera)."""
        return self.runner.grid_size(self.backbone, self.image_size, len(self.backbone.blocks) - 1)

    # The timm contract

    def _recorded_args(self, args: dict[str, Any]) -> dict[str, Any]:
        given = {key: list(args[key]) for key in ('am_blocks', 'tcn_dilations') if args.get(key) is not None}
        return super()._recorded_args({**args, **given})  # lists, since JSON holds no ranges

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay: those of the backbone, head biases, and tokens and positions of time."""
        ends = ('side_head.bias', '.cls_token', '.pos_embed')
        own = {name for name, _ in self.named_parameters() if name.endswith(ends) and not name.startswith('backbone.')}
        return super().no_weight_decay() | own

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """All classifiers: of the last frame and of the temporal units."""
        return nn.ModuleList([self.head, self.side_head])

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            **backbone_args: Any,
    ) -> None:
        """Changes the frame size or the number of frames, see `VideoModel.set_input_size`.

        Raises:
            ValueError: They do not fit AM flow or the backbone. Both keep their size.
        """
        args = self.adapter_args
        self._check_clip_args(num_frames or self.num_frames, args['flow'], args['temporal'], args['max_frames'])
        super().set_input_size(img_size, num_frames, layout, **backbone_args)

    def prune_intermediate_layers(
            self,
            indices: int | list[int] = 1,
            prune_norm: bool = False,
            prune_head: bool = True,
    ) -> list[int]:
        """Removes the blocks that the given levels do not need, with their adapters, and returns these levels.

        With `prune_head` all temporal units and classifiers are removed, too. Without, those of the kept blocks stay.
        """
        levels = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        depth = len(self.backbone.blocks)
        self.aligners = _without_blocks(self.aligners, depth)
        self.temporal = _without_blocks(self.temporal, depth)
        self.am_blocks = self.adapter_args['am_blocks'] = [i for i in self.am_blocks if i < depth]
        return levels

    def _prune_heads(self, remove: bool) -> None:
        kept = sum(i < len(self.backbone.blocks) for i in self.am_blocks)
        if remove:
            self.temporal = nn.ModuleDict()
            self.fusion = nn.Identity()
        elif kept < len(self.temporal):
            self._keep_classifiers(2 * kept)
        super()._prune_heads(remove)

    def _keep_classifiers(self, count: int) -> None:
        """Keeps the classifiers of the first temporal units, and the fusion weights of them and of the last frame."""
        with torch.no_grad():
            if count == 0:
                self.side_head = nn.Identity()
            for name, parameter in list(self.side_head.named_parameters()):
                setattr(self.side_head, name, nn.Parameter(parameter[:, :count].clone(), parameter.requires_grad))
            old, self.fusion = self.fusion, LogitFusion(count + 1, self.fusion.kind)
            if old.weight is not None:
                weight = torch.cat([old.weight[:count], old.weight[-1:]])
                self.fusion.to(weight).weight.copy_(weight).requires_grad_(old.weight.requires_grad)

    def _pool(self, x: Tensor) -> Tensor:
        """Features `[B, T, N, D]` -> those of the last frame, pooled."""
        return self.backbone.forward_head(x[:, -1], pre_logits=True)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens `[B, T, N, D]` -> logits `[B, num_classes]` of only the last frame, or its pooled features."""
        return super().forward_head(x, pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        """Clips `[B, C, T, H, W]`, float normalised or uint8 -> logits `[B, num_classes]`, all classifiers fused."""
        images = self._images(x)
        fuse = self._num_classes > 0 and len(self.temporal) > 0
        x, _, beside = self._run_blocks(images, seen=fuse)
        if not fuse:
            return self.forward_head(self._final(x))
        if self.backbone_logits == 'plain':
            last = images.unflatten(0, (-1, self.num_frames))[:, -1]
            logits = self.forward_head(self.backbone.forward_features(last).unsqueeze(1))
        else:
            logits = self.forward_head(self._final(x))
        seen = [vectors for block in self._seen(beside) for vectors in block.unbind(1)]
        units = [self._over_time(unit, vectors) for unit, vectors in zip(self._units(), seen, strict=True)]
        return self._fuse(torch.stack(units, dim=1), logits)

    def _over_time(self, unit: nn.Module, seen: Tensor) -> Tensor:
        """A temporal unit on what it sees of the frames, `[B * T, D]` or `[B * T, N, D]` -> `[B, U]`."""
        seen = seen.unflatten(0, (-1, self.num_frames))
        if seen.ndim == 3:
            return unit(seen)
        tokens = seen.shape[2]
        return unit(seen.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, tokens)).mean(1)  # over [B * N, T, D]

    def _units(self) -> list[nn.Module]:
        return [unit for places in self.temporal.values() for unit in places.values()]

    @staticmethod
    def _seen(beside: list[tuple]) -> list[Tensor]:
        return [seen for seen, _ in beside if seen is not None]

    def _fit_old_weights(self, weights: dict[str, Any]) -> None:
        names = [name for name in weights if name.startswith('temporal.')]
        if names and self.adapter_args['unit_norm'] != 'none' and not any('.input_norm.' in name for name in names):
            _logger.info("These weights are from before unit_norm='batch': the model gets unit_norm='none'.")
            for unit in self._units():
                unit.input_norm = nn.Identity()
            self.adapter_args['unit_norm'] = self._args['unit_norm'] = 'none'

    def _fuse(self, units: Tensor, logits: Tensor) -> Tensor:
        """Outputs of the temporal units `[B, S, U]` and the last frame's logits -> logits `[B, num_classes]`."""
        return self.fusion(torch.cat([self.side_head(units), logits.unsqueeze(1)], dim=1))

    @property
    def encodes_frames(self) -> bool:
        """So it is without flow: the temporal units then look at vectors of the frames, and nothing goes back."""
        late = self.flow == 'none' and self.squeeze == 'before' and self.backbone_logits == 'adapted'
        return late and self._num_classes > 0 and len(self.temporal) > 0

    def forward_frames(self, x: Tensor) -> Tensor:
        """Frames `[N, C, H, W]` -> what the temporal units see, and logits, `[N, S * D + num_classes]`."""
        x, _, beside = self._run_blocks(self.frame_images(x), seen=True)
        seen = torch.cat(self._seen(beside), dim=1)  # [N, S, D]
        logits = self.forward_head(self.runner.norm(self.backbone, x).unsqueeze(1))
        return torch.cat([seen.flatten(1), logits], dim=1)

    def forward_clips(self, x: Tensor) -> Tensor:
        """What `forward_frames` gave of the frames of clips, `[B * T, ...]` -> logits `[B, num_classes]`."""
        x = x.unflatten(0, (-1, self.num_frames))
        seen, logits = x.split([x.shape[2] - self._num_classes, self._num_classes], dim=2)
        units = self._units()
        outputs = [unit(vectors) for unit, vectors in zip(units, seen.chunk(len(units), dim=2), strict=True)]
        return self._fuse(torch.stack(outputs, dim=1), logits[:, -1])

    def attention_flows(self, x: Tensor) -> list[Tensor]:
        """The flow that the adapters get, for pictures.

        Args:
            x: Clips `[B, C, T, H, W]`.

        Returns:
            AM flow `[B, T, N, heads]` of every block of `am_blocks`. The first `num_prefix_tokens` tokens are no
            patches. The patches follow row by row; `patch_grids` has their rows and columns.

        Raises:
            ValueError: If the model has no flow.
        """
        if not self.am_blocks or self.flow == 'none':
            raise ValueError("This model was built with flow='none', or pruned to blocks without flow. It has no flow.")
        with torch.no_grad():
            beside = self._run_blocks(self._images(x), stop=self.am_blocks[-1] + 1)[2]
            flows = [flow for _, flow in beside if flow is not None]
            rows = [self.runner.in_rows(self.backbone, f.flatten(0, 1), i) for f, i in zip(flows, self.am_blocks)]
        return [flow.unflatten(0, (-1, self.num_frames)) for flow in rows]

    # How one block runs

    def _run_block(
            self,
            index: int,
            x: Tensor,
            position: Tensor | None,
            seen: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One block with its adapters (equations 1 and 6): tokens, what its temporal units see, AM flow.

        The units themselves run behind all blocks, since a block may run twice to save memory.

        Args:
            index: The block.
            x: Tokens of frames.
            position: Rotary positions of the tokens.
            seen: Whether to return the activations of both bottlenecks, `[B * T, 2, D]`, or `[B * T, 2, N, D]` for
                `squeeze='after'`. Blocks without temporal units return None.
        """
        block, runner, adapters = self.backbone.blocks[index], self.runner, self.adapters[index]
        hidden = []
        normed = block.norm1(x)
        q, k, v = runner.qkv(block, normed, position)
        flow = self._attention_flow(index, block, q, k)
        shortcut = runner.shortcut(block, x, normed)
        change = runner.attention_branch(block, runner.attend(block, normed, q, k, v))
        if 'attn' in adapters:
            delta, bottleneck = adapters['attn'](
                change if self.serial else normed, None if flow is None else flow.flatten(0, 1))
            change = change + delta
            hidden.append(bottleneck)
        x = shortcut + change

        normed = block.norm2(x)
        change = runner.mlp_branch(block, block.mlp(normed))
        delta, bottleneck = adapters['mlp'](change if self.serial else normed)
        hidden.append(bottleneck)
        x = x + (change + delta)

        if not seen or index not in self.am_blocks:
            return x, None, flow
        if self.squeeze == 'before':
            hidden = [bottleneck.mean(1) for bottleneck in hidden]
        return x, torch.stack(hidden, dim=1), flow

    def _attention_flow(self, index: int, block: nn.Module, q: Tensor, k: Tensor) -> Tensor | None:
        """AM flow of a block `[B, T, N, heads]`. None if the block has no flow."""
        if self.flow == 'none' or index not in self.am_blocks:
            return None
        if not self.flow_grad:
            q, k = q.detach(), k.detach()
        q, k = (self.runner.per_frame(tensor, self.num_frames) for tensor in (q, k))
        if self.flow == 'vanilla':
            return self.runner.per_token(block, attention_map_flow(q, k, scale=block.attn.scale))
        received = self.runner.per_token(block, attention_received(q, k, scale=block.attn.scale))
        return self.aligners[str(index)](received)


def _fit_old_weights(model: AMFlow, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    model._fit_old_weights({name.removeprefix(prefix): None for name in state_dict if name.startswith(prefix)})


amflow_from_adapters = model_from_adapters  # its name from the time when only AM Flow had adapters


def _numbers(name: str, values: Any) -> list[int]:
    """A sequence of numbers as a list."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise ValueError(f'{name}={values!r} must be a list of whole numbers.')
    return list(values)


def _without_blocks(modules: nn.ModuleDict, depth: int) -> nn.ModuleDict:
    return nn.ModuleDict({index: module for index, module in modules.items() if int(index) < depth})


_BACKBONES = {  # part of an entry point's name -> its backbone and the bottleneck that stands for the paper's
    'dinov2_s': dict(title='DINOv2 ViT-S/14', backbone='vit_small_patch14_dinov2', tag='lvd142m', bottleneck=320),
    'dinov2_b': dict(title='DINOv2 ViT-B/14', backbone='vit_base_patch14_dinov2', tag='lvd142m', bottleneck=640),
    'dinov2_l': dict(title='DINOv2 ViT-L/14', backbone='vit_large_patch14_dinov2', tag='lvd142m', bottleneck=832),
    'clip_b': dict(
        title='CLIP ViT-B/16', backbone='vit_base_patch16_clip_quickgelu_224', tag='openai', bottleneck=640),
}
_LITE = dict(
    bottleneck=192, aligner_dim=96, aligner_depth=1, aligner_mlp_dim=192, tcn_dim=64, lstm_dim=192, lstm_depth=1,
    transformer_mlp_dim=384)


def _variants() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Name of every entry point -> its part of `_BACKBONES`, its summary, its arguments."""
    found = {}
    for key, spec in _BACKBONES.items():
        args = dict(backbone=spec['backbone'], num_frames=8, img_size=224)
        for temporal, title in (('tcn', 'TCN'), ('lstm', 'LSTM'), ('transformer', 'transformer')):
            summary = f'AM flow, aligned, and {title} adapters on a frozen {spec["title"]}: 8 frames of 224 pixels'
            paper = dict(args, temporal=temporal, bottleneck=spec['bottleneck'])
            size = "of the paper's size" if key.endswith('_b') else "of the paper's size for ViT-B, scaled"
            found[f'amflow_{key}_{temporal}'] = key, f'{summary}, {size}.', paper
            found[f'amflow_{key}_{temporal}_lite'] = key, f'{summary}, small.', dict(paper, **_LITE)
    smarthome = dict(found['amflow_dinov2_b_lstm'][2], flow='vanilla', am_blocks=(0, -1))
    found['amflow_dinov2_b_smarthome'] = 'dinov2_b', (
        "The paper's set-up for Toyota Smarthome: AM flow, vanilla, and LSTM adapters in the first and the last block "
        'of a frozen DINOv2 ViT-B/14, plain adapters in the others, 8 frames of 224 pixels.'), smarthome
    return found


_VARIANTS = _variants()


def _cfg(backbone: str, tag: str, **kwargs: Any) -> dict[str, Any]:
    return {
        **image_weights(f'{backbone}.{tag}'),
        'num_classes': 400, 'input_size': (3, 224, 224), 'fixed_input_size': True, 'crop_pct': 1.0,
        'interpolation': 'bicubic', 'first_conv': 'backbone.patch_embed.proj', 'classifier': ('head', 'side_head'),
        'paper_name': PAPER.title, 'paper_ids': PAPER.id,
        **kwargs,
    }


default_cfgs = generate_default_cfgs({
    f'{name}.{_BACKBONES[key]["tag"]}': _cfg(
        **{field: value for field, value in _BACKBONES[key].items() if field not in ('title', 'bottleneck')},
        **(dict(num_classes=31) if name.endswith('smarthome') else {}))
    for name, (key, _, _) in _VARIANTS.items()
})

register_records({
    f'{name}.{_BACKBONES[key]["tag"]}': record(name, _BACKBONES[key]['backbone'], _BACKBONES[key]['tag'])
    for name, (key, _, _) in _VARIANTS.items()
})


def _entry_point(name: str, summary: str, model_args: dict[str, Any]) -> Callable[..., AMFlow]:
    def create(pretrained: bool = False, **kwargs: Any) -> AMFlow:
        return build_adapter_model(AMFlow, name, model_args['backbone'], pretrained, **dict(model_args, **kwargs))

    create.__name__ = create.__qualname__ = name
    create.__doc__ = summary
    return register_model(create)


globals().update({name: _entry_point(name, *rest) for name, (_, *rest) in _VARIANTS.items()})
