"""Loads the model for inference from its name. An error is one clear message."""
import difflib
import os
import re
import warnings
from typing import TYPE_CHECKING, Any

from flatzoo.console.text import printable

if TYPE_CHECKING:
    import torch

    from flatzoo.models import VideoModel
    from flatzoo.runtime import Precision

DEFAULT_MODEL = 'sifar_resnet10t'

__all__ = [
    'DEFAULT_MODEL', 'ModelError', 'check_registered', 'load_model', 'model_name', 'on_the_shell',
    'weights_name_classes',
]


class ModelError(ValueError):
    """A model cannot be loaded or cannot answer. The message is complete for the user."""


def load_model(
        name: str,
        checkpoint: str | None = None,
        num_classes: int | None = None,
        allow_untrained: bool = False,
        device: str = 'auto',
        in_chans: int = 3,
        needs_head: bool = True,
        use_ema: bool | None = None,
        precision: 'Precision | None' = None,
        shown_as: str | None = None,
        **kwargs: Any,
) -> 'VideoModel':
    """Loads a video model in eval mode that is ready to answer.

    Args:
        name: A registered name with or without a tag, a folder, `hf-hub:org/name` or `local-dir:folder`.
        checkpoint: Weight file to load instead of the weights of the name. A file does not name its classes. They are
            taken from the tag only if `name` contains the tag.
        num_classes: Number of classes, if it differs from that of the name.
        allow_untrained: Whether a model whose head was never trained is accepted. Nothing is downloaded for it.
        device: `'auto'` (CUDA if available) or a torch device.
        in_chans: Channels of the given frames: 3 for video files, 1 for depth maps.
        needs_head: Whether the trained head is needed. If not, other weights are accepted, such as those of an image
            backbone.
        use_ema: For a checkpoint with raw weights and their moving average: whether to take the average. None takes the
            average and warns.
        precision: Prepares the model to answer fast, in these numbers; see `flatzoo.runtime.prepare`. None leaves it as
            it is.
        shown_as: How a message calls a model that cannot be had. None calls it by its name.
        **kwargs: Further arguments of the model.

    Raises:
        ModelError: There is no such model, file or device, or the head of the model was never trained.
    """
    import timm
    from timm.models import parse_model_name

    from flatzoo.hub.pull import pull
    from flatzoo.models import VideoModel
    from flatzoo.weights.config import NEIGHBOURS_FILE

    target, name = _device(device), model_name(name)
    try:
        source, place = parse_model_name(name)
    except ValueError as error:
        raise ModelError(error) from error
    options = dict(kwargs) if num_classes is None else {'num_classes': num_classes, **kwargs}
    pretrained = True
    if source is None:
        cfg = _registered_cfg(name)
        if in_chans != 3:
            options['in_chans'] = in_chans
        if checkpoint is not None:
            overlay = {'file': checkpoint} if '.' in name else {'file': checkpoint, 'label_names': None}
            options['pretrained_cfg_overlay'] = overlay
            options['use_ema'] = use_ema
        elif not needs_head:
            pretrained = cfg.has_weights and not allow_untrained
            if not cfg.has_weights and not allow_untrained:
                raise ModelError(f'{name} has no weights. Give some with --checkpoint FILE, or --allow-untrained.')
        elif not weights_name_classes(cfg) or num_classes not in (None, cfg.num_classes):
            pretrained = False
            if not allow_untrained:
                raise ModelError(_untrained(name, cfg))
    elif checkpoint is not None:
        raise ModelError(f'--checkpoint {checkpoint} needs a registered --model; {name} brings its own weights.')

    try:
        if source == 'local-dir' and os.path.isfile(os.path.join(place, NEIGHBOURS_FILE)):
            from .neighbours import load_neighbours

            if options:
                raise ModelError(f'{place} holds nearest neighbours, which take no {", ".join(options)}.')
            model = load_neighbours(place, device)
        elif source == 'hf-hub':  # sparing the silent retries of timm's own way
            model = pull(place, **options)
        else:
            model = timm.create_model(name, pretrained=pretrained, **options)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - the Hub client, loaders and backbones raise anything
        raise ModelError(_unavailable(shown_as or checkpoint or name, error)) from error
    if not isinstance(model, VideoModel):
        raise ModelError(f"{name} is an image model. 'flatzoo list' shows the video models.")
    if model.in_chans != in_chans:
        whose = 'video files' if in_chans == 3 else 'this data'
        raise ModelError(f'{name} takes frames of {model.in_chans} channels; those of {whose} have {in_chans}.')
    if needs_head and not model.head_trained:
        if not allow_untrained:
            raise ModelError(
                f'{checkpoint or name} has no trained head for {model.num_classes} classes. If it has one for another '
                'number, give that with --num-classes; --allow-untrained answers all the same, at random.')
        warnings.warn(f'the head of {name} was never trained: its answers mean nothing.', stacklevel=2)
    if checkpoint is not None:
        model.multi_label = _is_multi_label(checkpoint, model.num_classes)
    model = model.eval().to(target)
    if precision is None:
        return model
    from flatzoo.runtime import prepare

    return prepare(model, precision)


def model_name(name: str) -> str:
    """Converts a name to timm's form. An existing folder becomes `local-dir:folder`, unless a model has that name.

    Raises:
        ModelError: The folder holds no model.
    """
    if name.startswith(('hf-hub:', 'hf_hub:', 'local-dir:')) or not os.path.isdir(name):
        return name
    import timm

    import flatzoo.models  # noqa: F401 - registers them
    from flatzoo.weights.config import CONFIG_FILE, NEIGHBOURS_FILE

    if timm.is_model(name.partition('.')[0]):
        return name
    if not any(os.path.isfile(os.path.join(name, file)) for file in (CONFIG_FILE, NEIGHBOURS_FILE)):
        raise ModelError(
            f'{name}: this folder holds no {CONFIG_FILE}, so no model. Give one that flatzoo train (after its first '
            'epoch), flatzoo pull --out, flatzoo probe --out or flatzoo.save_pretrained wrote.')
    return f'local-dir:{name}'


def _is_multi_label(checkpoint: str, num_classes: int) -> bool:
    """Whether the configuration beside a weight file, if there is one, says that clips may have several classes."""
    from flatzoo.weights.config import CONFIG_FILE, multi_label_of_config, read_config

    path = os.path.join(os.path.dirname(checkpoint), CONFIG_FILE)
    if not os.path.isfile(path):
        return False
    try:
        config = read_config(path)
    except ValueError:  # of other software; the weights alone were asked for
        return False
    return config.get('num_classes') == num_classes and multi_label_of_config(config)


def check_registered(name: str) -> None:
    """Refuses a name that is not a registered video model, and suggests similar names."""
    _registered_cfg(name)


def weights_name_classes(cfg: Any) -> bool:
    """Whether registered weights have a trained head. Weights with a trained head name their classes; others do not."""
    return cfg.has_weights and cfg.label_names is not None


def _device(name: str) -> 'torch.device':
    import torch

    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # a device without memory, such as meta, cannot answer
    except Exception as error:  # noqa: BLE001 - AssertionError, RuntimeError or NotImplementedError, by device
        reason = str(error).strip().partition('\n')[0]
        raise ModelError(f'--device {name} cannot be used here ({reason}). Try --device cpu.') from error
    return device


def _registered_cfg(name: str) -> Any:
    """timm's configuration of a registered video model."""
    import timm

    from flatzoo.models import list_models

    architecture, architectures = name.partition('.')[0], list_models()
    if architecture in architectures:
        try:
            return timm.get_pretrained_cfg(name)
        except RuntimeError:
            pass  # no such tag
    elif timm.is_model(architecture):
        raise ModelError(f"{name} is an image model. 'flatzoo list' shows the video models.")
    near = difflib.get_close_matches(name, architectures + list_models(pretrained=True), n=5, cutoff=0.5)
    hint = f' Similar names: {", ".join(near)}.' if near else ''
    raise ModelError(f"there is no model {name!r}.{hint} 'flatzoo list' shows all.")


def _untrained(name: str, cfg: Any) -> str:
    import timm

    from flatzoo.models import list_models

    why = f'its weights ({cfg.tag}) have no head for these classes' if cfg.has_weights else 'it has no weights'
    trained = [other for other in list_models(pretrained=True) if weights_name_classes(timm.get_pretrained_cfg(other))]
    return (
        f'the head of {name} was never trained: {why}. Give trained weights with --checkpoint FILE, choose a model '
        f'with a trained head ({", ".join(trained)}), or get random answers with --allow-untrained.'
    )


def _unavailable(name: str, error: Exception) -> str:
    """Says why a model or its weights could not be loaded."""
    from flatzoo.weights.download import HubError

    if isinstance(error, HubError):
        return f'{name} cannot be downloaded: {on_the_shell(error, "--checkpoint" if ":" not in name else "")}'
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    text = printable(' '.join(str(error).split()) or type(error).__name__, 2000)
    if any(type(cause).__module__.startswith(('urllib', 'http', 'huggingface_hub')) for cause in chain):
        return (
            f'the weights of {name} cannot be downloaded: {text} Check the name and the network, or give weights that '
            'are on this machine with --checkpoint FILE or --model FOLDER.'
        )
    return text if name in text else f'{name} cannot be loaded ({type(error).__name__}): {text}'


def on_the_shell(error: Exception, option: str) -> str:
    """A download error in one line. It names command-line options instead of Python arguments.

    Args:
        error: The error.
        option: The option that takes a weight file, empty if there is none.
    """
    text = ' '.join(str(error).split())
    text = re.sub(r", or [^.]*? pretrained_cfg_overlay=dict\(file='\.\.\.'\)", '', text)
    file = f'a weight file with {option} FILE, or ' if option else ''
    return f'{text} Or give what is on this machine: {file}the folder of a model with --model FOLDER.'
