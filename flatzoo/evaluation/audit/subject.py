"""Any model that classifies clips, behind one way of asking it."""
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flatzoo.data.protocol import EvalProtocol
from flatzoo.inference.load import ModelError, load_model

__all__ = ['Subject', 'subject_of']

KINETICS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # of torchvision's video weights
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Subject:
    """What is audited.

    Args:
        name: What pages call it.
        call: uint8 clips `[B, C, T, H, W]` -> logits `[B, K]`.
        num_frames: Frames T per clip.
        img_size: Height and width of a frame in pixels.
        classes: Names of its classes in the order of the logits; None if they are those of the list.
        protocol: Which frames it sees of a video. Of several clips and crops the audit takes one.
        in_chans: Channels of a frame.
    """

    def __init__(
            self,
            name: str,
            call: Callable[[Tensor], Any],
            num_frames: int,
            img_size: tuple[int, int],
            classes: Sequence[str] | None = None,
            protocol: EvalProtocol | None = None,
            in_chans: int = 3,
    ):
        self.name, self.call = name, call
        self.num_frames, self.img_size, self.in_chans = num_frames, img_size, in_chans
        self.classes = None if classes is None else tuple(classes)
        given = protocol or EvalProtocol()
        self.protocol = EvalProtocol(given.sampling, stride=given.stride, scale_up=given.scale_up)

    @torch.inference_mode()
    def logits(self, clips: Tensor) -> Tensor:
        """Logits `[B, K]`, float32 on the CPU, of uint8 clips `[B, C, T, H, W]`.

        Raises:
            ValueError: The model gives another shape.
        """
        logits = torch.as_tensor(self.call(clips)).detach().float().cpu()
        if logits.ndim != 2 or len(logits) != len(clips):
            raise ValueError(
                f'{self.name}: gave {list(logits.shape)} for {len(clips)} clips; wanted are logits of the shape '
                f'[{len(clips)}, classes].')
        return logits


def subject_of(
        model: Any,
        *,
        name: str | None = None,
        num_frames: int | None = None,
        img_size: int | tuple[int, int] | None = None,
        classes: Sequence[str] | None = None,
        mean_std: tuple[Sequence[float], Sequence[float]] | None = None,
        device: str = 'auto',
        **kwargs: Any,
) -> Subject:
    """Makes a subject of a model.

    Args:
        model: A name as for `load_model`, such as the folder of a probe; `torchvision:NAME` or `transformers:NAME`; a
            video model; a video model of torchvision or transformers; or any function from uint8 clips
            `[B, C, T, H, W]` to logits `[B, K]`.
        name: What pages call it.
        num_frames: Frames per clip, where the model does not say it; 8 of a function, 16 of torchvision.
        img_size: Frame size in pixels, where the model does not say it.
        classes: Names of its classes, where the model does not say them.
        mean_std: By which the frames of models of other libraries are normalised; those of their weights if None.
        device: `'auto'` or a torch device, for models that are loaded by name.
        **kwargs: Further arguments of `load_model`.

    Raises:
        ModelError: There is no such model.
        TypeError: This cannot be asked.
    """
    if isinstance(model, Subject):
        return model
    said = dict(name=name, num_frames=num_frames, img_size=img_size, classes=classes, mean_std=mean_std)
    if isinstance(model, str):
        library, _, place = model.partition(':')
        if library == 'torchvision':
            return _named_torchvision(place, said)
        if library == 'transformers':
            return _named_transformers(place, said)
        return _video_model(load_model(model, device=device, **kwargs), name or model)
    from flatzoo.models import VideoModel

    if isinstance(model, VideoModel):
        return _video_model(model.eval(), name or model.pretrained_cfg.get('architecture') or type(model).__name__)
    library = type(model).__module__.partition('.')[0]
    if isinstance(model, nn.Module) and library == 'torchvision':
        return _torchvision(model.eval(), said)
    if isinstance(model, nn.Module) and getattr(model, 'main_input_name', None) == 'pixel_values':
        return _transformers(model.eval(), said)
    if not callable(model):
        raise TypeError(f'a model, its name or a function is audited, got {type(model).__name__}.')
    return Subject(
        name or getattr(model, '__name__', type(model).__name__), model, num_frames or 8, _pair(img_size or 224),
        classes)


def _video_model(model: Any, name: str) -> Subject:
    from flatzoo.models import eval_protocol

    device = next(model.parameters()).device
    return Subject(
        name, lambda clips: model(clips.to(device)), model.num_frames, model.img_size,
        model.pretrained_cfg.get('label_names'), eval_protocol(model), model.in_chans)


def _named_torchvision(place: str, said: dict[str, Any]) -> Subject:
    from torchvision.models import get_model, get_model_weights

    try:
        weights = get_model_weights(place).DEFAULT
        model = get_model(place, weights=weights).eval()
    except Exception as error:  # noqa: BLE001 - an unknown name, or a download that fails in many ways
        raise ModelError(f'torchvision:{place} cannot be had: {" ".join(str(error).split())}') from error
    transform = weights.transforms()
    given = dict(
        name=f'torchvision:{place}', img_size=tuple(transform.crop_size) * (2 // len(transform.crop_size)),
        classes=weights.meta['categories'], mean_std=(transform.mean, transform.std))
    return _torchvision(model, {**given, **{key: value for key, value in said.items() if value is not None}})


def _torchvision(model: nn.Module, said: dict[str, Any]) -> Subject:
    normal = _normalizer(model, said.get('mean_std') or KINETICS)
    size = 112 if type(model).__name__ == 'VideoResNet' else 224
    return Subject(
        said.get('name') or f'torchvision {type(model).__name__}', lambda clips: model(normal(clips)),
        said.get('num_frames') or 16, _pair(said.get('img_size') or size), said.get('classes'))


def _named_transformers(place: str, said: dict[str, Any]) -> Subject:
    try:
        from transformers import AutoImageProcessor, AutoModelForVideoClassification

        model = AutoModelForVideoClassification.from_pretrained(place).eval()
    except ImportError as error:
        raise ModelError("transformers is not installed: pip install 'flatzoo[transformers]'") from error
    except Exception as error:  # noqa: BLE001 - transformers raises anything
        raise ModelError(f'transformers:{place} cannot be had: {" ".join(str(error).split())}') from error
    mean_std = None
    try:
        processor = AutoImageProcessor.from_pretrained(place)
        mean_std = processor.image_mean, processor.image_std
    except Exception:  # noqa: BLE001 - a model without one is normalised as most are
        pass
    given = dict(name=f'transformers:{place}', mean_std=mean_std)
    return _transformers(model, {**given, **{key: value for key, value in said.items() if value is not None}})


def _transformers(model: nn.Module, said: dict[str, Any]) -> Subject:
    config = model.config
    normal = _normalizer(model, said.get('mean_std') or IMAGENET)
    frames = said.get('num_frames') or getattr(config, 'num_frames', None) or getattr(config, 'frames_per_clip', None)
    size = said.get('img_size') or getattr(config, 'image_size', None) or getattr(config, 'crop_size', None)
    labels = getattr(config, 'id2label', None) or {}
    names = [labels[index] for index in sorted(labels)]
    named = bool(names) and names != [f'LABEL_{index}' for index in range(len(names))]
    return Subject(
        said.get('name') or type(model).__name__, lambda clips: model(normal(clips).transpose(1, 2)).logits,
        frames or 16, _pair(size or 224), said.get('classes') or (names if named else None))


def _normalizer(model: nn.Module, mean_std: Any) -> Callable[[Tensor], Tensor]:
    like = next(model.parameters())
    mean, std = (torch.tensor(tuple(part)).view(-1, 1, 1, 1).to(like) for part in mean_std)
    return lambda clips: (clips.to(like) / 255 - mean) / std


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
