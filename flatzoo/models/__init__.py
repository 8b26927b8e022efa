"""Video models, registered with timm on import; one paper is one file."""
from . import sifar as sifar, superimage as superimage
from ._base import VideoModel as VideoModel
from ._registry import eval_protocol as eval_protocol, list_models as list_models
