"""Video models, registered with timm on import; one paper is one file."""
from flatzoo.weights.download import HubError as HubError

from . import (
    amflow as amflow,
    flatten as flatten,
    probe as probe,
    sifar as sifar,
    superimage as superimage,
    tall as tall,
    time_layer as time_layer,
    tsm as tsm,
    uniformer as uniformer,
    videomae as videomae,
)
from .base import VideoModel as VideoModel
from .builder import eval_protocol as eval_protocol, list_models as list_models
