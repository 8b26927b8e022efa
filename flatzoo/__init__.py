"""flatzoo: video models made from image backbones. Importing it registers the models with timm."""
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .evaluation.audit.run import audit as audit
    from .evaluation.probe import probe as probe
    from .hub.pull import pull as pull
    from .hub.push import push_to_hub as push_to_hub, save_pretrained as save_pretrained
    from .inference.classifier import Classifier as Classifier, predict as predict
    from .inference.embed import embed as embed
    from .inference.events import events as events
    from .inference.features import load_features as load_features
    from .inference.stream import Stream as Stream
    from .inference.windows import predict_windows as predict_windows
    from .layers import Layout as Layout, SuperImage as SuperImage
    from .models import (
        HubError as HubError,
        VideoModel as VideoModel,
        eval_protocol as eval_protocol,
        list_models as list_models,
    )
    from .runtime import optimize as optimize

# public name -> the room that has it
_PUBLIC = {
    'Classifier': 'inference.classifier', 'HubError': 'models', 'Layout': 'layers', 'Stream': 'inference.stream',
    'SuperImage': 'layers', 'VideoModel': 'models', 'audit': 'evaluation.audit.run', 'embed': 'inference.embed',
    'eval_protocol': 'models', 'events': 'inference.events', 'list_models': 'models',
    'load_features': 'inference.features', 'optimize': 'runtime', 'predict': 'inference.classifier',
    'predict_windows': 'inference.windows', 'probe': 'evaluation.probe', 'pull': 'hub.pull',
    'push_to_hub': 'hub.push',
    'save_pretrained': 'hub.push',
}

__all__ = ['__version__', *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(f'{__name__}.{_PUBLIC[name]}'), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_command() -> bool:
    """Whether this process is the command `flatzoo`, or `python -m flatzoo` (whose name is `-m` while it is found)."""
    name = os.path.basename(sys.argv[0]) if getattr(sys, 'argv', None) else ''
    return name.removesuffix('.exe') == 'flatzoo' or (name == '-m' and 'flatzoo' in sys.orig_argv)


# An import registers the models at once, before or after `import timm`. The command does not: torch and timm take
# seconds, which `flatzoo --help`, `flatzoo list` and a typo's error need not wait for. A command that needs models
# imports them itself (`from flatzoo import VideoModel`), and that registers them.
if not _is_command():
    from . import models as models
