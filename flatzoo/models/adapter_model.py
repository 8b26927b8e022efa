"""A video model that trains what lies beside its backbone: freezing, image weights, files of what is trained."""
import json
import logging
from pathlib import Path
from typing import Any

import torch
from timm.models import get_model_args
from torch import Tensor

from flatzoo.data.protocol import EvalProtocol
from flatzoo.weights.adapter_file import read_adapter_file, weight_digest, write_adapter_file
from flatzoo.weights.checkpoint import account_for_keys, image_checkpoint, unwrap_checkpoint

from .base import VideoModel, prefixed
from .builder import eval_protocol

__all__ = ['AdapterModel']

_logger = logging.getLogger(__name__)


class AdapterModel(VideoModel):
    """A `VideoModel` whose backbone stays as it is, while everything outside `backbone.` is trained.

    Its classifiers are its own; the backbone has none. Nothing is frozen until `freeze_backbone()`.

    Attributes:
        adapter_args: Arguments that say what the tensors outside the backbone mean, which JSON can hold.
        frozen: Whether the backbone is frozen.
    """
    adapter_args: dict[str, Any]
    frozen = False

    @torch.jit.ignore
    def freeze_backbone(self, freeze: bool = True) -> None:
        """Keeps the backbone as it is: no gradients, eval mode also in `train()`.

        Optimisers of timm take what is left, those of torch skip what has no gradient. Copies of the model remember it,
        saved weights do not.

        Args:
            freeze: False to train the backbone, too.
        """
        self.frozen = freeze
        self.backbone.requires_grad_(not freeze)
        if freeze:
            self.backbone.zero_grad()  # an optimiser that has the backbone already would follow the last ones
        self.train(self.training)

    def train(self, mode: bool = True) -> 'AdapterModel':
        """As in torch; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    @torch.jit.ignore
    def filter_checkpoint(self, state_dict: dict[str, Any]) -> dict[str, Tensor]:
        """Takes weights of this class, or those of the image backbone, whose classifier is left out.

        Raises:
            RuntimeError: If keys are left over or missing, or there are only adapters.
        """
        state_dict = unwrap_checkpoint(state_dict)
        if any(key.startswith('backbone.') for key in state_dict):
            return account_for_keys(self, state_dict)
        if any(key.startswith('adapters.') for key in state_dict):
            raise RuntimeError(
                'These are adapters without their backbone, as save_adapters() writes them: build the model with '
                'amflow_from_adapters(), or load them into one with load_adapters().')
        names = self.backbone.pretrained_cfg.get('classifier') or ()
        classifiers = prefixed((names,) if isinstance(names, str) else names)
        weights = {
            key: tensor for key, tensor in image_checkpoint(state_dict, self).items()
            if key.rpartition('.')[0] not in classifiers}
        fresh = tuple(self._own_tensors())
        weights = account_for_keys(self, weights, optional=fresh)
        _logger.info(
            f'The backbone {self._backbone_name} gets its image weights. All outside backbone. ({len(fresh)} tensors: '
            'adapters, temporal units, heads) starts fresh: freeze_backbone() and train it.')
        return weights

    @torch.jit.ignore
    def save_adapters(self, path: str | Path) -> None:
        """Saves all that is not the backbone, with what identifies the backbone, class names and evaluation protocol.

        Args:
            path: A safetensors file, written under a temporary name and renamed; its folder is made if there is none.
        """
        write_adapter_file(path, self._own_tensors(), dict(
            model=self.pretrained_cfg.get('architecture'), model_args=get_model_args(self),
            adapter_args=self.adapter_args, backbone=self._backbone_name, backbone_digest=weight_digest(self.backbone),
            label_names=self.pretrained_cfg.get('label_names'), protocol=eval_protocol(self).to_dict()))

    @torch.jit.ignore
    def load_adapters(self, path: str | Path) -> None:
        """Loads what `save_adapters` saved, if the backbone is the very one that it was trained on.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or foreign, or made for another backbone, other weights of it, other
                arguments or classes. Nothing is loaded then.
        """
        tensors, header = read_adapter_file(path)
        if header['backbone'] != self._backbone_name:
            raise ValueError(
                f'{path}: these adapters were trained on backbone={header["backbone"]!r}, this model has '
                f'{self._backbone_name!r}. Build the model with the former.')
        there, here = header['adapter_args'], json.loads(json.dumps(self.adapter_args))
        other = [f'{name}={there.get(name)!r} (here {here[name]!r})' for name in here if there.get(name) != here[name]]
        if other:
            raise ValueError(
                f'{path}: these adapters were built with {", ".join(other)}. Build the model with the same.')
        given, wanted = ({name: list(t.shape) for name, t in own.items()} for own in (tensors, self._own_tensors()))
        if given != wanted:
            name = next(name for name in (*wanted, *given) if given.get(name) != wanted.get(name))
            raise ValueError(
                f'{path}: {name} has the shape {given.get(name)}, in this model {wanted.get(name)}. Build the model '
                f'with num_classes={header["model_args"].get("num_classes")} and the other arguments of the file.')
        digest = weight_digest(self.backbone)
        if header['backbone_digest'] != digest:
            raise ValueError(
                f'{path}: these adapters were trained on {self._backbone_name} with weights of '
                f'{header["backbone_digest"]}, this model has weights of {digest}. Load those (pretrained=True if they '
                'came from the Hub) and build the model with the same img_size, in_chans and dtype, which change them.')
        protocol = EvalProtocol.from_dict(header['protocol']) if 'protocol' in header else None
        self.load_state_dict(tensors, strict=False)
        self.saved_protocol = protocol
        self.pretrained_cfg = {**self.pretrained_cfg, 'label_names': header.get('label_names')}

    def _own_tensors(self) -> dict[str, Tensor]:
        """The state dict without the backbone."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith('backbone.')}
