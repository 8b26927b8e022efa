"""Defers random initialisation until it is needed.

Drawing the random numbers of a large model takes far longer than reading its weights, and `pretrained=True` overwrites
all of them except those of a new head. Inside this context, random operations on parameters are recorded and not run.
`fill` runs them later on the parameters that nothing has written to in between. A parameter that the file lacks thus
has the distribution that its model gives it. The context is local to its thread.
"""
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ['DeferredInit']

_Call = tuple[Callable, tuple, dict]
_RANDOM = {'uniform_', 'normal_', 'kaiming_uniform_', 'bernoulli_', 'exponential_'}  # overwrite all of the tensor
_ARITHMETIC = {'erfinv_', 'mul_', 'add_', 'sub_', 'div_', 'clamp_', 'clip_'}  # continue a random operation
_OVERWRITE = {'copy_', 'zero_', 'fill_', 'constant_'}
_HARMLESS = {
    'size', 'dim', 'numel', 'stride', 'is_floating_point', 'is_complex', 'requires_grad_', 'is_contiguous', '__len__',
    'element_size', 'shape', 'dtype', 'device', 'requires_grad', 'ndim', 'is_leaf', 'is_meta', 'grad', 'layout',
    'grad_fn', '__hash__', 'is_sparse', 'is_quantized', 'is_nested', 'empty_like',
}


class DeferredInit(TorchFunctionMode):
    """Context in which the random initialisation of parameters waits for `fill`.

        deferred = DeferredInit()
        with deferred:
            model = build()
        model.load_state_dict(weights, strict=False)
        deferred.fill()

    `fill` then draws the parameters that the weights did not have.
    """

    def __init__(self):
        super().__init__()
        self._notes: dict[int, tuple[weakref.ref, list[_Call]]] = {}
        self._aliases: dict[int, tuple[Tensor, weakref.ref]] = {}  # `parameter.data` -> parameter
        self._versions: dict[int, int] = {}

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        target = kwargs['tensor'] if 'tensor' in kwargs else args[0] if args else None
        owner = self._owner(target)
        if owner is None:
            # an operation on some other tensor may still read a parameter that has not been filled
            self._fill_all_in(*args, *kwargs.values())
            return func(*args, **kwargs)

        name = func.__name__
        if name in ('__get__', '__set__'):
            name = func.__self__.__name__ if name == '__get__' else 'set'
        if name in _HARMLESS:
            return func(*args, **kwargs)
        key = id(owner)
        if name in _RANDOM:
            self._notes[key] = (weakref.ref(owner), [])
        operands = {k: v for k, v in kwargs.items() if k != 'tensor'}
        continues = name in _ARITHMETIC and key in self._notes and not _has_tensor(*args[1:], *operands.values())
        if name in _RANDOM or continues:
            self._notes[key][1].append((func, args[1:], operands))
            return target
        if name in _OVERWRITE and target.shape == owner.shape:
            self._fill_all_in(*args[1:], *operands.values())
            self._notes.pop(key, None)
            return func(*args, **kwargs)
        if name in ('data', 'detach'):
            alias = func(*args, **kwargs)
            self._aliases[id(alias)] = (alias, weakref.ref(owner))
            return alias
        self._fill(key)
        self._fill_all_in(*args[1:], *kwargs.values())
        return func(*args, **kwargs)

    def __exit__(self, error_type: Any, error: Any, traceback: Any) -> None:
        super().__exit__(error_type, error, traceback)
        self._aliases.clear()
        parameters = {key: reference() for key, (reference, _) in self._notes.items()}
        self._versions = {key: parameter._version for key, parameter in parameters.items() if parameter is not None}

    def fill(self) -> None:
        """Initialises the parameters that were not written to since the context was left."""
        for key, (reference, _) in list(self._notes.items()):
            parameter = reference()
            if parameter is None or parameter.is_meta:  # has no numbers, and torch takes long to draw none
                continue
            if parameter._version == self._versions.get(key):
                self._fill(key)
        self._notes.clear()

    def _owner(self, tensor: Any) -> nn.Parameter | None:
        """The parameter that a tensor is, or whose `data` it is."""
        kind = type(tensor)  # isinstance() is slow here: it calls Parameter's metaclass thousands of times
        if not issubclass(kind, Tensor):
            return None
        if kind is nn.Parameter or kind is not Tensor and isinstance(tensor, nn.Parameter):
            noted = self._notes.get(id(tensor))
            if noted is not None and noted[0]() is not tensor:
                del self._notes[id(tensor)]  # notes of a deleted parameter that had the same id
            return tensor
        alias = self._aliases.get(id(tensor))
        return alias and alias[1]()

    def _fill(self, key: int) -> None:
        reference, calls = self._notes.pop(key, (lambda: None, []))
        parameter = reference()
        if parameter is not None:
            with torch.no_grad():
                for func, args, kwargs in calls:
                    func(parameter, *args, **kwargs)

    def _fill_all_in(self, *values: Any) -> None:
        for value in values:
            owner = self._owner(value)
            if owner is not None:
                self._fill(id(owner))
            elif isinstance(value, (tuple, list)):
                self._fill_all_in(*value)
            elif isinstance(value, dict):
                self._fill_all_in(*value.values())


def _has_tensor(*values: Any) -> bool:
    return any(
        isinstance(value, Tensor)
        or isinstance(value, (tuple, list)) and _has_tensor(*value)
        or isinstance(value, dict) and _has_tensor(*value.values())
        for value in values)
