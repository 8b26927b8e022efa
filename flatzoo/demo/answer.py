"""What the page says about one video: the most probable classes, and pictures of why.

Anyone who opens the page can give a video. Its size and length are therefore checked before a frame is decoded.
"""
import io
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from flatzoo.console.text import printable
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.data.views import read_views
from flatzoo.inference.classifier import top_classes
from flatzoo.models import eval_protocol
from flatzoo.models.base import VideoModel
from flatzoo.visualize.animation import save_cam_gif
from flatzoo.visualize.cam import class_activation_maps, frame_maps
from flatzoo.visualize.figures import importance_figure, overlay, super_image_figure
from flatzoo.visualize.importance import frame_importance
from flatzoo.visualize.super_image import super_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ['LAYOUTS', 'ORDERS', 'Answer', 'Limits', 'answer_video', 'check_video']

BATCH = 8  # views that the model sees at a time


class Limits(NamedTuple):
    """How large a video may be.

    Attributes:
        megabytes: Size of the file in units of 2^20 bytes, as the page counts them.
        seconds: Time from its first to its last frame.
    """

    megabytes: int
    seconds: int


class Answer(NamedTuple):
    """The results that the page shows for a video.

    Attributes:
        probabilities: The five most probable classes, the most probable one first, as probabilities 0...1.
        super_image: The image that the backbone gets of the first clip.
        maps: Evidence for the most probable class, over that image; None where the model has no such maps.
        animation: The same maps over the frames of the clip, as a looping GIF. None where the model has no such maps.
        importance: What each frame adds to the probability; None for clips of one frame.
        notes: For each part that is None, a sentence that says why.
        seconds: Time from the first to the last frame of the video.
        frames: Frames of the video that the answer comes from.
    """

    probabilities: dict[str, float]
    super_image: 'Figure'
    maps: 'Figure | None'
    animation: bytes | None
    importance: 'Figure | None'
    notes: list[str]
    seconds: float
    frames: int


# What the page offers: name -> from the number of frames to a layout; None for the one of training.
LAYOUTS: dict[str, Callable[[int], str] | None] = {
    'as trained': None,
    'grid': lambda count: 'grid',
    'grid, column by column': lambda count: 'grid:column',
    'grid, there and back': lambda count: 'grid:snake',
    'one row': lambda count: f'1x{count}',
    'two rows': lambda count: f'2x{math.ceil(count / 2)}',
    'small frames, four to an image': lambda count: 'tall',
}
# And in which order the model sees the frames: from their number to a permutation, the same one each time.
ORDERS: dict[str, Callable[[int], Tensor]] = {
    'as filmed': torch.arange,
    'reversed': lambda count: torch.arange(count).flip(0),
    'shuffled': lambda count: torch.randperm(count, generator=torch.Generator().manual_seed(1)),
}


def check_video(path: str, limits: Limits) -> None:
    """Refuses a file that is too large, too long or not a video. It lists the times of frames without decoding any.

    Raises:
        VideoError: The file is refused. The message is for the visitor of the page.
    """
    name = os.path.basename(path)
    megabytes = os.path.getsize(path) / 2 ** 20
    if megabytes > limits.megabytes:
        raise VideoError(
            f'{name}: has {megabytes:.1f} MB; this page takes up to {limits.megabytes} MB. Give a smaller file.')
    try:
        with VideoReader(path) as video:
            times = video.timestamps
    except VideoError as error:
        raise VideoError(str(error).replace(path, name)) from None  # where uploads lie is nobody's business
    seconds = (times[-1] - times[0]).item()
    if seconds > limits.seconds:
        raise VideoError(
            f'{name}: lasts {seconds:.0f} seconds; this page takes up to {limits.seconds}. Cut a part out.')


def answer_video(model: VideoModel, path: str, order: str = 'as filmed') -> Answer:
    """Names the action in a video by the evaluation protocol of the model's weights, and draws its first clip.

    Args:
        model: A video model in eval mode, with a trained head.
        path: A file that `check_video` accepted.
        order: One of `ORDERS`.

    Raises:
        VideoError: If the file cannot be decoded.
    """
    protocol, name = eval_protocol(model), os.path.basename(path)
    try:
        with VideoReader(path) as video:
            views = read_views(protocol, video, name, (0, len(video)), model.num_frames, model.img_size)
            rows, stamps = protocol.sample(len(video), model.num_frames), video.timestamps - video.timestamps[0]
            times, length = stamps[rows[0]], stamps[-1].item()
    except VideoError as error:
        raise VideoError(str(error).replace(path, name)) from None
    permutation = ORDERS[order](model.num_frames)
    views, times = views[:, :, permutation], times[permutation]
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = torch.cat([model(part.to(device)) for part in views.split(BATCH)]).float().mean(0)
    top = top_classes(model, logits, 5)
    target = top[0].index
    clip, frames, seconds = views[:1], views[0].transpose(0, 1), times.tolist()  # frames: [T, 3, H, W]

    images, index = super_images(model, clip)[0], model.super_image.index
    maps_figure = animation = importance = None
    notes = []
    try:
        maps = class_activation_maps(model, clip, target=target)
        maps_figure = super_image_figure(overlay(images, maps[0], model.grid_size, index=index), index, seconds)
        animation = _gif(frames, frame_maps(model, maps)[0], seconds)
    except ValueError as error:
        notes.append(f'No maps: {error}')
    try:
        values = frame_importance(model, clip, target, batch_size=BATCH)[0]
        importance = importance_figure(frames, values, seconds)
    except ValueError as error:
        notes.append(f'No importance of frames: {error}')
    return Answer(
        {printable(label): probability for label, _, probability in top},
        super_image_figure(images, index, seconds), maps_figure, animation, importance, notes, length,
        len(rows.unique()))


def _gif(frames: Tensor, maps: Tensor, times: list[float]) -> bytes:
    file = io.BytesIO()  # nothing of a visitor's video is written to the disk
    save_cam_gif(file, frames, maps, times)
    return file.getvalue()
