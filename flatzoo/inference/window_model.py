"""A model over windows of frames, in batches. Frames that windows share are encoded once, where that is exact."""
from collections.abc import Sequence

import torch
from torch import Tensor

from flatzoo.models import VideoModel

from .window_frames import Frame, Window

__all__ = ['WindowModel']


class WindowModel:
    """Gives the logits of windows.

    A model that encodes frames one by one (`VideoModel.encodes_frames`) encodes each frame once, however many windows
    have it. All other models see each window as a clip of its own.

    Args:
        model: A video model, which is put into eval mode.
        batch_size: Views that the model sees at a time.

    Attributes:
        encoded: Frames, or views of windows times their frames, that the model has computed so far.
    """

    def __init__(self, model: VideoModel, batch_size: int = 8):
        self.model, self.batch_size = model.eval(), batch_size
        self.device = next(model.parameters()).device
        self.encoded = 0

    def __call__(self, windows: Sequence[Window]) -> Tensor:
        """Logits of at least one window, averaged over its views, float32 `[N, num_classes]` on the CPU.

        Raises:
            ValueError: They are not finite.
        """
        with torch.inference_mode():
            logits = self._by_frames(windows) if self.model.encodes_frames else self._by_clips(windows)
        if not logits.isfinite().all():
            raise ValueError('the logits are not finite. Check the weights of the model.')
        return logits

    def _by_clips(self, windows: Sequence[Window]) -> Tensor:
        views = [window.views() for window in windows]
        self.encoded += sum(len(part) * part.shape[2] for part in views)
        parts = [self.model(part.to(self.device)) for part in torch.cat(views).split(self.batch_size)]
        clips = torch.cat(parts).float().cpu().split([len(part) for part in views])
        return torch.stack([clip.mean(0) for clip in clips])

    def _by_frames(self, windows: Sequence[Window]) -> Tensor:
        new: dict[int, Frame] = {}
        for window in windows:
            for row in window.rows:
                new |= {id(frame): frame for frame in row if frame.features is None}
        frames = list(new.values())
        crops = [frame.crops for frame in frames]  # each [V, C, h, w]
        if crops:
            images = torch.cat(crops)
            self.encoded += len(images)
            size = self.batch_size * self.model.num_frames
            features = torch.cat([self.model.forward_frames(part.to(self.device)) for part in images.split(size)])
            for frame, part in zip(frames, features.split([len(crop) for crop in crops]), strict=True):
                frame.features = part.clone()  # a view would keep those of all other frames alive
        views = []
        for window in windows:
            clips = [torch.stack([frame.features for frame in row], dim=1) for row in window.rows]  # [V, T, ...]
            views.append(torch.stack(clips, dim=1).flatten(0, 1))  # in the order of `Window.views`
        parts = [self.model.forward_clips(part.flatten(0, 1)) for part in torch.cat(views).split(self.batch_size)]
        clips = torch.cat(parts).float().cpu().split([len(part) for part in views])
        return torch.stack([clip.mean(0) for clip in clips])
