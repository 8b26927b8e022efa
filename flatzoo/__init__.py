"""flatzoo: video models made from image backbones. Importing it registers the models with timm."""
from . import models as models
from .hub.pull import pull as pull
from .hub.push import push_to_hub as push_to_hub, save_pretrained as save_pretrained
from .layers import Layout as Layout, SuperImage as SuperImage
from .models import (
    HubError as HubError,
    VideoModel as VideoModel,
    eval_protocol as eval_protocol,
    list_models as list_models,
)
from .runtime import optimize as optimize
from .version import __version__ as __version__
