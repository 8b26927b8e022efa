"""Building blocks for any model or user: layouts of clips as images, layers for super images, attention flow.

What one paper alone needs lies in that paper's folder below `flatzoo/models/`.
"""
from .attention_flow import (
    attention_map_flow as attention_map_flow,
    attention_received as attention_received,
)
from .layout import Layout as Layout
from .super_image import SuperImage as SuperImage
from .time_layer import TimeLayer as TimeLayer
