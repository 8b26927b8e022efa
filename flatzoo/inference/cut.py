"""Cuts long clips into windows of equal length, each of which becomes a clip of its own."""
from dataclasses import replace

from flatzoo.data.clips import clip_span, open_clip
from flatzoo.data.decode import VideoError, VideoReader
from flatzoo.data.lists import Clip, VideoList

from .ahead import load_ahead

__all__ = ['cut_windows']


def cut_windows(videos: VideoList, seconds: float, workers: int = 1) -> VideoList:
    """The same videos as windows, one after the other, with the class of their clip.

    What is left at the end is a window, too, if it lasts at least half as long. A clip that is shorter than a window is
    one. A file that cannot be opened stays as it is, for whoever reads it says why.

    Args:
        videos: The list.
        seconds: Length of a window.
        workers: Files that are opened at the same time.

    Raises:
        ValueError: Windows of no length, or folders of frames, which have no times.
    """
    if not seconds > 0:
        raise ValueError(f'a window must last longer than nothing, got {seconds} seconds.')

    def cut(clip: Clip) -> list[Clip] | Exception:
        try:
            with open_clip(clip, videos.depth) as reader:
                if not isinstance(reader, VideoReader):
                    return ValueError(f'{clip.name}: a folder of frames has no times, so it has no windows of seconds.')
                first, end = clip_span(clip, reader)
                times = reader.timestamps
                start = float(times[first] - times[0])
                length = float(times[end - 1] - times[first]) + (1 / reader.fps if reader.fps else 0)
        except VideoError:
            return [clip]
        count = max(1, int(length / seconds + 0.5))
        ends = [round(start + seconds * index, 6) for index in range(1, count)]
        stop = clip.end if clip.unit == 'seconds' else round(start + length, 6)
        return [
            replace(clip, start=begin, end=until, unit='seconds')
            for begin, until in zip([round(start, 6), *ends], [*ends, stop])]

    clips: list[Clip] = []
    for _, found in load_ahead(cut, videos.clips, max(1, workers)):
        if isinstance(found, Exception):
            raise found
        clips += found
    return replace(videos, clips=tuple(clips))
