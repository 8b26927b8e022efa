"""The `config.json` of a saved video model: timm's file, completed and checked before it is written.

The block `video` is added to timm's file. `flatzoo/weights/config.py` describes the block and reads it.
"""
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatzoo.data.protocol import EvalProtocol
from flatzoo.models import VideoModel, eval_protocol
from flatzoo.models.base import channel_stats
from flatzoo.models.neighbours import Neighbours
from flatzoo.models.timm_private import save_config_for_hf
from flatzoo.weights.config import check_config, video_block

__all__ = ['model_config']


def model_config(
        model: VideoModel,
        label_names: Sequence[str] | None = None,
        protocol: EvalProtocol | None = None,
        borrows: bool = False,
) -> dict[str, Any]:
    """The configuration from which timm, flatzoo and transformers rebuild a model.

    Args:
        model: A video model that `timm.create_model` built.
        label_names: Names of its classes. None takes those of its weights.
        protocol: How its accuracy is measured. None takes the protocol of its weights.
        borrows: Whether its file will lack the backbone that it borrows (`model.borrowed`).

    Raises:
        TypeError: `model` is not a video model.
        ValueError: The model cannot be rebuilt, or class names and number of classes do not match.
    """
    if not isinstance(model, VideoModel):
        raise TypeError(
            f'Only video models of flatzoo can be saved here, got {type(model).__name__}. timm.models.save_for_hf '
            'saves image models. If the model is compiled or parallel, give the module inside.')
    if isinstance(model.get_classifier(), Neighbours):
        raise ValueError(
            'Nearest neighbours are kept as features, and cannot be saved as weights. A probe of kind ridge or '
            'logistic can.')
    if not model.pretrained_cfg.get('architecture'):
        raise ValueError('The model was not built by timm.create_model(), so it could not be built again.')
    labels = model.pretrained_cfg.get('label_names') if label_names is None else label_names
    if labels is not None:
        labels = _checked_labels(labels, model.num_classes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'config.json')
        save_config_for_hf(model, str(path), model_config={'label_names': labels} if labels else None)
        config = json.loads(path.read_text(encoding='utf-8'))
    # transformers passes the number of classes to timm itself, and fails if it comes twice
    config.get('model_args', {}).pop('num_classes', None)
    config['pretrained_cfg'].pop('label_names', None)  # they already stand at the top
    mean_std = channel_stats(model.pretrained_cfg, model.in_chans)
    config['video'] = video_block(model, protocol or eval_protocol(model), *mean_std)
    if borrows:
        config['video'] |= {'format': max(2, config['video']['format']), 'backbone': model.borrowed.to_dict()}
    check_config(config, 'config.json')
    return config


def _checked_labels(labels: Any, num_classes: int) -> list[str]:
    labels = [labels] if isinstance(labels, str) else list(labels)
    wrong = [label for label in labels if not isinstance(label, str) or not label.strip()]
    if wrong:
        raise ValueError(f'Class names must be strings that are not empty, got {wrong[0]!r}.')
    if len(labels) != num_classes:
        raise ValueError(
            f'The model has {num_classes} classes but got {len(labels)} class names. Give one name for each class, in '
            'the order of the logits.')
    return labels
