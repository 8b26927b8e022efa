"""Runs the blocks of timm's image transformers step by step, so that methods can use what is inside of a block.

Adapters run beside the two sublayers of a block. The flow of attention maps needs the queries and keys of the block. A
block of timm shows neither. A runner does the steps of the block one by one with the modules of the backbone. The
backbone is not changed, and nothing is copied, hooked or computed twice.

Only exact types are accepted, because a subclass may attend in another way. Each type is tested against the backbone's
own `forward_features`. Runners have no state; they get the backbone and the block as arguments.
"""
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.hiera import Hiera, HieraBlock, MaskUnitAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

__all__ = ['BlockRunner', 'EvaRunner', 'HieraRunner', 'block_runner']


class BlockRunner:
    """The steps of a `VisionTransformer`: ViT, DeiT-III, CLIP, SigLIP, DINOv2 with and without registers.

    A block is run as

        normed = block.norm1(x)
        q, k, v = runner.qkv(block, normed, runner.position(backbone, positions, index))
        x = runner.shortcut(block, x, normed) + runner.attention_branch(block, runner.attend(block, normed, q, k, v))
        x = x + runner.mlp_branch(block, block.mlp(block.norm2(x)))
    """
    block_types: tuple[type, ...] = (Block,)
    attention_types: tuple[type, ...] = (Attention,)

    def embed(self, backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images `[B, C, H, W]` -> tokens `[B, N, D]` and rotary positions, if there are any."""
        x, positions = self.tokens(backbone, images)
        return self.norm_pre(backbone, x), positions

    def tokens(self, backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The first half of `embed`: patches with positions. Some methods add to them before `norm_pre`."""
        return backbone._pos_embed(backbone.patch_embed(images)), None

    def norm_pre(self, backbone: nn.Module, x: Tensor) -> Tensor:
        """The second half of `embed`: the norm in front of the blocks, which CLIP has."""
        return backbone.norm_pre(x)

    def position(self, backbone: nn.Module, positions: Tensor | None, index: int) -> Tensor | None:
        """The rotary positions of one block."""
        return positions

    def qkv(self, block: nn.Module, x: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[B, heads, N, d]` of normalised tokens, as they enter the softmax."""
        attn = block.attn
        q, k, v = _split(attn.qkv(x), attn.num_heads)
        return attn.q_norm(q), attn.k_norm(k), v

    def attend(self, block: nn.Module, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of normalised tokens `x`, with the queries, keys and values of `qkv`."""
        attn = block.attn
        x_out = attn.norm(_attention(attn, q, k, v, attn.attn_drop).transpose(1, 2).flatten(2))
        if attn.gate is not None:
            x_out = x_out * attn.gate(x).sigmoid()
        return attn.proj_drop(attn.proj(x_out))

    def attention(self, block: nn.Module, x: Tensor, position: Tensor | None = None) -> Tensor:
        """`qkv` and `attend` together: the block's attention of normalised tokens, without layer scale and residual."""
        return self.attend(block, x, *self.qkv(block, x, position))

    def shortcut(self, block: nn.Module, x: Tensor, normed: Tensor) -> Tensor:
        """The residual stream around attention."""
        return x

    def attention_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        """Layer scale and stochastic depth behind attention."""
        return block.drop_path1(block.ls1(x))

    def mlp_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        """Layer scale and stochastic depth behind the MLP."""
        return block.drop_path2(block.ls2(x))

    def norm(self, backbone: nn.Module, x: Tensor) -> Tensor:
        """The norm behind the last block."""
        return backbone.norm(x)

    def drops_patches(self, backbone: nn.Module) -> bool:
        """Whether the backbone drops patches in training."""
        return type(backbone.patch_drop) is not nn.Identity

    # What a block is

    def keeps_tokens(self, block: nn.Module) -> bool:
        """Whether attention keeps the number and the width of tokens, so that each token has its own flow."""
        return True

    def width(self, block: nn.Module) -> int:
        """Channels of the tokens that leave the block."""
        return block.attn.proj.out_features

    def num_heads(self, block: nn.Module) -> int:
        """Attention heads of the block."""
        return block.attn.num_heads

    # Attention maps of a clip

    def per_frame(self, x: Tensor, num_frames: int) -> Tensor:
        """Queries or keys of the images of clips -> `[B, T, heads, N, d]`."""
        return x.unflatten(0, (-1, num_frames))

    def per_token(self, block: nn.Module, flow: Tensor) -> Tensor:
        """Flow of the maps of `per_frame` -> flow of the tokens, `[B, T, N, heads]`."""
        return flow

    # Where tokens lie

    def num_prefix_tokens(self, backbone: nn.Module) -> int:
        """Tokens in front of the patches: class token and registers."""
        return backbone.num_prefix_tokens

    def grid_size(self, backbone: nn.Module, image_size: tuple[int, int], index: int) -> tuple[int, int]:
        """Rows and columns of patches that leave a block."""
        return tuple(backbone.patch_embed.dynamic_feat_size(image_size))

    def in_rows(self, backbone: nn.Module, x: Tensor, index: int) -> Tensor:
        """Tokens `[B, N, D]` that leave a block, patches row by row behind the prefix tokens."""
        return x


class EvaRunner(BlockRunner):
    """The steps of an `Eva` with norms in front: EVA-02, DINOv3, Perception Encoder, ViTs with rotary positions."""
    block_types = (EvaBlock,)
    attention_types = (EvaAttention, AttentionRope)

    def tokens(self, backbone: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return backbone._pos_embed(backbone.patch_embed(images))

    def position(self, backbone: nn.Module, positions: Tensor | None, index: int) -> Tensor | None:
        return positions[index] if backbone.rope_mixed and positions is not None else positions

    def qkv(self, block: nn.Module, x: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        attn = block.attn
        if attn.qkv is None:
            q, k, v = (
                linear(x).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)
                for linear in (attn.q_proj, attn.k_proj, attn.v_proj))
        elif getattr(attn, 'q_bias', None) is None:
            q, k, v = _split(attn.qkv(x), attn.num_heads)
        else:
            bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
            joined = attn.qkv(x) + bias if attn.qkv_bias_separate else F.linear(x, attn.qkv.weight, bias)
            q, k, v = _split(joined, attn.num_heads)
        q, k = attn.q_norm(q), attn.k_norm(k)
        if position is not None:
            q, k = (_rotate(tensor, position, attn).type_as(v) for tensor in (q, k))
        groups = q.shape[1] // k.shape[1]
        if groups > 1:  # several queries share a key
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        return q, k, v

    def attention_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        return block.drop_path1(x if block.gamma_1 is None else block.gamma_1 * x)

    def mlp_branch(self, block: nn.Module, x: Tensor) -> Tensor:
        return block.drop_path2(x if block.gamma_2 is None else block.gamma_2 * x)

    def drops_patches(self, backbone: nn.Module) -> bool:
        return backbone.patch_drop is not None


class HieraRunner(BlockRunner):
    """The steps of a `Hiera` on images.

    The first block of a stage pools its tokens, so they have no flow of their own. Early blocks attend within windows
    (mask units), and each window has its own flow.
    """
    block_types = (HieraBlock,)
    attention_types = (MaskUnitAttention,)

    def norm_pre(self, backbone: nn.Module, x: Tensor) -> Tensor:
        return backbone.unroll(x)  # Hiera has no norm there; it reorders rows of patches to windows

    def qkv(self, block: nn.Module, x: Tensor, position: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        attn = block.attn
        if attn.use_mask_unit_attn:  # tokens of a window lie apart: [B, n, windows, 3, heads, d]
            windows = x.shape[1] // (attn.q_stride * attn.window_size)
            joined = attn.qkv(x).reshape(x.shape[0], -1, windows, 3, attn.heads, attn.head_dim)
            q, k, v = joined.permute(3, 0, 4, 2, 1, 5).unbind(0)  # [B, heads, windows, n, d]
        else:
            q, k, v = (tensor.contiguous() for tensor in _split(attn.qkv(x), attn.heads))
        if attn.q_stride > 1:
            q = q.unflatten(-2, (attn.q_stride, -1)).amax(-3)
        return q, k, v

    def attend(self, block: nn.Module, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attn = block.attn
        x_out = _attention(attn, q, k, v)  # windows, if there are any, lie beside the tokens
        return attn.proj(x_out.transpose(1, -2).reshape(x.shape[0], -1, attn.dim_out))

    def shortcut(self, block: nn.Module, x: Tensor, normed: Tensor) -> Tensor:
        if not block.do_expand:
            return x
        if block.proj is not None:
            return block.proj(normed).unflatten(1, (block.attn.q_stride, -1)).amax(1)
        pooled = x.unflatten(1, (block.attn.q_stride, -1))
        return torch.cat([pooled.amax(1), pooled.mean(1)], dim=-1)

    def norm(self, backbone: nn.Module, x: Tensor) -> Tensor:
        return x  # in the head

    def drops_patches(self, backbone: nn.Module) -> bool:
        return backbone.patch_drop_rate > 0

    def keeps_tokens(self, block: nn.Module) -> bool:
        return block.attn.q_stride == 1 and not block.do_expand

    def num_heads(self, block: nn.Module) -> int:
        return block.attn.heads

    def per_frame(self, x: Tensor, num_frames: int) -> Tensor:
        if x.ndim == 5:
            x = x.flatten(1, 2)  # [B * T, heads * windows, n, d]
        return super().per_frame(x, num_frames)

    def per_token(self, block: nn.Module, flow: Tensor) -> Tensor:
        if block.attn.use_mask_unit_attn:  # [B, T, n, heads * windows] -> [B, T, n * windows, heads]
            flow = flow.unflatten(-1, (block.attn.heads, -1)).transpose(-1, -2).flatten(2, 3)
        return flow

    def num_prefix_tokens(self, backbone: nn.Module) -> int:
        return 0

    def grid_size(self, backbone: nn.Module, image_size: tuple[int, int], index: int) -> tuple[int, int]:
        return tuple(backbone.reroll.schedule[index][1])

    def in_rows(self, backbone: nn.Module, x: Tensor, index: int) -> Tensor:
        return backbone.reroll(x, index).flatten(1, 2)


_RUNNERS: dict[type, BlockRunner] = {
    VisionTransformer: BlockRunner(), Eva: EvaRunner(), Hiera: HieraRunner()}
_ACCEPTED = (
    'Accepted are timm models of the classes VisionTransformer (ViT, DeiT-III, CLIP, SigLIP, DINOv2), Eva (EVA-02, '
    'DINOv3, Perception Encoder, ViTs with rotary positions) and Hiera with their plain blocks.')
_REASONS = {  # block or attention -> why adapters cannot run there
    'ParallelScalingBlock': 'attention and MLP share one residual, so that the two adapters would be one',
    'DiffParallelScalingBlock': 'attention and MLP share one residual, so that the two adapters would be one',
    'ParallelThingsBlock': 'a block has several attentions, so that there is no one attention map',
    'ResPostBlock': 'it normalises behind attention, while the adapter takes what is normalised in front of it',
    'EvaBlockPostNorm': 'it normalises behind attention, while the adapter takes what is normalised in front of it',
    'DiffAttention': 'a head subtracts two attention maps, so that there is no one attention map',
    'Beit': 'it adds position biases to the attention map, which q and k do not tell',
    'VisionTransformerRelPos': 'it adds position biases to the attention map, which q and k do not tell',
    'SwinTransformer': 'it attends in shifted windows with position biases, which q and k do not tell',
    'SwinTransformerV2': 'it attends in shifted windows with position biases, which q and k do not tell',
    'VisionTransformerDistilled': 'it averages two classifiers',
}


def block_runner(backbone: nn.Module, name: str, method: str = 'AM Flow') -> BlockRunner:
    """The runner of a backbone.

    Args:
        backbone: A timm model.
        name: Its name in errors.
        method: Name of the method in errors.

    Raises:
        ValueError: No runner knows its blocks. The message has the reason and what is accepted.
    """
    runner = _RUNNERS.get(type(backbone))
    if runner is None:
        raise _refusal(name, backbone, method)
    for block in backbone.blocks:
        if type(block) not in runner.block_types:
            raise _refusal(name, block, method)
        if type(block.attn) not in runner.attention_types:
            raise _refusal(name, block.attn, method)
    if isinstance(runner, HieraRunner) and backbone.patch_embed.spatial_dims != 2:
        raise ValueError(f'backbone={name!r} takes clips and not frames; use a Hiera for images. {_ACCEPTED}')
    if runner.drops_patches(backbone):
        raise ValueError(
            f'backbone={name!r} with patch_drop_rate drops different patches in each frame, so tokens and attention '
            'maps of two frames cannot be compared. Build it with patch_drop_rate=0.')
    return runner


def _refusal(name: str, part: Any, method: str) -> ValueError:
    kind = type(part).__name__
    reason = _REASONS.get(kind, 'how it makes queries and keys is not known here')
    return ValueError(f'backbone={name!r} is made of {kind}, which {method} cannot run: {reason}. {_ACCEPTED}')


def _split(x: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Joined queries, keys and values `[B, N, 3 * heads * d]` -> three of `[B, heads, N, d]`."""
    return x.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def _rotate(x: Tensor, position: Tensor, attn: nn.Module) -> Tensor:
    """Rotates the patches of queries or keys `[B, heads, N, d]` by their positions."""
    prefix, patches = x[:, :, :attn.num_prefix_tokens], x[:, :, attn.num_prefix_tokens:]
    return torch.cat([prefix, apply_rot_embed_cat(patches, position, half=attn.rotate_half)], dim=2)


def _attention(attn: nn.Module, q: Tensor, k: Tensor, v: Tensor, dropout: nn.Dropout | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, fused if the backbone fuses it."""
    if attn.fused_attn:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout.p if dropout and attn.training else 0.)
    weights = ((q * attn.scale) @ k.transpose(-2, -1)).softmax(-1)
    return (weights if dropout is None else dropout(weights)) @ v
