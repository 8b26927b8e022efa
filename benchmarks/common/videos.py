"""Files to decode, and how fast a loader gives clips of them."""
import itertools
import time
from pathlib import Path

import av
import numpy as np
from torch.utils.data import DataLoader

import flatzoo
from flatzoo.data.clips import ClipDataset, collate_clips
from flatzoo.data.decode import VideoReader
from flatzoo.data.lists import Clip, VideoList
from flatzoo.data.transforms import resize

__all__ = ['IMG_SIZE', 'LENGTH', 'NUM_FRAMES', 'loader_speed', 'write_video']

ASSET = Path(flatzoo.__file__).parent / 'data' / 'assets' / 'carphone.mp4'
LENGTH, NUM_FRAMES, IMG_SIZE = 250, 8, 224


def write_video(path: Path, size: tuple[int, int], key_frames: int) -> None:
    """The package's real clip, forwards and backwards until `LENGTH`, scaled up, with grain."""
    with VideoReader(ASSET) as video:
        there = list(range(len(video)))
        indices = list(itertools.islice(itertools.cycle(there + there[::-1]), LENGTH))
        frames = video.get_frames(there)
    grain = np.random.default_rng(0)
    with av.open(str(path), 'w') as container:
        options = {'g': str(key_frames), 'keyint_min': str(key_frames), 'sc_threshold': '0', 'threads': '1'}
        stream = container.add_stream('libx264', rate=25, options=options | {'preset': 'veryfast', 'crf': '20'})
        stream.height, stream.width, stream.pix_fmt = *size, 'yuv420p'
        for index in indices:
            pixels = resize(frames[index][None], size)[0].permute(1, 2, 0).numpy().astype(np.int16)
            pixels += grain.normal(0, 4, size).astype(np.int16)[..., None]
            frame = av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), format='rgb24')
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def loader_speed(path: Path, workers: int, clips: int) -> float:
    """Clips per second of a `DataLoader`, without its start."""
    videos = VideoList('speed', [Clip(str(path), 0)] * (clips + 4 * workers), ['any'])
    dataset = ClipDataset(videos, NUM_FRAMES, IMG_SIZE)
    batches = iter(DataLoader(dataset, 2, num_workers=workers, collate_fn=collate_clips))
    next(batches)
    start, seen = time.perf_counter(), 0
    for batch in itertools.islice(batches, clips // 2):
        seen += len(batch['label'])
    return seen / (time.perf_counter() - start)
