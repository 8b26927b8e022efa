"""UniFormer in parts: the model with its entry points, and the blocks that it is made of."""
from .blocks import AttentionBlock as AttentionBlock, ConvBlock as ConvBlock
from .uniformer import *  # noqa: F403 - the model and its entry points, which timm's registry appends to `__all__`
from .uniformer import checkpoint_filter_fn as checkpoint_filter_fn
