"""Parameters, multiply-adds and memory of a model, counted."""
import csv
import io
from pathlib import Path

import timm
import timm.layers
import torch

import flatzoo
from flatzoo.runtime.cost import count_forward

from .files import write_file

__all__ = ['count', 'names', 'read', 'write']


def count(name: str, device: str = 'meta', fused: bool = False, **kwargs) -> dict:
    """The row of one model: G multiply-adds, M parameters, MB of weights and of saved activations.

    Args:
        name: Model to count.
        device: `'meta'`, where nothing is computed; what fused attention keeps shows on a real device only.
        fused: Whether attention is fused where the model can; eager attention keeps its matrices.
        **kwargs: Arguments of the model.
    """
    timm.layers.set_fused_attn(fused)
    model = timm.create_model(name, device=device, **kwargs)
    img_size = getattr(model, 'img_size', None) or (224, 224)
    frames = (model.num_frames,) if hasattr(model, 'num_frames') else ()  # an image model has none
    clip = torch.empty(1, model.in_chans, *frames, *img_size, device=device).fill_(0.1)
    macs = count_forward(model).macs

    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    saved = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = (storage, storage.nbytes())  # holding it keeps its address from being reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.train()(clip)
    params = sum(p.numel() for p in model.parameters())
    trainable = ''
    if hasattr(model, 'freeze_backbone'):  # adapters: most of the model is not to be trained
        model.freeze_backbone()
        trainable = round(sum(p.numel() for p in model.parameters() if p.requires_grad) / 1e6, 3)
    return dict(
        model=name, num_frames=sum(frames), frame_height=img_size[0], frame_width=img_size[1],
        layout=str(getattr(model, 'layout', '')), in_chans=model.in_chans, num_classes=model.num_classes,
        gmacs_per_view=round(macs / 1e9, 3),
        params_m=round(params / 1e6, 3), trainable_m=trainable, weights_mb=round(4 * params / 1e6, 1),
        activations_mb=round(sum(size for _, size in saved.values()) / 1e6, 1),
    )


def names(pattern: str = '') -> list[str]:
    """The video models, and the image models that are ours; those on any backbone have its cost, and no row."""
    video = [name for name in flatzoo.list_models(pattern) if name not in ('superimage', 'tsm', 'probe', 'tall')]
    return video + timm.list_models(pattern or 'uniformer*', module='uniformer')


def read(path: Path) -> list[dict]:
    """Rows of a table of costs, none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict]) -> None:
    """Writes a table of costs."""
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())
