"""How much time a model sees at once: the length of the clips that it was trained on."""
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .decode import VideoError

if TYPE_CHECKING:
    from .lists import VideoList

__all__ = ['TemporalContract', 'learn_contract']

LOOKED_AT = 64  # clips of a list whose length is measured
MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class TemporalContract:
    """The time that a clip covers, as in training. `flatzoo.predict_windows` cuts windows of this length.

    It is kept with the weights, under `temporal` in the block `video` of `config.json`.

    Attributes:
        seconds: Length of a clip.
        frames: Frames that the model takes of it.
        stride: Seconds from one of these frames to the next.

    Raises:
        ValueError: A value that is not accepted.
    """

    seconds: float
    frames: int
    stride: float

    def __post_init__(self):
        for name, low, high in (('seconds', 0.0, MAX_SECONDS), ('stride', 0.0, MAX_SECONDS), ('frames', 0, 1024)):
            value = getattr(self, name)
            kinds = int if name == 'frames' else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low < value <= high:
                raise ValueError(f'{name} of a temporal contract must be above {low:g}, up to {high:g}, got {value!r}')

    def to_dict(self) -> dict[str, Any]:
        """The contract as a dictionary that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'TemporalContract':
        """The contract that `to_dict` described; further keys, such as those of newer versions, are passed over.

        Raises:
            ValueError: A value is missing or not accepted.
        """
        try:
            return cls(*(values[name] for name in ('seconds', 'frames', 'stride')))
        except KeyError as error:
            raise ValueError(f'a temporal contract needs {error}') from None


def learn_contract(videos: 'VideoList', num_frames: int, stride: int | None = None) -> TemporalContract | None:
    """The contract of a model that is trained on a list: the median length of its clips.

    At most 64 clips, spread evenly over the list, are looked at; no frame is decoded.

    Args:
        videos: The list.
        num_frames: Frames per clip.
        stride: Step between the frames of a dense clip; None where a clip is the whole video.

    Returns:
        None where nothing tells the time: depth maps and folders of images, files that cannot be read, and lists on
        other machines.
    """
    from .clips import clip_span, open_clip

    found = []
    step = max(1, len(videos.clips) // LOOKED_AT)
    for clip in videos.clips[::step][:LOOKED_AT]:
        if videos.depth is not None or '://' in clip.path:
            continue
        try:
            with open_clip(clip) as reader:
                first, end = clip_span(clip, reader)
                rate = getattr(reader, 'fps', 0.0)
                if rate > 0:
                    times = reader.timestamps[[first, end - 1]].tolist()
                    length = times[1] - times[0] + 1 / rate
                    found.append(length if stride is None else num_frames * stride / rate)
        except VideoError:  # training names it
            continue
    if not found:
        return None
    seconds = round(min(statistics.median(found), MAX_SECONDS), 3)
    return TemporalContract(seconds, num_frames, round(seconds / num_frames, 6)) if seconds > 0 else None
