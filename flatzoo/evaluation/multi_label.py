"""The answers of a model whose clips may have several classes: mean average precision in place of accuracy."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.task import MultiLabelClassificationEvaluator
from torch import Tensor

__all__ = ['MultiLabelEvaluation', 'average_precisions']

UNANSWERED = -1e30  # the logits of a clip without an answer: behind all others


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """The scores of a model for clips that may have several classes.

    Attributes:
        classes: Names of the K classes.
        logits: `[N, K]`; a clip without an answer comes last in the order of every class.
        targets: 1 for the classes of each clip, float32 `[N, K]`.
        broken: Index of each clip without an answer and the reason, sorted by index.
        seconds: Duration of the evaluation.
    """

    classes: tuple[str, ...]
    logits: Tensor
    targets: Tensor
    broken: tuple[tuple[int, str], ...] = ()
    seconds: float = 0.0

    @classmethod
    def of_answers(
            cls,
            classes: Sequence[str],
            targets: Tensor,
            answers: Iterable[tuple[Tensor, Tensor]],
            broken: tuple[tuple[int, str], ...] = (),
            seconds: float = 0.0,
    ) -> 'MultiLabelEvaluation':
        """From batches of answers.

        Args:
            classes: Names of the classes.
            targets: `[N, K]`.
            answers: Pairs of indices `[B]` of clips and their logits `[B, K]`.
            broken: Clips without an answer.
            seconds: Duration.
        """
        logits = torch.full(targets.shape, UNANSWERED)
        for index, values in answers:
            logits[index] = values
        return cls(tuple(classes), logits, targets, broken, seconds)

    @property
    def clips(self) -> int:
        """Number of clips, answered or not."""
        return len(self.targets)

    @property
    def map(self) -> float:
        """Mean of the average precisions of the classes that have clips, in per cent."""
        found = average_precisions(self.logits, self.targets)
        return 100 * float(found[~found.isnan()].mean())

    @property
    def top1(self) -> float:
        """Share of the clips with a class whose highest score is that of one of their classes, in per cent."""
        answered = self.logits.amax(1) > UNANSWERED
        hits = self.targets.gather(1, self.logits.argmax(1, keepdim=True))[:, 0] > 0
        return 100 * float((hits & answered)[self.targets.sum(1) > 0].double().mean())

    @property
    def micro_f1(self) -> float:
        """F1 of all decisions for a class at the score 0.5, in per cent."""
        said, true = self.logits > 0, self.targets > 0
        return 200 * float((said & true).sum()) / max(int(said.sum() + true.sum()), 1)

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class that has clips: `class`, `clips`, `ap` (average precision), and at the score 0.5
        `precision` (None if it is never named) and `recall`, in per cent.
        """
        rows = []
        for label, precision in enumerate(average_precisions(self.logits, self.targets).tolist()):
            true, said = self.targets[:, label] > 0, self.logits[:, label] > 0
            if not true.any():
                continue
            both = int((true & said).sum())
            rows.append({
                'class': self.classes[label], 'clips': int(true.sum()), 'ap': 100 * precision,
                'precision': 100 * both / int(said.sum()) if said.any() else None,
                'recall': 100 * both / int(true.sum())})
        return rows


def average_precisions(logits: Tensor, targets: Tensor) -> Tensor:
    """Average precision of each class, 0...1, by timm; NaN for classes without clips.

    Args:
        logits: Scores of any scale, `[N, K]`. Clips of equal score are taken together.
        targets: 0 or 1, `[N, K]`.

    Returns:
        float64 `[K]`.
    """
    found = torch.full((targets.shape[1],), float('nan'), dtype=torch.float64)
    for label in (targets.sum(0) > 0).nonzero().flatten().tolist():
        evaluator = MultiLabelClassificationEvaluator()
        evaluator.update(logits[:, label, None].float(), targets[:, label, None])
        found[label] = evaluator.compute()['map'] / 100
    return found
