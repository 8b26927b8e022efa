"""Attention in windows with relative position bias, for timm's `WindowAttention`, that needs less memory.

timm keeps the attention maps of all windows for the backward pass. With windows of 12 x 12 tokens these are more
numbers than everything else in a block. Here the maps are computed again from queries and keys, a few windows at a
time. They stay in the cache and never lie in memory together.

On CUDA, PyTorch's fused kernel does the same. It gets one mask for the windows of an image, which all images share.
timm makes a mask for each window of the batch: 764 MB for 32 super images of 576 x 576 pixels in half precision.
"""
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import WindowAttention
from torch import Tensor

from ._operator import register_operator

__all__ = ['attend_fused', 'attend_in_windows', 'on_gpu', 'padded_bias', 'window_attention_forward']

CHUNK = 2 ** 18  # attention scores at a time: 1 MB in float32, about a core's cache


def window_attention_forward(attn: WindowAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """What `WindowAttention.forward` computes (Swin, section 3.2), in less memory.

    Args:
        attn: The module. If it has dropout of attention maps, its own forward runs.
        x: Windows of tokens `[B * W, N, C]`, image by image.
        mask: `[W, N, N]`, added to the scores; None if windows are not shifted.

    Returns:
        `[B * W, N, C]`.
    """
    if attn.training and attn.attn_drop.p > 0:
        return type(attn).forward(attn, x, mask)
    qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1))  # [B * W, N, 3, heads, d]
    bias = attn._get_rel_pos_bias()[0]  # [heads, N, N]
    if on_gpu(x):
        x = attend_fused(qkv, padded_bias(bias, mask, qkv.dtype), attn.scale)
    else:
        x = attend_in_windows(qkv, bias, mask, attn.scale)
    return attn.proj_drop(attn.proj(x.flatten(-2)))


def on_gpu(x: Tensor) -> bool:
    """Whether attention is left to PyTorch's fused kernel."""
    return x.is_cuda


def padded_bias(bias: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Bias and mask in the form that the kernels of `attend_fused` need, so that they need not convert them each time.

    Args:
        bias: `[heads, N, N]`.
        mask: `[W, N, N]`, or None.
        dtype: That of the queries.

    Returns:
        `[heads, N, N]`, or `[W * heads, N, N]` with a mask. Rows begin at multiples of 8 numbers.
    """
    if mask is not None:
        bias = (bias + mask.unsqueeze(1)).flatten(0, 1)
    tokens = bias.shape[-1]
    return F.pad(bias.to(dtype), (0, -tokens % 8))[..., :tokens]


def attend_fused(qkv: Tensor, bias: Tensor, scale: float) -> Tensor:
    """`softmax(scale * q k^T + bias) v` by PyTorch's fused kernel, for the windows of any number of images.

    Args:
        qkv: `[B * W, N, 3, heads, d]`, windows image by image.
        bias: From `padded_bias`: `[heads, N, N]` for all windows, or `[W * heads, N, N]`. In the second case windows
            are treated like heads, so that all images share the bias.
        scale: Factor of the scores.

    Returns:
        `[B * W, N, heads, d]`.
    """
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [B * W, heads, N, d] each
    if len(bias) != q.shape[1]:
        q, k, v = (t.reshape(-1, *bias.shape[:2], t.shape[-1]) for t in (q, k, v))  # [B, W * heads, N, d]
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(len(q), -1, -1, -1), scale=scale)
    return x.reshape(len(qkv), -1, *x.shape[-2:]).transpose(1, 2)


def attend_in_windows(qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """`softmax(scale * q k^T + bias + mask) v`. Its backward pass needs only the arguments.

    Args:
        qkv: `[B * W, N, 3, heads, d]`.
        bias: `[heads, N, N]`.
        mask: `[W, N, N]`, without gradient.
        scale: Factor of the scores.

    Returns:
        `[B * W, N, heads, d]`.
    """
    return torch.ops.flatzoo.attend_in_windows(qkv, bias, mask, scale)


def _forward(qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    out = torch.empty_like(qkv[:, :, 0], memory_format=torch.contiguous_format)
    for windows in _chunks(qkv):
        _, _, v, attention = _attention_maps(qkv, bias, mask, scale, windows)
        out[windows] = (attention.to(v.dtype) @ v).transpose(1, 2)
    return out


def _forward_fake(qkv, bias, mask, scale):
    return torch.empty_like(qkv[:, :, 0], memory_format=torch.contiguous_format)


def _backward(
        grad: Tensor,
        qkv: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        scale: float,
) -> tuple[Tensor, Tensor]:
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    grad_bias = torch.zeros_like(bias, dtype=torch.float32 if bias.dtype.itemsize < 4 else None)
    for windows in _chunks(qkv):
        q, k, v, attention = _attention_maps(qkv, bias, mask, scale, windows)
        grad_out = grad[windows].transpose(1, 2).contiguous()  # [w, heads, N, d]
        grad_q, grad_k, grad_v = grad_qkv[windows].permute(2, 0, 3, 1, 4)
        grad_v.copy_(attention.to(v.dtype).transpose(-2, -1) @ grad_out)
        grad_attention = (grad_out @ v.transpose(-2, -1)).to(attention.dtype)
        grad_scores = torch._softmax_backward_data(grad_attention, attention, -1, attention.dtype)
        grad_bias += grad_scores.sum(0)
        grad_scores = grad_scores.to(q.dtype)
        grad_q.copy_(grad_scores @ k).mul_(scale)
        grad_k.copy_(grad_scores.transpose(-2, -1) @ q)  # q has the scale
    return grad_qkv, grad_bias.to(bias.dtype)


def _backward_fake(grad, qkv, bias, mask, scale):
    return torch.empty_like(qkv, memory_format=torch.contiguous_format), torch.empty_like(bias)


def _keep(ctx, inputs, output):
    qkv, bias, mask, ctx.scale = inputs
    ctx.save_for_backward(qkv, bias, mask)


def _differentiate(ctx, grad):
    return *torch.ops.flatzoo.attend_in_windows_backward(grad, *ctx.saved_tensors, ctx.scale), None, None


def _chunks(qkv: Tensor) -> list[slice]:
    """Slices of windows, each small enough to be computed at once."""
    count, tokens, _, heads, _ = qkv.shape
    step = max(1, CHUNK // (heads * tokens ** 2))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _attention_maps(qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float, windows: slice) -> tuple[Tensor, ...]:
    """Scaled queries, keys, values `[w, heads, N, d]` and attention maps `[w, heads, N, N]` of a few windows."""
    q, k, v = qkv[windows].permute(2, 0, 3, 1, 4).contiguous()
    q = q.mul_(scale)
    scores = q @ k.transpose(-2, -1)
    scores = scores.add_(bias) if scores.dtype == bias.dtype else scores + bias  # float32 under autocast, as timm's
    if mask is not None:
        positions = torch.arange(windows.start, windows.stop, device=mask.device) % len(mask)
        scores += mask[positions].unsqueeze(1)
    return q, k, v, scores.softmax(-1)


register_operator(
    'attend_in_windows(Tensor qkv, Tensor bias, Tensor? mask, float scale) -> Tensor',
    _forward, _forward_fake, _differentiate, _keep)
register_operator(
    'attend_in_windows_backward(Tensor grad, Tensor qkv, Tensor bias, Tensor? mask, float scale) -> (Tensor, Tensor)',
    _backward, _backward_fake)
