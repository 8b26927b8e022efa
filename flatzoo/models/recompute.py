"""Training in less memory at the same speed: blocks keep the results of matrix products and compute the rest again.

A transformer block keeps many numbers for its backward pass. More than half of them come from operations that cost
almost nothing: norms, activations, copies, attention maps. `torch.utils.checkpoint` computes these again. Its selective
checkpointing makes sure that no linear layer and no convolution runs twice.
"""
from functools import partial

import torch
from timm.layers import LayerScale
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: PLC2701 - the base of all batch norms
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from flatzoo.layers.window_attention import window_attention_forward

__all__ = ['recompute_activations']

_aten = torch.ops.aten
_PRODUCTS = (_aten.mm.default, _aten.addmm.default)
_KEPT = {
    *_PRODUCTS, _aten.convolution.default, torch.ops.flatzoo.attend_in_windows.default,
    _aten._scaled_dot_product_flash_attention.default, _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default, _aten._scaled_dot_product_cudnn_attention.default,
}


def recompute_activations(model: nn.Module, enable: bool = True) -> int:
    """Makes the blocks of a model keep only their input and the results of matrix products, convolutions and attention.

    Gradients are the same except for rounding, random numbers are repeated, and parameters keep their names.
    `window_attention_forward` computes the windows of Swin. Copies of the model behave in the same way.

    Args:
        model: Any model with blocks (modules whose class is called `...Block`), such as Swin, ViT, ConvNeXt. Two kinds
            of blocks are not changed: those with batch norm, whose running statistics would be updated twice, and those
            whose `forward` was already replaced. Activations become not `inplace`, so that they overwrite nothing.
        enable: False restores the modules.

    Returns:
        The number of blocks that recompute. 0 if no block can.
    """
    blocks = _blocks(model)
    for block in blocks:
        changed = {block: _forward}
        changed |= {m: window_attention_forward for m in block.modules() if type(m) is WindowAttention}
        for module, forward in changed.items():
            vars(module).pop('forward', None)
            if enable:
                module.forward = partial(forward, module)  # unlike a method, it can be pickled
        for module in block.modules():
            if enable and getattr(module, 'inplace', False):
                module.inplace, module.was_inplace = False, True
            elif not enable and vars(module).pop('was_inplace', False):
                module.inplace = True
    return len(blocks) if enable else 0


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The outermost blocks that can run twice."""
    if type(module).__name__.endswith('Block'):
        return [module] if all(map(_can_run_twice, module.modules())) else []
    return [block for child in module.children() for block in _blocks(child)]


def _can_run_twice(module: nn.Module) -> bool:
    replaced = vars(module).get('forward')
    return not (
        isinstance(module, _BatchNorm)
        or replaced is not None and getattr(replaced, 'func', None) not in (_forward, window_attention_forward))


def _forward(block: nn.Module, *args, **kwargs):
    run = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return run(*args, **kwargs)
    contexts = _contexts_of_sum if _ends_in_sum(block) else _contexts
    return checkpoint(run, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _ends_in_sum(block: nn.Module) -> bool:
    """Whether the result of the MLP is only added to the residual stream, so that no gradient needs it."""
    if type(block) not in (SwinTransformerBlock, Block) or any(isinstance(m, LayerScale) for m in block.modules()):
        return False
    random = (getattr(m, 'drop_prob', 0.) or getattr(m, 'p', 0.) for m in (block.drop_path2, *block.mlp.modules()))
    return not (block.training and any(random))  # random masks behind the result need it


def _policy(context, op, *args, **kwargs) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def _policy_of_sum(context, op, *args, **kwargs) -> CheckpointPolicy:
    if op in _PRODUCTS and args[-1].shape[0] > 2 * args[-1].shape[1]:  # the MLP's second layer, which never runs again
        return CheckpointPolicy.PREFER_RECOMPUTE
    return _policy(context, op)


def _contexts():
    return create_selective_checkpoint_contexts(_policy)


def _contexts_of_sum():
    return create_selective_checkpoint_contexts(_policy_of_sum)
