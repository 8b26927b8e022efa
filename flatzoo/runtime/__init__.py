"""How a model runs: prepared to answer fast, in which numbers, and what a forward pass costs."""
from .optimize import optimize as optimize
from .precision import (
    PRECISIONS as PRECISIONS,
    Precision as Precision,
    choose_precision as choose_precision,
    cpu_gains_by_bfloat16 as cpu_gains_by_bfloat16,
    precision_of as precision_of,
    prepare as prepare,
)
