"""torch.hub entry points: `torch.hub.load('flatzoo/flatzoo', 'sifar_swin_b12', pretrained=True, num_classes=51)`.

Every video model of flatzoo is one; they are built by `timm.create_model`, so that a model loaded here saves and
reloads like any other.
"""
dependencies = ['av', 'huggingface_hub', 'safetensors', 'timm', 'torch', 'torchvision']

import functools as _functools  # noqa: E402 - torch.hub reads `dependencies` first

import timm as _timm  # noqa: E402

import flatzoo as _flatzoo  # noqa: E402


def _entry_point(name):
    @_functools.wraps(_timm.model_entrypoint(name))
    def create(pretrained=False, **kwargs):
        return _timm.create_model(name, pretrained=pretrained, **kwargs)

    return create


globals().update({name: _entry_point(name) for name in _flatzoo.list_models()})
