"""Video models, registered with timm on import; one paper is one file."""
from flatzoo.weights.download import HubError as HubError

from . import (
    aim as aim,
    amflow as amflow,
    dualpath as dualpath,
    flatten as flatten,
    sifar as sifar,
    st_adapter as st_adapter,
    superimage as superimage,
    time_layer as time_layer,
    uniformer as uniformer,
    videomae as videomae,
    zeroi2v as zeroi2v,
)
from .adapter_builder import model_from_adapters as model_from_adapters
from .base import VideoModel as VideoModel
from .builder import eval_protocol as eval_protocol, list_models as list_models
