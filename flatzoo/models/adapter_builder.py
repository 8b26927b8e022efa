"""Builds the models of adapter methods, from the names of their entry points or from adapter files."""
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, register_model

from flatzoo.console.text import printable, shortened
from flatzoo.data.protocol import EvalProtocol
from flatzoo.weights.adapter_file import read_adapter_file
from flatzoo.weights.hub_session import HubError

from .adapter_figures import ABOUT_FIGURES, FIGURES
from .adapter_model import AdapterModel
from .backbone import image_cfg
from .base import prefixed
from .builder import build_video_model
from .record import LVD_142M, DataSet, Paper, TagRecord, register_records

__all__ = [
    'CLIP_B', 'CLIP_L', 'DINOV2_B', 'adapter_cfg', 'adapter_entry_point', 'build_adapter_model', 'check_numbers',
    'check_places', 'model_from_adapters', 'register_adapter_records',
]


def model_from_adapters(path: str | Path, pretrained: bool = True, **kwargs: Any) -> AdapterModel:
    """Builds the model of an adapter file. The backbone comes from the Hub, everything else from the file.

    Args:
        path: A file of `AdapterModel.save_adapters`.
        pretrained: Whether to load the backbone's image weights. The digest in the file checks them.
        **kwargs: Further arguments of `timm.create_model`, such as `device` or `pretrained_cfg_overlay`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: As for `AdapterModel.load_adapters`, or if the model was not built by its name.
    """
    _, header = read_adapter_file(path, header_only=True)
    if not header['model']:
        raise ValueError(
            f'{path}: the model was not built by timm.create_model, so its name is not known. Build the model in the '
            'same way and call load_adapters().')
    try:
        model = timm.create_model(header['model'], pretrained=pretrained, **{**header['model_args'], **kwargs})
    except HubError:
        raise
    except Exception as error:  # the file may name any model and arguments, so any exception is possible
        raise ValueError(
            f'{path}: its model cannot be built: {type(error).__name__}: {printable(error, 500)}') from error
    if not isinstance(model, AdapterModel):
        raise ValueError(f"{path}: is of {shortened(header['model'])}, which takes no adapters.")
    model.load_adapters(path)
    return model


CLIP_B = 'vit_base_patch16_clip_quickgelu_224.openai'
CLIP_L = 'vit_large_patch14_clip_quickgelu_224.openai'
DINOV2_B = 'vit_base_patch14_dinov2.lvd142m'  # backbones of the entry points, with the tags of their weights


def check_places(places: Sequence[str] | str, accepted: Sequence[str]) -> list[str]:
    """The places of adapters that an argument names, in the order of `accepted`.

    Raises:
        ValueError: A place is not accepted or is named twice.
    """
    given = [places] if isinstance(places, str) else list(places)
    if len(set(given)) < len(given) or not set(given) <= set(accepted):
        raise ValueError(f'places={given}: accepted are {", ".join(map(repr, accepted))}, each once.')
    return [place for place in accepted if place in given]


def check_numbers(**numbers: Any) -> None:
    """Refuses numbers that are not positive.

    Args:
        **numbers: Name of an argument -> its value, and `int` for whole numbers or `float` for any number.

    Raises:
        ValueError: A number is not accepted. The message names the argument and what is accepted.
    """
    for name, (value, kind) in numbers.items():
        kinds = (int,) if kind is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
            accepted = 'a whole number of at least 1' if kind is int else 'a number above 0'
            raise ValueError(f'{name}={value!r}: {accepted} is accepted.')


def adapter_cfg(paper: Paper, backbone: str, **kwargs: Any) -> dict[str, Any]:
    """timm's configuration of a method on a backbone: its image weights, at the address that timm has for them.

    Args:
        paper: The paper of the method.
        backbone: A timm model with its tag.
        **kwargs: Fields that the method sets, such as `num_classes`.
    """
    image = timm.get_pretrained_cfg(backbone)
    return {
        'hf_hub_id': image.hf_hub_id, 'license': image.license, 'mean': image.mean, 'std': image.std,
        'interpolation': image.interpolation, 'num_classes': 400, 'input_size': (3, 224, 224),
        'fixed_input_size': True, 'crop_pct': 1.0, 'first_conv': prefixed(image.first_conv), 'classifier': 'head',
        'paper_ids': paper.id, 'paper_name': paper.title, **kwargs,
    }


def build_adapter_model(
        model_cls: type[AdapterModel],
        variant: str,
        default_backbone: str,
        pretrained: bool = False,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **kwargs: Any,
) -> AdapterModel:
    """Builds a model. A backbone other than the default one brings its own normalisation and image weights.

    Args:
        model_cls: The class of the method.
        variant: Name of the entry point.
        default_backbone: The timm model, with or without a tag, whose image weights the entry point names.
        pretrained: Whether to load weights.
        pretrained_cfg_overlay: As for `timm.create_model`.
        **kwargs: Arguments of the model.
    """
    overlay, name = dict(pretrained_cfg_overlay or {}), kwargs.get('backbone', default_backbone)
    if name == default_backbone.partition('.')[0]:
        name = default_backbone  # timm's own default may be other weights
    kwargs['backbone'] = name
    saved = isinstance(kwargs.get('pretrained_cfg'), (dict, PretrainedCfg))  # of a saved model, and complete
    if name != default_backbone and not saved:
        image = image_cfg(name)
        fields = ['mean', 'std', 'interpolation', 'crop_pct', 'license']
        if not any(overlay.get(key) for key in ('file', 'url', 'state_dict', 'hf_hub_id')):
            if ':' in name:  # on the Hub or in a folder
                kwargs['backbone_pretrained'], pretrained = pretrained, False
            else:
                fields += ['url', 'hf_hub_id', 'hf_hub_filename']
        own = {field: image.get(field) for field in fields}
        overlay = {**own, 'first_conv': prefixed(image.get('first_conv')), **overlay}
    return build_video_model(model_cls, variant, pretrained, pretrained_cfg_overlay=overlay, **kwargs)


def adapter_entry_point(
        model_cls: type[AdapterModel],
        name: str,
        summary: str,
        backbone: str,
        **model_args: Any,
) -> Callable[..., AdapterModel]:
    """Makes and registers an entry point, for methods with so many that each needs no function of its own.

    Args:
        model_cls: The class of the method. The entry point is put into its module.
        name: Name of the entry point.
        summary: Its documentation.
        backbone: Its timm model with a tag.
        **model_args: Its arguments.
    """
    def create(pretrained: bool = False, **kwargs: Any) -> AdapterModel:
        return build_adapter_model(model_cls, name, backbone, pretrained, **{**model_args, **kwargs})

    create.__name__ = create.__qualname__ = name
    create.__doc__, create.__module__ = summary, model_cls.__module__
    return register_model(create)


_DATA = {
    'lvd142m': LVD_142M,
    'openai': DataSet('400 M image-text pairs', None, 'matching images and text'),
}
_SIZES = {'lvd142m': 346_000_000}  # of timm's DINOv2 ViT-B, as its page states it


def register_adapter_records(paper: Paper, protocols: dict[str, EvalProtocol]) -> None:
    """Registers the records of the tags of a method. All of them are image weights of its backbone.

    Accuracies that are printed for a method stand in `adapter_figures.py`.

    Args:
        paper: The paper of the method.
        protocols: Tag (`architecture.tag`) -> how its accuracy is measured.
    """
    register_records({
        name: TagRecord(
            paper, _DATA[name.partition('.')[2]], protocol=protocol, size=_SIZES.get(name.partition('.')[2]),
            figures=FIGURES.get(name.partition('.')[0], ()), about_figures=ABOUT_FIGURES.get(paper.name, ''),
            frozen_backbone=True,
            starts_fresh=(
                'These are weights of the image backbone; **adapters and classifiers are freshly initialised** and '
                'must be trained.'),
            limits='The backbone has seen single images only, no clips.',
            unsupported=('torch.jit.script', 'torch.fx'))  # blocks are run by a runner that is no module
        for name, protocol in protocols.items()})
