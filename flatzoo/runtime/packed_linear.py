"""Linear layers whose weights are kept in the layout that oneDNN multiplies fastest, where that is faster.

torch stores a weight row by row, and its matrix product brings it into blocks again in every call, or leaves it to a
library that does not suit the processor. Here the weight is packed once, by the operators with which torch.compile
freezes models, and GELU or a residual sum is computed while the product is still in registers. Where the product of
torch is as fast, it is taken.

Modules are prepared by changing their class to a subclass. Parameters, names and attributes stay those of the plain
module. The plain forward runs where the fast one cannot.
"""
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.multiprocessing.reductions import StorageWeakRef

from .choice import MOST_ROWS, faster, size_class

__all__ = ['PackedLinear', 'Prepared', 'infers', 'is_linear', 'needs_parts', 'runs_fast', 'some_rows', 'state_of']


_DTYPES = {'cpu': (torch.float32, torch.bfloat16), 'cuda': (torch.float32, torch.bfloat16, torch.float16)}


def infers(x: Tensor, module: nn.Module) -> bool:
    """Whether a module may bypass autograd, autocast and tracing: only in inference."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and getattr(forward_ad, '_current_level', -1) < 0  # no tangents, which packed operators would drop
        and type(x) is Tensor
        and x.numel() > 0
        and not (torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in module.parameters())))
        and not (torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type))
    )


def runs_fast(x: Tensor, module: nn.Module, devices: tuple[str, ...] = ('cpu',)) -> bool:
    """Whether a module may run its fast way: in inference on one of these devices, in a dtype that has one."""
    return x.device.type in devices and x.dtype in _DTYPES[x.device.type] and infers(x, module)


def state_of(tensor: Tensor) -> tuple[int, int, int]:
    """What changes when a tensor is written to or gets other memory, as long as its storage is referred to."""
    return tensor.untyped_storage()._cdata, tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


class Prepared:
    """Mixin of prepared modules: keeps what is derived from a parameter until that parameter changes.

    Changes are noticed when weights are loaded, when the module is moved or cast, and when a model with shared weights
    is trained. Changes that torch does not count are not noticed: writing through `parameter.data`, and writing to
    tensors made under `inference_mode`. Derived tensors are neither copied nor pickled with the module. The next
    forward computes them again.
    """

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Whether a module of the class that this one extends can be prepared."""
        return True

    def derived(self, key: Any, tensor: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """`make(tensor)`, computed again only if the tensor is another one or has been written to."""
        kept = self.__dict__.setdefault('_derived', {})
        state, entry = state_of(tensor), kept.get(key)
        if entry is None or entry[0] is not tensor or entry[1] != state:
            with torch.no_grad():  # the reference keeps the storage's address from being used again, not its memory
                entry = kept[key] = (tensor, state, make(tensor), StorageWeakRef(tensor.untyped_storage()))
        return entry[2]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != '_derived'}


class PackedLinear(Prepared, nn.Linear):
    """`nn.Linear` with a packed weight."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in_features]` -> `[..., out_features]`."""
        return self._run(x, 'none', '', self._plain)

    def gelu(self, x: Tensor, approximate: str = 'none') -> Tensor:
        """GELU of the layer's output; `approximate` as in `nn.GELU`."""
        def plain(x: Tensor) -> Tensor:
            return F.gelu(self._plain(x), approximate=approximate)

        return self._run(x, 'gelu', approximate, plain)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """The layer's output plus a tensor of its shape."""
        def plain(x: Tensor, residual: Tensor) -> Tensor:
            return self._plain(x).add_(residual)

        def fused(x: Tensor, residual: Tensor) -> Tensor:
            return _LINEAR.binary(x, residual, self._packed(), self.bias, 'add')

        if not _packs(x, self) or residual.dtype != x.dtype:
            return self._plain(x) + residual
        rows, some = some_rows(x), some_rows(residual)
        trials = (lambda: plain(rows(), some())), (lambda: fused(rows(), some()))
        return (fused if self._faster('add', x, *trials) else plain)(x, residual)

    def _plain(self, x: Tensor) -> Tensor:
        """The layer as torch computes it, in one product for all rows."""
        if x.dim() > 2 and not self.weight.requires_grad:
            x = x.contiguous()  # for strided rows torch takes a batch of products if the weight needs no gradient
        return super().forward(x)

    def _run(self, x: Tensor, function: str, approximate: str, plain: Callable[[Tensor], Tensor]) -> Tensor:
        """The layer and a function of its output, in one operator or as torch does it."""
        def fused(x: Tensor) -> Tensor:
            return _LINEAR(x, self._packed(), self.bias, function, [], approximate)

        if not _packs(x, self):
            return plain(x)
        rows = some_rows(x)
        return (fused if self._faster(function, x, lambda: plain(rows()), lambda: fused(rows())) else plain)(x)

    def _faster(self, function: str, x: Tensor, plain: Callable[[], Tensor], fused: Callable[[], Tensor]) -> bool:
        return faster((function, size_class(x.numel() // x.shape[-1]), *self.weight.shape, x.dtype), plain, fused)

    def _packed(self) -> Tensor:
        return self.derived('weight', self.weight, _pack)


def some_rows(x: Tensor) -> Callable[[], Tensor]:
    """Rows on which both ways are tried; taken when they are needed, for it copies inputs that are not contiguous."""
    return functools.cache(lambda: x.reshape(-1, x.shape[-1])[:MOST_ROWS])


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer of torch, or a prepared one, and no subclass of somebody else."""
    return type(module) is nn.Linear or isinstance(module, PackedLinear)


def needs_parts(module: nn.Module) -> bool:
    """Whether all parts of a module must be called: somebody listens to one, or one trains, such as dropout."""
    return any(part.training or part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def _operator(name: str) -> Any:
    """An operator of torch's oneDNN, or None where torch was built without it."""
    return getattr(torch.ops.mkldnn, name, None)


_LINEAR, _pack = _operator('_linear_pointwise'), _operator('_reorder_linear_weight')
_has_bfloat16 = _operator('_is_mkldnn_bf16_supported')


def _packs(x: Tensor, layer: nn.Linear) -> bool:
    return (
        runs_fast(x, layer)
        and _LINEAR is not None
        and _pack is not None
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and layer.weight.dtype == x.dtype
        and layer.weight.device == x.device
        and (x.dtype != torch.bfloat16 or _has_bfloat16 is not None and _has_bfloat16())
    )
