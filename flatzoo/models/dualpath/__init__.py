"""DualPath in parts: the model, and the input of its two paths."""
from .dualpath import *  # noqa: F403 - the model and its entry points, which timm's registry appends to `__all__`
from .two_paths import frame_table as frame_table
