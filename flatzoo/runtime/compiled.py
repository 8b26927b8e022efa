"""Prepared models as machine code: `optimize(model, compile=True)`.

torch.compile turns a forward pass into one graph, writes C++ for what lies between the products, and, on a CPU, folds
the weights into the graph and packs them for oneDNN. That takes a minute, and pays where a model answers often.

What torch.compile leaves to its user is kept here: a graph knows the weights that it was made of, so it is made anew
when they change; graphs of two models are never mixed up; and a convolution that this CPU gets wrong is computed in
float32 (`flatzoo.runtime.conv`).
"""
import itertools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from .choice import rule
from .conv import wrong_convolutions
from .packed_linear import infers, needs_parts, state_of
from .swin import FusedWindowAttention

__all__ = ['compile_calls']

_number = itertools.count()


def compile_calls(model: nn.Module) -> None:
    """Has calls of a prepared model run as machine code, which the first call makes.

    Class, state dict and modules stay as they are. Neither copies nor pickles hold the machine code.

    Raises:
        ValueError: The model is on a CPU, and there is no C++ compiler.
    """
    for module in model.modules():
        if isinstance(module, FusedWindowAttention):
            module.fused_attn = True  # timm leaves it off
    if _on_cpu(_tensors(model)):
        _check_compiler()
    model._compiled_call_impl = _Compiled(model)  # what Module.__call__ runs, if it is set


class _Compiled:
    """What a model runs in place of its modules when it is called."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.state: list | None = None  # of what the machine code takes as constant
        self.wrong: list[str] = []
        self.storages: list[StorageWeakRef] = []
        self.run: Callable | None = None
        self.tried: set[tuple] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        inputs = (*args, *kwargs.values())
        if needs_parts(self.model) or not all(infers(value, self.model) for value in inputs):
            return self.model._call_impl(*args, **kwargs)
        import torch._inductor.config  # takes seconds

        tensors = _tensors(self.model)
        frozen = _on_cpu(tensors)
        with torch.no_grad():
            sizes = tuple((value.shape, value.dtype) for value in inputs)
            if sizes not in self.tried:  # modules check convolutions in bfloat16, and say what is wrong with an input
                with rule('never'):  # packs no weights
                    self.model._call_impl(*args, **kwargs)
                self.tried.add(sizes)
                self.wrong = wrong_convolutions(self.model)
            state = [self.wrong, *map(state_of, tensors)] if frozen else []
            if state != self.state:
                self.run, self.state = self._compile(), state
                # keeps addresses from being used again, not memory
                self.storages = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
            with torch._inductor.config.patch(freezing=frozen):
                try:
                    return self.run(*args, **kwargs)
                except torch._dynamo.exc.Unsupported as error:
                    reason = str(error).partition('\n')[0]
                    raise ValueError(
                        f'torch.compile cannot make one graph of {type(self.model).__name__} ({reason}): '
                        'prepare it without compile=True.') from error

    def _compile(self) -> Callable:
        model = self.model

        def forward(*args: Any, **kwargs: Any) -> Any:
            return model.forward(*args, **kwargs)

        # functions of one code share what was compiled, and what is known about sizes: each model has its own code
        code = forward.__code__.replace(co_name=f'{type(model).__name__}_{next(_number)}')
        return torch.compile(FunctionType(code, globals(), closure=forward.__closure__), fullgraph=True)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [
        tensor for module in model.modules() for tensors in (module._parameters, module._buffers)
        for tensor in tensors.values() if tensor is not None]


def _on_cpu(tensors: list[Tensor]) -> bool:
    return all(tensor.device.type == 'cpu' for tensor in tensors)


def _check_compiler() -> None:
    import torch._inductor.cpp_builder

    try:
        torch._inductor.cpp_builder.get_cpp_compiler()
    except RuntimeError as error:
        raise ValueError(
            'compile=True needs a C++ compiler, and none was found. Install one (apt-get install g++), name yours in '
            'the environment variable CXX, or leave compile=True away.') from error
