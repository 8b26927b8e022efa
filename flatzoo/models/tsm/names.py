"""Renames TSM's weights from the official code and mmaction2. Our names are those of timm, with `net` in shifts."""
import re

from torch import Tensor, nn

__all__ = ['rename', 'with_places']


def rename(weights: dict[str, Tensor], backbone: nn.Module) -> tuple[dict[str, Tensor], bool]:
    """Renames weights of any known code to the names of the backbone.

    Known are files of the official code (`base_model.`, and `new_fc.` for a classifier behind dropout), of its online
    demo (torchvision's names of MobileNetV2), and of mmaction2 for ResNets. Other names stay unchanged.

    Returns:
        The weights, and whether their names show the places of the shifts.
    """
    if any(key.startswith(('base_model.', 'new_fc.')) for key in weights):
        weights, tells = {re.sub(r'^base_model\.', '', key): tensor for key, tensor in weights.items()}, True
        weights = {re.sub(r'^new_fc\.', f'{_classifier(backbone)}.', key): t for key, t in weights.items()}
    elif any(key.startswith('cls_head.fc_cls.') for key in weights):
        weights, tells = {_from_mmaction(key, backbone): tensor for key, tensor in weights.items()}, True
    else:
        tells = False
    weights = {  # kernels of 1x1x1 -> 1x1
        key: tensor.flatten(3) if '.nl.' in key and tensor.ndim == 5 else tensor for key, tensor in weights.items()}
    if any(key.startswith('features.') for key in weights):
        weights = {_from_torchvision(key, backbone): tensor for key, tensor in weights.items()}
    return weights, tells


def with_places(weights: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """Weights without shifts, such as image weights. Their names get `net` and `block` where the model has them."""
    places = {re.sub(r'\.(net|block)(?=\.)', '', key): key for key in backbone.state_dict()}
    return {places.get(key, key): tensor for key, tensor in weights.items()}


def _classifier(backbone: nn.Module) -> str:
    return backbone.pretrained_cfg.get('classifier') or 'fc'


def _from_mmaction(key: str, backbone: nn.Module) -> str:
    """A name of mmaction2's ResNet, whose convolutions are modules `conv` and `bn`."""
    key = re.sub(r'^cls_head\.fc_cls\.', f'{_classifier(backbone)}.', key.removeprefix('backbone.'))
    key = re.sub(r'\bdownsample\.conv\.', 'downsample.0.', key)
    key = re.sub(r'\bdownsample\.bn\.', 'downsample.1.', key)
    key = re.sub(r'\bconv(\d)\.conv\.', r'conv\1.', key)
    return re.sub(r'\bconv(\d)\.bn\.', r'bn\1.', key)


_ENDS = {'0': 'conv_stem', '1': 'bn1'}, {'0': 'conv_head', '1': 'bn2'}
_FIRST = {'0': 'conv_dw', '1': 'bn1', '3': 'conv_pw', '4': 'bn2'}
_EXPANDING = {'0': 'conv_pw', '1': 'bn1', '3': 'conv_dw', '4': 'bn2', '6': 'conv_pwl', '7': 'bn3'}


def _from_torchvision(key: str, backbone: nn.Module) -> str:
    """A name of torchvision's MobileNetV2, whose blocks are numbered across stages."""
    match = re.match(r'features\.(\d+)\.(?:conv\.)?(\d)\.(.*)', key)
    if match is None:
        return re.sub(r'^classifier\.1\.', 'classifier.', key)  # behind torchvision's dropout
    number, part, rest = int(match[1]), match[2], match[3]
    blocks = [f'blocks.{s}.{b}' for s, stage in enumerate(getattr(backbone, 'blocks', ())) for b in range(len(stage))]
    if number in (0, len(blocks) + 1):
        return f'{_ENDS[number > 0].get(part, part)}.{rest}'
    if number > len(blocks):
        return key
    names = _FIRST if number == 1 else _EXPANDING
    return f'{blocks[number - 1]}.{names.get(part, part)}.{rest}'
