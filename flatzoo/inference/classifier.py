"""Names the action in videos: one file, many files, or frames in memory.

The command line and the demo page call the same functions.
"""
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flatzoo.data.array_clip import ArrayClip
from flatzoo.data.decode import VideoError
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.views import read_views
from flatzoo.data.workers import available_cores
from flatzoo.models import VideoModel, eval_protocol
from flatzoo.runtime import Precision, prepare

from .ahead import load_ahead
from .find import find_videos
from .load import DEFAULT_MODEL, load_model

__all__ = [
    'Answer', 'Classifier', 'Prediction', 'answer_views', 'classify_file', 'classify_files', 'predict', 'reason_of',
    'top_classes',
]

Source = Any  # a path, a clip in memory, or several of them


class Prediction(NamedTuple):
    """One class and its probability.

    Attributes:
        label: Name of the class, such as `class 17` where the weights have no class names.
        index: Its index in the logits.
        probability: Its softmax probability, 0...1; of a model whose clips may have several classes
            (`VideoModel.multi_label`) the score of this class by itself, so that the sum over classes is not 1.
    """

    label: str
    index: int
    probability: float


@dataclass(frozen=True)
class Answer:
    """The answer of a model for one file or clip.

    Attributes:
        path: The file; None for a clip in memory.
        top: The most probable classes, the most probable one first. Empty after an error.
        error: Why there is no answer, in one line. None if there is an answer.
    """

    path: str | None
    top: tuple[Prediction, ...] = ()
    error: str | None = None


class Classifier:
    """A model that is kept for many calls.

        classify = flatzoo.Classifier('sifar_swin_b14.ibm_k400')
        classify('clip.mp4').top[0].label
        for answer in classify('videos/'): ...

    Args:
        model: A name (`architecture`, `architecture.tag`, `hf-hub:org/name`, `local-dir:folder` or a folder), or a
            video model, which is not changed.
        topk: Classes per answer, at most all.
        protocol: The clips and crops over which logits are averaged. None takes the protocol of the model's weights.
        device: `'auto'` (CUDA if available) or a torch device. A model object stays on its device.
        batch_size: Views that the model sees at a time.
        workers: Number of files that are decoded at the same time. None means one per core that this process may use.
        precision: `'auto'`, `'fp32'` or `'bf16'`. `'auto'` takes bf16 where this machine gains several times by it, see
            `flatzoo.runtime.choose_precision`.
        **kwargs: As for `load_model`: `checkpoint`, `num_classes`, ...

    Attributes:
        model: The model in eval mode, prepared to answer fast (`flatzoo.optimize`).
        protocol: Its clips and crops.

    Raises:
        ValueError: There is no such model or device, or the model has no trained head.
    """

    def __init__(
            self,
            model: str | VideoModel = DEFAULT_MODEL,
            topk: int = 5,
            protocol: EvalProtocol | None = None,
            device: str = 'auto',
            batch_size: int = 8,
            workers: int | None = None,
            precision: Precision = 'auto',
            **kwargs: Any,
    ):
        model = load_model(model, device=device, **kwargs) if isinstance(model, str) else model
        self.model = prepare(model, precision)
        self.protocol = protocol or eval_protocol(self.model)
        self.topk, self.batch_size = topk, batch_size
        self.workers = available_cores() if workers is None else workers

    def __call__(self, source: Source) -> Answer | list[Answer] | Iterator[Answer]:
        """Names the action.

        Args:
            source: The path of a video file; a clip in memory (`flatzoo.data.array_clip.ArrayClip` says which); a list
                of paths or of clips; or a folder, which is searched for videos at any depth.

        Returns:
            One `Answer` for a file or a clip, a list for a list, a generator for a folder. A file that cannot be read
            has an `error` instead of classes.
        """
        if isinstance(source, (str, os.PathLike)):
            if os.path.isdir(source):
                return self._answers(find_videos([os.fsdecode(source)]))
            return next(self._answers([(os.fsdecode(source), None)]))
        if isinstance(source, (list, tuple)) and source and not _is_image(source[0]):
            if all(isinstance(item, (str, os.PathLike)) for item in source):
                return list(self._answers([(os.fsdecode(item), None) for item in source]))
            return [self(item) for item in source]
        return self._clip(source)

    def _answers(self, found: list[tuple[str, str | None]]) -> Iterator[Answer]:
        files = [path for path, error in found if error is None]
        answers = classify_files(self.model, files, self.protocol, self.topk, self.batch_size, self.workers)
        for path, error in found:
            answer = VideoError(error) if error is not None else next(answers)[1]
            yield _record(path, answer)

    def _clip(self, frames: Any) -> Answer:
        try:
            clip, model = ArrayClip(frames), self.model
            views = read_views(self.protocol, clip, 'clip', (0, len(clip)), model.num_frames, model.img_size)
        except VideoError as error:
            return _record(None, error)
        return _record(None, answer_views(model, views, self.topk, self.batch_size))


def predict(source: Source, model: str | VideoModel = DEFAULT_MODEL, topk: int = 5, **kwargs: Any) -> Any:
    """Names the action in a video.

        answer = flatzoo.predict('clip.mp4', model='sifar_swin_b14.ibm_k400')
        answer.top[0].label, answer.top[0].probability

    To answer many times, keep a `flatzoo.Classifier`: this function loads the model at every call.

    Args:
        source: See `Classifier.__call__`.
        model: See `Classifier`.
        topk: Classes per answer, at most all.
        **kwargs: Further arguments of `Classifier`.

    Returns:
        See `Classifier.__call__`.

    Raises:
        ValueError: There is no such model or device, or the model has no trained head.
    """
    return Classifier(model, topk, **kwargs)(source)


def classify_file(
        model: VideoModel,
        path: str | os.PathLike,
        protocol: EvalProtocol | None = None,
        topk: int = 5,
        batch_size: int = 8,
) -> list[Prediction]:
    """Names the action in one file, see `classify_files`. It raises errors instead of returning them.

    Raises:
        VideoError: If the file cannot be read as a video.
    """
    [(_, answer)] = classify_files(model, [path], protocol, topk, batch_size)
    if isinstance(answer, Exception):
        raise answer
    return answer


def classify_files(
        model: VideoModel,
        paths: Iterable[str | os.PathLike],
        protocol: EvalProtocol | None = None,
        topk: int = 5,
        batch_size: int = 8,
        workers: int = 1,
) -> Iterator[tuple[str | os.PathLike, list[Prediction] | Exception]]:
    """Names the actions in many video files. The next files are decoded while the model computes.

    Args:
        model: A video model. It is put into eval mode.
        paths: The video files.
        protocol: The clips and crops over which the logits of a file are averaged. None takes the protocol of the
            model's weights.
        topk: Number of classes per file, at most all.
        batch_size: Views that the model sees at a time, of one file or several.
        workers: Files that are decoded at the same time.

    Yields:
        In the order of `paths`: the path, and its predictions or the exception.
    """
    model.eval()
    protocol = protocol or eval_protocol(model)

    def load(path: str | os.PathLike) -> Tensor | Exception:
        try:
            return protocol.load_views(path, model.num_frames, model.img_size)
        except Exception as error:  # noqa: BLE001 - whatever a file does to a decoder, the other files go on
            return error

    batch: list[tuple[str | os.PathLike, Tensor | Exception]] = []
    gathered = 0
    ahead = math.ceil(2 * batch_size / protocol.num_clips)  # files of two batches: one is answered meanwhile
    for path, views in load_ahead(load, paths, workers, ahead):
        batch.append((path, views))
        gathered += 1 if isinstance(views, Exception) else len(views)
        if gathered >= batch_size:
            yield from _answer_batch(model, batch, topk, batch_size)
            batch, gathered = [], 0
    yield from _answer_batch(model, batch, topk, batch_size)


def answer_views(model: VideoModel, views: Tensor, topk: int, batch_size: int = 8) -> list[Prediction] | Exception:
    """The most probable classes of one clip.

    Args:
        model: A video model in eval mode.
        views: `[V, C, T, H, W]`; the logits are averaged over them.
        topk: Number of classes, at most all.
        batch_size: Views that the model sees at a time.
    """
    [(_, answer)] = _answer_batch(model, [('clip', views)], topk, batch_size)
    return answer


def top_classes(model: VideoModel, logits: Tensor, topk: int) -> list[Prediction]:
    """Names the most probable classes.

    Args:
        model: The model. Its weights name the classes.
        logits: `[num_classes]`.
        topk: Number of classes, at most all.
    """
    labels = model.pretrained_cfg.get('label_names')
    top = model.probabilities(logits).topk(min(topk, len(logits)))
    return [
        Prediction(labels[index] if labels else f'class {index}', index, probability)
        for probability, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
    ]


def _answer_batch(
        model: VideoModel,
        batch: list[tuple[str | os.PathLike, Tensor | Exception]],
        topk: int,
        batch_size: int,
) -> Iterator[tuple[str | os.PathLike, list[Prediction] | Exception]]:
    clips = [views for _, views in batch if not isinstance(views, Exception)]
    logits = iter(())
    if clips:
        device = next(model.parameters()).device
        with torch.inference_mode():
            parts = [model(views.to(device)) for views in torch.cat(clips).split(batch_size)]
        logits = iter(torch.cat(parts).float().cpu().split([len(views) for views in clips]))
    for path, views in batch:
        if isinstance(views, Exception):
            yield path, views
            continue
        mean = next(logits).mean(0)
        if not mean.isfinite().all():
            yield path, ValueError(f'{os.fsdecode(path)}: the logits are not finite. Check the weights of the model.')
            continue
        yield path, top_classes(model, mean, topk)


def reason_of(path: str | None, error: Exception) -> str:
    """One line that says why a file has no answer. The text of a `VideoError` already names the file."""
    text = ' '.join(str(error).splitlines())
    if path is None or isinstance(error, VideoError) or path in text:
        return text
    return f'{path}: {type(error).__name__}: {text}'


def _record(path: str | None, answer: list[Prediction] | Exception) -> Answer:
    if isinstance(answer, Exception):
        return Answer(path, error=reason_of(path, answer))
    return Answer(path, tuple(answer))


def _is_image(value: Any) -> bool:
    return type(value).__module__.startswith('PIL.')
