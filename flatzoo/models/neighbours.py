"""A classifier that compares features with those of labelled clips: nearest neighbours in place of a layer."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ['Neighbours', 'replace_classifier']

SMALLEST = 1e-4  # of a share, whose logarithm becomes a logit


class Neighbours(nn.Module):
    """Shares of the classes among the nearest neighbours, as scikit-learn's with `weights='distance'` gives them.

    Features are normalised; a neighbour counts by the inverse of its distance, and one without any distance alone.

    Args:
        values: Features of labelled clips, `[N, D]`.
        targets: 1 for the classes of each, `[N, K]`.
        count: Number of neighbours.
        multi_label: Whether clips may have several classes. Logits are then those of a sigmoid, else of a softmax.
    """

    def __init__(self, values: Tensor, targets: Tensor, count: int, multi_label: bool = False):
        super().__init__()
        self.count, self.multi_label = min(count, len(values)), multi_label
        self.register_buffer('values', F.normalize(values.float(), dim=1))
        self.register_buffer('targets', targets.float())

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, K]` of features `[B, D]`."""
        values = self.values.float()
        x = F.normalize(x.float(), dim=1)
        # exact differences: those of a matrix product would drown the distance of close neighbours
        distances = torch.cdist(x, values, compute_mode='donot_use_mm_for_euclid_dist')  # [B, N]
        near = distances.topk(self.count, largest=False)
        same = near.values <= 1e-6
        weights = torch.where(same.any(1, keepdim=True), same.float(), 1 / near.values.clamp(min=1e-6))
        shares = (weights[..., None] * self.targets.float()[near.indices]).sum(1) / weights.sum(1, keepdim=True)
        shares = shares.clamp(SMALLEST, 1 - SMALLEST)
        return shares.logit() if self.multi_label else shares.log()


def replace_classifier(model: nn.Module, new: nn.Module) -> None:
    """Puts another module where the classifier of a video model is.

    Raises:
        ValueError: The model has no single module there.
    """
    old = model.get_classifier()
    for module in model.modules():
        for name, child in module.named_children():
            if child is old:
                setattr(module, name, new)
                return
    raise ValueError(f'{type(model).__name__} has no single classifier that another could take the place of.')
