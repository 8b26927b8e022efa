"""Trains the probes of `flatzoo.models.probe` (attentive, STEP, linear) on cached tokens: the backbone never runs."""
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor

from flatzoo.models.probe import Probe

__all__ = ['TOKEN_KINDS', 'answer_tokens', 'new_probe', 'token_logits', 'train_tokens']

TOKEN_KINDS = ('attentive', 'step', 'linear')
BATCH = 32
UPDATES = 300  # at least
EPOCHS = 20  # at least


def new_probe(backbone: Probe, kind: str, num_classes: int, seed: int = 0, **kwargs) -> Probe:
    """A fresh probe on the backbone of another one.

    Args:
        backbone: A `probe` model, whose backbone the new one shares.
        kind: `'attentive'`, `'step'` or `'linear'`.
        num_classes: Number of classes.
        seed: Of the random weights.
        **kwargs: Arguments of the probe, such as `probe_depth`.

    Raises:
        ValueError: The model does not look at frames one by one.
    """
    if not isinstance(backbone, Probe):
        raise ValueError(
            f'a probe of kind {kind} reads the tokens of single frames, and this model does not look at frames one by '
            'one. Take an image model of timm, or a head of kind knn, ridge or logistic.')
    args = {key: value for key, value in backbone._model_args.items() if not key.startswith('probe')}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model('probe', **{**args, 'probe': kind, 'num_classes': num_classes, **kwargs})
    model.backbone.load_state_dict(backbone.backbone.state_dict())
    model.pretrained_cfg = {**model.pretrained_cfg, **{
        key: backbone.pretrained_cfg[key] for key in ('mean', 'std') if key in backbone.pretrained_cfg}}
    return model


def train_tokens(
        model: Probe,
        tokens: Tensor,
        labels: Tensor,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        epochs: int | None = None,
        seed: int = 0,
) -> Probe:
    """Trains what follows the backbone: AdamW, warm-up and cosine decay. These settings were not searched for.

    Args:
        model: A probe.
        tokens: `[N, T, ...]`, what `forward_features` of its backbone gave.
        labels: `[N]`; where clips may have several classes, 1 for each of their own, float32 `[N, K]`.
        lr: Highest learning rate.
        weight_decay: Of the matrices.
        epochs: Times that each clip is seen. None takes 20, or more, so that there are 300 updates.
        seed: Of the order of the clips.

    Returns:
        The probe, in eval mode.
    """
    model.freeze_backbone()
    per_epoch = -(-len(labels) // BATCH)
    epochs = epochs or max(EPOCHS, -(-UPDATES // per_epoch))
    optimizer = create_optimizer_v2(model, opt='adamw', lr=lr, weight_decay=weight_decay)
    total = epochs * per_epoch
    scheduler = CosineLRScheduler(
        optimizer, total, lr_min=lr / 100, warmup_t=total // 20, warmup_lr_init=lr / 50, t_in_epochs=False)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    update = 0
    for _ in range(epochs):
        for indices in torch.randperm(len(labels), generator=generator).split(BATCH):
            scheduler.step_update(update)
            logits = model.forward_head(tokens[indices].float().flatten(0, 1))
            loss_of = F.cross_entropy if labels.ndim == 1 else F.binary_cross_entropy_with_logits
            loss = loss_of(logits, labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update += 1
    return model.eval()


@torch.no_grad()
def token_logits(model: Probe, tokens: Tensor) -> Tensor:
    """Logits of each clip, `[N, K]`."""
    return torch.cat([model.forward_head(part.float().flatten(0, 1)) for part in tokens.split(BATCH)])


def answer_tokens(model: Probe, tokens: Tensor) -> Tensor:
    """Most probable class of each clip, int64 `[N]`."""
    return token_logits(model, tokens).argmax(1)
