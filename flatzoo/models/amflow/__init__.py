"""AM Flow in parts: the model, its adapters, its temporal units, the aligning encoder and the fusion of logits."""
from .adapters import (
    HyperAdapter as HyperAdapter,
    HyperNetwork as HyperNetwork,
    ParallelAdapter as ParallelAdapter,
    SerialAdapter as SerialAdapter,
)
from .aligning_encoder import AligningEncoder as AligningEncoder
from .amflow import *  # noqa: F403 - the model and its entry points, which timm's registry appends to `__all__`
from .logit_fusion import HeadBank as HeadBank, LogitFusion as LogitFusion
from .temporal_unit import LSTMUnit as LSTMUnit, TCNUnit as TCNUnit, TransformerUnit as TransformerUnit
