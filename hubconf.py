"""torch.hub entry points: `torch.hub.load('flatzoo/flatzoo', 'sifar_swin_b12', pretrained=True, num_classes=51)`.

Every model of flatzoo is one, and nothing of timm's own list. They are built by `timm.create_model`, so that a model
loaded here saves and reloads like any other. `torch.hub.help('flatzoo/flatzoo', 'sifar_swin_b12')` describes a model.
"""
dependencies = [
    'av', 'einops', 'filelock', 'huggingface_hub', 'numpy', 'PIL', 'safetensors', 'timm', 'torch', 'torchvision',
    'tqdm']

import timm as _timm  # noqa: E402 - torch.hub reads `dependencies` first

import flatzoo as _flatzoo  # noqa: E402


def _entry_point(name):
    def create(pretrained=False, **kwargs):
        return _timm.create_model(name, pretrained=pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"""{_timm.model_entrypoint(name).__doc__}

    Args:
        pretrained: Whether to load weights, those of the default tag; `flatzoo list --pretrained` shows all.
        **kwargs: As for `timm.create_model`: `num_classes`, `img_size`, `num_frames`, `layout`, ...
    """
    return create


# the image backbones that flatzoo registers with timm are in a module of that name
_names = _flatzoo.list_models() + _timm.list_models(module='uniformer')
globals().update({_name: _entry_point(_name) for _name in _names})
