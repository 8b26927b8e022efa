"""Checks whether an exported file gives the answers of the model, and how fast. `flatzoo export` reports the result."""
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from flatzoo.models import VideoModel, eval_protocol
from flatzoo.models.base import channel_stats

from .formats import Format

__all__ = ['ExportError', 'Report', 'check_clips', 'largest_difference', 'speed_ratio']

ASSETS = Path(__file__).parents[1] / 'data' / 'assets'
ROUNDS = 5


class ExportError(RuntimeError):
    """A format cannot hold the model, or the exported file gives other answers than the model."""


@dataclass(frozen=True)
class Report:
    """What was exported, and how the file compares with the model.

    Attributes:
        path: The file.
        format: One of `FORMATS`.
        input: `'uint8'` or `'float'`.
        shape: `(C, T, H, W)` of a clip.
        num_classes: Logits per clip. 0 for models without a classifier, which return their features.
        size: Bytes of the file.
        difference: The largest difference between a logit of the file and of the model, relative to the largest logit
            of the batch.
        tolerance: The largest accepted difference.
        batches: The batches that were compared, such as `'2 real clips'`.
        speed: Clips per second of the file divided by those of the model, measured in turns with one clip at a time. On
            one CPU thread (`torch.set_num_threads(1)`) the time of the process is measured, otherwise wall-clock time.
        device: Device of both measurements.
        threads: CPU threads of both measurements.
    """
    path: Path
    format: Format
    input: Literal['uint8', 'float']
    shape: tuple[int, int, int, int]
    num_classes: int
    size: int
    difference: float
    tolerance: float
    batches: tuple[str, ...]
    speed: float
    device: str
    threads: int

    def __str__(self) -> str:
        clip = ', '.join(map(str, self.shape))
        answer = f'logits (B, {self.num_classes})' if self.num_classes else 'features'  # without a classifier
        where = self.device if self.device != 'cpu' else f'{self.threads} CPU thread{"s" * (self.threads > 1)}'
        return (
            f'{self.path}: {self.size / 1e6:.1f} MB, {self.format}, {self.input} clips (B, {clip}) -> {answer}\n'
            f'logits differ from the model\'s by at most {self.difference:.1e} of the largest (accepted: '
            f'{self.tolerance:.0e}) on {", ".join(self.batches)}\n'
            f'{self.speed:.2f} times the speed of the model, one clip at a time on {where}'
        )


def check_clips(model: VideoModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """Batches of 3, 1 and 2 clips `[B, C, T, H, W]` for a model, each with a name: noise or real videos."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(
        0, 256, (4, model.in_chans, model.num_frames, *model.img_size), generator=generator, dtype=torch.uint8)
    protocol, videos = eval_protocol(model), sorted(ASSETS.glob('*.mp4'))
    real = torch.cat([protocol.load_views(video, model.num_frames, model.img_size)[:1] for video in videos])
    real = real[:, torch.arange(model.in_chans) % 3]  # depth and the like: as many channels as the model takes
    batches = {'3 random clips': noise[:3], '1 random clip': noise[3:], f'{len(real)} real clips': real}
    if dtype != torch.uint8:
        mean, std = (torch.tensor(x).view(-1, 1, 1, 1) for x in channel_stats(model.pretrained_cfg, model.in_chans))
        batches = {name: ((clips / 255 - mean) / std).to(dtype) for name, clips in batches.items()}
    device = next(model.parameters()).device
    return {name: clips.to(device) for name, clips in batches.items()}


def largest_difference(
        model: Callable[[Tensor], Tensor], exported: Callable[[Tensor], Tensor], batches: dict[str, Tensor]) -> float:
    """The largest difference of a logit, relative to the largest logit of its batch. NaN if an answer has NaN.

    Raises:
        ExportError: The file fails, or its answer has another shape.
    """
    differences = []
    for name, clips in batches.items():
        with torch.no_grad():
            expected = model(clips)
        try:
            logits = exported(clips).to(expected.device)
        except Exception as error:  # noqa: BLE001 - each runtime has exceptions of its own
            raise ExportError(f'the file fails on {name}: {" ".join(str(error).split())}') from error
        if logits.shape != expected.shape:
            raise ExportError(f'the file answers {name} with {list(logits.shape)}, not {list(expected.shape)}')
        differences.append((logits - expected).abs().max() / expected.abs().max())
    return torch.stack(differences).max().item()  # of torch, which keeps NaN


def speed_ratio(
        model: Callable[[Tensor], Tensor], exported: Callable[[Tensor], Tensor], clip: Tensor) -> float:
    """Median time of the model divided by that of the file for a clip `[1, C, T, H, W]`, measured in turns."""
    # what other programs do hardly moves the time of a process, but threads that wait for each other spend it, too
    clock = time.process_time if torch.get_num_threads() == 1 and not clip.is_cuda else time.perf_counter

    def seconds(run: Callable[[Tensor], Tensor]) -> float:
        start = clock()
        with torch.no_grad():
            run(clip)
        if clip.is_cuda:
            torch.cuda.synchronize(clip.device)
        return clock() - start

    rounds = [(seconds(model), seconds(exported)) for _ in range(ROUNDS + 1)][1:]  # the first one warms up
    of_model, of_file = (statistics.median(times) for times in zip(*rounds))
    return of_model / of_file
