"""Temporal units of AM Flow: from one vector per frame to one vector of the clip.

A unit first normalises its vectors. They are means of activations over tokens, and means of different clips are alike:
on a frozen DINOv2-S, clips of depth video differ by a tenth of what they have in common. Without a norm the classifiers
behind the units learn almost nothing (`benchmarks/results/family_findings.md`). The paper says nothing about it.
"""
import torch
from timm.layers import trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

__all__ = ['LSTMUnit', 'TCNUnit', 'TransformerUnit']


def _check_sequence(x: Tensor, dim: int) -> None:
    if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != dim:
        raise ValueError(
            f'A temporal unit takes vectors of frames of shape (B, T, {dim}) with at least one frame T, got '
            f'{list(x.shape)}.'
        )


class _FrameNorm(nn.BatchNorm1d):
    """Takes away what all frames have in common, channel by channel: batch norm without weights, over clips and frames.

    Its statistics are those of a batch in training, and running means otherwise.
    """

    def __init__(self, dim: int, device=None, dtype=None):
        super().__init__(dim, affine=False, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, dim]` -> the same shape."""
        return super().forward(x.mT).mT


def _input_norm(norm: str, dim: int, **dd) -> nn.Module:
    if norm not in ('batch', 'none'):
        raise ValueError(f"norm={norm!r} is neither 'batch' nor 'none'.")
    return _FrameNorm(dim, **dd) if norm == 'batch' else nn.Identity()


class TCNUnit(nn.Module):
    """Temporal convolutional network, the temporal unit of most results of AM Flow.

    The temporal processing module of AM Flow (https://arxiv.org/abs/2411.02065, Figure 2) as a TCN. The paper does not
    state its layout. Here it has dilated convolutions over time with ReLU, with a residual if the width stays the same,
    then the mean over time (the figure's squeeze) and a linear layer. It is not causal, because a clip is classified as
    a whole. Every output sees as many frames before as after it, 29 in all with the defaults. Frames beyond the ends
    are zeros.

    The default widths come close to the paper's parameter counts (2,254,400 for vectors of 640).

    Args:
        dim: Width of a frame's vector.
        hidden_dim: Channels of the convolutions.
        kernel_size: Frames of a kernel, odd.
        dilations: Dilation of each convolution.
        norm: How vectors are normalised first: `batch`, over clips and frames without weights, or `none`.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Attributes:
        out_dim: Width of the clip's vector, here `dim`.

    Raises:
        ValueError: If the kernel size is even, or there is no convolution.
    """

    def __init__(
            self,
            dim: int,
            hidden_dim: int = 320,
            kernel_size: int = 5,
            dilations: tuple[int, ...] = (1, 2, 4),
            norm: str = 'batch',
            device=None,
            dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f'kernel_size={kernel_size} must be odd, so that a frame is its own centre.')
        if not dilations:
            raise ValueError('dilations is empty: name the dilation of at least one convolution.')
        self.dim = dim
        self.out_dim = dim
        self.input_norm = _input_norm(norm, dim, **dd)
        self.convs = nn.ModuleList([
            nn.Conv1d(width, hidden_dim, kernel_size, dilation=d, padding=d * (kernel_size // 2), **dd)
            for width, d in zip([dim] + [hidden_dim] * (len(dilations) - 1), dilations, strict=True)
        ])
        self.proj = nn.Linear(hidden_dim, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, dim]` -> `[B, dim]`."""
        _check_sequence(x, self.dim)
        x = self.convs[0](self.input_norm(x).mT).relu()  # [B, hidden_dim, T]
        for conv in self.convs[1:]:
            x = x + conv(x).relu()
        return self.proj(x.mean(dim=2))  # the layer is linear, so the mean can come first


class LSTMUnit(nn.Module):
    """LSTM, the temporal unit of AM Flow for few frames.

    The temporal processing module of AM Flow (https://arxiv.org/abs/2411.02065, Figure 2) as an LSTM from the first
    frame to the last. The clip's vector is the last state of the last layer, in place of the figure's squeeze. The
    paper states neither this nor the widths. The defaults come close to its parameter counts (15,220,736 for vectors of
    640).

    `torch.compile` does not accept `torch.nn.LSTM`, but it accepts the operator behind it. Therefore modules hold only
    the parameters. On CUDA that operator packs them in every call, and cuDNN warns about it.

    Args:
        dim: Width of a frame's vector.
        hidden_dim: Width of the states.
        depth: Layers.
        norm: How vectors are normalised first: `batch`, over clips and frames without weights, or `none`.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Attributes:
        out_dim: Width of the clip's vector, here `hidden_dim`.
    """

    def __init__(
            self, dim: int, hidden_dim: int = 1024, depth: int = 2, norm: str = 'batch', device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.dim = dim
        self.out_dim = hidden_dim
        self.input_norm = _input_norm(norm, dim, **dd)
        self.cells = nn.ModuleList([
            nn.LSTMCell(hidden_dim if i else dim, hidden_dim, **dd) for i in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, dim]` -> `[B, hidden_dim]`."""
        _check_sequence(x, self.dim)
        x = self.input_norm(x)
        weights = [w for c in self.cells for w in (c.weight_ih, c.weight_hh, c.bias_ih, c.bias_hh)]
        if x.device.type != 'cpu':
            return self._states(x, weights)
        # Autocast would use an LSTM of reduced precision, which oneDNN lacks on CPUs without AVX-512.
        with torch.autocast('cpu', enabled=False):
            return self._states(x.float() if x.dtype in (torch.bfloat16, torch.float16) else x, [
                w.float() if w.dtype in (torch.bfloat16, torch.float16) else w for w in weights]).to(x.dtype)

    def _states(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        start = x.new_zeros(len(self.cells), x.shape[0], self.out_dim)
        states = torch.lstm(x, (start, start), weights, True, len(self.cells), 0., self.training, False, True)[0]
        return states[:, -1]


class TransformerUnit(nn.Module):
    """Transformer over frames, the temporal unit of AM Flow on Kinetics-400.

    The temporal processing module of AM Flow (https://arxiv.org/abs/2411.02065, Figure 2) as a transformer encoder.
    The paper does not state its layout. Here pre-norm blocks run over a class token and the frames' vectors, with
    learned positions of the frames. The clip's vector is the class token after the final norm. The default widths come
    close to the paper's parameter counts (4,290,048 for vectors of 640).

    Args:
        dim: Width of a frame's vector, a multiple of the heads.
        mlp_dim: Hidden width of the MLPs.
        depth: Blocks.
        num_heads: Heads.
        max_frames: Number of learned positions, and thus the largest number of frames of a clip.
        norm: How vectors are normalised first: `batch`, over clips and frames without weights, or `none`.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Attributes:
        out_dim: Width of the clip's vector, here `dim`.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(
            self,
            dim: int,
            mlp_dim: int = 2048,
            depth: int = 1,
            num_heads: int = 8,
            max_frames: int = 32,
            norm: str = 'batch',
            device=None,
            dtype=None,
    ):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'{num_heads} heads do not divide the width of {dim}.')
        self.dim = dim
        self.out_dim = dim
        self.max_frames = max_frames
        self.input_norm = _input_norm(norm, dim, **dd)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim, **dd))
        self.pos_embed = nn.Parameter(torch.empty(1, max_frames, dim, **dd))
        trunc_normal_(self.cls_token, std=.02)
        trunc_normal_(self.pos_embed, std=.02)
        mlp_ratio = (mlp_dim + 0.5) / dim  # a block takes a ratio and rounds the width down
        self.blocks = nn.Sequential(*[
            Block(dim, num_heads, mlp_ratio, qkv_bias=True, norm_layer=nn.LayerNorm, **dd) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, dim]` -> `[B, dim]`.

        Raises:
            ValueError: If the input has another shape, or more frames than there are positions.
        """
        _check_sequence(x, self.dim)
        frames = x.shape[1]
        if frames > self.max_frames:
            raise ValueError(
                f'The temporal transformer has learned positions of max_frames={self.max_frames} frames, got {frames}: '
                f'build it with max_frames={frames}.'
            )
        x = self.input_norm(x) + self.pos_embed[:, :frames]
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)  # [B, 1 + T, dim]
        return self.norm(self.blocks(x)[:, 0])
