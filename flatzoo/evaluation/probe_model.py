"""A probe as a model: the head that was fitted, on the backbone that the features are of."""
import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flatzoo.inference.embedder import Embedder
from flatzoo.models.borrowed import Borrowed

if TYPE_CHECKING:
    from flatzoo.models import VideoModel

__all__ = ['can_borrow', 'lend_backbone', 'linear_model']


def linear_model(embedder: Embedder, weight: Tensor, bias: Tensor) -> 'VideoModel':
    """The model of an embedder with a linear classifier.

    Args:
        embedder: It.
        weight: `[K, D]`.
        bias: `[K]`.

    Returns:
        A copy of the model, in eval mode.

    Raises:
        ValueError: The logits of the model are no linear layer on its features.
    """
    model = copy.deepcopy(embedder.model)
    model.reset_classifier(len(bias))
    layer = model.get_classifier()
    if not isinstance(layer, nn.Linear) or layer.weight.shape != weight.shape:
        raise _not_linear(model)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    model.eval()
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(1, model.in_chans, model.num_frames, *model.img_size, generator=generator)
    with torch.inference_mode():  # some models join several heads, or normalise in front of one
        x = model.forward_features(clip.to(layer.weight))
        expected = model.forward_head(x, pre_logits=True) @ layer.weight.T + layer.bias
        if not torch.allclose(model.forward_head(x), expected, rtol=1e-3, atol=1e-3):
            raise _not_linear(model)
    return model


def lend_backbone(model: 'VideoModel', settings: Mapping[str, Any]) -> None:
    """Lets a model say whose backbone it has, so that it is saved without it.

    Args:
        model: The model.
        settings: Of the features that its head was fitted to.
    """
    if can_borrow(settings):
        model.borrowed = Borrowed(
            settings['model'], settings['digest'], dict(settings['model_args']), bool(settings['tokens']))


def can_borrow(settings: Mapping[str, Any]) -> bool:
    """Whether a head can name its backbone in place of a copy.

    A model without a name, with weights of a file or with random weights has nobody to borrow from.

    Args:
        settings: Of the features that the head was fitted to.
    """
    owned = settings['model'] is None or settings.get('random_weights')
    return not owned and not settings['model_args'].keys() & {'checkpoint', 'use_ema'}


def _not_linear(model: 'VideoModel') -> ValueError:
    return ValueError(
        f'the logits of {type(model).__name__} are no linear layer on its features, so that a linear head cannot take '
        'their place. The accuracy of the probe holds; save another model, such as its backbone with this head.')
