"""`flatzoo.Stream`: answers for frames as they come, from a camera or any other program."""
import math
import time as clock
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatzoo.data.array_clip import ArrayClip
from flatzoo.data.decode import VideoError
from flatzoo.data.protocol import EvalProtocol
from flatzoo.models import VideoModel
from flatzoo.runtime import Precision

from .classifier import top_classes
from .load import DEFAULT_MODEL, load_model
from .window_frames import Frame, Window
from .window_model import WindowModel
from .windows import DEFAULT_EVERY, Record, plan_windows

__all__ = ['Stream']


class Stream:
    """Names the action in a stream of frames, window by window.

        stream = flatzoo.Stream('sifar_resnet10t', fps=30)
        for frame in camera:                # uint8 [H, W, 3]
            record = stream.push(frame)
            if record is not None:
                print(record.start, record.end, record.label)

    The records are those that `flatzoo.predict_windows` gives for the same frames in a file. Memory is that of the
    frames of one window, as the model sees them.

    Args:
        model: See `flatzoo.predict_windows`.
        fps: Frames per second. None takes the time at which each frame is pushed, unless `push` is told one.
        every: Seconds from one window to the next, at least as long as a frame.
        window: Seconds of a window; see `flatzoo.predict_windows`.
        topk: Classes per record, at most all.
        protocol: See `flatzoo.predict_windows`.
        device: See `flatzoo.predict_windows`.
        precision: See `flatzoo.predict_windows`.
        **kwargs: As for `flatzoo.inference.load.load_model`.

    Attributes:
        model: The model, in eval mode.
        plan: Length and sampling of the windows (`flatzoo.inference.windows.WindowPlan`).

    Raises:
        ValueError: There is no such model or device, it has no trained head, or an argument is not accepted.
    """

    def __init__(
            self,
            model: str | VideoModel = DEFAULT_MODEL,
            fps: float | None = None,
            every: float = DEFAULT_EVERY,
            window: float | None = None,
            topk: int = 5,
            protocol: EvalProtocol | None = None,
            device: str = 'auto',
            precision: Precision = 'auto',
            **kwargs: Any,
    ):
        if fps is not None and not 0 < fps < math.inf:
            raise ValueError(f'fps must be a number above 0, or None for the time of each push, got {fps!r}')
        if isinstance(model, str):
            model = load_model(model, device=device, precision=precision, **kwargs)
        self.model = model.eval()
        self.plan = plan_windows(model, every, window, protocol)
        if fps is not None and every * fps < 1 - 1e-6:
            raise ValueError(f'every={every} is shorter than a frame at {fps} per second; give at least {1 / fps:g}')
        self.fps, self.topk = fps, topk
        self._answer = WindowModel(model, batch_size=1)
        self._transform = self.plan.transform(model)
        self._buffer = self.plan.buffer(model)
        self._waiting: deque[Window] = deque()
        self._count, self._began = 0, None

    def push(self, frame: Any, time: float | None = None) -> Record | None:
        """Takes the next frame.

        Args:
            frame: uint8 `[H, W, 3]` or `[3, H, W]`, RGB: a NumPy array, a tensor or a PIL image.
            time: When it is shown, in seconds from the start of the stream; ascending. None goes by `fps`.

        Returns:
            The record of a window that ended before this frame; None if none did. Of several windows that ended at
            once, the others come with the next frames, or by `finish`.

        Raises:
            ValueError: The time is not later than that of the last frame.
            VideoError: The frame has another type or shape.
        """
        if time is None:
            if self.fps is not None:
                time = self._count / self.fps
            else:
                now = clock.monotonic()
                self._began = now if self._began is None else self._began
                time = now - self._began
        if self._buffer.last is not None and not time > self._buffer.last:
            raise ValueError(f'frames come in the order of time; {time} s does not follow {self._buffer.last} s')
        pixels = _pixels(frame)
        kept = Frame(float(time), lambda: pixels, self._transform)
        try:
            kept.crops  # noqa: B018 - at once, for the caller may write the next frame into the same memory
        except VideoError:
            raise
        except ValueError as error:
            raise VideoError(str(error)) from None
        self._count += 1
        self._waiting.extend(self._buffer.push(kept))
        return self._record(self._waiting.popleft()) if self._waiting else None

    def finish(self) -> list[Record]:
        """Ends the stream, and returns the records that are left. The next frame begins another stream."""
        self._waiting.extend(self._buffer.finish())
        records = [self._record(window) for window in self._waiting]
        self._waiting.clear()
        self._buffer = self.plan.buffer(self.model)
        self._count, self._began = 0, None
        return records

    def _record(self, window: Window) -> Record:
        [logits] = self._answer([window])
        return Record(window.start, window.end, tuple(top_classes(self.model, logits, self.topk)), logits)


def _pixels(frame: Any) -> Tensor:
    """uint8 `[3, H, W]` of a frame."""
    if isinstance(frame, Tensor) or hasattr(frame, '__array_interface__') and getattr(frame, 'ndim', 0) == 3:
        if frame.ndim != 3:
            raise VideoError(f'A frame is uint8 [H, W, 3] or [3, H, W], got shape {list(frame.shape)}.')
        if isinstance(frame, Tensor) and frame.is_cuda:
            frame = frame.cpu()
        if frame.shape[-1] == 3 and str(frame.dtype) in ('uint8', 'torch.uint8'):  # the usual one
            if not isinstance(frame, Tensor):
                frame = torch.from_numpy(np.require(frame, requirements='CW'))  # may be mirrored, or not writable
            return frame.permute(2, 0, 1)
        return ArrayClip(frame[None]).get_frames([0])[0]
    return ArrayClip([frame]).get_frames([0])[0]
