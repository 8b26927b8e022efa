"""Video models and their processor for Hugging Face transformers. Importing this module registers both.

    import flatzoo.hub.transformers
    from transformers import pipeline

    classify = pipeline('video-classification', model='org/name')  # or a folder that save_pretrained wrote
    classify('clip.mp4')

transformers reads a `config.json` of flatzoo like that of any timm model (`TimmWrapperConfig`). `AutoModel` and
`AutoModelForImageClassification` therefore load our checkpoints after `import flatzoo`; their clips are
`[B, C, T, H, W]`. This module registers two more classes for the same configuration. The model for
`AutoModelForVideoClassification` takes clips like transformers' own video models, `[B, T, C, H, W]`. The processor for
`AutoVideoProcessor` decodes, samples and crops by the evaluation protocol of the weights.

timm and flatzoo load a model that transformers' `Trainer` has saved. Install with `pip install
'flatzoo[transformers]'`.
"""
import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from flatzoo.data.decode import VideoReader
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.transforms import EvalTransform
from flatzoo.data.views import equal_views
from flatzoo.models import VideoModel, eval_protocol, list_models
from flatzoo.models.base import channel_stats
from flatzoo.models.borrowed import Borrowed
from flatzoo.weights.config import (
    check_config,
    multi_label_of_config,
    protocol_of_config,
    stats_of_config,
    temporal_of_config,
    video_block,
)

from .preprocessor import video_preprocessor_config

try:
    from transformers import (
        AutoModelForVideoClassification,
        AutoVideoProcessor,
        BatchFeature,
        TimmWrapperConfig,
        TimmWrapperForImageClassification,
    )
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import PrefixChange
    from transformers.modeling_outputs import ImageClassifierOutput
    from transformers.processing_utils import VideosKwargs
    from transformers.utils import can_return_tuple
    from transformers.video_processing_utils import BaseVideoProcessor
    from transformers.video_utils import VideoMetadata
except ImportError as error:
    raise ImportError(
        f"flatzoo.hub.transformers needs a recent transformers ({error}). Install it with "
        "pip install 'flatzoo[transformers]'."
    ) from error

__all__ = ['FlatzooForVideoClassification', 'FlatzooVideoProcessor']


class FlatzooForVideoClassification(TimmWrapperForImageClassification):
    """A video model of flatzoo behind the interface of transformers' video classifiers.

    Args:
        config: The result of `AutoConfig.from_pretrained` for a checkpoint of flatzoo. It gets the field `num_frames`,
            which the pipeline reads.

    Raises:
        ValueError: The checkpoint is of an image model, comes from a newer flatzoo, or has an unknown architecture.
    """
    input_modalities = ('video',)

    def __init__(self, config: TimmWrapperConfig):
        where = getattr(config, 'name_or_path', None) or 'the configuration'
        block = {'architecture': config.architecture, 'video': getattr(config, 'video', None)}
        check_config(block, where)
        if config.architecture not in list_models():
            raise ValueError(
                f'{where}: {config.architecture!r} is an image model. AutoModelForImageClassification loads it; '
                "'flatzoo list' shows the video models."
            )
        if Borrowed.of_config(block, where) is not None:
            raise ValueError(
                f'{where}: the backbone is not in this checkpoint, it is borrowed from another model, which '
                'transformers cannot load. Save it with its backbone: flatzoo push --with-backbone, or in Python '
                'save_pretrained(..., with_backbone=True).')
        super().__init__(config)
        self.timm_model.saved_protocol = protocol_of_config(block, where)
        self.timm_model.temporal_contract = temporal_of_config(block, where)
        self.timm_model.multi_label = multi_label_of_config(block, where)
        if self.timm_model.multi_label:  # by which transformers chooses the loss
            config.problem_type = 'multi_label_classification'
        # mean and standard deviation, by which uint8 clips are normalised, are those of the checkpoint
        cfg = getattr(config, 'pretrained_cfg', None) or {}
        self.timm_model.pretrained_cfg = {**self.timm_model.pretrained_cfg, **cfg, **stats_of_config(block)}
        config.num_frames = self.timm_model.num_frames
        if getattr(config, 'label_names', None) is not None:  # the saved names stay, even if others were given
            config.label_names = [config.id2label[index] for index in range(config.num_labels)]

    @can_return_tuple
    def forward(
            self,
            pixel_values: Tensor,
            labels: Tensor | None = None,
            **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Classifies clips.

        Args:
            pixel_values: Clips `[B, T, C, H, W]`, or several views of each video, `[B, V, T, C, H, W]`, whose logits
                are averaged. Float (normalised) or uint8 (0...255).
            labels: Classes `[B]`. With them the output has a loss.
            **kwargs: Only `return_dict`, as in all models of transformers.

        Returns:
            `logits` `[B, num_labels]` and, with labels, `loss`.

        Raises:
            ValueError: If the clips have another shape.
            TypeError: For other arguments.
        """
        if kwargs:
            raise TypeError(f'{type(self).__name__} takes pixel_values and labels, got {", ".join(kwargs)}.')
        if pixel_values.ndim not in (5, 6):
            raise ValueError(
                'pixel_values must be clips [B, T, C, H, W] or views of videos [B, V, T, C, H, W], got '
                f'{list(pixel_values.shape)}. In a pipeline this means that the checkpoint has no '
                'video_preprocessor_config.json: save it with flatzoo.hub.push.save_pretrained, or pass '
                'video_processor=FlatzooVideoProcessor.from_model(model).'
            )
        clips = pixel_values if pixel_values.ndim == 5 else pixel_values.flatten(0, 1)
        clips = clips.to(self.device, self.dtype if clips.is_floating_point() else None)
        logits = self.timm_model(clips.transpose(1, 2))  # [B * V, num_labels]
        if pixel_values.ndim == 6:
            logits = logits.unflatten(0, pixel_values.shape[:2]).mean(1)
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(loss=loss, logits=logits)


class _VideosKwargs(VideosKwargs, total=False):
    protocol: dict | None


class FlatzooVideoProcessor(BaseVideoProcessor):
    """From video files or frames to the clips of a model, by the evaluation protocol of its weights.

    `VideoReader` reads files, as in `flatzoo predict`; torchcodec is not needed. Further arguments are those of
    transformers' video processors. The protocol decides how frames are resized and cropped.

    Args:
        num_frames: Frames T per clip.
        size: `{'height': ..., 'width': ...}` of a frame in pixels.
        image_mean: Mean per channel, in the range 0...1.
        image_std: Standard deviation per channel.
        protocol: `EvalProtocol.to_dict()`. None is one clip of uniformly spaced frames and one centre crop.
        do_sample_frames: Whether the protocol chooses the frames. Otherwise a video must have T frames, or be several
            clips of T frames one after the other.
        do_normalize, do_rescale: If both are false, clips are uint8, and the model normalises them.

    A call returns `pixel_values` `[B, T, C, H, W]`, or `[B, V, T, C, H, W]` if the protocol has several views.
    """
    model_input_names = ['pixel_values']
    valid_kwargs = _VideosKwargs
    size = {'height': 224, 'width': 224}
    num_frames = 8
    image_mean = (0.485, 0.456, 0.406)
    image_std = (0.229, 0.224, 0.225)
    do_sample_frames = True
    do_rescale = True
    do_normalize = True
    protocol = None

    @classmethod
    def from_model(cls, model: VideoModel, protocol: EvalProtocol | None = None) -> 'FlatzooVideoProcessor':
        """The processor of a video model.

        Args:
            model: A video model of flatzoo, or `FlatzooForVideoClassification`.
            protocol: The evaluation protocol. None takes that of the model's weights.
        """
        model = getattr(model, 'timm_model', model)
        mean_std = channel_stats(model.pretrained_cfg, model.in_chans)
        video = video_block(model, protocol or eval_protocol(model), *mean_std)
        return cls.from_dict(video_preprocessor_config(video))

    def sample_frames(
            self,
            metadata: VideoMetadata,
            num_frames: int | None = None,
            protocol: dict[str, Any] | None = None,
            fps: float | None = None,
            **kwargs: Any,
    ) -> np.ndarray:
        """Indices of the frames of all clips of the protocol, `[num_clips * num_frames]`."""
        if fps is not None:
            raise ValueError(f'The evaluation protocol chooses num_frames frames, whatever their rate; got fps={fps}.')
        clips = EvalProtocol.from_dict(protocol or {}).sample(metadata.total_num_frames, num_frames)
        return clips.flatten().numpy()

    def fetch_videos(self, video_url_or_urls: Any, sample_indices_fn: Any = None) -> Any:
        """Reads the wanted frames of files or http(s) addresses.

        Raises:
            VideoError: If a file cannot be read as a video.
        """
        if isinstance(video_url_or_urls, list):
            return list(zip(*(self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls)))
        with _local(video_url_or_urls) as path, VideoReader(path) as video:
            metadata = VideoMetadata(total_num_frames=len(video), fps=video.fps or None, video_backend='pyav')
            indices = np.arange(len(video)) if sample_indices_fn is None else sample_indices_fn(metadata=metadata)
            frames = video.get_frames(indices.tolist())  # [N, C, H, W]
        metadata.update(dict(frames_indices=indices.tolist(), height=frames.shape[-2], width=frames.shape[-1]))
        return frames, metadata

    def _preprocess(
            self,
            videos: list[Tensor],
            size: Any,
            num_frames: int,
            protocol: dict[str, Any] | None,
            do_rescale: bool,
            rescale_factor: float,
            do_normalize: bool,
            image_mean: Any,
            image_std: Any,
            return_tensors: Any = None,
            **kwargs: Any,
    ) -> BatchFeature:
        protocol = EvalProtocol.from_dict(protocol or {})
        crops = EvalTransform((size.height, size.width), protocol.num_crops, protocol.scale_up, protocol.fit)
        batch = []
        for video in videos:  # [N, C, H, W]
            if len(video) % num_frames:
                raise ValueError(
                    f'A video of {len(video)} frames is not made of clips of num_frames={num_frames}. Let the '
                    'processor choose the frames (do_sample_frames=True), or give it that many.')
            clips = [crops(clip) for clip in video.split(num_frames)]  # [V, T, C, h, w] each
            views = torch.stack(clips, dim=1).flatten(0, 1)  # the order of load_views
            views = self.rescale_and_normalize(
                views, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
            batch.append(views)
        batch = equal_views(batch)
        batch = [views if len(views) > 1 else views[0] for views in batch]
        return BatchFeature(data={'pixel_values': batch}, tensor_type=return_tensors)


@contextlib.contextmanager
def _local(video: str) -> Iterator[str]:
    """The path of a video file. A file at an address is downloaded first and removed afterwards."""
    if urlsplit(video).scheme not in ('http', 'https'):
        yield video
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, os.path.basename(urlsplit(video).path) or 'video')
        torch.hub.download_url_to_file(video, path, progress=False)
        yield path


# weights are saved under timm's names, as in `TimmWrapperForImageClassification`
register_checkpoint_conversion_mapping(
    FlatzooForVideoClassification.__name__, [PrefixChange(prefix_to_add='timm_model')], overwrite=True)
# exist_ok: without it, transformers ignores a registration for one of its own configurations
AutoModelForVideoClassification.register(TimmWrapperConfig, FlatzooForVideoClassification, exist_ok=True)
AutoVideoProcessor.register(TimmWrapperConfig, FlatzooVideoProcessor, exist_ok=True)
