"""Measures the accuracy of a video model on a list of labelled clips, exactly, with one process or many.

The logits of a clip are averaged over the views of the evaluation protocol, as the papers do. Every process takes its
own share of the clips. The counts are added, so each clip counts exactly once. A clip that cannot be answered is named
and counts as wrong: accuracy is a share of all clips of the list.
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
from flatzoo.data.clip_cache import ClipCache
from flatzoo.data.clips import ClipDataset, collate_clips
from flatzoo.data.lists import Clip, DataError, VideoList, some
from flatzoo.data.multi_label import as_multi_label, needs_a_class, one_class_only, targets_of
from flatzoo.data.protocol import EvalProtocol

from .multi_label import MultiLabelEvaluation

if TYPE_CHECKING:
    from flatzoo.models import VideoModel

__all__ = ['Evaluation', 'ORDERS', 'Order', 'evaluate', 'match_classes']

Order = Literal['normal', 'reverse', 'shuffle']
ORDERS: tuple[Order, ...] = get_args(Order)


@dataclass(frozen=True)
class Evaluation:
    """The counted answers of a model.

    Attributes:
        classes: Names of the K classes.
        confusion: Number of clips by true class (rows) and answered class (columns), int64 `[K, K]`.
        top5_hits: Number of clips of each class whose five most probable answers contain the class, int64 `[K]`.
        unanswered: Number of clips of each class without an answer, int64 `[K]`. They count as wrong.
        broken: Index of each clip without an answer and the reason, sorted by index.
        seconds: Duration of the evaluation.
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
        """Share of clips whose most probable class is right, in per cent."""
        return 100 * int(self.confusion.trace()) / max(self.clips, 1)

    @property
    def top5(self) -> float:
        """Share of clips whose class is among the five most probable, in per cent."""
        return 100 * int(self.top5_hits.sum()) / max(self.clips, 1)

    @property
    def mean_class(self) -> float:
        """Mean top-1 accuracy of the classes that have clips, in per cent."""
        counted = self._of_class > 0
        if not counted.any():
            return 0.0
        return 100 * (self.confusion.diagonal()[counted].double() / self._of_class[counted]).mean().item()

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class that has clips.

        Returns:
            Dictionaries with `class`, `clips`, `top1` and `top5` (per cent) and `broken`. `taken_for` is the most
            frequent wrong answer (None without one), and `times` counts it.
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
    """Renumbers the labels of a list to the class order of a model.

    Args:
        videos: The list.
        num_classes: Classes of the model.
        names: Names of the classes, if known.

    Raises:
        DataError: The model has other classes.
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
        cache: ClipCache | None = None,
) -> Evaluation | MultiLabelEvaluation:
    """Runs a model on every clip of a list and counts its answers.

    Where `torch.distributed` is initialised, all processes call this with the same list and get the same counts. They
    synchronise only at the end, so the model must not wait for other processes in its forward pass. Give the bare
    module, not one that is sharded over processes.

    Args:
        model: A video model. It is put into eval mode.
        videos: The list. Its classes are those of the model, see `match_classes`.
        protocol: The views over which the logits of a clip are averaged. None takes the protocol of the model's
            weights.
        batch_size: Views that the model sees at a time.
        workers: Number of decoding processes. 0 decodes in this process.
        order: Order of the frames of each view, as in SIFAR's Table 9: `'normal'`, `'reverse'` or `'shuffle'`.
            Shuffling uses one permutation per clip, the same for all its views.
        seed: Seed of the permutations. Each follows from it and the position of the clip in the list.
        amp_dtype: Type to compute in where autocast allows it. None keeps the type of the weights.
        progress: Whether to show the progress on standard error of the first process.
        cache: Keeps the views of the clips, for several evaluations of one list by one protocol.

    Returns:
        The counts; of a model whose clips may have several classes (`model.multi_label`) the `MultiLabelEvaluation`. In
        a list with one class per clip, that one is then the only right one.

    Raises:
        DataError: The clips have several classes, and the model answers with one; or no clip has any.
        ValueError: The classes or the scale of depth maps do not fit, the order is unknown, or the processes have
            different lists.
    """
    from flatzoo.models import eval_protocol

    if order not in ORDERS:
        raise ValueError(f'order must be one of {", ".join(ORDERS)}, got {order!r}')
    num_classes = model.num_classes
    if num_classes != len(videos.classes):
        raise ValueError(f'{videos.name} has {len(videos.classes)} classes, but the model has {num_classes}')
    several = getattr(model, 'multi_label', False)
    if several:
        videos = as_multi_label(videos)
        needs_a_class(videos)
    else:
        one_class_only(videos, 'this model names one class per clip')
    start = time.monotonic()
    rank, world = _processes()
    if world > 1:
        _check_same_list(videos)
    model.eval()
    device = next(model.parameters()).device
    protocol = protocol or eval_protocol(model)
    if protocol.depth is not None and protocol.depth != videos.depth:
        got = 'are RGB' if videos.depth is None else f'have {videos.depth} as 255'
        raise ValueError(
            f'{videos.name}: the weights were trained on depth maps with the reading {protocol.depth} as 255, and '
            f'these clips {got}. Give the layout with depth={protocol.depth}.')
    dataset = ClipDataset(videos, model.num_frames, model.img_size, train=False, protocol=protocol, cache=cache)
    share = range(rank, len(videos), world)  # no padding: shares may differ by a clip
    loader = DataLoader(
        _Reordered(dataset, order, seed), max(1, batch_size // protocol.views), sampler=share, num_workers=workers,
        collate_fn=collate_clips, pin_memory=device.type == 'cuda')

    kept: list[tuple[Tensor, Tensor]] = []  # indices and logits, where clips may have several classes
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
                if several:
                    kept.append((batch['index'][finite], logits))
                else:
                    top = logits.topk(min(5, num_classes), dim=1).indices  # [B, 5]
                    confusion.view(-1).add_(
                        (labels * num_classes + top[:, 0]).bincount(minlength=num_classes * num_classes))
                    top5_hits += labels[(top == labels[:, None]).any(1)].bincount(minlength=num_classes)
            answered = int(confusion.sum())
            bar.update(
                len(batch['index']) + len(batch['broken']),
                '' if several else f'top-1 {100 * int(confusion.trace()) / max(answered, 1):.1f} %')

    if world > 1:
        parts: list[Any] = [None] * world
        dist.all_gather_object(parts, (broken, kept))
        broken, kept = (list(itertools.chain.from_iterable(part[place] for part in parts)) for place in (0, 1))
    broken = sorted(broken)
    if several:
        return MultiLabelEvaluation.of_answers(
            videos.classes, targets_of(videos), kept, tuple(broken), time.monotonic() - start)
    if world > 1:
        counts = torch.cat((confusion.view(-1), top5_hits)).to(device)
        dist.all_reduce(counts)
        confusion, top5_hits = counts[:-num_classes].view(num_classes, -1).cpu(), counts[-num_classes:].cpu()
    unanswered = torch.tensor([videos.clips[index].label for index, _ in broken], dtype=torch.int64)
    return Evaluation(
        videos.classes, confusion, top5_hits, unanswered.bincount(minlength=num_classes), tuple(broken),
        time.monotonic() - start)


class _Reordered(Dataset):
    """Evaluation items with their frames in another order. Any error with a file is stored in its item."""

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
    """Raises if the processes have different lists: some clips would then count twice, and others not at all."""
    digest = hashlib.sha256()
    for clip in videos.clips:
        labels = ' '.join(map(str, clip.all_labels))
        digest.update(f'{clip.id or os.path.basename(clip.name)}\0{labels}\n'.encode(errors='surrogateescape'))
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, (len(videos), digest.hexdigest()))
    if len(set(digests)) > 1:
        raise ValueError(
            f'{videos.name}: the processes see different lists, of {some(count for count, _ in digests)} clips. Give '
            'all machines the same files.')
