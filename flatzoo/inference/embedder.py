"""The network that turns clips into features, and what says which network it was.

A video model gives the features in front of its classifier. An image model of timm looks at the frames one by one (the
layout `time:1`, of which the mean over the frames is taken), or at all of them as one super image.
"""
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from flatzoo.data.protocol import EvalProtocol

from .load import ModelError, load_model, model_name

if TYPE_CHECKING:
    from flatzoo.models import VideoModel

__all__ = ['Embedder', 'Per', 'load_backbone']

Per = Literal['clip', 'frame', 'window']
PER: tuple[Per, ...] = get_args(Per)
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


class Embedder:
    """Turns clips into features.

    Args:
        model: A name as for `load_model`; the name of an image model of timm, such as
            `vit_small_patch14_dinov2.lvd142m`; or a video model.
        per: `'clip'` for a feature of each clip, `[D]`. `'frame'` for one of each frame, `[T, D]`, of models that look
            at frames one by one. `'window'` for one of each window of a long clip, `[D]`.
        window: Length of a window in seconds.
        tokens: Whether to keep what `forward_features` gives for each image of a clip, `[K, ...]`, without pooling.
            Attentive probes are trained on it.
        layout: Of an image model: `'time:1'` for frame by frame, or a layout of a super image such as `'grid'`.
        dtype: `'float32'` or `'bfloat16'`, in which the network computes and features are kept.
        device: `'auto'` (CUDA if available) or a torch device. A model object stays on its device.
        protocol: Clips and crops of a video, over which features are averaged. None takes one clip and its centre.
        allow_untrained: Whether to take random weights, which are the same in every run. Nothing is downloaded.
        **kwargs: Further arguments of the model, such as `num_frames` or `checkpoint`.

    Attributes:
        model: The network as it was given, in eval mode.
        settings: All that the features depend on, in values that JSON can hold.

    Raises:
        ModelError: There is no such model, or it has no weights.
        ValueError: The arguments do not go together.
    """

    def __init__(
            self,
            model: 'str | VideoModel',
            *,
            per: Per = 'clip',
            window: float | None = None,
            tokens: bool = False,
            layout: str = 'time:1',
            dtype: str = 'float32',
            device: str = 'auto',
            protocol: EvalProtocol | None = None,
            allow_untrained: bool = False,
            **kwargs: Any,
    ):
        from flatzoo.models.borrowed import borrowed_digest
        from flatzoo.runtime import optimize

        if per not in PER:
            raise ValueError(f'per={per!r} is none of {", ".join(map(repr, PER))}.')
        if dtype not in DTYPES:
            raise ValueError(f'dtype={dtype!r} is none of {", ".join(map(repr, DTYPES))}.')
        if (per == 'window') != (window is not None):
            raise ValueError("per='window' needs the length of a window in seconds, window=2.0, and nothing else does.")
        if tokens and per == 'frame':
            raise ValueError("tokens=True keeps all tokens of all frames: leave per='frame' out.")
        self.protocol = protocol or EvalProtocol()
        if tokens and self.protocol.views > 1:
            raise ValueError(
                f'tokens of {self.protocol.views} views cannot be averaged: take one clip and one crop, or leave '
                'tokens=True out.')
        self.name: str | None = None
        if isinstance(model, str):
            self.name = model_name(model)
            if self.name.startswith('local-dir:'):
                self.name = f'local-dir:{os.path.abspath(self.name.removeprefix("local-dir:"))}'
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # random weights are the same in every run, so that it can be gone on with
                self.model = load_backbone(
                    self.name, layout=layout, device=device, allow_untrained=allow_untrained, **kwargs)
        else:
            self.model = model.eval()
        self.per, self.window, self.tokens, self.dtype = per, window, tokens, dtype
        self._fast = optimize(self.model, None if dtype == 'float32' else DTYPES[dtype])
        self.settings = {
            'model': self.name,
            'layout': str(self.model.layout),
            'model_args': {key: _plain(value) for key, value in sorted(kwargs.items())},
            'digest': borrowed_digest(self.model, tokens),
            'num_frames': self.model.num_frames,
            'img_size': list(self.model.img_size),
            'protocol': self.protocol.to_dict(),
            'per': per,
            'tokens': tokens,
            'dtype': dtype,
            **({'window': float(window)} if window is not None else {}),
            **({'random_weights': True} if allow_untrained else {}),
        }

    @classmethod
    def of_settings(cls, settings: Mapping[str, Any], device: str = 'auto') -> 'Embedder':
        """The embedder that features were made with.

        Args:
            settings: `Features.settings`.
            device: See `Embedder`.

        Raises:
            ModelError: The model is not there any more, or has other weights now.
        """
        if settings['model'] is None:
            raise ModelError(
                'the features are of a model that was built in Python and has no name: give the model itself, or embed '
                'again with the name or the folder of a model.')
        embedder = cls(
            settings['model'], per=settings['per'], window=settings.get('window'),
            tokens=settings['tokens'], layout=settings['layout'],
            dtype=settings['dtype'], device=device, protocol=EvalProtocol.from_dict(settings['protocol']),
            allow_untrained=settings.get('random_weights', False), **settings['model_args'])
        if embedder.settings['digest'] != settings['digest']:
            raise ModelError(
                f'{settings["model"]} has other weights now ({embedder.settings["digest"][:15]}) than those of the '
                f'features ({settings["digest"][:15]}). Embed again, or bring the former weights back.')
        return embedder

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """Features of clips, on the CPU.

        Args:
            clips: `[B, C, T, H, W]`, uint8 or float normalised.

        Returns:
            `[B, D]`, `[B, T, D]` per frame, or `[B, K, ...]` as tokens.
        """
        model, count = self._fast, len(clips)
        clips = clips.to(next(model.parameters()).device)
        if clips.is_floating_point():
            clips = clips.to(DTYPES[self.dtype])
        x = model.forward_features(clips)
        if self.tokens:
            return (x.unflatten(0, (count, -1)) if len(x) != count or model.num_images == 1 else x).cpu()
        if self.per != 'frame':
            return model.forward_head(x, pre_logits=True).cpu()
        frames = model.backbone.forward_head(x, pre_logits=True) if len(x) == count * model.num_frames else x
        if frames.ndim != 2 or len(frames) != count * model.num_frames:
            raise ValueError(
                f"per='frame': {self.name or type(model).__name__} does not look at frames one by one, so it has no "
                "features of single frames. Take per='clip', or an image model.")
        return frames.unflatten(0, (count, -1)).cpu()


def load_backbone(
        name: str,
        *,
        layout: str = 'time:1',
        device: str = 'auto',
        allow_untrained: bool = False,
        **kwargs: Any,
) -> 'VideoModel':
    """Loads a model for its features: a video model, or an image model of timm behind a layout.

    Args:
        name: As for `load_model`, or the name of an image model of timm.
        layout: Of an image model, see `Embedder`.
        device: `'auto'` (CUDA if available) or a torch device.
        allow_untrained: Whether random weights are accepted.
        **kwargs: Further arguments of the model.

    Raises:
        ModelError: There is no such model, or it has no weights.
    """
    import timm

    import flatzoo.models  # noqa: F401 - registers them
    from flatzoo.layers import Layout
    from flatzoo.models.probe import Probe

    if not _is_image_model(name):
        model = load_model(name, allow_untrained=allow_untrained, device=device, needs_head=False, **kwargs)
        if not isinstance(model, Probe) or model.probe == 'linear' or model.head_trained:
            return model
        # a probe that was never trained: what counts is its backbone, at the size that the probe takes
        cfg = model.backbone.pretrained_cfg
        name = f'{cfg["architecture"]}.{cfg["tag"]}' if cfg.get('tag') else cfg['architecture']
        size = dict(num_frames=model.num_frames, img_size=model.img_size, in_chans=model.in_chans)
        kwargs, layout = {**size, **kwargs}, 'time:1'
    given = kwargs.get('checkpoint') is not None  # they take the place of those that the name has
    has_weights = given or ':' in name or timm.get_pretrained_cfg(name).has_weights
    if not has_weights and not allow_untrained:
        raise ModelError(f'{name} has no weights. Choose another, or get features of random weights with '
                         '--allow-untrained.')
    frames = str(Layout(layout)) == str(Layout('time:1'))
    architecture = 'probe' if frames else 'superimage'
    options = dict(probe='linear') if frames else dict(layout=layout)
    return load_model(
        architecture, allow_untrained=True, device=device, needs_head=False, shown_as=name,
        **{**options, 'backbone': name, 'backbone_pretrained': has_weights and not allow_untrained and not given,
           **kwargs})


def _is_image_model(name: str) -> bool:
    """Whether a name, a folder or a repository is an image model of timm."""
    import timm
    from timm.models import parse_model_name

    from flatzoo.models.builder import is_video_model
    from flatzoo.weights.config import CONFIG_FILE, read_config
    from flatzoo.weights.download import fetch, split_name

    try:
        source, place = parse_model_name(name)
    except ValueError as error:
        raise ModelError(error) from error
    if source is None:
        architecture = name.partition('.')[0]
        return timm.is_model(architecture) and not is_video_model(architecture)
    try:
        if source == 'local-dir':
            config = read_config(os.path.join(place, CONFIG_FILE))
        else:
            repo_id, revision = split_name(place)
            config = read_config(fetch(repo_id, CONFIG_FILE, revision))
    except Exception:  # noqa: BLE001 - whoever loads the model says what is wrong
        return False
    return not is_video_model(config['architecture'])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
