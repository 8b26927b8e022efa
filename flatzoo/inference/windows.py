"""What happens when: a model over windows of a long video, `flatzoo.predict_windows`.

    for record in flatzoo.predict_windows('match.mp4', every=0.5):
        print(record.start, record.end, record.label, record.probability)

`flatzoo.events` joins the records into events, `flatzoo.Stream` gives the same records for frames as they come.
"""
import dataclasses
import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from flatzoo.data.array_clip import ArrayClip
from flatzoo.data.decode import VideoError
from flatzoo.data.decode.stream import StreamFrame, read_stream
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.transforms import EvalTransform
from flatzoo.models import VideoModel, eval_protocol
from flatzoo.runtime import Precision

from .ahead import run_ahead
from .classifier import Prediction, top_classes
from .load import DEFAULT_MODEL, load_model
from .window_frames import Frame, Window, WindowBuffer, window_rows
from .window_model import WindowModel

__all__ = [
    'DEFAULT_EVERY', 'DEFAULT_WINDOW', 'Record', 'WindowPlan', 'cut_windows', 'named_windows', 'plan_windows',
    'predict_windows',
]

DEFAULT_EVERY = 0.5  # seconds
DEFAULT_WINDOW = 2.0  # seconds, for models that do not know how long the clips of their training were
DENSE_RATE = 30.0  # frames per second of the videos for which the strides of dense protocols are meant
ARRAY_RATE = 30.0  # frames per second of frames in memory, unless they are said


@dataclass(frozen=True)
class Record:
    """The answer for one window of a video.

    Attributes:
        start: Start of the window in seconds from the first frame.
        end: Its end.
        top: The most probable classes, the most probable one first.
        logits: Logits of all classes, float32 `[num_classes]`.
    """

    start: float
    end: float
    top: tuple[Prediction, ...]
    logits: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def time(self) -> float:
        """The middle of the window, for which the answer is best."""
        return (self.start + self.end) / 2

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.top[0].label

    @property
    def index(self) -> int:
        """Index of the most probable class."""
        return self.top[0].index

    @property
    def probability(self) -> float:
        """Probability of the most probable class, 0...1."""
        return self.top[0].probability

    def to_dict(self) -> dict[str, Any]:
        """The record without its logits, as JSON can hold it; seconds are rounded to milliseconds."""
        return {
            'start': round(self.start, 3), 'end': round(self.end, 3), 'label': self.label, 'index': self.index,
            'probability': round(self.probability, 6),
            'top': [dict(item._asdict(), probability=round(item.probability, 6)) for item in self.top]}


@dataclass(frozen=True)
class WindowPlan:
    """How a stream of frames is cut into windows for a model.

    Attributes:
        every: Seconds from one window to the next.
        window: Seconds of a window.
        protocol: Sampling within a window, and its crops.
        source: Where the length of a window comes from, as a part of a sentence.
        is_default: Whether neither the caller nor the model said that length.
    """

    every: float
    window: float
    protocol: EvalProtocol
    source: str
    is_default: bool = False

    def buffer(self, model: VideoModel) -> WindowBuffer:
        """An empty buffer for the windows of one stream."""
        return WindowBuffer(
            self.every, self.window, lambda times: window_rows(self.protocol, model.num_frames, times))

    def transform(self, model: VideoModel) -> EvalTransform:
        """The crops of a frame."""
        return EvalTransform(model.img_size, self.protocol.num_crops, self.protocol.scale_up)


def plan_windows(
        model: VideoModel,
        every: float = DEFAULT_EVERY,
        window: float | None = None,
        protocol: EvalProtocol | None = None,
) -> WindowPlan:
    """Says how long the windows of a model are, and what it sees of them.

    The length is `window`; or else that of the clips of the model's training (`model.temporal_contract`, which
    `flatzoo train` keeps in config.json); or that of a clip of a dense protocol at 30 frames per second; or 2 seconds.

    Args:
        model: The model.
        every: Seconds from one window to the next.
        window: Seconds of a window; None for the length above.
        protocol: Sampling and crops; None for one clip of the protocol of the model's weights, with its crops.

    Raises:
        ValueError: A length that is not accepted, or several clips of a dense protocol.
    """
    for name, value in (('every', every), ('window', window)):
        if value is not None and not (
                isinstance(value, (int, float)) and not isinstance(value, bool) and 0.001 <= value < math.inf):
            raise ValueError(f'{name} must be a number of seconds, at least 0.001, got {value!r}')
    if protocol is None:
        protocol = dataclasses.replace(eval_protocol(model), num_clips=1)
    elif protocol.sampling == 'dense' and protocol.num_clips > 1:
        raise ValueError('a window holds one clip of a dense protocol; give num_clips=1')
    contract = model.temporal_contract
    is_default = False
    if window is not None:
        source = 'as asked'
    elif contract is not None:
        window, source = contract.seconds, "as long as the clips of the model's training"
    elif protocol.sampling == 'dense':
        window = model.num_frames * protocol.stride / DENSE_RATE
        source = f'{model.num_frames} frames, {protocol.stride} apart, at {DENSE_RATE:g} per second'
    else:
        window, is_default = DEFAULT_WINDOW, True
        source = 'the default, for the model does not say how long its clips were'
    return WindowPlan(float(every), float(window), protocol, source, is_default)


def predict_windows(
        source: Any,
        model: str | VideoModel = DEFAULT_MODEL,
        every: float = DEFAULT_EVERY,
        window: float | None = None,
        *,
        fps: float | None = None,
        topk: int = 5,
        protocol: EvalProtocol | None = None,
        batch_size: int = 8,
        device: str = 'auto',
        precision: Precision = 'auto',
        note: Callable[[str], None] | None = None,
        **kwargs: Any,
) -> Iterator[Record]:
    """Names the action in each window of a video of any length.

    Memory does not grow with the length of the video. Each frame is decoded once, in a thread that runs ahead of the
    model. The logits of a window are those that the model gives for its frames alone: bit for bit in fp32 at equal
    batches, for else sums are rounded otherwise. Models that encode frames one by one (`VideoModel.encodes_frames`)
    encode each frame once; windows share most frames where `every` is a whole number of frames of the video, and of
    the steps (`window / num_frames`) between those that the model takes.

    Args:
        source: A video file, or frames in memory (`flatzoo.data.array_clip.ArrayClip` says which).
        model: A name, as for `flatzoo.Classifier`, or a video model, which is put into eval mode and used as it is;
            `flatzoo.optimize` prepares one.
        every: Seconds from the start of a window to the start of the next one.
        window: Seconds of a window. By default as long as the clips of the model's training; 2 seconds if the model
            does not know that, which a warning says. See `plan_windows`.
        fps: Frames per second of frames in memory; 30 if None, which a warning says. Files know their times.
        topk: Classes per record, at most all.
        protocol: Sampling and crops of a window. None takes one clip by the protocol of the model's weights.
        batch_size: Views that the model sees at a time.
        device: `'auto'` (CUDA if available) or a torch device, for the model of a name.
        precision: `'auto'`, `'fp32'`, `'bf16'` or `'int8'`, for the model of a name; see `flatzoo.Classifier`.
        note: Called with a line for whatever is wrong with a file and was passed over, such as a missing end;
            `warnings.warn` if None.
        **kwargs: As for `flatzoo.inference.load.load_model`.

    Returns:
        A generator of records in the order of time. The last window may be shorter. Windows in a gap of the timestamps
        have no record.

    Raises:
        ValueError: There is no such model or device, it has no trained head, or an argument is not accepted.
        VideoError: The file or the frames cannot be read; raised by the generator.
    """
    if isinstance(model, str):
        model = load_model(model, device=device, precision=precision, **kwargs)
    model.eval()
    note = note or (lambda line: warnings.warn(line, stacklevel=2))
    plan = plan_windows(model, every, window, protocol)
    if plan.is_default:
        note(f'windows last {plan.window:g} s, {plan.source}. Say it with window= (--window).')
    if isinstance(source, (str, os.PathLike)):
        name, notes = os.fsdecode(source), []
        frames = read_stream(source, notes.append)
    else:
        name, notes = 'frames', []
        if fps is None:
            note(f'frames in memory have no times: taken as {ARRAY_RATE:g} per second. Say it with fps=.')
        elif not 0 < fps < math.inf:
            raise ValueError(f'fps must be a number above 0, got {fps!r}')
        frames = _of_memory(ArrayClip(source), fps or ARRAY_RATE)
    windows = cut_windows(frames, plan, model, name)
    return named_windows(run_ahead(windows, 2 * batch_size), model, topk, batch_size, notes, note)


def cut_windows(
        frames: Iterable[StreamFrame],
        plan: WindowPlan,
        model: VideoModel,
        name: str,
) -> Iterator[Window]:
    """Cuts frames into windows whose frames are ready for the model.

    Raises:
        VideoError: The frames cannot be read, or fit no crop.
    """
    buffer, transform = plan.buffer(model), plan.transform(model)
    try:
        for frame in frames:
            for window in buffer.push(Frame(frame.time, frame.load, transform, frame.num_bytes)):
                yield _ready(window)
        for window in buffer.finish():
            yield _ready(window)
    except VideoError:
        raise
    except ValueError as error:
        raise VideoError(f'{name}: {error}') from None
    finally:
        close = getattr(frames, 'close', None)
        if close is not None:
            close()


def named_windows(
        windows: Iterator[Window],
        model: VideoModel,
        topk: int,
        batch_size: int,
        notes: list[str],
        note: Callable[[str], None],
) -> Iterator[Record]:
    """Answers windows in batches.

    Args:
        windows: The windows; they are closed at the end.
        model: The model.
        topk: Classes per record.
        batch_size: Windows that are answered at a time.
        notes: What another thread has to say; taken from there.
        note: Called with each of these in this thread.
    """
    answer = WindowModel(model, batch_size)
    error: Exception | None = None
    try:
        while error is None:
            batch: list[Window] = []
            try:
                for window in itertools.islice(windows, batch_size):
                    batch.append(window)
            except VideoError as raised:  # what came before it is answered first
                error = raised
            while notes:
                note(notes.pop(0))
            if batch:
                for window, logits in zip(batch, answer(batch), strict=True):
                    yield Record(window.start, window.end, tuple(top_classes(model, logits, topk)), logits)
            elif error is None:
                return
        raise error
    finally:
        windows.close()


def _ready(window: Window) -> Window:
    for row in window.rows:
        for frame in row:
            frame.crops  # noqa: B018 - made here, in the thread that decodes
    return window


def _of_memory(clip: ArrayClip, fps: float) -> Iterator[StreamFrame]:
    for index in range(len(clip)):
        yield StreamFrame(index / fps, lambda index=index: clip.get_frames([index])[0], 0)
