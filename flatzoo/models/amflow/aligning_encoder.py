"""The aligning encoder of AM Flow, which makes frames comparable before their difference is taken."""
import torch
from timm.layers import Mlp
from torch import Tensor, nn

__all__ = ['AligningEncoder', 'LinearAttention']


class LinearAttention(nn.Module):
    """Multi-head self-attention whose cost is linear in the number of tokens.

    "Transformers are RNNs" (https://arxiv.org/abs/2006.16236, equations 5 to 7): phi(x) = elu(x) + 1 replaces the
    softmax. Token i becomes sum_j (phi(q_i) . phi(k_j)) v_j / sum_j phi(q_i) . phi(k_j). The sums over j are the same
    for all i.

    Args:
        dim: Width D of a token.
        num_heads: Heads, a divisor of D.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(self, dim: int, num_heads: int, device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'{num_heads} heads do not divide the width of {dim}.')
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    @staticmethod
    def feature_map(x: Tensor) -> Tensor:
        """elu(x) + 1, computed so that it is not rounded to 0 for negative x, where a quotient would be 0 / 0."""
        return x.relu() + x.clamp(max=0).exp()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, D]` -> `[B, N, D]`."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, heads, N, d]
        q = self.feature_map(q)
        k = self.feature_map(k) / x.shape[1]  # means, because sums overflow half precision
        keys_values = k.mT @ v  # [B, heads, d, d]
        keys = k.sum(dim=2).unsqueeze(-1)  # [B, heads, d, 1]
        x = (q @ keys_values) / (q @ keys)  # [B, heads, N, d]
        return self.proj(x.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Transformer encoder layer as in "Attention Is All You Need", each residual sum normed, with linear attention."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.attn = LinearAttention(dim, num_heads, **dd)
        self.norm1 = nn.LayerNorm(dim, **dd)
        self.mlp = Mlp(dim, mlp_dim, act_layer=nn.ReLU, **dd)
        self.norm2 = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, D]` -> `[B, N, D]`."""
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class AligningEncoder(nn.Module):
    """Attention map flow for moving cameras: every frame is encoded, and then the difference is taken.

    Equations 4 and 5 of AM Flow (https://arxiv.org/abs/2411.02065). E_t is a transformer encoder with 12 heads and fast
    (linear) attention. Its input is the attention that the tokens of frame t receive, the column sums of softmax(A_t).
    The flow is |E_t - E_{t+1}|, without softmax and sum. Both frames of a pair share the encoder, so every frame is
    encoded once and serves two pairs. The flow of two equal frames is 0.

    The paper does not state the layout of the encoder. Here the tokens of a frame are the encoder's tokens, and the
    heads of the backbone are its channels. There is no position embedding, so a permutation of tokens permutes the flow
    in the same way. Norms come after the residual sums, because special tokens receive hundreds of times more attention
    than others, and a pre-norm encoder would pass that on. Linear attention is that of "Transformers are RNNs". The
    default widths come close to the paper's parameter counts (3,755,468 for 12 heads). They include the last layer's
    bias, which cancels in the difference. The equations do not define the flow of the last frame; here it repeats that
    of the last pair.

    Args:
        num_heads_in: Heads H of the backbone's attention.
        dim: Width of the encoder.
        depth: Layers of the encoder.
        mlp_dim: Hidden width of its MLPs.
        num_heads: Heads of the encoder, a divisor of its width.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(
            self,
            num_heads_in: int,
            dim: int = 192,
            depth: int = 4,
            mlp_dim: int = 2048,
            num_heads: int = 12,
            device=None,
            dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.num_heads_in = num_heads_in
        self.proj_in = nn.Linear(num_heads_in, dim, **dd)
        self.layers = nn.Sequential(*[EncoderLayer(dim, num_heads, mlp_dim, **dd) for _ in range(depth)])
        self.proj_out = nn.Linear(dim, num_heads_in, **dd)

    def encode(self, received: Tensor) -> Tensor:
        """E_t of equation 4, every frame by itself: `[B, T, N, H]` -> `[B, T, N, H]`."""
        x = self.proj_in(received.flatten(0, 1))  # [B * T, N, dim]
        return self.proj_out(self.layers(x)).unflatten(0, received.shape[:2])

    def forward(self, received: Tensor) -> Tensor:
        """Computes the flow of clips.

        Args:
            received: Column sums of the attention, from `flatzoo.layers.attention_received`, `[B, T, N, H]`.

        Returns:
            Flow `[B, T, N, H]`, at least 0.

        Raises:
            ValueError: If the input has another shape, or there is no pair of frames.
        """
        if received.ndim != 4 or received.shape[-1] != self.num_heads_in or received.shape[1] < 2:
            raise ValueError(
                f'The aligning encoder takes the attention received of shape (B, T, N, {self.num_heads_in}) with at '
                f'least 2 frames T, got {list(received.shape)}.'
            )
        encoded = self.encode(received)
        flow = (encoded[:, :-1] - encoded[:, 1:]).abs()  # [B, T - 1, N, H]
        return torch.cat([flow, flow[:, -1:]], dim=1)
