"""What is known of the clips, the model and the device before a run: what `flatzoo.train.auto` chooses by.

`look` reads the lists, opens a few files and builds the model without memory. Where it is asked to, it also tries a few
steps of the model on a CPU, see `flatzoo.train.trial`.
"""
import dataclasses
import statistics
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import timm
import torch
from timm.models import parse_model_name
from timm.utils.distributed import world_info_from_env

from flatzoo.data.clips import clip_span, open_clip
from flatzoo.data.decode import VideoError
from flatzoo.data.lists import VideoList
from flatzoo.models import VideoModel
from flatzoo.models.record import tag_record

from . import build
from .head import known_rows
from .recipe import Recipe
from .trial import time_steps

__all__ = ['LIGHT_MODEL', 'Facts', 'look']

LIGHT_MODEL = 12e6  # parameters of a network of which 32 clips at once fit any memory; larger ones take 8 at a time
_LOOKED_AT = 24  # files that are opened

Start = Literal['video', 'image', 'file', 'none']


@dataclass(frozen=True)
class Facts:
    """What is known before a run.

    Attributes:
        clips: Number of training clips.
        classes: Names of the classes.
        per_class: Fewest and most training clips of a class that has some.
        val_clips: Number of evaluation clips.
        frames: Fewest, median and most frames of the clips that were opened; None if none could be.
        size: Median height and width of their frames in pixels, None likewise.
        flip: `VideoList.flip`.
        model: Name of the model.
        parameters: Number of its parameters.
        convolutional: Whether most of its weights are those of 2D convolutions, as in a ResNet.
        frozen: Whether its backbone stays frozen.
        start: What weights training starts from: `'video'`, `'image'`, a `'file'`, or `'none'`.
        weights: Where they are from, for the reader; empty without weights.
        offered: Weights that there are and that are not used.
        device: Type of the device, such as `cpu`.
        processes: Number of processes that train.
        seconds: That a training step takes for each of its clips in fp32 on this CPU, reading not counted; None if
            that was not tried: on other devices, by several processes, and where more than the model computes.
        bfloat16: How many times as fast a training step is in bfloat16 on a CPU that multiplies it fast; None if that
            was not tried.
        known: Whether the weights know all classes by their names.
        depth: Whether clips are depth maps, which have no colours to change.
    """
    clips: int
    classes: tuple[str, ...]
    per_class: tuple[int, int]
    val_clips: int
    frames: tuple[int, int, int] | None
    size: tuple[int, int] | None
    flip: bool
    model: str
    parameters: int
    convolutional: bool
    frozen: bool
    start: Start
    weights: str
    offered: str
    device: str
    processes: int
    seconds: float | None = None
    bfloat16: float | None = None
    known: bool = False
    depth: bool = False


def look(recipe: Recipe, given: Container[str] = (), try_steps: bool = False) -> Facts:
    """Looks at the clips, the model and the device of a recipe; opens a few of the files.

    Args:
        recipe: The recipe, as far as it is given.
        given: Names of the options that are the user's. Without `pretrained`, weights that are in the package are used;
            without `freeze_backbone`, the backbone of a method with adapters stays frozen if it has weights.
        try_steps: Whether to find out on a CPU how long a training step takes, and if bfloat16 makes it faster.
    """
    train, val = build.read_lists(recipe)
    frames, size = _sizes(train)
    model = _outline(recipe, train)
    start, weights, offered = _start(recipe, 'pretrained' in given)
    frozen = tag_record(recipe.model).frozen_backbone and start != 'none'
    if 'freeze_backbone' in given:
        frozen = recipe.freeze_backbone
    counts = Counter(label for clip in train.clips for label in clip.all_labels).values()
    device = 'cuda' if recipe.device == 'auto' and torch.cuda.is_available() else recipe.device
    facts = Facts(
        clips=len(train), classes=train.classes, per_class=(min(counts), max(counts)),
        val_clips=len(val) if val is not None else 0, frames=frames, size=size, flip=train.flip, model=recipe.model,
        parameters=sum(parameter.numel() for parameter in model.parameters()), convolutional=_is_convolutional(model),
        frozen=frozen, start=start, weights=weights, offered=offered,
        device='cpu' if device == 'auto' else device.partition(':')[0], processes=world_info_from_env()[2],
        known=start != 'none' and bool(known_rows(recipe, train)), depth=train.in_chans == 1)
    if try_steps and (facts.device, facts.processes) == ('cpu', 1):
        channels_last = recipe.channels_last if 'channels_last' in given else facts.convolutional
        float32, bfloat16 = _time_steps(recipe, train, facts, channels_last)
        more = recipe.kd_model_name or recipe.torchcompile  # a teacher, or other code
        facts = dataclasses.replace(
            facts, seconds=None if more else float32, bfloat16=float32 / bfloat16 if bfloat16 else None)
    return facts


def _sizes(videos: VideoList) -> tuple[tuple[int, int, int] | None, tuple[int, int] | None]:
    """Lengths, and the median size of frames, of a few clips spread over the list."""
    lengths, heights, widths = [], [], []
    step = max(len(videos) / _LOOKED_AT, 1)
    for index in sorted({int(i * step) for i in range(min(_LOOKED_AT, len(videos)))}):
        clip = videos.clips[index]
        if '://' in clip.path:
            continue
        try:
            with open_clip(clip, videos.depth) as reader:
                first, end = clip_span(clip, reader)
                height, width = reader.get_frames([first]).shape[-2:]
        except VideoError:
            continue  # training names it
        lengths.append(end - first)
        heights.append(height)
        widths.append(width)
    if not lengths:
        return None, None
    middle = round(statistics.median(lengths))
    return (min(lengths), middle, max(lengths)), (
        round(statistics.median(heights)), round(statistics.median(widths)))


def _outline(recipe: Recipe, videos: VideoList) -> VideoModel:
    """The model of a recipe without memory for its weights."""
    arguments = {**(recipe.model_kwargs or {}), 'device': 'meta'}
    return build.build_model(dataclasses.replace(recipe, model_kwargs=arguments), videos, pretrained=False)


def _time_steps(
        recipe: Recipe, videos: VideoList, facts: Facts, channels_last: bool) -> tuple[float, float | None]:
    """Seconds per clip of training steps in fp32 and bfloat16, with random weights."""
    with torch.random.fork_rng(devices=[]):
        model = build.build_model(recipe, videos, pretrained=False)
    if facts.frozen:
        build.freeze(model)
    build.set_recomputing(model, recipe)
    if channels_last:
        build.order_channels_last(model)
    return time_steps(model, 16 if facts.parameters <= LIGHT_MODEL else 2)


def _is_convolutional(model: VideoModel) -> bool:
    sizes = [(parameter.ndim, parameter.numel()) for parameter in model.parameters()]
    return sum(size for ndim, size in sizes if ndim == 4) > sum(size for _, size in sizes) / 2


def _start(recipe: Recipe, is_given: bool) -> tuple[Start, str, str]:
    """The kind of the first weights, where they are from, and weights that are offered in their place."""
    source, _ = parse_model_name(recipe.model)
    if recipe.initial_checkpoint or source:
        return 'file', recipe.initial_checkpoint or recipe.model, ''
    cfg = timm.get_pretrained_cfg(recipe.model)
    record = tag_record(recipe.model)
    if cfg is None or not cfg.has_weights:  # `superimage`: the weights are the backbone's
        backbone = (recipe.model_kwargs or {}).get('backbone', '')
        name = f'image weights of {backbone}' if backbone else 'image weights'
        return ('image', name, '') if recipe.pretrained else ('none', '', name)
    kind: Start = 'video' if cfg.label_names is not None else 'image'
    name = f'{kind} weights' + (f' ({record.data.title})' if record.data else '')
    in_package = cfg.file is not None and Path(cfg.file).is_file()
    if recipe.pretrained or (in_package and not is_given):
        return kind, name, ''
    return 'none', '', name
