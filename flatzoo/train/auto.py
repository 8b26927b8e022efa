"""`flatzoo train --recipe auto`: the options that fit the clips, the model and the device, each with its reason.

What there is to choose by are the facts of `flatzoo.train.facts`. `choose` is a function of these facts and of the
options that the user has given, and of nothing else. `fit_recipe` puts both together. The values rest on runs on real
and rendered clips (`benchmarks/results/recipe.md`). What was not measured there, such as large transformers, has the
values of the papers, and the reason says so.
"""
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flatzoo.data.lists import sided_classes, some

from .facts import LIGHT_MODEL, Facts, look
from .recipe import NO_POLICY, RECIPES, Recipe, RecipeError, load_recipe, presets

__all__ = ['DEFAULT_MODEL', 'Choice', 'choose', 'directed_classes', 'fit_recipe']

DEFAULT_MODEL = 'sifar_resnet10t'  # its weights are in the package
MANY_CLIPS = 20_000  # from here on the recipe of SIFAR, which was made for 240,000
MIXED_CLIPS = 300  # from here on clips of networks without a policy are mixed: better with 390, not better with 173
POLICY = 'rand-m6-n2-mstd0.5-inc1'  # measured with 64 to 546 clips on a small network
LONGER = 2.5  # times the updates, which the policy needs
LONG_CLIPS = 2_000  # from here on clips are so many that no policy was measured
SPAN = (0.7, 1.0)  # of a video: SIFAR's segments leave out its end, a third of 12 frames; measured to 3,008 clips
PATIENCE = 3600.0  # seconds of computing above which no policy is taken, and a hint is given; a guess, not measured
_GAIN = 1.15  # of a step in bfloat16, from which on it is taken: less is noise
_RATES = {'muon': 4e-3, 'adamw': 2e-3}  # of small models, at 32 clips per update
_GENTLE = {'muon': 4e-4, 'adamw': 1e-4}  # where the first weights know the classes: more makes them forget
_DIRECTION = re.compile(
    r'(?<![a-z])(left|right|up|down)(ward|wards|most)?(?![a-z])|clockwise|(?<![a-z])a?c?cw(?![a-z])', re.IGNORECASE)
_DRAWN = re.compile(
    r'(?<![a-z])(draw|drawing|draws|write|writes|writing|letter|digit|number|tick)(?![a-z])', re.IGNORECASE)


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
    facts = look(load_recipe(**given), given, try_steps=True)
    choices = choose(facts, options, few=name == 'few_clips' or None)
    lines = [f'{choice.topic}: {choice}' for choice in choices]
    chosen = {key: value for choice in choices for key, value in choice.options.items()}
    reasons = {choice.topic: str(choice) for choice in choices}
    return load_recipe(**{**given, **chosen, 'reasons': reasons}), lines


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
    how = 'the backbone stays frozen' if facts.frozen else 'all of it is trained'
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
    trains_convolutions = facts.convolutional and not facts.frozen
    reasons = []
    if given.get('sampling', 'uniform') == 'uniform':
        options['span'] = SPAN
        seen = 'each time another part of a clip is seen, also its end'
        reasons.append(seen if trains_convolutions else f'{seen}, which was measured on other networks')
    if _augments(facts, given):
        options |= {'aa': POLICY, 'mixup': 0.0, 'cutmix': 0.0}
        reasons.append('frames are changed by RandAugment, and training is longer, so that no clip is learned by heart')
    elif trains_convolutions and facts.clips >= MIXED_CLIPS:
        options |= {'mixup': 0.2, 'cutmix': 1.0, 'mixup_prob': 0.5}
        reasons.append('half of the batches are mixed, which keeps the network from learning the clips by heart')
    else:
        options |= {'mixup': 0.0, 'cutmix': 0.0}
        reasons.append('nothing is mixed, for few clips need no more noise')
    if _may_augment(facts, given) and _takes_too_long(facts, given):
        reasons.append(
            f'no RandAugment, which needs {LONGER:g} times the epochs: they would take '
            f'{_duration(_longer_seconds(facts, given))} on this machine')
    options |= {'smoothing': 0.05, 'drop_path': 0.0 if facts.convolutional or facts.frozen else 0.1}
    return Choice('clips', options, '; '.join([*reasons, _about_flip(facts)]))


def _many(facts: Facts) -> tuple[Choice, Choice]:
    """The defaults of `Recipe`, which are those of SIFAR, but for the flip."""
    return (
        Choice('updates', {}, "30 epochs of AdamW, SIFAR's recipe (Section 4.1)"),
        Choice('clips', _flip(facts), f'Mixup and CutMix as SIFAR has them; {_about_flip(facts)}'))


def _run(facts: Facts, few: bool, given: Mapping[str, Any]) -> Choice:
    mixed = _is_mixed(facts, given)
    options: dict[str, Any] = {'amp': mixed, 'channels_last': facts.convolutional}
    reason = f'{facts.device}, {"mixed" if mixed else "full"} precision'
    if facts.bfloat16 is not None:
        reason += f' (a step is {facts.bfloat16:.2f} times as fast in bfloat16, tried on this machine)'
    epochs = given.get('epochs') or (_epochs(facts, given) if few else Recipe.epochs)
    reason += _about_time(_seconds(facts, given, epochs))
    if not few:
        return Choice('run', options, f'{reason}; the best model on val is kept')
    if given.get('early_stopping') and facts.val_clips:
        return Choice('run', options, f'{reason}; the best model on val is kept, where the run stops early')
    options['keep'] = 'last'
    if facts.val_clips:
        options['val_interval'] = max(round(epochs / 4), 1)
        reason += f'; the last model is kept, for {facts.val_clips} clips are too few to choose on'
    return Choice('run', options, reason)


def _augments(facts: Facts, given: Mapping[str, Any]) -> bool:
    """Whether clips are changed by a policy and trained on for longer, so that no network learns them by heart."""
    return _may_augment(facts, given) and not _takes_too_long(facts, given)


def _may_augment(facts: Facts, given: Mapping[str, Any]) -> bool:
    refused = given.get('no_aug') or given.get('aa') in NO_POLICY
    return (
        facts.convolutional and not facts.frozen and not facts.known and facts.parameters <= LIGHT_MODEL
        and facts.clips < LONG_CLIPS and not facts.depth and not refused)


def _takes_too_long(facts: Facts, given: Mapping[str, Any]) -> bool:
    """Whether this machine has no time for the policy with its epochs. Who names a policy or epochs knows better."""
    if given.get('aa') or given.get('epochs'):
        return False
    return (_longer_seconds(facts, given) or 0) > PATIENCE


def _longer_seconds(facts: Facts, given: Mapping[str, Any]) -> float | None:
    return _seconds(facts, given, round(LONGER * _plain_epochs(facts)))


def _epochs(facts: Facts, given: Mapping[str, Any]) -> int:
    """Passes over the clips, 28 for 283; 70 with a policy."""
    epochs = _plain_epochs(facts)
    return round(LONGER * epochs if _augments(facts, given) else epochs)


def _plain_epochs(facts: Facts) -> float:
    """The fewer clips, the more passes over them, and yet fewer updates."""
    return min(max(28 * (283 / facts.clips) ** 0.5, 8), 80)


def _is_mixed(facts: Facts, given: Mapping[str, Any]) -> bool:
    """Whether the run computes in bfloat16 where that is safe."""
    if given.get('amp') is not None:
        return given['amp']
    return facts.device == 'cuda' or (facts.bfloat16 or 0) >= _GAIN


def _seconds(facts: Facts, given: Mapping[str, Any], epochs: int) -> float | None:
    """Of all training steps of a run, by the step that was tried; None without one in its precision."""
    mixed = _is_mixed(facts, given)
    if facts.seconds is None or (mixed and facts.bfloat16 is None):
        return None
    return epochs * facts.clips * facts.seconds / (facts.bfloat16 if mixed else 1)


def _about_time(seconds: float | None) -> str:
    """What is said of the time of a run, after other words."""
    if seconds is None:
        return ''
    text = f'; computing takes {_duration(seconds)} on this machine, where a step was tried, and reading comes on top'
    if seconds > PATIENCE:
        text += ' (a smaller --img-size, fewer --num-frames or fewer --epochs shorten that)'
    return text


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return 'about a minute' if minutes else 'less than a minute'
    return f'about {minutes} minutes' if minutes < 90 else f'about {minutes / 60:.1f} hours'


def _flip(facts: Facts) -> dict[str, Any]:
    return {'hflip': 0.5 if facts.flip and not directed_classes(facts.classes) else 0.0}


def _about_flip(facts: Facts) -> str:
    directed = directed_classes(facts.classes)
    if directed:
        return f'no mirroring: labels may have sides ({some(directed, 2)})'
    return 'mirrored clips keep their labels' if facts.flip else 'no mirroring in this data set'


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
