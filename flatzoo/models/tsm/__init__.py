"""TSM in parts: the model, the shift, the non-local block, names of weights in other code, and the entry points."""
from .model import TSM as TSM
from .shift import TemporalShift as TemporalShift, temporal_shift as temporal_shift
from .tsm import *  # noqa: F403 - the entry points, which timm's registry appends to `__all__`
