"""VideoMAE: a vision transformer over tubelets, and the video model behind the TIME layer.

Paper: "VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training", Tong et al.,
NeurIPS 2022, https://arxiv.org/abs/2203.12602. Official code: https://github.com/MCG-NJU/VideoMAE.

16 frames are cut into tubelets of 2x16x16 pixels. A plain ViT with fixed sinusoidal positions attends over all 8x14x14
tubelets, and the mean of its tokens is normalised and classified. Here it is timm's `VisionTransformer` with
`TubeletEmbed` as its embedding, inside of a `VideoModel` that gives it the frames of a clip one after the other. With
the layout `time:1` these are ordinary frames, with `time:N` the new frames of the TIME layer.

| name (400 classes) | params | key biases among them | G multiply-adds (16 x 224 x 224) |
|---|---|---|---|
| `videomae_vit_s` | 22.0 M | 4.6 k | 57 |
| `videomae_vit_b` | 86.5 M | 9.2 k | 180 |
| `videomae_vit_l` | 304.3 M | 24.6 k | 597 |

VideoMAE has biases on queries and values, but not on keys; timm's attention has all three. A key bias adds the same
number to all scores of a query, which does not change the softmax. With any key bias the output is that of VideoMAE,
and the gradient of the bias is zero. It is loaded as zero.

The weights are those of the original authors on the Hub. Tags `mcg_*` have the licence CC BY-NC 4.0, which excludes
commercial use. Tags `v2_*` (Apache-2.0) are small models that VideoMAE V2 (Wang et al., CVPR 2023,
https://arxiv.org/abs/2303.16727, official code https://github.com/OpenGVLab/VideoMAEv2) distilled from a giant model.
They are the same network, trained on Kinetics-710: the union of Kinetics-400, 600 and 700 without their validation
videos. `v2_k710` has all 710 classes. `v2_k710_k400` is the same file with its classifier cut to the rows of
Kinetics-400, as in the official code.
"""
import re
from functools import partial
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import generate_default_cfgs, register_model, register_notrace_module, resolve_pretrained_cfg
from torch import Tensor, nn

from flatzoo.data.protocol import EvalProtocol
from flatzoo.layers import SuperImage
from flatzoo.layers.layout import Layout, LayoutSpec
from flatzoo.weights.checkpoint import account_for_keys, prefixed_weights, unwrap_checkpoint

from ..base import Size, VideoModel, check_output_fmt
from ..builder import build_video_model, label_names
from ..record import KINETICS_400, KINETICS_710, SSV2, DataSet, Figure, Paper, TagRecord, register_records
from .tubelet_embed import TubeletEmbed

__all__ = ['VideoMAE']  # timm's registry appends the entry points

register_notrace_module(TubeletEmbed)  # fx: it looks at shapes


class VideoMAE(VideoModel):
    """A vision transformer that attends over the tubelets of a clip.

    Args:
        backbone: A timm `VisionTransformer`, which gets a `TubeletEmbed`, no class token, mean pooling and `fc_norm`.
        num_frames: Frames T per clip, even. With a TIME layout T / N^2 is even.
        layout: `time:1` for ordinary frames, or any layout that makes T* images of a clip, such as `time:2:spatial`.
            The images are then the frames that the transformer sees.
        img_size: Frame size in pixels, a multiple of 16.
        fc_norm_eps: Epsilon of the norm behind the mean: 1e-5 in transformers, 1e-6 in the official code. Logits differ
            by 1e-5.
        **kwargs: As for `VideoModel`. Arguments that it does not know go to the transformer (`drop_path_rate`, ...).

    Raises:
        ValueError: The clip is not a whole number of tubelets. The message says what is accepted.
    """

    def __init__(
            self,
            backbone: str,
            num_frames: int = 16,
            layout: LayoutSpec = 'time:1',
            img_size: Size = 224,
            fc_norm_eps: float = 1e-5,
            **kwargs: Any,
    ):
        layout = Layout(layout)
        embed_layer = partial(TubeletEmbed, num_frames=_num_images(layout, num_frames))
        kwargs.setdefault('global_pool', 'avg')
        super().__init__(
            backbone, num_frames=num_frames, layout=layout, img_size=img_size, embed_layer=embed_layer,
            class_token=False, pos_embed='none', fc_norm=True, **kwargs)
        self.num_images = 1  # a clip is one sequence of the transformer, so nothing is averaged
        self.backbone.fc_norm.eps = fc_norm_eps

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay: none, the positions are fixed."""
        return set()

    def set_input_size(
            self,
            img_size: Size | None = None,
            num_frames: int | None = None,
            layout: LayoutSpec | None = None,
            **backbone_args: Any,
    ) -> None:
        """As in `VideoModel`. The fixed positions are computed again.

        Raises:
            ValueError: If the clip would not be a whole number of tubelets.
        """
        embed_frames = _num_images(Layout(self.layout if layout is None else layout), num_frames or self.num_frames)
        super().set_input_size(img_size, num_frames, layout, **backbone_args)
        self.backbone.patch_embed.set_input_size(num_frames=embed_frames)
        self.num_images = 1

    def _check_image(self, backbone: nn.Module, super_image: SuperImage) -> None:
        """Tries nothing: the transformer takes whole clips, and `TubeletEmbed` has checked their size."""

    def frame_maps(self, maps: Tensor) -> Tensor:
        """Maps of the frames. The frames of a tubelet share its map.

        Args:
            maps: `[B * T* / 2, D, h, w]`, as `forward_intermediates` returns them for `NCHW`.

        Returns:
            `[B, T, D, h, w]`, or h / N and w / N with the layout `time:N`.
        """
        return self.super_image.inverse(maps.repeat_interleave(self.backbone.patch_embed.tubelet_size, dim=0))

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
        """Features of several depths, with T* / 2 tubelets per clip (T* = T with the layout `time:1`).

        Args:
            x: Clips `[B, C, T, H, W]`.
            indices: The last n blocks if int, all if None, or the blocks to take.
            norm: Whether to apply the final norm. VideoMAE has none before pooling.
            stop_early: Whether to stop after the last block that is asked for.
            output_fmt: `NCHW` for the maps of all tubelets in the batch, `[B * T* / 2, D, h, w]`; `NCTHW` for
                `[B, D, T* / 2, h, w]`; `NLC` for tokens, `[B, T* / 2 * h * w, D]`.
            intermediates_only: Whether to return the list alone.
            per_frame: Whether to return maps of frames, see `frame_maps`.

        Returns:
            The list of maps, or the final tokens and the list.
        """
        check_output_fmt(output_fmt, per_frame, ('NCHW', 'NCTHW', 'NLC'))
        out = super().forward_intermediates(x, indices, norm, stop_early, 'NLC', intermediates_only)
        final, levels = (None, out) if intermediates_only else out
        if output_fmt != 'NLC':
            height, width = self.backbone.patch_embed.grid_size
            levels = [tokens.transpose(1, 2).unflatten(2, (-1, height, width)) for tokens in levels]
        if output_fmt == 'NCHW':
            levels = [maps.transpose(1, 2).flatten(0, 1) for maps in levels]  # [B * T* / 2, D, h, w]
        if per_frame:
            levels = [self.frame_maps(maps) for maps in levels]
        return levels if intermediates_only else (final, levels)

    @torch.jit.ignore
    def filter_checkpoint(self, state_dict: dict[str, Any]) -> dict[str, Tensor]:
        """Converts weights to those of `VideoMAE`.

        Accepted are its own weights, those of transformers (`VideoMAEForVideoClassification`, `VideoMAEModel`,
        `VideoMAEForPreTraining`, with biases named `q_bias` as in version 4 or `query.bias` as in version 5), and those
        of the official code, fine-tuned or pre-trained. Queries, keys and values become one matrix with a zero key
        bias, and the kernel of the tubelets becomes a kernel of images. The decoder of a pre-trained model is left out.
        Its last norm of the encoder is left out, too, as in the official fine-tuning, so `fc_norm` and the classifier
        are untrained. A classifier of another number of classes is left out.

        Raises:
            RuntimeError: There are three cases. A key is unknown or missing. The weights read another number of
                channels than the model (only for in_chans=1 they are summed). Or they were fine-tuned to read the first
                token and not the mean of all (`use_mean_pooling=False` in transformers), which this model cannot do.
        """
        if isinstance(state_dict.get('module'), dict):  # DeepSpeed
            state_dict = state_dict['module']
        state_dict = unwrap_checkpoint(state_dict)
        if any(key.startswith('backbone.') for key in state_dict):
            _check_channels(self, state_dict)
            return account_for_keys(self, state_dict)

        weights = {}
        for key, tensor in state_dict.items():
            if key.startswith(_DECODER):
                continue
            for pattern, name in _RENAMES:
                key = pattern.sub(name, key)
            weights[key] = tensor
        _join_attention(weights)

        kernel = weights.get('patch_embed.proj.weight')
        if kernel is not None and kernel.ndim == 5:  # [D, C, t, p, p] -> [D, t * C, p, p]
            weights['patch_embed.proj.weight'] = kernel.transpose(1, 2).flatten(1, 2)

        has_classifier, has_fc_norm = 'head.weight' in weights, 'fc_norm.weight' in weights
        if has_classifier and not has_fc_norm and 'norm.weight' in weights:
            raise RuntimeError(
                'The classifier of these weights reads the first token (use_mean_pooling=False in transformers); this '
                'model classifies the mean of all tokens. Fine-tune it from the pre-trained weights, or remove the '
                'classifier from the file and train a new one.'
            )
        if not has_classifier:
            weights = {key: tensor for key, tensor in weights.items() if not key.startswith('norm.')}
        optional = () if has_classifier else ('backbone.fc_norm.',)
        weights = prefixed_weights(weights)
        _check_channels(self, weights)
        _cut_classifier(self, weights)
        return account_for_keys(self, weights, optional=optional)


def _num_images(layout: Layout, num_frames: int) -> int:
    """Number of frames that the transformer sees: the images that the layout makes of a clip."""
    num_images = layout.shape(num_frames)[0]
    if num_images % 2:
        raise ValueError(
            f'VideoMAE takes an even number of frames, because a tubelet has two; num_frames={num_frames} with '
            f'layout={str(layout)!r} gives it {num_images}. Accepted layouts are time:N, with num_frames a multiple of '
            '2 N^2.'
        )
    return num_images


# names of transformers (with and without the prefix of its classification model) and of the official pre-training model
# -> names of timm, applied in this order
_RENAMES = [(re.compile(pattern), name) for pattern, name in (
    (r'^_orig_mod\.', ''),  # torch.compile
    (r'^videomae\.', ''),
    (r'^encoder\.(?=patch_embed\.|blocks\.|norm\.)', ''),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^encoder\.layer\.', 'blocks.'),
    (r'^layernorm\.', 'norm.'),
    (r'^classifier\.', 'head.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.attention\.output\.dense\.', '.attn.proj.'),
    (r'\.attention\.attention\.(query|key|value)\.', r'.attn.\1.'),
    (r'\.attention\.attention\.q_bias$', '.attn.query.bias'),  # transformers 4
    (r'\.attention\.attention\.v_bias$', '.attn.value.bias'),
    (r'\.attn\.q_bias$', '.attn.query.bias'),  # official
    (r'\.attn\.v_bias$', '.attn.value.bias'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'\.output\.dense\.', '.mlp.fc2.'),
)]
_CUT_TAG = 'v2_k710_k400'
_DECODER = ('decoder.', 'encoder_to_decoder.', 'mask_token')  # of pre-training


def _check_channels(model: VideoMAE, weights: dict[str, Tensor]) -> None:
    """Refuses numbers of channels for which timm would only warn and leave the embedding random."""
    kernel, tubelet_size = weights.get('backbone.patch_embed.proj.weight'), model.backbone.patch_embed.tubelet_size
    if kernel is not None and model.in_chans != 1 and kernel.shape[1] != tubelet_size * model.in_chans:
        chans = kernel.shape[1] // tubelet_size
        raise RuntimeError(
            f'The tubelet embedding of these weights reads {chans} channel(s) per frame and cannot be adapted to '
            f'in_chans={model.in_chans}: build the model with in_chans={chans}, or with in_chans=1, for which the '
            'channels are summed, or train it without these weights.'
        )


def _cut_classifier(model: VideoMAE, weights: dict[str, Tensor]) -> None:
    """Cuts a classifier of Kinetics-710 to the rows of Kinetics-400, in place, if the tag asks for it."""
    if model.pretrained_cfg.get('tag') != _CUT_TAG or model.num_classes != 400:
        return
    rows = [int(row) for row in label_names('kinetics710_rows_of_kinetics400')]
    for key in ('backbone.head.weight', 'backbone.head.bias'):
        if key in weights and len(weights[key]) == 710:
            weights[key] = weights[key][rows]


def _join_attention(weights: dict[str, Tensor]) -> None:
    """Joins queries, keys and values of every block, in place."""
    for key in [key for key in weights if key.endswith('.attn.query.weight')]:
        stem = key.removesuffix('query.weight')
        names = [f'{stem}{name}.weight' for name in ('query', 'key', 'value')]
        if all(name in weights for name in names):
            weights[f'{stem}qkv.weight'] = torch.cat([weights.pop(name) for name in names])
    for key in [key for key in weights if key.endswith('.attn.query.bias')]:
        stem = key.removesuffix('query.bias')
        if f'{stem}value.bias' in weights:
            query, value = weights.pop(key), weights.pop(f'{stem}value.bias')
            bias = weights.pop(f'{stem}key.bias', torch.zeros_like(query))
            weights[f'{stem}qkv.bias'] = torch.cat([query, bias, value])


PAPER = Paper(
    'VideoMAE', 'arXiv:2203.12602',
    'VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training',
    'Tong, Zhan and Song, Yibing and Wang, Jue and Wang, Limin', 2022, 'tong2022videomae')
PAPER_V2 = Paper(
    'VideoMAE V2', 'arXiv:2303.16727', 'VideoMAE V2: Scaling Video Masked Autoencoders with Dual Masking',
    'Wang, Limin and others', 2023, 'wang2023videomaev2')


def _cfg(hub_name: str, **kwargs: Any) -> dict[str, Any]:
    # no hf_hub_filename: timm takes model.safetensors if it exists, else pytorch_model.bin
    return {
        'hf_hub_id': f'MCG-NJU/{hub_name}', 'license': 'cc-by-nc-4.0',
        'num_classes': 400, 'input_size': (3, 224, 224), 'fixed_input_size': True, 'crop_pct': 1.0,
        'interpolation': 'bilinear', 'mean': IMAGENET_DEFAULT_MEAN, 'std': IMAGENET_DEFAULT_STD,
        'first_conv': 'backbone.patch_embed.proj', 'classifier': 'backbone.head',
        'paper_name': PAPER.title, 'paper_ids': PAPER.id, 'origin_url': 'https://github.com/MCG-NJU/VideoMAE',
        **kwargs,
    }


def _v2_cfg(file: str, **kwargs: Any) -> dict[str, Any]:
    return _cfg('', **dict(
        hf_hub_id='OpenGVLab/VideoMAE2', hf_hub_filename=f'distill/{file}', license='apache-2.0',
        paper_name=PAPER_V2.title, paper_ids=PAPER_V2.id,
        origin_url='https://github.com/OpenGVLab/VideoMAEv2', **kwargs))


# the order of the class names is inferred: alphabetical, as the data sets number them
_K400 = dict(label_names=label_names('kinetics400'), num_classes=400)
_SSV2 = dict(label_names=label_names('ssv2'), num_classes=174)

_K710 = dict(label_names=label_names('kinetics710'), num_classes=710)
_V2_S, _V2_B = 'vit_s_k710_dl_from_giant.pth', 'vit_b_k710_dl_from_giant.pth'

default_cfgs = generate_default_cfgs({
    'videomae_vit_s.mcg_k400': _cfg('videomae-small-finetuned-kinetics', **_K400),
    'videomae_vit_s.mcg_ssv2': _cfg('videomae-small-finetuned-ssv2', **_SSV2),
    'videomae_vit_s.v2_k710': _v2_cfg(_V2_S, **_K710),
    f'videomae_vit_s.{_CUT_TAG}': _v2_cfg(_V2_S, **_K400),
    'videomae_vit_b.mcg_k400': _cfg('videomae-base-finetuned-kinetics', **_K400),
    'videomae_vit_b.mcg_ssv2': _cfg('videomae-base-finetuned-ssv2', **_SSV2),
    'videomae_vit_b.mcg_mae_k400': _cfg('videomae-base', num_classes=0),
    'videomae_vit_b.mcg_mae_ssv2': _cfg('videomae-base-ssv2', num_classes=0),
    'videomae_vit_b.v2_k710': _v2_cfg(_V2_B, **_K710),
    f'videomae_vit_b.{_CUT_TAG}': _v2_cfg(_V2_B, **_K400),
    'videomae_vit_l.mcg_k400': _cfg('videomae-large-finetuned-kinetics', **_K400),
    'videomae_vit_l.mcg_mae_k400': _cfg('videomae-large', num_classes=0),
})


def _trained(data: DataSet, size: int | None = None) -> TagRecord:
    # model zoo of the official repository: 16x5x3 views, dense with stride 4, and 16x2x3 views, uniform
    of_kinetics = EvalProtocol('dense', num_clips=5, num_crops=3, stride=4)
    return TagRecord(
        PAPER, data, protocol=of_kinetics if data is KINETICS_400 else EvalProtocol(num_clips=2, num_crops=3),
        size=size, limits=(
            'The order of the class names is inferred from public label lists. The conversion is tested on small '
            'models of the original code; this file itself was not measured by us.'))


def _pretrained(data: DataSet, size: int | None = None) -> TagRecord:
    return TagRecord(
        PAPER, data, task='masked autoencoding of videos', size=size, limits='The encoder has seen no labels.')


def _distilled(data: DataSet, top1: float) -> TagRecord:
    return TagRecord(
        PAPER_V2, data, started_from='a distillation of the giant model',
        protocol=EvalProtocol('dense', num_clips=5, num_crops=3, stride=4),
        figures=(Figure(data.title, top1, None, 'model zoo of the official repository', frames=16, clips=5, crops=3),),
        about_figures='The repository averages the probabilities of the views, flatzoo their logits.',
        limits=(
            'Kinetics-710 joins Kinetics-400, 600 and 700, so that an accuracy on one of them is not zero-shot. Two '
            'of the 400 classes are named differently in two official lists; the published cut of the classifier is '
            'taken. The conversion is tested on small models of the original code; this file itself was not measured '
            'by us.'))


register_records({
    'videomae_vit_s.mcg_k400': _trained(KINETICS_400),
    'videomae_vit_s.mcg_ssv2': _trained(SSV2, 87_800_000),
    'videomae_vit_b.mcg_k400': _trained(KINETICS_400, 346_000_000),
    'videomae_vit_b.mcg_ssv2': _trained(SSV2, 346_000_000),
    'videomae_vit_b.mcg_mae_k400': _pretrained(KINETICS_400, 377_000_000),
    'videomae_vit_b.mcg_mae_ssv2': _pretrained(SSV2),
    'videomae_vit_s.v2_k710': _distilled(KINETICS_710, 77.6),
    f'videomae_vit_s.{_CUT_TAG}': _distilled(KINETICS_400, 83.7),
    'videomae_vit_b.v2_k710': _distilled(KINETICS_710, 81.5),
    f'videomae_vit_b.{_CUT_TAG}': _distilled(KINETICS_400, 86.6),
    'videomae_vit_l.mcg_k400': _trained(KINETICS_400),
    'videomae_vit_l.mcg_mae_k400': _pretrained(KINETICS_400),
})


def _create_videomae(variant: str, pretrained: bool = False, **kwargs: Any) -> VideoMAE:
    tag = resolve_pretrained_cfg(variant, kwargs.get('pretrained_cfg'), kwargs.get('pretrained_cfg_overlay')).tag
    if (tag or '').startswith('v2_'):
        kwargs.setdefault('fc_norm_eps', 1e-6)
    return build_video_model(VideoMAE, variant, pretrained, **kwargs)


@register_model
def videomae_vit_s(pretrained: bool = False, **kwargs: Any) -> VideoMAE:
    """VideoMAE on ViT-S/16, 16 frames of 224 pixels; 6 heads as in the official code (transformers configures 16)."""
    model_args = dict(backbone='vit_small_patch16_224', num_frames=16, img_size=224)
    return _create_videomae('videomae_vit_s', pretrained, **dict(model_args, **kwargs))


@register_model
def videomae_vit_b(pretrained: bool = False, **kwargs: Any) -> VideoMAE:
    """VideoMAE on ViT-B/16, 16 frames of 224 pixels."""
    model_args = dict(backbone='vit_base_patch16_224', num_frames=16, img_size=224)
    return _create_videomae('videomae_vit_b', pretrained, **dict(model_args, **kwargs))


@register_model
def videomae_vit_l(pretrained: bool = False, **kwargs: Any) -> VideoMAE:
    """VideoMAE on ViT-L/16, 16 frames of 224 pixels."""
    model_args = dict(backbone='vit_large_patch16_224', num_frames=16, img_size=224)
    return _create_videomae('videomae_vit_l', pretrained, **dict(model_args, **kwargs))
