"""A trained model, prepared to answer fast."""
from .optimize import optimize as optimize
