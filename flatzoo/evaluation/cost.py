"""What a forward pass costs, counted on the meta device: nothing is computed and no memory is taken."""
import itertools
import weakref
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701 - documented, though its module is not public
from torch.utils._pytree import tree_leaves  # noqa: PLC2701 - as above
from torch.utils.flop_counter import FlopCounterMode

__all__ = ['ForwardCost', 'count_forward']


class ForwardCost(NamedTuple):
    """Cost of a forward pass of one clip.

    Attributes:
        macs: Multiply-adds of products and convolutions: half the FLOPs of `torch.utils.flop_counter`, and the
            attention logits that AM flow forms.
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
    """
    state = {
        name: tensor.detach().to('meta')
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())}
    dtype = next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), torch.float32)
    frames = (model.num_frames,) if hasattr(model, 'num_frames') else ()
    size = getattr(model, 'img_size', None) or (224, 224)
    clip = torch.empty(1, model.in_chans, *frames, *size, dtype=dtype, device='meta')
    flops = FlopCounterMode(display=False, custom_mapping={torch.ops.flatzoo.attention_columns: _flow_flops})
    memory = _LiveBytes(state.values())
    memory.add(clip)
    model.eval()
    with torch.no_grad(), _FusedAttention(), flops, memory:
        torch.func.functional_call(model, state, (clip,))
    return ForwardCost(flops.get_total_flops() // 2, memory.peak)


def _flow_flops(q_shape: Any, *args: Any, **kwargs: Any) -> int:
    """The logits of each frame, formed once: all products that `flatzoo::attention_columns` has."""
    batch, frames, heads, tokens, dim = q_shape
    return 2 * batch * frames * heads * tokens ** 2 * dim


class _FusedAttention(TorchFunctionMode):
    """Fused attention as the operator that it is on a CPU; the meta device would write out whole maps."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return _fused(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _fused(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args, **kwargs) -> Tensor:
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=attn_mask)[0]


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
