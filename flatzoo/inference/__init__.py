"""A trained model, prepared to answer fast on a CPU."""
from .optimize import optimize as optimize
