"""How a model runs: prepared to answer fast, and what a forward pass costs."""
from .optimize import optimize as optimize
