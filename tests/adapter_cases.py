"""What tests of adapter methods share: recorded outputs of official code, and the ways into a model for its weights."""
import json
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

DATA = Path(__file__).parent / 'recorded'
VIT = dict(embed_dim=32, depth=3, num_heads=2, patch_size=8, img_size=32, num_frames=4)
BACKBONES = {  # a tiny model of each family
    'clip': dict(VIT, backbone='vit_base_patch16_clip_quickgelu_224'),
    'dinov2_reg': dict(VIT, backbone='vit_base_patch14_reg4_dinov2'),
    'dinov3': dict(VIT, backbone='vit_base_patch16_dinov3'),
    'siglip': dict(VIT, backbone='vit_base_patch16_siglip_224'),
    'siglip2': dict(VIT, backbone='vit_base_patch16_siglip_gap_224'),
    'deit3': dict(VIT, backbone='deit3_base_patch16_224'),
    'eva02': dict(VIT, backbone='eva02_base_patch14_224'),
    'pe': dict(VIT, backbone='vit_pe_core_base_patch16_224'),
}


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Recorded tensors, the official state dict, and arguments of the model that is its twin here."""
    tensors = load_file(DATA / f'{name}.safetensors')
    config = json.loads((DATA / f'{name}.json').read_text())['config']
    weights = {key.removeprefix('model.'): tensor for key, tensor in tensors.items() if key.startswith('model.')}
    names = dict(embed_dim='width', depth='layers', num_heads='heads')
    args = {key: config.get(key, config.get(names.get(key))) for key in (
        'num_classes', 'num_frames', 'img_size', 'patch_size', 'embed_dim', 'depth', 'num_heads')}
    return tensors, weights, args


def load(model_name: str, weights: dict[str, Tensor], **args: Any) -> nn.Module:
    """Through timm's own path for pretrained weights."""
    model = timm.create_model(
        model_name, pretrained=True, pretrained_cfg_overlay=dict(state_dict=weights), **args).eval()
    assert model.head_trained
    return model


def assert_golden(model: nn.Module, tensors: dict[str, Tensor], grads: dict[str, str]) -> None:
    """Logits, tokens behind the first and the last block, and gradients (official names -> ours) are the recorded."""
    clip = tensors['input']
    torch.testing.assert_close(model(clip), tensors['logits'], rtol=0, atol=2e-5)
    depth = len(model.backbone.blocks)
    _, kept, _ = model._run_blocks(model._images(clip), taps=(0, depth - 1))
    for key, tokens in (('tokens_block0', kept[0]), ('feat.blocks.0', kept[0]), ('tokens_last', kept[-1])):
        if key in tensors:
            torch.testing.assert_close(tokens, tensors[key], rtol=0, atol=1e-4)
    model(clip).sum().backward()
    recorded = {key.removeprefix('grad.'): value for key, value in tensors.items() if key.startswith('grad.')}
    assert recorded.keys() == grads.keys()
    for official, ours in grads.items():
        torch.testing.assert_close(model.get_parameter(ours).grad, recorded[official], rtol=1e-4, atol=1e-4)


def sizes(name: str, **args: Any) -> list[float]:
    """Millions of parameters: of the adapters, of all that is trained, of the whole model."""
    model = timm.create_model(name, device='meta', **args)
    total = sum(p.numel() for p in model.parameters())
    model.freeze_backbone()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return [count / 1e6 for count in (sum(p.numel() for p in model.adapters.parameters()), trained, total)]


def without_adapters(model: nn.Module) -> nn.Module:
    """The adapters as they start: no change."""
    for name, parameter in model.adapters.named_parameters():
        if '.up.' in name or '.conv.' in name:
            nn.init.zeros_(parameter)
    return model
