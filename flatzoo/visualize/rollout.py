"""Attention rollout: from which patches the attention of all blocks together comes."""
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from flatzoo.models.base import VideoModel
from flatzoo.models.block_runner import block_runner

__all__ = ['attention_rollout']


@torch.no_grad()
def attention_rollout(model: VideoModel, clip: Tensor) -> Tensor:
    """The attention of all blocks, multiplied up, from what is classified to the patches.

    "Quantifying Attention Flow in Transformers", Abnar & Zuidema, ACL 2020: the maps of a block, averaged over its
    heads, are mixed half and half with the identity (the residual) and multiplied with those of the blocks before. What
    is classified is the class token, or the mean of all patches. The product knows nothing of values, MLPs and
    adapters, and of no class.

    Args:
        model: A video model on a plain transformer, in eval mode: timm's `VisionTransformer` or `Eva`.
        clip: One clip `[1, C, T, H, W]` on the device of the model.

    Returns:
        float32 `[K, h, w]` on the CPU for the K images of the clip (of VideoMAE: its tubelets), 0...1.

    Raises:
        ValueError: If the backbone attends in another way.
    """
    backbone, name = model.backbone, model._backbone_name
    try:
        if type(backbone) not in (VisionTransformer, Eva):
            raise ValueError(type(backbone).__name__)
        runner = block_runner(backbone, name)
        if not getattr(model, 'attends_as_backbone', True):
            raise ValueError('attends to other frames')
    except ValueError:
        raise ValueError(
            f'attention rollout takes plain transformers with global attention (ViT, DeiT-III, CLIP, SigLIP, DINOv2, '
            f'DINOv3, EVA-02, VideoMAE), not {type(model).__name__} with backbone={name!r} ({type(backbone).__name__}).'
            " Use method='ablation' or 'gradcam'.") from None
    positions = runner.embed(backbone, model.super_image(clip))[1]
    rollout: list[Tensor] = []

    def multiply(index: int):
        def hook(module: nn.Module, args: tuple, normed: Tensor) -> None:
            block = backbone.blocks[index]
            q, k, _ = runner.qkv(block, normed, runner.position(backbone, positions, index))
            scores = (q.float() * q.shape[-1] ** -0.5) @ k.float().transpose(-2, -1)
            attention = scores.softmax(-1).mean(1)  # [K, N, N]
            rollout[:] = [(attention @ rollout[0] + rollout[0]) / 2 if rollout else (
                attention + torch.eye(attention.shape[-1], device=attention.device)) / 2]
        return hook

    handles = [block.norm1.register_forward_hook(multiply(index)) for index, block in enumerate(backbone.blocks)]
    try:
        model(clip)
    finally:
        for handle in handles:
            handle.remove()
    prefix = runner.num_prefix_tokens(backbone)
    rows = rollout[0][:, :1] if model.global_pool == 'token' else rollout[0][:, prefix:]
    maps = rows[:, :, prefix:].mean(1).cpu()  # [images of the batch, patches of all their tubelets]
    grid = runner.grid_size(backbone, model.image_size, len(backbone.blocks) - 1)
    maps = maps.reshape(-1, *grid)
    return (maps - maps.min()) / (maps.max() - maps.min()).clamp(min=1e-12)
