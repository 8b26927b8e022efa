"""`flatzoo train --recipe auto`: the options that fit the clips, the model and the device, each with its reason.

`look` reads the lists, opens a few files and builds the model without memory; what it found is `Facts`. `choose` is a
function of these facts and of the options that the user has given, and of nothing else. `fit_recipe` puts both
together. The values rest on runs on real and rendered clips (`benchmarks/results/recipe.md`). What was not measured
there, such as large transformers, has the values of the papers, and the reason says so.
"""
import dataclasses
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import parse_model_name
from timm.utils.distributed import world_info_from_env

from flatzoo.data.clips import clip_span, open_clip
from flatzoo.data.decode import VideoError
from flatzoo.data.lists import VideoList, sided_classes, some
from flatzoo.models import VideoModel
from flatzoo.models.record import tag_record
from flatzoo.runtime import cpu_gains_by_bfloat16

from . import build
from .head import known_rows
from .mixed import bfloat16_gain
from .recipe import NO_POLICY, RECIPES, Recipe, RecipeError, load_recipe, presets

__all__ = ['DEFAULT_MODEL', 'Choice', 'Facts', 'choose', 'directed_classes', 'fit_recipe', 'look']

DEFAULT_MODEL = 'sifar_resnet10t'  # its weights are in the package
MANY_CLIPS = 20_000  # from here on the recipe of SIFAR, which was made for 240,000
MIXED_CLIPS = 300  # from here on clips are augmented or mixed: better from 300 clips on, not better with 173
POLICY = 'rand-m6-n2-mstd0.5-inc1'  # measured with 300 to 546 clips on a small network
LONG_CLIPS = 2_000  # from here on clips are so many that no policy was measured
SPAN = (0.7, 1.0)  # of a video: SIFAR's segments leave out its end, a third of 12 frames; measured to 3,008 clips
LIGHT_MODEL = 12e6  # parameters of a network of which 32 clips at once fit any memory; larger ones take 8 at a time
_GAIN = 1.15  # of a step in bfloat16, from which on it is taken: less is noise
_LOOKED_AT = 24  # files that are opened
_RATES = {'muon': 4e-3, 'adamw': 2e-3}  # of small models, at 32 clips per update
_GENTLE = {'muon': 4e-4, 'adamw': 1e-4}  # where the first weights know the classes: more makes them forget
_DIRECTION = re.compile(
    r'(?<![a-z])(left|right|up|down)(ward|wards|most)?(?![a-z])|clockwise|(?<![a-z])a?c?cw(?![a-z])', re.IGNORECASE)
_DRAWN = re.compile(
    r'(?<![a-z])(draw|drawing|draws|write|writes|writing|letter|digit|number|tick)(?![a-z])', re.IGNORECASE)

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
        frozen: Whether its method keeps the backbone frozen.
        start: What weights training starts from: `'video'`, `'image'`, a `'file'`, or `'none'`.
        weights: Where they are from, for the reader; empty without weights.
        offered: Weights that there are and that are not used.
        device: Type of the device, such as `cpu`.
        processes: Number of processes that train.
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
    bfloat16: float | None = None
    known: bool = False
    depth: bool = False


@dataclass(frozen=True)
class Choice:
    """Options that were chosen together.

    Attributes:
        topic: What they are about, in a word.
        options: Fields of `Recipe` and their values.
        reason: Why.
    """
    topic: str
    options: Mapping[str, Any]
    reason: str

    def __str__(self) -> str:
        return ': '.join(filter(None, (' '.join(map(_flag, self.options.items())), self.reason)))


def fit_recipe(name: str, options: Mapping[str, Any]) -> tuple[Recipe, list[str]]:
    """A recipe by its name.

    Args:
        name: `'auto'`, `'few_clips'` (the same for any number of clips), `'sifar'` (the defaults of `Recipe`) or a
            preset.
        options: Options that are given; they override the recipe's.

    Returns:
        The recipe, and lines that say what was chosen and why; none where nothing was.

    Raises:
        RecipeError: There is no such recipe, or an option is not accepted.
        DataError: The data set is not laid out as the options say.
        ValueError: There is no such model, or it does not accept its arguments.
    """
    if name not in RECIPES and name not in presets():
        raise RecipeError(f'there is no recipe {name!r}; there are {", ".join((*RECIPES, *presets()))}')
    if name not in ('auto', 'few_clips'):
        return load_recipe(None if name == 'sifar' else name, **options), []
    given = {'model': DEFAULT_MODEL, **{key: value for key, value in options.items() if (key, value) != ('model', '')}}
    facts = look(load_recipe(**given), 'pretrained' in given, 'amp' not in given)
    choices = choose(facts, options, few=name == 'few_clips' or None)
    lines = [f'{choice.topic}: {choice}' for choice in choices]
    chosen = {key: value for choice in choices for key, value in choice.options.items()}
    reasons = {choice.topic: str(choice) for choice in choices}
    return load_recipe(**{**given, **chosen, 'reasons': reasons}), lines


def look(recipe: Recipe, start_is_given: bool = True, try_bfloat16: bool = False) -> Facts:
    """Looks at the clips, the model and the device of a recipe; opens a few of the files.

    Args:
        recipe: The recipe, as far as it is given.
        start_is_given: Whether its `pretrained` is the user's. If not, weights that are in the package are used.
        try_bfloat16: Whether to find out if a training step is faster in bfloat16, where the CPU may gain by it.
    """
    train, val = build.read_lists(recipe)
    frames, size = _sizes(train)
    model = _outline(recipe, train)
    start, weights, offered = _start(recipe, start_is_given)
    counts = Counter(label for clip in train.clips for label in clip.all_labels).values()
    device = 'cuda' if recipe.device == 'auto' and torch.cuda.is_available() else recipe.device
    facts = Facts(
        clips=len(train), classes=train.classes, per_class=(min(counts), max(counts)),
        val_clips=len(val) if val is not None else 0, frames=frames, size=size, flip=train.flip, model=recipe.model,
        parameters=sum(parameter.numel() for parameter in model.parameters()), convolutional=_is_convolutional(model),
        frozen=tag_record(recipe.model).frozen_backbone, start=start, weights=weights, offered=offered,
        device='cpu' if device == 'auto' else device.partition(':')[0], processes=world_info_from_env()[2],
        known=start != 'none' and bool(known_rows(recipe, train)), depth=train.in_chans == 1)
    if try_bfloat16 and (facts.device, facts.processes) == ('cpu', 1) and cpu_gains_by_bfloat16():
        facts = dataclasses.replace(facts, bfloat16=_gain_of_bfloat16(recipe, train, facts))
    return facts


def choose(facts: Facts, given: Iterable[str] = (), few: bool | None = None) -> list[Choice]:
    """The options for what is known.

    Args:
        facts: What is known.
        given: The options that the user has given, by name, with values if it is a mapping. They are not chosen, and
            what depends on them follows them.
        few: Whether to take the recipe for few clips; None for fewer than 20,000.

    Returns:
        Five choices: data, start, updates, clips and run.
    """
    given = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given)
    few = facts.clips < MANY_CLIPS if few is None else few
    middle = (_updates(facts, given), _changes(facts, given)) if few else _many(facts)
    choices = [_data(facts, few), _beginning(facts), *middle, _run(facts, few, given)]
    return [
        dataclasses.replace(choice, options={key: value for key, value in choice.options.items() if key not in given})
        for choice in choices]


def directed_classes(classes: Iterable[str]) -> list[str]:
    """Names that speak of a direction, or of something drawn or written, or that are all single characters or numbers.

    A mirrored clip may not have such a label any more. `sided_classes` asks for less: left, right and clockwise.
    """
    classes = list(classes)
    if all(re.fullmatch(r'\d+|.', name.strip()) for name in classes):
        return classes
    sided = set(sided_classes(classes))
    return [name for name in classes if name in sided or _DIRECTION.search(name) or _DRAWN.search(name)]


# The five choices

def _data(facts: Facts, few: bool) -> Choice:
    fewest, most = facts.per_class
    text = f'{facts.clips} clips of {len(facts.classes)} classes, {_span(fewest, most)} of each'
    if facts.frames and facts.size:
        text += (
            f'; {_span(facts.frames[0], facts.frames[2])} frames (median {facts.frames[1]}) of '
            f'{facts.size[1]}x{facts.size[0]} pixels')
    return Choice('data', {}, f'{text}; {"a recipe for few clips" if few else "many clips: the recipe of SIFAR"}')


def _beginning(facts: Facts) -> Choice:
    size = f'{facts.model} ({facts.parameters / 1e6:.1f} M parameters)'
    options: dict[str, Any] = {'model': facts.model}
    if facts.start == 'none':
        text = f'{size} from random weights'
        if facts.offered:
            text += f'; --pretrained would start from {facts.offered}'
        return Choice('start', options | {'pretrained': False, 'freeze_backbone': False}, text)
    if facts.start != 'file':
        options['pretrained'] = True
    options['freeze_backbone'] = facts.frozen
    how = 'the backbone stays frozen, as its paper has it' if facts.frozen else 'all of it is trained'
    if facts.known:
        how += '; it knows all classes by name, and its classifier is kept'
    return Choice('start', options, f'{size} from {facts.weights}; {how}')


def _updates(facts: Facts, given: Mapping[str, Any]) -> Choice:
    """Batch, epochs and optimizer for few clips."""
    light = facts.parameters <= LIGHT_MODEL and facts.convolutional
    total = min(32, 2 ** int(math.log2(max(facts.clips // 4, 2))))  # clips per update; at least 4 updates per epoch
    share = max(total // facts.processes, 1)
    batch = given.get('batch_size') or min(share, 32 if light else 8)
    steps = given.get('grad_accum_steps') or max(share // batch, 1)
    total = batch * steps * facts.processes
    per_epoch = max(facts.clips // total, 1)
    epochs = given.get('epochs') or _epochs(facts, given)
    options: dict[str, Any] = {'epochs': epochs, 'batch_size': batch, 'grad_accum_steps': steps}
    convolutional = facts.convolutional and not facts.frozen
    optimizer = given.get('opt') or ('muon' if convolutional and not facts.known else 'adamw')
    options['opt'] = optimizer
    if convolutional and optimizer in _RATES:
        rate = (_GENTLE if facts.known else _RATES)[optimizer]
        options |= {'lr': _rounded(rate * min(1, math.sqrt(total / 32))), 'clip_grad': 5.0}
        why = 'gently, for the start knows these classes, ' if facts.known else ''
        why += 'as measured' + ('' if light else ' on smaller networks')
    elif facts.frozen:
        options['lr'] = 1e-3
        why = 'the rate of frozen probes, not measured on few clips'
    else:
        options['lr'] = 1e-4
        why = "SIFAR's rate, not measured on few clips"
    options['min_lr'] = _rounded((given.get('lr') or options['lr']) / 100)
    options['warmup_epochs'] = _rounded(min(1.0, epochs / 6) if convolutional else epochs / 6)
    return Choice('updates', options, f'{per_epoch * epochs} updates of {total} clips; {why}')


def _changes(facts: Facts, given: Mapping[str, Any]) -> Choice:
    """How few clips are changed in training."""
    options: dict[str, Any] = _flip(facts)
    reasons = []
    if given.get('sampling', 'uniform') == 'uniform':
        options['span'] = SPAN
        reasons.append('each time another part of a clip is seen, also its end')
    if _augments(facts, given):
        options |= {'aa': POLICY, 'mixup': 0.0, 'cutmix': 0.0}
        reasons.append('frames are changed by RandAugment, and training is longer, so that no clip is learned by heart')
    elif facts.convolutional and not facts.frozen and facts.clips >= MIXED_CLIPS:
        options |= {'mixup': 0.2, 'cutmix': 1.0, 'mixup_prob': 0.5}
        reasons.append('half of the batches are mixed, which keeps the network from learning the clips by heart')
    else:
        options |= {'mixup': 0.0, 'cutmix': 0.0}
        reasons.append('nothing is mixed, for few clips need no more noise')
    options |= {'smoothing': 0.05, 'drop_path': 0.0 if facts.convolutional or facts.frozen else 0.1}
    return Choice('clips', options, '; '.join([*reasons, _about_flip(facts)]))


def _many(facts: Facts) -> tuple[Choice, Choice]:
    """The defaults of `Recipe`, which are those of SIFAR, but for the flip."""
    return (
        Choice('updates', {}, "30 epochs of AdamW, SIFAR's recipe (Section 4.1)"),
        Choice('clips', _flip(facts), f'Mixup and CutMix as SIFAR has them; {_about_flip(facts)}'))


def _run(facts: Facts, few: bool, given: Mapping[str, Any]) -> Choice:
    cuda = facts.device == 'cuda'
    mixed = cuda or (facts.bfloat16 or 0) >= _GAIN
    options: dict[str, Any] = {'amp': mixed, 'channels_last': facts.convolutional}
    reason = f'{facts.device}, {"mixed" if mixed else "full"} precision'
    if facts.bfloat16 is not None:
        reason += f' (a step is {facts.bfloat16:.2f} times as fast in bfloat16, tried on this machine)'
    if not few:
        return Choice('run', options, f'{reason}; the best model on val is kept')
    if given.get('early_stopping') and facts.val_clips:
        return Choice('run', options, f'{reason}; the best model on val is kept, where the run stops early')
    options['keep'] = 'last'
    if facts.val_clips:
        epochs = given.get('epochs') or _epochs(facts, given)
        options['val_interval'] = max(round(epochs / 4), 1)
        reason += f'; the last model is kept, for {facts.val_clips} clips are too few to choose on'
    return Choice('run', options, reason)


def _augments(facts: Facts, given: Mapping[str, Any]) -> bool:
    """Whether clips are changed by a policy and trained on for longer, so that no network learns them by heart."""
    refused = given.get('no_aug') or given.get('aa') in NO_POLICY
    return (
        facts.convolutional and not facts.frozen and not facts.known and facts.parameters <= LIGHT_MODEL
        and MIXED_CLIPS <= facts.clips < LONG_CLIPS and not facts.depth and not refused)


def _epochs(facts: Facts, given: Mapping[str, Any]) -> int:
    """Passes over the clips: the fewer they are, the more, and yet fewer updates in all. 28 for 283 clips."""
    epochs = min(max(28 * (283 / facts.clips) ** 0.5, 8), 80)
    return round(2.5 * epochs if _augments(facts, given) else epochs)


def _flip(facts: Facts) -> dict[str, Any]:
    return {'hflip': 0.5 if facts.flip and not directed_classes(facts.classes) else 0.0}


def _about_flip(facts: Facts) -> str:
    directed = directed_classes(facts.classes)
    if directed:
        return f'no mirroring: labels may have sides ({some(directed, 2)})'
    return 'mirrored clips keep their labels' if facts.flip else 'no mirroring in this data set'


# What is looked at

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


def _gain_of_bfloat16(recipe: Recipe, videos: VideoList, facts: Facts) -> float | None:
    """`Facts.bfloat16`, by steps of the model with random weights."""
    model = build.build_model(recipe, videos, pretrained=False)
    if facts.frozen:
        build.freeze(model)
    if facts.convolutional:
        build.order_channels_last(model)
    return bfloat16_gain(model, 16 if facts.parameters <= LIGHT_MODEL else 1)


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


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f'{low} to {high}'


def _rounded(number: float) -> float:
    return float(f'{number:.2g}')


def _flag(option: tuple[str, Any]) -> str:
    name, value = option
    flag = name.replace('_', '-')
    if isinstance(value, bool):
        return f'--{flag}' if value else f'--no-{flag}'
    if isinstance(value, tuple):
        return ' '.join([f'--{flag}', *(f'{one:g}' for one in value)])
    return f'--{flag} {value:g}' if isinstance(value, float) else f'--{flag} {value}'
