"""How good a video model is on a list of labelled clips: counted exactly, on one process or on many.

The logits of a clip are averaged over the views of the evaluation protocol, as the papers do. Every process takes its
own share of the clips and the counts are added, so that none counts twice and none is left out. A clip that cannot be
answered is named and counts as wrong: accuracy is a share of the clips of the list, not of those that happened to work.
"""
import hashlib
import itertools
import os
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flatzoo.console.progress import Progress
from flatzoo.data.clips import ClipDataset, collate_clips
from flatzoo.data.lists import Clip, DataError, VideoList, some
from flatzoo.data.protocol import EvalProtocol

if TYPE_CHECKING:
    from flatzoo.models import VideoModel

__all__ = ['Evaluation', 'ORDERS', 'Order', 'evaluate', 'match_classes']

Order = Literal['normal', 'reverse', 'shuffle']
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class Evaluation:
    """What a model answered, counted.

    Attributes:
        classes: Names of the K classes.
        confusion: Clips by true and by answered class, int64 `[K, K]`.
        top5_hits: Clips of each class that is among the five most probable answers, int64 `[K]`.
        unanswered: Clips of each class without an answer, int64 `[K]`; they count as wrong.
        broken: Index and reason of each of these, by index.
        seconds: How long it took.
    """

    classes: tuple[str, ...]
    confusion: Tensor
    top5_hits: Tensor
    unanswered: Tensor
    broken: tuple[tuple[int, str], ...] = ()
    seconds: float = 0.0

    @property
    def clips(self) -> int:
        """Number of clips that are counted, answered or not."""
        return int(self._of_class.sum())

    @property
    def top1(self) -> float:
        """Clips whose most probable class is right, in per cent."""
        return 100 * int(self.confusion.trace()) / max(self.clips, 1)

    @property
    def top5(self) -> float:
        """Clips whose class is among the five most probable, in per cent."""
        return 100 * int(self.top5_hits.sum()) / max(self.clips, 1)

    @property
    def mean_class(self) -> float:
        """Mean over the classes that have clips of their top-1 accuracy, in per cent."""
        counted = self._of_class > 0
        if not counted.any():
            return 0.0
        return 100 * (self.confusion.diagonal()[counted].double() / self._of_class[counted]).mean().item()

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class that has clips.

        Returns:
            Dictionaries of `class`, `clips`, `top1` and `top5` (per cent), `broken`, and of the wrong answer that was
            given most often, None if there was none, `taken_for` and how often, `times`.
        """
        rows = []
        for label, total in enumerate(self._of_class.tolist()):
            if not total:
                continue
            wrong = self.confusion[label].clone()
            wrong[label] = 0
            times, other = (part.item() for part in wrong.max(0))
            rows.append({
                'class': self.classes[label],
                'clips': total,
                'top1': 100 * self.confusion[label, label].item() / total,
                'top5': 100 * self.top5_hits[label].item() / total,
                'broken': self.unanswered[label].item(),
                'taken_for': self.classes[other] if times else None,
                'times': times,
            })
        return rows

    @property
    def _of_class(self) -> Tensor:
        return self.confusion.sum(1) + self.unanswered


def match_classes(videos: VideoList, num_classes: int, names: Iterable[str] | None) -> VideoList:
    """The list with its labels counted as a model counts its classes.

    Args:
        videos: The list.
        num_classes: Classes of the model.
        names: Their names, if known.

    Raises:
        DataError: If the model's classes are others.
    """
    names = None if names is None else tuple(names)
    if names is not None and len(names) == num_classes:
        return videos.with_classes(names)
    if len(videos.classes) != num_classes:
        raise DataError(
            f'{videos.name} has {len(videos.classes)} classes, the model has {num_classes} without names. Choose a '
            'model that was trained on these classes.')
    return videos


@torch.inference_mode()
def evaluate(
        model: 'VideoModel',
        videos: VideoList,
        protocol: EvalProtocol | None = None,
        *,
        batch_size: int = 8,
        workers: int = 0,
        order: Order = 'normal',
        seed: int = 0,
        amp_dtype: torch.dtype | None = None,
        progress: bool = False,
) -> Evaluation:
    """Asks a model about every clip of a list.

    Where `torch.distributed` is initialised, all processes call this with the same list and get the same counts. They
    meet at the end alone, so the model must not wait for others in its forward pass: give the bare module, not one that
    is sharded over processes.

    Args:
        model: A video model; it is put into eval mode.
        videos: The list, with the classes of the model (`match_classes`).
        protocol: Views over which the logits of a clip are averaged; those of the model's weights if None.
        batch_size: Views that the model sees at a time.
        workers: Processes that decode; 0 decodes in this one.
        order: Of the frames of each view: `'normal'`, `'reverse'`, or `'shuffle'`, by a permutation for each clip (the
            same for its views), as in SIFAR's Table 9.
        seed: Of the permutations, which follow from it and the place of the clip in the list.
        amp_dtype: Compute in this type where autocast allows; None for that of the weights.
        progress: Whether to show on standard error (of the first process) how far it is.

    Raises:
        ValueError: If the classes do not fit, the order is unknown or the processes have different lists.
    """
    from flatzoo.models import eval_protocol


    if order not in ORDERS:
        raise ValueError(f'order must be one of {", ".join(ORDERS)}, got {order!r}')
    num_classes = model.num_classes
    if num_classes != len(videos.classes):
        raise ValueError(f'{videos.name} has {len(videos.classes)} classes, the model {num_classes}')
    start = time.monotonic()
    rank, world = _processes()
    if world > 1:
        _check_same_list(videos)
    model.eval()
    device = next(model.parameters()).device
    protocol = protocol or eval_protocol(model)
    dataset = ClipDataset(videos, model.num_frames, model.img_size, train=False, protocol=protocol)
    share = range(rank, len(videos), world)  # no padding: shares may differ by a clip
    loader = DataLoader(
        _Reordered(dataset, order, seed), max(1, batch_size // protocol.views), sampler=share, num_workers=workers,
        collate_fn=collate_clips, pin_memory=device.type == 'cuda')

    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    top5_hits = torch.zeros(num_classes, dtype=torch.int64)
    broken: list[tuple[int, str]] = []
    with Progress(len(share), 'clip', disable=not progress or rank > 0) as bar:
        for batch in loader:
            broken += batch['broken']
            if batch['clip'] is not None:
                with torch.autocast(device.type, amp_dtype, enabled=amp_dtype is not None):
                    logits = _mean_logits(model, batch['clip'], batch_size, device)
                finite = logits.isfinite().all(1)
                broken += [
                    (index, f'{videos.clips[index].name}: the logits are not finite. Check the weights of the model.')
                    for index in batch['index'][~finite].tolist()]
                logits, labels = logits[finite], batch['label'][finite]
                top = logits.topk(min(5, num_classes), dim=1).indices  # [B, 5]
                confusion.view(-1).add_(
                    (labels * num_classes + top[:, 0]).bincount(minlength=num_classes * num_classes))
                top5_hits += labels[(top == labels[:, None]).any(1)].bincount(minlength=num_classes)
            answered = int(confusion.sum())
            bar.update(
                len(batch['index']) + len(batch['broken']),
                f'top-1 {100 * int(confusion.trace()) / max(answered, 1):.1f} %')

    if world > 1:
        counts = torch.cat((confusion.view(-1), top5_hits)).to(device)
        dist.all_reduce(counts)
        confusion, top5_hits = counts[:-num_classes].view(num_classes, -1).cpu(), counts[-num_classes:].cpu()
        parts: list[Any] = [None] * world
        dist.all_gather_object(parts, broken)
        broken = list(itertools.chain.from_iterable(parts))
    unanswered = torch.tensor([videos.clips[index].label for index, _ in broken], dtype=torch.int64)
    return Evaluation(
        videos.classes, confusion, top5_hits, unanswered.bincount(minlength=num_classes), tuple(sorted(broken)),
        time.monotonic() - start)


class _Reordered(Dataset):
    """Evaluation items with their frames in another order; whatever goes wrong with a file is said in its item."""

    def __init__(self, dataset: ClipDataset, order: Order, seed: int):
        self.dataset = dataset
        self.order = order
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            item = self.dataset[index]
        except Exception as error:  # noqa: BLE001 - whatever a file does to a decoder, the other files go on
            clip: Clip = self.dataset.videos.clips[index]
            text = ' '.join(str(error).splitlines())
            return {'index': index, 'label': clip.label, 'error': f'{clip.name}: {type(error).__name__}: {text}'}
        if 'clip' in item and self.order != 'normal':
            views = item['clip']  # [V, C, T, H, W]
            if self.order == 'reverse':
                views = views.flip(2)
            else:
                num_frames = views.shape[2]
                views = views[:, :, random.Random(f'{self.seed}/{index}').sample(range(num_frames), num_frames)]
            item = item | {'clip': views}
        return item


def _mean_logits(model: 'VideoModel', clips: Tensor, batch_size: int, device: torch.device) -> Tensor:
    """Logits `[B, K]` in float32 on the CPU of clips `[B, V, C, T, H, W]`."""
    views = clips.flatten(0, 1).split(batch_size)
    logits = torch.cat([model(part.to(device, non_blocking=True)).float() for part in views])
    return logits.unflatten(0, clips.shape[:2]).mean(1).cpu()


def _processes() -> tuple[int, int]:
    """Rank of this process and number of processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _check_same_list(videos: VideoList) -> None:
    """Processes with lists of their own would count clips twice, and others not at all."""
    digest = hashlib.sha256()
    for clip in videos.clips:
        digest.update(f'{clip.id or os.path.basename(clip.name)}\0{clip.label}\n'.encode(errors='surrogateescape'))
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, (len(videos), digest.hexdigest()))
    if len(set(digests)) > 1:
        raise ValueError(
            f'{videos.name}: the processes see different lists, of {some(count for count, _ in digests)} clips. Give '
            'all machines the same files.')
