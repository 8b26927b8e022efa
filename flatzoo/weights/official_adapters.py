"""Renames weights of official image-to-video code to the names of flatzoo.

Most official code is written around OpenAI's CLIP, whose image tower has its own names, and puts its adapters into the
blocks. Names that match the patterns of a method belong to the method; all others belong to the backbone.
"""
import re
from collections.abc import Sequence

from torch import Tensor

__all__ = ['rename_official']

_CLIP = [(re.compile(pattern), name) for pattern, name in (  # OpenAI's image tower -> timm's ViT
    (r'^conv1\.', 'patch_embed.proj.'), (r'^class_embedding$', 'cls_token'), (r'^positional_embedding$', 'pos_embed'),
    (r'^ln_pre\.', 'norm_pre.'), (r'^ln_post\.', 'norm.'), (r'^transformer\.resblocks\.', 'blocks.'),
    (r'\.ln_1\.', '.norm1.'), (r'\.ln_2\.', '.norm2.'), (r'\.attn\.in_proj_', '.attn.qkv.'),
    (r'\.attn\.out_proj\.', '.attn.proj.'), (r'\.mlp\.c_fc\.', '.mlp.fc1.'), (r'\.mlp\.c_proj\.', '.mlp.fc2.'))]
_OURS = re.compile(r'^(adapters\.|temporal_embed$|head\.(weight|bias)$)')


def rename_official(state_dict: dict[str, Tensor], own: Sequence[tuple[str, str]]) -> dict[str, Tensor] | None:
    """Weights of a method's official code under the names of flatzoo.

    Args:
        state_dict: Weights, with or without the `backbone.` that training code puts in front.
        own: Regular expressions of the method's own names, without `backbone.`, and their replacements.

    Returns:
        The renamed weights. None if they are not from the official code.
    """
    patterns = [(re.compile(pattern), name) for pattern, name in own]
    names = {key: key.removeprefix('backbone.') for key in state_dict}
    if not patterns or any(_OURS.match(key) for key in state_dict) or not any(
            pattern.search(name) for pattern, _ in patterns for name in names.values()):
        return None
    renamed = {}
    for key, tensor in state_dict.items():
        name = names[key]
        ours = next((pattern.sub(ours, name) for pattern, ours in patterns if pattern.search(name)), None)
        if ours is None:
            for pattern, new in _CLIP:
                name = pattern.sub(new, name)
            ours = f'backbone.{name}'
        if ours == 'backbone.cls_token' and tensor.ndim == 1:
            tensor = tensor.reshape(1, 1, -1)  # [D], as OpenAI keeps it
        elif ours == 'backbone.pos_embed' and tensor.ndim == 2:
            tensor = tensor.unsqueeze(0)  # [N, D]
        renamed[ours] = tensor
    return renamed
