"""Building blocks that know no model: layouts of clips as images, layers for super images, and what AM Flow puts around
a frozen image transformer.
"""
from .adapters import (
    HyperAdapter as HyperAdapter,
    HyperNetwork as HyperNetwork,
    ParallelAdapter as ParallelAdapter,
    SerialAdapter as SerialAdapter,
)
from .aligning_encoder import AligningEncoder as AligningEncoder
from .attention_flow import (
    attention_map_flow as attention_map_flow,
    attention_received as attention_received,
)
from .frame_embed import FramePatchEmbed as FramePatchEmbed
from .large_kernel import LargeKernelBottleneck as LargeKernelBottleneck
from .layout import Layout as Layout
from .logit_fusion import HeadBank as HeadBank, LogitFusion as LogitFusion
from .super_image import SuperImage as SuperImage
from .temporal_unit import LSTMUnit as LSTMUnit, TCNUnit as TCNUnit, TransformerUnit as TransformerUnit
from .time_layer import TimeLayer as TimeLayer
from .tubelet_embed import TubeletEmbed as TubeletEmbed
