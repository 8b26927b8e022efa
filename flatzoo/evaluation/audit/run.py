"""Runs the controls on a list of clips and judges what they prove."""
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flatzoo.console.progress import Progress
from flatzoo.data.clips import clip_span, open_clip
from flatzoo.data.lists import Clip, VideoList
from flatzoo.data.multi_label import one_class_only
from flatzoo.data.views import read_views
from flatzoo.inference.ahead import load_ahead

from ..calibration import calibration_error, fit_temperature
from ..evaluate import match_classes
from ..statistics import accuracy_interval, difference_interval, holm, sign_flip
from .controls import CONTROLS, ORDER_FREE, SINGLE_FRAME, Answers, ask
from .scores import best_place, better, true_scores
from .subject import Subject, subject_of
from .verdict import LEVELS, Verdict, judge

__all__ = ['Audit', 'audit', 'rank_models']

CHUNK = 32  # clips that are asked about together


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        name: Name of the model.
        data: The data set and its split.
        classes: Names of the classes.
        labels: Class of each clip that was answered, `[N]`.
        answers: Most probable class under each control, `[N]`.
        scores: Log-probability of the true class under each control in nats, `[N]`, see `audit.scores`.
        groups: Group of each clip.
        clips: Name of each clip.
        verdict: What they prove.
        symmetric: Pairs of classes that are each other's reverse to the model.
        calibration: `temperature`, and the expected calibration error `before` and `after`; None if not asked for.
        broken: Why clips could not be read.
        seconds: Duration.
    """
    name: str
    data: str
    classes: tuple[str, ...]
    labels: Tensor
    answers: dict[str, Tensor]
    scores: dict[str, Tensor]
    groups: tuple[str | None, ...]
    clips: tuple[str, ...]
    verdict: Verdict
    symmetric: tuple[tuple[str, str], ...] = ()
    calibration: dict[str, float] | None = None
    broken: tuple[str, ...] = ()
    seconds: float = 0.0
    correct: dict[str, Tensor] = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, 'correct', {name: found == self.labels for name, found in self.answers.items()})

    def rows(self) -> list[dict[str, Any]]:
        """A row for each control: `control`, `shown`, `accuracy` with its `interval`, and against the frames in order
        `difference` (an interval), `bits` (what a clip's answer tells less about its class) and `p`, corrected for the
        number of controls (Holm). Shares are in per cent.
        """
        normal = self.correct['in_order']
        names = [name for name in CONTROLS if name != 'in_order']
        corrected = dict(zip(names, holm([better(self.both('in_order'), self.both(name)) for name in names])))
        rows = []
        for name in CONTROLS:
            right = self.correct[name]
            low, high = accuracy_interval(right, self.groups)
            row = {
                'control': name, 'shown': CONTROLS[name], 'accuracy': 100 * float(right.double().mean()),
                'interval': (100 * low, 100 * high), 'difference': None, 'bits': None,
                'p': corrected.get(name)}
            if name != 'in_order':
                row['difference'] = tuple(100 * end for end in difference_interval(normal, right))
                row['bits'] = float((self.scores['in_order'] - self.scores[name]).mean()) / math.log(2)
            rows.append(row)
        return rows

    def both(self, control: str) -> tuple[Tensor, Tensor]:
        """Whether each clip is answered right under a control, and the log-probability of its class."""
        return self.correct[control], self.scores[control]

    def per_class(self) -> list[dict[str, Any]]:
        """A row for each class that has clips: `class`, `clips`, and the accuracy under each control in per cent."""
        rows = []
        for label in self.labels.unique().tolist():
            own = self.labels == label
            rows.append({
                'class': self.classes[label], 'clips': int(own.sum()),
                **{name: 100 * float(right[own].double().mean()) for name, right in self.correct.items()}})
        return rows


def audit(
        model: Any,
        videos: VideoList,
        *,
        batch_size: int = 8,
        workers: int = 2,
        seed: int = 0,
        alpha: float = 0.01,
        margin: float = 0.05,
        calibrate: bool = False,
        progress: bool = False,
        **kwargs: Any,
) -> Audit:
    """Finds out whether a model looks at time.

        result = flatzoo.audit('runs/mine', read_videos('folder', 'videos/', 'val'))
        print(result.verdict.title)

    Each clip is shown in order, reversed, shuffled, as single frames, without its background and at other frame rates
    (`flatzoo.evaluation.audit.controls`), in one view. The model is asked about 11 + 2 T clips for each.

    Args:
        model: Any model that classifies clips, see `flatzoo.evaluation.audit.subject.subject_of`.
        videos: Clips that it was not trained on.
        batch_size: Clips that the model sees at a time.
        workers: Files that are decoded at the same time.
        seed: Of the random orders.
        alpha: Largest p that proves something.
        margin: Share of clips below which a difference does not matter.
        calibrate: Whether to also fit a temperature for the probabilities.
        progress: Whether to show the progress on standard error.
        **kwargs: Further arguments of `subject_of`: `num_frames`, `img_size`, `classes`, `name`, `device`, ...

    Raises:
        ModelError: There is no such model.
        DataError: The model has other classes, or clips have several classes.
        ValueError: No clip can be read, or the model gives logits of another shape or that are not finite.
    """
    one_class_only(videos, 'an audit counts right answers')
    start = time.monotonic()
    subject = subject_of(model, **kwargs)
    if subject.classes is not None:
        videos = match_classes(videos, len(subject.classes), subject.classes)
    if videos.in_chans != subject.in_chans:
        raise ValueError(
            f'{subject.name} takes frames of {subject.in_chans} channels; those of {videos.name} have '
            f'{videos.in_chans}.')
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(videos), generator=generator).tolist()  # so that other classes are near
    groups = [clip.group or None for clip in videos.clips]
    parts: list[Answers] = []
    kept: list[int] = []
    broken: list[str] = []
    with Progress(len(order), 'clip', disable=not progress) as bar:
        waiting: list[tuple[int, Tensor, Tensor]] = []

        def flush() -> None:
            if waiting:
                clips, middle = (torch.stack([item[place] for item in waiting]) for place in (1, 2))
                labels = torch.tensor([videos.clips[item[0]].label for item in waiting])
                parts.append(ask(subject, clips, middle, labels, generator, batch_size))
                kept.extend(item[0] for item in waiting)
                waiting.clear()

        for index, found in load_ahead(lambda index: _read(videos, index, subject), order, max(1, workers)):
            if isinstance(found, Exception):
                broken.append(f'{videos.clips[index].name}: {" ".join(str(found).split())}')
            else:
                waiting.append((index, *found))
            if len(waiting) == CHUNK:
                flush()
            bar.update()
        flush()
    if not parts:
        raise ValueError(f'no clip of {videos.name} can be read: {broken[0]}')
    answers = Answers.cat(parts)
    logits = answers.plain['in_order']
    if logits.shape[1] != len(videos.classes):
        raise ValueError(
            f'{subject.name} has {logits.shape[1]} classes, {videos.name} has {len(videos.classes)}. Give a model that '
            'was trained on these classes, or the names of its classes.')
    if not all(found.isfinite().all() for found in (*answers.plain.values(), answers.held, answers.placed)):
        raise ValueError(f'{subject.name}: its logits are not finite. Check the weights of the model.')
    labels = torch.tensor([videos.clips[index].label for index in kept])
    named = {name: found.argmax(1) for name, found in answers.plain.items()}
    scores = {name: true_scores(found, labels) for name, found in answers.plain.items()}
    for name, found in (('best_frame', answers.held), ('frame_in_place', answers.placed)):
        named[name] = _best_place(found.argmax(-1), labels)
        scores[name] = best_place(torch.stack([true_scores(part, labels) for part in found.unbind(1)], 1))
    counts = labels.bincount(minlength=len(videos.classes))
    verdict = judge(
        {name: (found == labels, scores[name]) for name, found in named.items()}, labels == counts.argmax(), alpha,
        margin)
    return Audit(
        subject.name, f'{videos.name} ({videos.split})', videos.classes, labels, named, scores,
        tuple(groups[index] for index in kept), tuple(videos.clips[index].name for index in kept), verdict,
        _symmetric(named, labels, videos.classes),
        _calibration(logits, labels) if calibrate else None, tuple(broken), time.monotonic() - start)


def rank_models(audits: Sequence[Audit]) -> list[dict[str, Any]]:
    """Ranks models by what they use of time, the one that uses most first.

    Models are compared on the same clips: what counts is how much more the answer for a clip tells of its class than
    under the best control of the model itself (log-probabilities, see `audit.scores`), and how much better it is.
    Between two models that differ in the use of order that is the best order-free control, and below that the best
    single frame.

    Args:
        audits: Of the same clips.

    Returns:
        A row for each model: `name`, `title` of its verdict, `gain_order` and `gain_frames` in points, and `p`, that it
        gains as much as the model above it (None of the first; the smaller p of two permutation tests, of right
        answers and of log-probabilities, twice).

    Raises:
        ValueError: The audits are of different clips.
    """
    if any(found.clips != audits[0].clips for found in audits):  # labels count the classes of each model
        raise ValueError(
            'models are ranked on the same clips in the same order: audit them on one list, with one seed, and without '
            'files that one of them could not read.')

    def gain(found: Audit, control: str) -> Tensor:
        return found.correct['in_order'].double() - found.correct[control].double()

    def gained(found: Audit, kind: str) -> Tensor:
        """What is gained in log-probability over the control of a kind that leaves least to gain."""
        names = SINGLE_FRAME if kind == 'best_single' else ORDER_FREE
        return found.scores['in_order'] - found.scores[max(names, key=lambda name: float(found.scores[name].mean()))]

    def place(found: Audit) -> tuple[float, ...]:
        level = 'frame' if found.verdict.level == 'undecided' else found.verdict.level  # what it gains then decides
        gains = (gain(found, name).mean() for name in (found.verdict.best_order_free, found.verdict.best_single))
        return LEVELS.index(level), *map(float, gains)

    rows: list[dict[str, Any]] = []
    ordered = sorted(audits, key=place, reverse=True)
    for above, found in zip([None, *ordered], ordered):
        p = None
        if above is not None:
            orders = above.verdict.level in ('motion', 'order')
            control = 'best_order_free' if orders else 'best_single'
            p = min(1.0, 2 * min(
                sign_flip(gain(above, getattr(above.verdict, control)) - gain(found, getattr(found.verdict, control))),
                sign_flip(gained(above, control) - gained(found, control))))
        rows.append({
            'name': found.name, 'title': found.verdict.title,
            'gain_order': 100 * float(gain(found, found.verdict.best_order_free).mean()),
            'gain_frames': 100 * float(gain(found, found.verdict.best_single).mean()), 'p': p})
    return rows


def _read(videos: VideoList, index: int, subject: Subject) -> tuple[Tensor, Tensor] | Exception:
    """The clip and the middle half of its video, uint8 `[C, T, H, W]` each."""
    clip: Clip = videos.clips[index]
    try:
        with open_clip(clip, videos.depth) as reader:
            first, end = clip_span(clip, reader)
            quarter = (end - first) // 4
            spans = (first, end), (first + quarter, end - quarter)
            return tuple(
                read_views(subject.protocol, reader, clip.name, span, subject.num_frames, subject.img_size)[0]
                for span in spans)
    except Exception as error:  # noqa: BLE001 - whatever a file does to a decoder, the other files go on
        return error


def _best_place(answers: Tensor, labels: Tensor) -> Tensor:
    """Answers `[N]` of the best of T places, chosen as `best_place` does, by the share of right answers."""
    right = (answers == labels[:, None]).double()
    halves = torch.arange(len(labels)) % 2
    best = [int(right[halves != half].mean(0).argmax()) if (halves != half).any() else 0 for half in (0, 1)]
    return torch.where(halves == 0, answers[:, best[0]], answers[:, best[1]])


def _symmetric(
        answers: dict[str, Tensor],
        labels: Tensor,
        classes: tuple[str, ...],
) -> tuple[tuple[str, str], ...]:
    """Pairs of classes, most of whose reversed clips are taken for the other one, while those in order are not."""
    size = len(classes)

    def shares(found: Tensor) -> Tensor:
        counts = (labels * size + found).bincount(minlength=size * size).view(size, size).double()
        return counts / counts.sum(1, keepdim=True).clamp(min=1)

    backward, forward = shares(answers['reversed']), shares(answers['in_order'])
    both = (backward >= 0.5) & (backward.T >= 0.5) & (forward < 0.5) & (forward.T < 0.5)
    return tuple((classes[a], classes[b]) for a, b in both.nonzero().tolist() if a < b)


def _calibration(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The temperature of all clips, and the error of each half with the temperature of the other one."""
    halves = torch.arange(len(labels)) % 2
    scaled = logits.clone()
    for half in (0, 1):
        if (halves != half).any():
            scaled[halves == half] /= fit_temperature(logits[halves != half], labels[halves != half])
    return {
        'temperature': fit_temperature(logits, labels), 'before': calibration_error(logits, labels),
        'after': calibration_error(scaled, labels)}
