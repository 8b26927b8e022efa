"""How frames that do not have the shape of the model's frames are made to fit."""
from typing import Literal, get_args

__all__ = ['FITS', 'Fit']

Fit = Literal['crop', 'letterbox', 'stretch']
FITS: tuple[Fit, ...] = get_args(Fit)
"""`crop` cuts the longer side off, `letterbox` shows the whole frame between black bars, `stretch` distorts it."""
