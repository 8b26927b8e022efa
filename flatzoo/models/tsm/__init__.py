"""TSM in parts: the model, the shift and where it sits, the non-local block, other code's names of weights, the zoo."""
from .model import TSM as TSM
from .shift import TemporalShift as TemporalShift, temporal_shift as temporal_shift
from .tsm import *  # noqa: F403 - the entry points, which timm's registry appends to `__all__`
