"""All options of a training run, in one flat list with timm's names, and presets in YAML files.

The options of `flatzoo train` are the fields of `Recipe`: one place for names, defaults and help. The defaults are the
recipe of SIFAR (Section 4.1 of the paper, and its official commands where the paper is silent). Three differences from
the official code are deliberate: tables of relative positions and the position embedding of frames get no weight decay,
the learning rate changes with every update (`sched_on_updates`), and short videos are kept.
"""
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flatzoo.console.text import printable, shortened
from flatzoo.data.fit import FITS

__all__ = ['NO_POLICY', 'RECIPES', 'Recipe', 'RecipeError', 'load_recipe', 'presets', 'read_config']

RECIPES = ('auto', 'few_clips', 'sifar')
"""What `flatzoo train --recipe` takes beside the names of presets, see `flatzoo.train.auto.fit_recipe`."""

TRACKERS = ('tensorboard', 'wandb', 'mlflow', 'trackio', 'none')
"""What `tracker` takes, see `flatzoo.train.trackers`."""

NO_POLICY = ('', 'none')
"""What `aa` takes for no policy, where a recipe would choose one."""

_PRESETS = Path(__file__).parent / 'presets'

# options that may differ between the parts of a run; the size of the global batch is compared in place of its factors
_FREE = {
    'output', 'resume', 'root', 'device', 'workers', 'validation_batch_size', 'recovery_interval', 'log_interval',
    'log_seconds', 'max_broken', 'batch_size', 'grad_accum_steps', 'grad_checkpointing', 'selective_checkpointing',
    'channels_last', 'reasons', 'test_split', 'tracker', 'tracker_project', 'early_stopping'}
_REMEDIES = {  # against a loss that is no number, and against a run that was too short
    'lr', 'warmup_epochs', 'clip_grad', 'clip_mode', 'amp', 'amp_dtype', 'epochs'}


class RecipeError(ValueError):
    """A recipe has an invalid option. The message names the option and the accepted values."""


def _option(default: Any, group: str, help: str, choices: Iterable[Any] = (), low: float | None = None,
            high: float | None = None) -> Any:
    return field(
        default=default, metadata=dict(group=group, help=help, choices=tuple(choices), low=low, high=high))


@dataclass(frozen=True)
class Recipe:
    """Options of a training run; `flatzoo train --help` explains each.

    Raises:
        RecipeError: An option has a value that is not accepted.
    """
    # what is trained on what
    spec: str = _option('auto', 'data', 'layout of the data set')
    root: str = _option('', 'data', 'folder of the data set')
    train_split: str = _option('train', 'data', 'split to train on')
    val_split: str = _option('val', 'data', "split to evaluate on after each epoch; 'none' for no evaluation")
    test_split: str | None = _option(
        None, 'data', 'split to test the finished run on: clips that are not trained on and choose no epoch')
    hold_out: str | None = _option(
        None, 'data', 'group, such as a person, to evaluate on; all other clips of both splits are trained on '
        "('flatzoo crossval' does so with each group in turn)")
    few_shot: int | None = _option(
        None, 'data', 'train on this many clips of each class, drawn by --seed (default: on all)', low=1)
    multi_label: bool | None = _option(
        None, 'data', "clips may have several classes, such as 'a|b' in a list: each class gets a score of its own "
        '(default: as the list has it)')
    balanced_sampling: float = _option(
        0.0, 'data', 'draw clips of rare classes more often: 1 all classes alike, 0.5 by the root of their clips, 0 '
        'each clip once an epoch', low=0, high=1)
    class_weights: str = _option(
        'none', 'data', "let rare classes count more in the loss, by timm's inv_freq, effective_num "
        '(arXiv:1901.05555), or neg_pos for clips of several classes', (
            'none', 'inv_freq', 'effective_num', 'neg_pos'))

    model: str = _option('', 'model', "name as in 'flatzoo list', FOLDER of a run or hf-hub:ORG/NAME")
    pretrained: bool = _option(False, 'model', 'start from the weights of the model')
    initial_checkpoint: str | None = _option(None, 'model', 'weight file to start from')
    num_frames: int | None = _option(None, 'model', "frames per clip (default: the model's)", low=1)
    img_size: int | None = _option(None, 'model', "size of a frame in pixels (default: the model's)", low=1)
    layout: str | None = _option(None, 'model', "layout of the super image (default: the model's)")
    drop: float | None = _option(None, 'model', 'dropout in front of the classifier', low=0, high=1)
    drop_path: float | None = _option(
        None, 'model', 'stochastic depth (default: 0.1 where the backbone has it)', low=0, high=1)
    model_kwargs: dict[str, Any] | None = _option(None, 'model', 'further arguments of the model')
    freeze_backbone: bool = _option(
        False, 'model', 'train only the classifier; adapter methods also train their adapters')
    grad_checkpointing: bool = _option(False, 'model', 'recompute activations in the backward pass, to save memory')
    selective_checkpointing: bool = _option(
        False, 'model', 'recompute all but matrix products: about half of the activations at about the same speed')
    channels_last: bool = _option(
        False, 'model', 'store channels last in memory, which makes convolutions on CPUs faster')
    torchcompile: str | None = _option(None, 'model', 'compile the model with this backend')

    # how a clip is cut out and changed
    sampling: str = _option('uniform', 'clips', 'frames over the whole video, or at a fixed step', (
        'uniform', 'dense'))
    stride: int | None = _option(None, 'clips', 'step between the frames of dense sampling', low=1)
    span: tuple[float, ...] | None = _option(
        None, 'clips', 'share of the video that a training clip of uniform sampling covers, LOW HIGH: a random part of '
        'it, at an equal step (default: whole segments of the video, as SIFAR has them)', low=0, high=1)
    num_clips: int | None = _option(
        None, 'clips', "clips per video in the protocol that is saved with the model (default: the model's)", low=1)
    num_crops: int | None = _option(None, 'clips', 'crops per clip in that protocol', (1, 3))
    fit: str = _option(
        'auto', 'clips', 'how frames of another aspect ratio become those of the model: crop cuts off, letterbox adds '
        'black bars, stretch distorts, auto looks at the clips and chooses between the first two; it stands in the '
        'protocol that is saved (presets and older runs: crop)', ('auto', *FITS))
    scale: tuple[float, ...] | None = _option(
        None, 'clips', 'area of a random resized crop, LOW HIGH (default: the multi-scale crop of SIFAR)', low=0,
        high=1)
    ratio: tuple[float, ...] = _option((3 / 4, 4 / 3), 'clips', 'aspect ratio of a random resized crop', low=0)
    hflip: float | None = _option(
        None, 'clips', 'share of mirrored clips (default: 0.5, and 0 where labels have sides)', low=0, high=1)
    hflip_swap: bool = _option(
        False, 'clips', 'give mirrored clips the label of the class that has left and right exchanged in its name')
    no_aug: bool = _option(False, 'clips', 'centre crops in place of random crops, flips, --aa and --reprob')
    aa: str | None = _option(None, 'clips', "augmentation policy of timm such as 'rand-m7-n4-mstd0.5-inc1', or none")
    reprob: float = _option(0.0, 'clips', 'share of clips with a rectangle erased', low=0, high=1)
    remode: str = _option('pixel', 'clips', 'what the rectangle is filled with', ('const', 'rand', 'pixel'))
    recount: int = _option(1, 'clips', 'most rectangles per clip', low=1)

    mixup: float = _option(0.8, 'mixing', 'alpha of Mixup, 0 for none', low=0)
    cutmix: float = _option(1.0, 'mixing', 'alpha of CutMix, 0 for none', low=0)
    mixup_prob: float = _option(1.0, 'mixing', 'share of batches that are mixed', low=0, high=1)
    mixup_switch_prob: float = _option(0.5, 'mixing', 'share of CutMix where both are on', low=0, high=1)
    mixup_mode: str = _option('batch', 'mixing', 'mix alike in a batch, pair or element', ('batch', 'pair', 'elem'))
    mixup_off_epoch: int = _option(0, 'mixing', 'epochs after which nothing is mixed any more, 0 for never', low=0)
    smoothing: float = _option(0.1, 'mixing', 'label smoothing', low=0, high=1)

    epochs: int = _option(30, 'optimisation', 'passes over the data', low=1)
    batch_size: int = _option(8, 'optimisation', 'clips per process and step', low=1)
    grad_accum_steps: int = _option(1, 'optimisation', 'steps per update', low=1)
    opt: str = _option('adamw', 'optimisation', 'optimizer of timm')
    lr: float = _option(1e-4, 'optimisation', 'learning rate, not scaled by the batch size', low=0)
    weight_decay: float = _option(0.05, 'optimisation', 'weight decay; biases and norms get none', low=0)
    opt_eps: float | None = _option(None, 'optimisation', "epsilon of the optimizer (default: the optimizer's)", low=0)
    opt_betas: tuple[float, ...] | None = _option(None, 'optimisation', 'betas of the optimizer', low=0, high=1)
    momentum: float = _option(0.9, 'optimisation', 'momentum of optimizers that have it', low=0)
    backbone_lr_scale: float = _option(
        1.0, 'optimisation', 'factor of the learning rate of all but the classifier, adapters included', low=0)
    layer_decay: float | None = _option(
        None, 'optimisation', 'factor of the learning rate from each layer to the one before', low=0, high=1)
    clip_grad: float | None = _option(None, 'optimisation', 'clip gradients at this', low=0)
    clip_mode: str = _option('norm', 'optimisation', 'what is clipped', ('norm', 'value', 'agc'))
    sched: str = _option('cosine', 'optimisation', 'schedule of the learning rate', (
        'cosine', 'tanh', 'step', 'multistep', 'poly', 'wsd', 'rsqrt', 'constant', 'none'))
    sched_on_updates: bool = _option(True, 'optimisation', 'schedule by updates, not by epochs')
    warmup_epochs: float | None = _option(
        None, 'optimisation', 'epochs of linear warm-up (default: a sixth of all epochs, 5 of 30)', low=0)
    warmup_lr: float = _option(1e-6, 'optimisation', 'learning rate at the start of the warm-up', low=0)
    min_lr: float = _option(1e-5, 'optimisation', 'learning rate at the end', low=0)
    decay_epochs: float | None = _option(None, 'optimisation', "epochs between the steps of --sched step", low=0)
    decay_rate: float = _option(0.1, 'optimisation', 'factor of such a step', low=0)
    decay_milestones: tuple[int, ...] = _option((10, 20), 'optimisation', 'epochs of the steps of --sched multistep')
    model_ema: bool = _option(False, 'optimisation', 'evaluate and save a moving average of the weights')
    model_ema_decay: float = _option(0.9999, 'optimisation', 'its decay', low=0, high=1)
    model_ema_warmup: bool = _option(False, 'optimisation', 'let the decay grow at the start')
    amp: bool = _option(False, 'optimisation', 'mixed precision')
    amp_dtype: str = _option('bfloat16', 'optimisation', 'its lower precision', ('bfloat16', 'float16'))

    kd_model_name: str | None = _option(None, 'distillation', 'teacher, named as a model is; its weights are loaded')
    kd_checkpoint: str | None = _option(None, 'distillation', 'weight file of the teacher')
    kd_distill_type: str = _option('logit', 'distillation', 'what is matched', ('logit', 'feature'))
    kd_temperature: float = _option(1.0, 'distillation', 'temperature of the logits', low=0)
    distill_loss_weight: float | None = _option(None, 'distillation', 'weight of the distillation loss', low=0)
    task_loss_weight: float | None = _option(None, 'distillation', 'weight of the classification loss', low=0)

    output: str | None = _option(None, 'run', 'folder of the run (default: runs/MODEL)')
    val_interval: int = _option(1, 'run', 'epochs between two evaluations; the last epoch always has one', low=1)
    keep: str = _option(
        'best', 'run', "model that is kept: 'best' on --val-split, which chooses on it, or 'last', which chooses "
        'nothing', ('best', 'last'))
    early_stopping: int = _option(
        0, 'run', 'stop after so many epochs without a better evaluation; 0 for never', low=0)
    average_epochs: int = _option(
        0, 'run', 'save the mean of the weights of so many epochs: the best ones, or with --keep last the last ones; '
        '0 for none', low=0)
    tracker: tuple[str, ...] | None = _option(
        None, 'run', 'where the curves go, one or several (default: tensorboard if it is installed)', TRACKERS)
    tracker_project: str = _option('flatzoo', 'run', 'project or experiment of wandb, mlflow and trackio')
    resume: str | None = _option(
        None, 'run', "'auto' continues the run in --output if there is one; with more --epochs also a finished one",
        ('auto',))
    seed: int = _option(42, 'run', 'seed of all that is random', low=0)
    device: str = _option('auto', 'run', "'auto' (CUDA if there is one), or a torch device")
    workers: int | None = _option(
        None, 'run', 'processes that decode, per process that trains (default: one for each core there is)', low=0)
    cache_gb: float = _option(
        1.0, 'run', 'GB of memory for the decoded clips, if all fit in: they are then decoded once. 0 for none', low=0)
    validation_batch_size: int | None = _option(
        None, 'run', 'clips per process and step of the evaluation (default: --batch-size)', low=1)
    fsdp: bool = _option(False, 'run', 'shard parameters over the processes (FSDP2) in place of copying them (DDP)')
    recovery_interval: int = _option(0, 'run', 'updates between checkpoints; 0 for one after each epoch', low=0)
    log_interval: int = _option(10, 'run', 'updates between two checks of the loss', low=1)
    log_seconds: float = _option(
        10, 'run', 'least seconds between log lines where standard error is not a terminal', low=0)
    max_broken: float = _option(
        0.01, 'run', 'share of clips that may be unreadable before the run stops', low=0, high=1)
    reasons: dict[str, Any] | None = _option(None, 'run', "what '--recipe auto' chose, and why; changes nothing")

    def __post_init__(self):
        for option in dataclasses.fields(self):
            object.__setattr__(self, option.name, _checked(option, getattr(self, option.name)))
        for name in ('span', 'scale', 'ratio', 'opt_betas'):
            value = getattr(self, name)
            if value is not None and (len(value) != 2 or value[0] > value[1]):
                raise RecipeError(f'{name} takes two numbers, the lower one first, got {value}')
        if self.sampling == 'dense' and self.stride is None:
            raise RecipeError('sampling dense needs a stride')
        if self.span is not None and (self.sampling == 'dense' or self.span[0] == 0):
            raise RecipeError(f'span takes shares above 0, of uniform sampling, got {self.span} of {self.sampling}')
        if self.warmup_epochs is not None and self.warmup_epochs >= self.epochs:
            raise RecipeError(f'warmup_epochs ({self.warmup_epochs:g}) must be fewer than epochs ({self.epochs})')
        if self.fsdp and (self.model_ema or self.kd_model_name):
            raise RecipeError('fsdp does not go with model_ema or distillation; leave one of them out')
        if self.early_stopping and self.val_split == 'none' and self.hold_out is None:
            raise RecipeError('early_stopping needs an evaluation; leave val_split none out')
        if self.hold_out is not None and self.test_split is not None:
            raise RecipeError('hold_out evaluates on a group of the clips of both splits; leave test_split out')
        if self.kd_checkpoint and not self.kd_model_name:
            raise RecipeError('kd_checkpoint needs kd_model_name, the model that the weights are of')

    @property
    def policy(self) -> str | None:
        """The augmentation policy, None for none."""
        return None if self.no_aug or self.aa in NO_POLICY else self.aa

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed."""
        return self.mixup_prob > 0 and (self.mixup > 0 or self.cutmix > 0)

    @property
    def warmup(self) -> float:
        """Epochs of warm-up."""
        return self.epochs / 6 if self.warmup_epochs is None else self.warmup_epochs

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return Path(self.output or Path('runs', self.model.rpartition(':')[2].strip('/').replace('/', '--')))

    def changes(self, former: dict[str, Any]) -> tuple[list[str], list[str]]:
        """What differs from the recipe of the run that is to go on.

        Args:
            former: That recipe, `to_dict`.

        Returns:
            A line for each option that may not change, and for each that may, but makes it another run.
        """
        now = self.to_dict()
        lines = {
            name: f'{name} {now[name]} (was {value})' for name, value in former.items()
            if name in now and name not in _FREE and value != now[name]}
        return ([line for name, line in lines.items() if name not in _REMEDIES],
                [line for name, line in lines.items() if name in _REMEDIES])

    def to_dict(self) -> dict[str, Any]:
        """The options as a dictionary that YAML, JSON and a checkpoint can hold."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def to_yaml(self) -> str:
        """The options as the text of a file that `load_recipe` reads."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def presets() -> list[str]:
    """Names of the presets that come with flatzoo."""
    return sorted(path.stem for path in _PRESETS.glob('*.yaml'))


def read_config(name: str) -> dict[str, Any]:
    """The options that a preset or a YAML file sets.

    Args:
        name: Name of a preset, or path of a file, such as the `args.yaml` of a run.

    Raises:
        RecipeError: There is no such preset or file, the file is not YAML, or it sets an unknown option.
    """
    path = Path(name)
    if path.suffix not in ('.yaml', '.yml'):
        path = _PRESETS / f'{name}.yaml'
        if name not in presets():
            near = ', '.join(difflib.get_close_matches(name, presets(), n=3)) or ', '.join(presets())
            raise RecipeError(f'there is no preset {name!r}; there are {near}. Or give a file FILE.yaml.')
    try:
        values = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise RecipeError(f'{path} cannot be read: {error.strerror}') from None
    except RecursionError:
        raise RecipeError(f'{path} is not a YAML file of options: it is too deeply nested') from None
    except (ValueError, yaml.YAMLError) as error:
        raise RecipeError(f'{path} is not a YAML file: {printable(" ".join(str(error).split()), 300)}') from None
    if not isinstance(values, dict):
        raise RecipeError(f'{path} must hold lines of the form OPTION: VALUE')
    known = [option.name for option in dataclasses.fields(Recipe)]
    texts = {key: key[:100] if isinstance(key, str) else shortened(key) for key in values}  # YAML allows any key
    values = {texts[key].replace('-', '_'): value for key, value in values.items()}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3)
            raise RecipeError(f'{path}: there is no option {key!r}' + (f'; similar: {", ".join(near)}' if near else ''))
    return {'fit': 'crop', **values}  # papers crop, and so did runs before there was a choice


def load_recipe(config: str | None = None, **options: Any) -> Recipe:
    """Loads a recipe from a preset or file. The given options override it.

        load_recipe('sifar_k400', root='kinetics400/', batch_size=12)

    Raises:
        RecipeError: See `read_config` and `Recipe`.
    """
    unknown = sorted(options.keys() - {option.name for option in dataclasses.fields(Recipe)})
    if unknown:
        raise RecipeError(f'there is no option {", ".join(map(repr, unknown))}')
    return Recipe(**{**(read_config(config) if config else {}), **options})


@functools.cache
def _type_hints() -> dict[str, Any]:
    return typing.get_type_hints(Recipe)  # a millisecond, which a command line of 90 options pays 90 times


def option_type(option: dataclasses.Field) -> tuple[type, bool, bool]:
    """The type of an option's values, whether it accepts several, and whether it accepts None."""
    hint = _type_hints()[option.name]
    optional = isinstance(hint, types.UnionType)
    if optional:
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    several = typing.get_origin(hint) is tuple
    if several:
        hint = typing.get_args(hint)[0]
    return typing.get_origin(hint) or hint, several, optional


def _checked(option: dataclasses.Field, value: Any) -> Any:
    """The value, converted to its type. YAML reads `1e-4` as text, and an int is accepted for a float."""
    kind, several, optional = option_type(option)
    if value is None and optional:
        return None
    values = list(value) if several and isinstance(value, (list, tuple)) else [value]
    try:
        values = [_converted(kind, one) for one in values]
    except (TypeError, ValueError):
        what = f'numbers ({kind.__name__})' if several else {dict: 'NAME=VALUE pairs'}.get(kind, kind.__name__)
        raise RecipeError(f'{option.name} takes {what}, got {shortened(value)}') from None
    low, high, choices = (option.metadata[key] for key in ('low', 'high', 'choices'))
    for one in values:
        if choices and one not in choices:
            raise RecipeError(f'{option.name} takes one of {", ".join(map(str, choices))}, got {shortened(one)}')
        if (low is not None and not one >= low) or (high is not None and not one <= high):  # not: NaN is refused
            bounds = f'at least {low}' if high is None else f'{low} to {high}'
            raise RecipeError(f'{option.name} takes {bounds}, got {shortened(one)}')
    return tuple(values) if several else values[0]


def _converted(kind: type, value: Any) -> Any:
    if kind in (bool, dict):
        if not isinstance(value, kind):
            raise TypeError
        return value
    if isinstance(value, (bool, dict, list, tuple)) or value is None:
        raise TypeError
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError
    return kind(value)
