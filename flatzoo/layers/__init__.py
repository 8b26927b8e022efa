"""Building blocks that know no model: layouts of clips as images, embeddings and convolutions on super images."""
from .frame_embed import FramePatchEmbed as FramePatchEmbed
from .large_kernel import LargeKernelBottleneck as LargeKernelBottleneck
from .layout import Layout as Layout
from .super_image import SuperImage as SuperImage
from .time_layer import TimeLayer as TimeLayer
from .tubelet_embed import TubeletEmbed as TubeletEmbed
