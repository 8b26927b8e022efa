"""Nearest neighbours as a model: the folder of features that `flatzoo probe --kind knn` saves, and its backbone."""
import copy
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flatzoo.models.neighbours import Neighbours, replace_classifier
from flatzoo.weights.config import NEIGHBOURS_FILE

from .embedder import Embedder
from .features import Features, FeatureStore, load_features
from .load import ModelError

if TYPE_CHECKING:
    from flatzoo.models import VideoModel

__all__ = ['load_neighbours', 'neighbours_model', 'save_neighbours']


def neighbours_model(embedder: Embedder, features: Features, count: int) -> 'VideoModel':
    """The model of an embedder, which answers with the classes of the nearest neighbours.

    Args:
        embedder: What the features were made with.
        features: Of labelled clips; only their classes are known.
        count: Number of neighbours.

    Raises:
        ValueError: The model has no feature of a clip in front of its classifier.
    """
    model = copy.deepcopy(embedder.model)
    targets = features.targets
    known = (targets.sum(0) > 0).nonzero().flatten()
    head = Neighbours(features.pooled(), targets[:, known], count, features.multi_label)
    model.reset_classifier(len(known))
    replace_classifier(model, head.to(next(model.parameters()).device))
    model.pretrained_cfg = {
        **model.pretrained_cfg, 'label_names': tuple(features.classes[label] for label in known.tolist())}
    model.saved_protocol, model.head_trained, model.multi_label = embedder.protocol, True, features.multi_label
    model.eval()
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(1, model.in_chans, model.num_frames, *model.img_size, generator=generator)
    with torch.inference_mode():  # some models join the answers for several images, not their features
        x = model.forward_features(clip.to(next(model.parameters())))
        expected = head(model.forward_head(x, pre_logits=True))
        if not torch.allclose(model.forward_head(x), expected, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f'{type(model).__name__} has no single feature in front of its classifier, which neighbours need. The '
                'accuracy of the probe holds; ridge and logistic make a model.')
    return model


def save_neighbours(features: Features, count: int, folder: str | os.PathLike) -> Path:
    """Saves the features that answer, and the number of neighbours, so that `load_model` takes the folder.

    Args:
        features: Of the clips that the head was fitted to.
        count: Number of neighbours.
        folder: Where to.

    Raises:
        ValueError: The folder holds other features.
        OSError: The folder cannot be written.
    """
    store = FeatureStore(folder)
    if not {*store.rows} <= {row.key for row in features.rows}:
        raise ValueError(f'{folder}: holds features of other clips, which would answer, too. Give a new folder.')
    store.open(features.settings)
    store.classes, store.multi_label = features.classes, features.multi_label
    new = [index for index, row in enumerate(features.rows) if row.key not in store.rows]
    if new:
        store.add([features.values[index] for index in new], [features.rows[index] for index in new])
    path = Path(folder, NEIGHBOURS_FILE)
    partial = path.with_name(f'{path.name}.partial')
    try:
        partial.write_text(json.dumps({'neighbours': count}) + '\n', encoding='utf-8')
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return Path(folder)


def load_neighbours(folder: str | os.PathLike, device: str = 'auto') -> 'VideoModel':
    """Loads what `save_neighbours` saved, with the backbone that the features name.

    Raises:
        ModelError: The folder is damaged, or the backbone is not there any more, or has other weights now.
    """
    path = Path(folder, NEIGHBOURS_FILE)
    try:
        stated: Any = json.loads(path.read_text(encoding='utf-8'))
        count = stated['neighbours']
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ValueError(f'neighbours is {count!r}')
        features = load_features(folder)
    except (ImportError, ModelError):
        raise
    except Exception as error:  # noqa: BLE001 - JSON, Parquet and safetensors raise their own
        why = ' '.join(str(error).split())[:300]
        raise ModelError(f'{path}: cannot be used ({why}). Fit the probe again.') from error
    try:
        return neighbours_model(Embedder.of_settings(features.settings, device), features, count)
    except ValueError as error:
        raise ModelError(f'{folder}: {error}') from error
