"""Adapters of AM Flow: small bottlenecks beside the frozen sublayers of a transformer block.

AM Flow (https://arxiv.org/abs/2411.02065) trains two adapters per block of a frozen image transformer, one for the
attention and one for the MLP. The first also sees the attention map flow of the block. All adapters have the same
forward signature. They take tokens and their flow, and return the change of the tokens and the activations of the
bottleneck. The activations are the input of a temporal unit (`flatzoo.models.amflow.temporal_unit`).
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['HyperAdapter', 'HyperNetwork', 'ParallelAdapter', 'SerialAdapter']


def _with_flow(x: Tensor, flow: Tensor | None, flow_dim: int) -> Tensor:
    """X || AM flow: `[..., N, C]` and `[..., N, F]` -> `[..., N, C + F]`."""
    if flow is None and flow_dim == 0:
        return x
    expected = 'no flow' if flow_dim == 0 else f'a flow of shape {[*x.shape[:-1], flow_dim]}'
    if flow is None:
        raise ValueError(f'The adapter was built with flow_dim={flow_dim} and takes {expected}, got none.')
    if flow_dim == 0 or flow.shape != (*x.shape[:-1], flow_dim):
        raise ValueError(
            f'The adapter was built with flow_dim={flow_dim} and takes {expected} with tokens of shape '
            f'{list(x.shape)}, got one of shape {list(flow.shape)}.'
        )
    return torch.cat([x, flow], dim=-1)


class ParallelAdapter(nn.Module):
    """Scaled parallel adapter that may see the attention map flow.

    Equations 1 and 6 of AM Flow (https://arxiv.org/abs/2411.02065): X + s * ReLU(X W_down) W_up runs beside a frozen
    sublayer, whose output is also added. Beside the attention, X is LN(X) || AM flow, joined along the channels. LN is
    the block's own frozen norm, so `x` is the input of the sublayer itself.

    The paper does not state how the weights start. Here W_up and its bias are zero, as is usual for adapters, so an
    untrained adapter changes nothing. The scalar s is 1, because with both at zero nothing could be learned.

    Args:
        dim: Width C of a token.
        bottleneck: Width of the bottleneck. The paper does not state it.
        flow_dim: Channels F of the flow, one per attention head. 0 makes an adapter without flow.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Attributes:
        scale: The learned scalar s.
    """

    def __init__(self, dim: int, bottleneck: int, flow_dim: int = 0, device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.flow_dim = flow_dim
        self.down = nn.Linear(dim + flow_dim, bottleneck, **dd)
        self.up = nn.Linear(bottleneck, dim, **dd)
        self.scale = nn.Parameter(torch.empty((), **dd))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor, flow: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Adapts tokens.

        Args:
            x: Tokens `[..., N, C]`, the normed input of the sublayer.
            flow: Their attention map flow `[..., N, F]`, or None if F is 0.

        Returns:
            The change of the tokens `[..., N, C]`, to be added to the sublayer's output and to the residual, and the
            activations of the bottleneck `[..., N, bottleneck]`.

        Raises:
            ValueError: A flow is missing, or is given although F is 0, or it does not fit the tokens.
        """
        hidden = self.down(_with_flow(x, flow, self.flow_dim)).relu()
        return self.scale * self.up(hidden), hidden


class SerialAdapter(ParallelAdapter):
    """Adapter behind a frozen sublayer, the paper's ablation of the parallel one.

    Only the place differs: `x` is the output of the sublayer before the residual is added, and the change is added to
    it. Here the flow is also joined to the sublayer's output; the paper does not state this.
    """


class HyperNetwork(nn.Module):
    """Makes the weights of all adapters of a model from one small vector each.

    The paper's ablation "hyperformer" has adapters like those of Hyperformer (https://arxiv.org/abs/2106.04489, Section
    2). One shared network maps the embedding of an adapter to its weights, by linear layers without bias. Hyperformer
    computes the embedding from the task, the layer and the place in the layer. With a single task, one embedding per
    adapter is equivalent. AM Flow states no widths. An embedding as wide as the number of adapters would share nothing,
    so the default is narrow.

    The generated W_down starts with the variance of `torch.nn.Linear`, the generated W_up with zeros.

    Args:
        dim: Width C of a token.
        bottleneck: Width of the bottleneck.
        flow_dim: Channels F of the flow. Adapters without flow do not use these columns of W_down.
        embed_dim: Width E of an adapter's embedding.
        device: Device of the parameters.
        dtype: Dtype of the parameters.
    """

    def __init__(self, dim: int, bottleneck: int, flow_dim: int = 0, embed_dim: int = 8, device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        self.dim = dim
        self.bottleneck = bottleneck
        self.flow_dim = flow_dim
        self.embed_dim = embed_dim
        self.down = nn.Linear(embed_dim, bottleneck * (dim + flow_dim + 1), bias=False, **dd)  # of weight and bias
        self.up = nn.Linear(embed_dim, dim * (bottleneck + 1), bias=False, **dd)
        nn.init.normal_(self.down.weight, std=1 / math.sqrt(3 * (dim + flow_dim) * embed_dim))
        nn.init.zeros_(self.up.weight)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Makes the weights of one adapter.

        Args:
            embedding: `[E]`.

        Returns:
            W_down `[bottleneck, C + F]` and its bias `[bottleneck]`, W_up `[C, bottleneck]` and its bias `[C]`.
        """
        down = self.down(embedding).unflatten(0, (self.bottleneck, -1))
        up = self.up(embedding).unflatten(0, (self.dim, -1))
        return down[:, :-1], down[:, -1], up[:, :-1], up[:, -1]


class HyperAdapter(nn.Module):
    """Parallel adapter whose weights a shared hypernetwork makes, the paper's ablation "hyperformer".

    Only the embedding and the scale are its own. The hypernetwork is not registered here, because the state dict would
    then have it once per adapter. The model that owns the adapters registers it.

    Args:
        hypernetwork: The network that all adapters of a model share.
        flow_dim: 0, or the hypernetwork's F for an adapter that sees the flow.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Attributes:
        embedding: The embedding of this adapter, `[E]`.
        scale: The learned scalar s.

    Raises:
        ValueError: If the hypernetwork does not make weights for this number of flow channels.
    """

    def __init__(self, hypernetwork: HyperNetwork, flow_dim: int = 0, device=None, dtype=None):
        dd = {'device': device, 'dtype': dtype}
        super().__init__()
        if flow_dim not in (0, hypernetwork.flow_dim):
            raise ValueError(
                f'flow_dim={flow_dim} is neither 0 nor the flow_dim={hypernetwork.flow_dim} that the hypernetwork was '
                'built with.'
            )
        self.flow_dim = flow_dim
        self._unregistered = (hypernetwork,)
        self.embedding = nn.Parameter(torch.empty(hypernetwork.embed_dim, **dd))
        self.scale = nn.Parameter(torch.empty((), **dd))
        nn.init.normal_(self.embedding)
        nn.init.ones_(self.scale)

    def forward(self, x: Tensor, flow: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Adapts tokens. Arguments, results and errors are those of `ParallelAdapter`."""
        down_weight, down_bias, up_weight, up_bias = self._unregistered[0](self.embedding)
        x = _with_flow(x, flow, self.flow_dim)
        hidden = F.linear(x, down_weight[:, :x.shape[-1]], down_bias).relu()
        return self.scale * F.linear(hidden, up_weight, up_bias), hidden
