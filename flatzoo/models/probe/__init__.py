"""Probes in parts: the model, the poolers that read the frozen tokens, and the entry points."""
from .model import Probe as Probe
from .pooler import AttentivePooler as AttentivePooler, StepPooler as StepPooler
from .probe import *  # noqa: F403 - the entry points, which timm's registry appends to `__all__`
