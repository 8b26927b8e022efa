"""Video models, registered with timm on import. One paper is one file, or one folder if it has parts."""
import importlib
import pkgutil

from flatzoo.weights.download import HubError as HubError

from .adapter_builder import model_from_adapters as model_from_adapters
from .base import VideoModel as VideoModel
from .builder import class_names as class_names, eval_protocol as eval_protocol, list_models as list_models

# A paper's models register themselves when its file is imported. All files here are imported, also a new one.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'{__name__}.{_module.name}')
