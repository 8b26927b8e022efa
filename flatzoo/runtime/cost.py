"""Counts the cost of a forward pass on the meta device, without computing anything or using memory."""
import itertools
import re
import warnings
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701 - documented, though its module is not public
from torch.utils._pytree import tree_leaves  # noqa: PLC2701 - as above

__all__ = ['ForwardCost', 'MultiplyAdds', 'count_forward', 'count_kept']


class ForwardCost(NamedTuple):
    """Cost of a forward pass of one clip.

    Attributes:
        macs: Multiply-adds of products, convolutions and attention, and of the attention logits that AM flow forms.
        peak_bytes: Largest sum of the bytes of all tensors that live at the same time, the clip included and weights
            and buffers not, without gradients and with attention fused where the model fuses it. What operators need
            inside (the workspace of a convolution, AM flow's chunks) and what an allocator rounds up is not in it.
    """
    macs: int
    peak_bytes: int


def count_forward(model: nn.Module) -> ForwardCost:
    """Counts a forward pass of one clip in the precision of the model, which is in eval mode afterwards.

    Args:
        model: A video model, or an image model with `in_chans`, on any device; its weights are not read.

    Warns:
        UserWarning: The model runs operators whose multiply-adds are not known; they are named, and not counted.
    """
    state, clip = _on_meta(model)
    products = MultiplyAdds()
    memory = _LiveBytes(state.values())
    memory.add(clip)
    model.eval()
    with torch.no_grad(), _FusedAttention(products), products, memory:
        torch.func.functional_call(model, state, (clip,))
    if products.unknown:
        warnings.warn(
            f'the multiply-adds of {", ".join(sorted(products.unknown))} are not known: {type(model).__name__} takes '
            f'more than the {products.macs:,} that are counted', stacklevel=2)
    return ForwardCost(products.macs, memory.peak)


def count_kept(model: nn.Module) -> int:
    """Bytes that autograd keeps of a training step of one clip: the activations behind the forward pass.

    Counted are the distinct tensors that the backward pass needs, in the precision of the model and with attention
    fused where the model fuses it; weights, the clip itself, gradients and states of an optimizer are not among them.
    What is frozen (`requires_grad`) keeps only what gradients of others need. What an operator keeps inside, such as
    the workspace of an LSTM, is not counted.

    Args:
        model: A video model, or an image model with `in_chans`, on any device; its weights are not read. It is in
            train mode afterwards.
    """
    state, clip = _on_meta(model)
    own = {tensor.untyped_storage()._cdata for tensor in (*state.values(), clip)}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # holding it keeps its address from being reused
        return tensor

    model.train()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _KeptAttention():
        torch.func.functional_call(model, state, (clip,))
    return sum(storage.nbytes() for storage in kept.values())


def _on_meta(model: nn.Module) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters and buffers of a model and a clip for it, without data."""
    state = {
        name: tensor.detach().to('meta').requires_grad_(tensor.requires_grad)
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())}
    dtype = next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), torch.float32)
    frames = (model.num_frames,) if hasattr(model, 'num_frames') else ()
    size = getattr(model, 'img_size', None) or (224, 224)
    return state, torch.empty(1, model.in_chans, *frames, *size, dtype=dtype, device='meta')


def _matrix_product(index: int) -> Callable[..., int]:
    """The formula of an operator whose arguments `index` and `index + 1` are the factors."""
    return lambda out, *args: out.numel() * args[index].shape[-1]


def _convolution(out: Tensor, x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any,
                 transposed: bool, *args: Any) -> int:
    """Every value of the output, of the input where transposed, meets one filter; padding counts as values."""
    return (x if transposed else out).numel() * weight[0].numel()


def _attention(out: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any) -> int:
    """The products with keys `[..., M, C]` and with values `[..., M, D]`; a mask saves nothing."""
    return query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_columns(out: Any, query: Tensor, *args: Any) -> int:
    """AM flow's logits of each frame, `[B, T, H, N, C]`, formed once: no kernel forms more."""
    return query.numel() * query.shape[-2]


_FORMULAS = {
    **{f'aten::{name}': _matrix_product(0) for name in ('mm', 'bmm', 'mv', 'dot', 'vdot', '_int_mm')},
    **{f'aten::{name}': _matrix_product(1) for name in ('addmm', '_addmm_activation', 'baddbmm', 'addmv')},
    **{f'aten::{name}': _convolution for name in ('convolution', '_convolution')},
    **{f'flatzoo::{name}': _attention_columns for name in ('attention_columns', 'attention_columns_triton')},
}
# every kernel of aten that fuses attention takes query, key and value first, whatever its name ends in
_ANY_ATTENTION = 'aten::_scaled_dot_product_'
# words in the names of aten's other operators that multiply matrices
_PRODUCT = re.compile(r'\w*mm|(add)?mv|v?dot|conv(olution|\d?d)|(tri)?linear|matmul|attention|transformer|rnn|lstm|gru')


def _may_multiply(name: str) -> bool:
    """Whether an operator without a formula may have products in it; those of others than torch are not known."""
    namespace, _, name = name.partition('::')
    return namespace not in ('aten', 'prim', 'prims') or any(map(_PRODUCT.fullmatch, name.split('_')))


class MultiplyAdds(TorchDispatchMode):
    """Counts the multiply-adds of a forward pass by formulas that hold for all releases of torch and all its kernels.

    Composite operators are counted by their parts. Other operators that multiply matrices or do not come from torch are
    recorded by name, so a count that is too low is always reported.

    Attributes:
        macs: Multiply-adds so far.
        unknown: Names of the operators that ran and are not counted.
    """

    def __init__(self):
        super().__init__()
        self.macs = 0
        self.unknown: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        out = func(*args, **kwargs)
        name = func.name().partition('.')[0].removesuffix('_')  # neither overload nor in place
        formula = _attention if name.startswith(_ANY_ATTENTION) else _FORMULAS.get(name)
        if formula is not None:
            self.macs += formula(out, *args)
        elif _may_multiply(name):
            self.unknown.add(name)
        return out


class _FusedAttention(TorchFunctionMode):
    """Attention as a fused kernel runs it, with no maps in memory; the meta device would write them out.

    Args:
        products: Counts the multiply-adds.
    """

    def __init__(self, products: MultiplyAdds):
        super().__init__()
        self._products = products

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if query.shape[:-2] != key.shape[:-2] and not kwargs.get('enable_gqa'):
            query = query.expand(*torch.broadcast_shapes(query.shape[:-2], key.shape[:-2]), *query.shape[-2:])
        self._products.macs += _attention(None, query, key, value)
        # what kernels keep until they return, and their output, in which the heads of a token lie side by side
        sums = query.new_empty(query.shape[:-1], dtype=torch.promote_types(query.dtype, torch.float32))  # noqa: F841
        *batch, heads, tokens = query.shape[:-1]
        return query.new_empty(*batch, tokens, heads, value.shape[-1]).transpose(-3, -2)


class _KeptAttention(TorchFunctionMode):
    """Attention that keeps what a fused kernel keeps: its arguments, its output and a sum for each query."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
            self,
            query: Tensor,
            key: Tensor,
            value: Tensor,
            attn_mask: Tensor | None = None,
            *args: Any,
            **kwargs: Any,
    ) -> Tensor:
        return _Attention.apply(query, key, value, attn_mask)


class _Attention(torch.autograd.Function):
    """The shapes of attention alone."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        *batch, heads, tokens = query.shape[:-1]
        out = query.new_empty(*batch, tokens, heads, value.shape[-1]).transpose(-3, -2)
        sums = query.new_empty(query.shape[:-1], dtype=torch.promote_types(query.dtype, torch.float32))
        ctx.save_for_backward(query, key, value, out, sums, *(() if mask is None else (mask,)))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        raise RuntimeError('shapes alone have no gradients')


class _LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operators return, from then on until they are freed.

    Args:
        held: Tensors that are not counted, nor their views.
    """

    def __init__(self, held: Any):
        super().__init__()
        self.now = self.peak = 0
        self._held = {tensor.untyped_storage()._cdata for tensor in held}
        self._live: dict[int, weakref.ref] = {}

    def add(self, tensor: Tensor) -> None:
        """Counts the storage of a tensor, unless it is counted already or not to be counted."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._held or key in self._live:
            return

        def freed(_: weakref.ref) -> None:
            del self._live[key]
            self.now -= size

        self._live[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self.add(tensor)
        return out
