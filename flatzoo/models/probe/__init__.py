"""Probes in parts: the model, what it reads the frozen tokens with, and the entry points."""
from .model import Probe as Probe
from .pooler import AttentivePooler as AttentivePooler, StepPooler as StepPooler
from .probe import *  # noqa: F403 - the entry points, which timm's registry appends to `__all__`
