"""flatzoo: video models made from image backbones. Importing it registers the models with timm."""
from . import models as models
from .layers import Layout as Layout, SuperImage as SuperImage
from .models import VideoModel as VideoModel, eval_protocol as eval_protocol, list_models as list_models
from .version import __version__ as __version__
