"""The classifier that training starts with, where the first weights know the classes of the data already."""
import torch

from flatzoo.data.lists import VideoList, places_of_classes
from flatzoo.models import VideoModel, class_names

from .recipe import Recipe

__all__ = ['keep_rows', 'known_rows']


def known_rows(recipe: Recipe, videos: VideoList) -> list[int] | None:
    """The rows of the classifier of the first weights that belong to the classes of a list.

    Returns:
        A row for each class; none if the weights name classes and not all of these; None if they name none.
    """
    names = () if recipe.initial_checkpoint or not recipe.model else class_names(recipe.model)
    if not names or not videos.named or videos.multi_label:
        return None
    return places_of_classes(videos.classes, names) or []


def keep_rows(model: VideoModel, rows: list[int], classes: tuple[str, ...]) -> None:
    """Leaves those rows of the classifier, in this order."""
    if not model.head_trained:
        model.reset_classifier(len(rows))
        return
    count, place = model.num_classes, {name: model.get_parameter(name) for name in model.classifier_keys()}
    kept = {name: parameter.detach()[rows] for name, parameter in place.items() if len(parameter) == count}
    model.reset_classifier(len(rows))
    with torch.no_grad():
        for name, tensor in kept.items():
            model.get_parameter(name).copy_(tensor)
    model.head_trained = len(kept) == len(place)
    model.pretrained_cfg = {**model.pretrained_cfg, 'label_names': classes}
