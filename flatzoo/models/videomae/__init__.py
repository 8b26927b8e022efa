"""VideoMAE in parts: the model, and the embedding of tubelets."""
from .tubelet_embed import TubeletEmbed as TubeletEmbed
from .videomae import *  # noqa: F403 - the model and its entry points, which timm's registry appends to `__all__`
