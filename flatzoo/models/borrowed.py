"""A saved model that borrows its backbone: its file has the head alone, and names the model that has the rest.

A probe is a few thousand numbers on a backbone that everybody can have. Its `config.json` says, in the block `video`,
whose weights it borrows, and a digest of them, without which a head on other weights would answer nonsense:

    "backbone": {"model": "vit_small_patch14_dinov2.lvd142m", "model_args": {"num_frames": 4},
                 "digest": "sha256:...", "pooler": false}
"""
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import timm
from torch import Tensor

from flatzoo.console.text import printable
from flatzoo.weights.adapter_file import state_digest
from flatzoo.weights.config import check_arguments

__all__ = ['Borrowed', 'borrowed_digest', 'borrowed_names', 'complete_weights']


@dataclass(frozen=True)
class Borrowed:
    """Whose weights a model borrows.

    Attributes:
        model: Name of the video model, or of the image model that is its backbone.
        digest: SHA-256 of the borrowed tensors, see `borrowed_digest`.
        model_args: Arguments with which a video model was built.
        pooler: Whether the model has a pooler of its own, beside its classifier.
    """
    model: str
    digest: str
    model_args: dict[str, Any] = field(default_factory=dict)
    pooler: bool = False

    @property
    def is_public(self) -> bool:
        """Whether others can have the weights, too: a folder is on one machine alone."""
        return not self.model.startswith('local-dir:')

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)

    @classmethod
    def of_config(cls, config: Mapping[str, Any], where: str) -> 'Borrowed | None':
        """What a `config.json` says, None if its weights are complete.

        Raises:
            ValueError: If it cannot be used.
        """
        stated = (config.get('video') or {}).get('backbone')
        if stated is None:
            return None
        try:
            found = cls(**stated)
            good = isinstance(found.model, str) and isinstance(found.digest, str) and isinstance(
                found.model_args, dict) and isinstance(found.pooler, bool)
        except TypeError:
            good = False
        if not good:
            raise ValueError(
                f"{where}: 'backbone' of 'video' must say model, digest, model_args and pooler, got "
                f'{printable(stated, 200)}. Save the model again.')
        check_arguments(found.model_args, where)
        return found


def borrowed_names(model: Any, pooler: bool) -> set[str]:
    """Names of the tensors that a model borrows: all but the classifier, and the pooler if it has one of its own."""
    own = model.classifier_keys()
    return {name for name in model.state_dict() if name not in own and not (pooler and name.startswith('pooler.'))}


def borrowed_digest(model: Any, pooler: bool = False) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of the tensors that a model would borrow.

    Args:
        model: A video model.
        pooler: Whether its pooler is its own.
    """
    names = borrowed_names(model, pooler)
    return state_digest({name: tensor for name, tensor in model.state_dict().items() if name in names})


def complete_weights(model: Any, weights: dict[str, Tensor], borrowed: Borrowed) -> dict[str, Tensor]:
    """The weights of a file with those that it borrows.

    Args:
        model: The model that will load them.
        weights: What the file has.
        borrowed: Whose weights are borrowed.

    Raises:
        RuntimeError: They cannot be had, or are others than those that the head was trained on.
    """
    names = borrowed_names(model, borrowed.pooler)
    if names <= set(weights):  # it was trained further, and saved as a whole
        return weights
    args = model.lender_args
    try:
        if args.get('backbone') == borrowed.model:
            name = model.pretrained_cfg['architecture']
            lender = timm.create_model(name, **{**args, 'backbone_pretrained': True, 'num_classes': 0})
        else:
            lender = timm.create_model(borrowed.model, pretrained=True, **borrowed.model_args)
    except Exception as error:
        raise RuntimeError(
            f'the model borrows the weights of {borrowed.model}, which cannot be had: '
            f'{printable(str(error).strip().rstrip("."), 500)}. Bring them back, or get the model with its backbone '
            '(flatzoo push --with-backbone).') from error
    lent = {name: tensor for name, tensor in lender.state_dict().items() if name in names}
    digest = state_digest(lent)
    if digest != borrowed.digest:
        raise RuntimeError(
            f'the model was trained on weights of {borrowed.model} with the digest {borrowed.digest[:15]}; those here '
            f'have {digest[:15]}. On other weights it would answer nonsense: bring the former weights back.')
    return {**lent, **weights}
