"""SIFAR in parts: the models, the position embedding of frames, and the large kernel of the ResNets."""
from .frame_embed import FramePatchEmbed as FramePatchEmbed
from .large_kernel import LargeKernelBottleneck as LargeKernelBottleneck
from .sifar import *  # noqa: F403 - the models and their entry points, which timm's registry appends to `__all__`
