"""Builds the parts of the loop from a recipe: lists of clips, model, task, optimizer and schedule. Most are timm's."""
import dataclasses
import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from timm.models import parse_model_name
from timm.optim import create_optimizer_v2, muon
from timm.scheduler import create_scheduler_v2
from timm.task import (
    ClassificationTask,
    FeatureDistillationTask,
    LogitDistillationTask,
    MultiLabelClassificationTask,
    TrainingTask,
)
from timm.task.distillation import DistillationTeacher
from torch import Tensor, nn

from flatzoo.data.clips import ClipDataset
from flatzoo.data.fit import Fit
from flatzoo.data.groups import GROUPS_FILE
from flatzoo.data.lists import DataError, VideoList, mirrored_labels, read_videos, same_name, sided_classes, some
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.survey import ClipFacts, centre_crop_loss, median
from flatzoo.data.temporal import TemporalContract, learn_contract
from flatzoo.models import VideoModel, class_names, eval_protocol
from flatzoo.models.adapter_model import AdapterModel
from flatzoo.models.base import channel_stats
from flatzoo.runtime.conv import check_convolutions

from .augment import AutoAugment, ClipErasing, train_crop
from .balance import criterion_of, few_shot, one_or_several
from .head import keep_rows, known_rows
from .mixing import ClipMixup
from .recipe import Recipe

__all__ = [
    'build_model', 'build_optimizer', 'build_schedule', 'build_task', 'choose_fit', 'freeze', 'list_digests',
    'mixing_of', 'normalised', 'order_channels_last', 'protocol_of', 'read_lists', 'temporal_of', 'train_clips',
    'validation_protocol',
]


def read_lists(recipe: Recipe) -> tuple[VideoList, VideoList | None]:
    """Reads the clips to train on and the clips to evaluate on (if any), with the same classes.

    Raises:
        DataError: The data set is not laid out as the recipe says, or an evaluation clip has a class without training
            clips.
    """
    train, val = one_or_several(recipe, _read_splits(recipe))
    return train if recipe.few_shot is None else few_shot(train, recipe.few_shot, recipe.seed), val


def _read_splits(recipe: Recipe) -> tuple[VideoList, VideoList | None]:
    train = read_videos(recipe.spec, recipe.root, recipe.train_split)
    if recipe.hold_out is not None:
        return _without_group(recipe, train)
    if recipe.val_split == 'none':
        return train, None
    val = read_videos(recipe.spec, recipe.root, recipe.val_split)
    if val.classes == train.classes:
        return train, val
    try:
        return train, val.with_classes(train.classes)
    except DataError as error:
        raise DataError(
            f'the classes of {val.split} are not those of {train.split}; name them alike. {error}'
        ) from None


def _without_group(recipe: Recipe, train: VideoList) -> tuple[VideoList, VideoList]:
    """All clips of both splits but those of a group, and those of the group."""
    pool = list(train.clips)
    if recipe.val_split not in ('none', recipe.train_split):
        pool += read_videos(recipe.spec, recipe.root, recipe.val_split).with_classes(train.classes).clips
    groups = sorted({clip.group for clip in pool} - {''})
    if recipe.hold_out not in groups:
        known = f'the groups are {some(groups, 10)}' if groups else (
            f'no clip of {train.name} has a group. Write {GROUPS_FILE} with the columns path and group')
        raise DataError(f'hold_out {recipe.hold_out}: there is no such group; {known}.')
    held_out = tuple(clip for clip in pool if clip.group == recipe.hold_out)
    others = tuple(clip for clip in pool if clip.group != recipe.hold_out)
    if not others:
        raise DataError(f'hold_out {recipe.hold_out}: all clips are of this group; nothing is left to train on.')
    return (dataclasses.replace(train, clips=others, split=f'all but {recipe.hold_out}'),
            dataclasses.replace(train, clips=held_out, split=recipe.hold_out))


def list_digests(recipe: Recipe, train: VideoList, val: VideoList | None) -> dict[str, str]:
    """A digest of each list: clips, labels and order. It stays the same when the data set is moved."""
    root = recipe.root if '://' in recipe.root else os.path.abspath(recipe.root)
    digests = {}
    for split, videos in ((recipe.train_split, train), (recipe.val_split, val)):
        if videos is None:
            continue
        digest = hashlib.sha256()
        for clip in videos.clips:
            path = clip.path if '://' in clip.path else os.path.abspath(clip.path)
            path = path.removeprefix(root).replace(os.sep, '/')
            label = clip.all_labels if videos.multi_label else clip.label
            place = path, clip.member and clip.member[0], clip.start, clip.end, clip.unit, label
            digest.update(f'{place}\n'.encode(errors='surrogateescape'))
        digests[split] = digest.hexdigest()
    return digests


def build_model(recipe: Recipe, videos: VideoList, pretrained: bool | None = None) -> VideoModel:
    """Builds the video model of a recipe, with a classifier for the classes of a list.

    Args:
        recipe: The recipe.
        videos: The list.
        pretrained: False gives random weights, even if the recipe asks for pretrained ones.

    Raises:
        ValueError: There is no such model, or it does not accept the arguments.
    """
    if not recipe.model:
        raise ValueError("name the model, with --model or a --config that does; 'flatzoo list' shows all")
    source, _ = parse_model_name(recipe.model)
    options: dict[str, Any] = dict(recipe.model_kwargs or {})
    options |= {
        'num_classes': len(videos.classes), 'in_chans': videos.in_chans, 'num_frames': recipe.num_frames,
        'img_size': recipe.img_size, 'layout': recipe.layout, 'drop_rate': recipe.drop}
    options = {name: value for name, value in options.items() if value is not None}
    # a saved model without its weights would be another one, unasked
    options['pretrained'] = bool(recipe.pretrained or source or recipe.initial_checkpoint)
    if recipe.initial_checkpoint:
        options['pretrained_cfg_overlay'] = dict(file=recipe.initial_checkpoint)
    if pretrained is False:
        options = dict(options, pretrained=False, pretrained_cfg_overlay=None)
    rows = known_rows(recipe, videos) if options['pretrained'] and videos.named else None
    if rows:
        options['num_classes'] = len(class_names(recipe.model))
    try:
        model = timm.create_model(
            recipe.model, drop_path_rate=0.1 if recipe.drop_path is None else recipe.drop_path, **options)
    except TypeError as error:  # a backbone without stochastic depth
        if recipe.drop_path or 'drop_path_rate' not in str(error):
            raise
        model = timm.create_model(recipe.model, **options)
    if not isinstance(model, VideoModel):
        raise ValueError(f"{recipe.model} is an image model. 'flatzoo list' shows the video models.")
    if rows:
        keep_rows(model, rows, videos.classes)
    elif rows is not None and model.head_trained:  # for as many classes, but others
        model.reset_classifier(len(videos.classes))
    model.multi_label = videos.multi_label
    if recipe.amp:
        check_convolutions(model)
    return model


def freeze(model: VideoModel) -> None:
    """Freezes the backbone. The classifier is trained, and adapters if the model has some.

    Raises:
        ValueError: The model has no classifier.
    """
    if isinstance(model, AdapterModel):
        model.freeze_backbone()
        return
    trained = model.classifier_keys()
    if not trained:
        raise ValueError('freeze_backbone leaves nothing to train: this model has no classifier of its own')
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def set_recomputing(model: VideoModel, recipe: Recipe) -> None:
    """Switches on the recomputation of activations that the recipe asks for.

    Raises:
        ValueError: The model cannot recompute, or the recipe asks for two ways at once.
    """
    if recipe.grad_checkpointing and recipe.selective_checkpointing:
        raise ValueError('grad_checkpointing and selective_checkpointing are two ways: choose one')
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing(True)
    if recipe.selective_checkpointing:
        model.set_grad_checkpointing(True, selective=True)


def order_channels_last(model: nn.Module) -> None:
    """Stores the weights of 2D convolutions with their channels last, which makes the convolutions compute so."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def protocol_of(recipe: Recipe, model: VideoModel) -> EvalProtocol:
    """The protocol for the trained model: that of its weights, changed where the recipe says so."""
    own = eval_protocol(model)
    changes = {'num_clips': recipe.num_clips, 'num_crops': recipe.num_crops}
    shown = validation_protocol(recipe)
    changes = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(own, sampling=shown.sampling, stride=shown.stride, fit=shown.fit, **changes)


def validation_protocol(recipe: Recipe) -> EvalProtocol:
    """The protocol of the evaluation after each epoch: one clip and its centre, as in the official code of SIFAR."""
    return EvalProtocol(
        sampling=recipe.sampling, stride=recipe.stride if recipe.sampling == 'dense' else None, fit=_fit_of(recipe))


def temporal_of(recipe: Recipe, model: VideoModel, videos: VideoList) -> TemporalContract | None:
    """The length of the clips that a model is trained on, which is kept with it."""
    return learn_contract(videos, model.num_frames, recipe.stride if recipe.sampling == 'dense' else None)


# Between what was measured: stretched frames were no better than a crop that lost 0.25 (4:3), and black bars far better
# than one that lost 0.31 (benchmarks/results/recipe_findings.md).
MAX_CROP_LOSS = 0.28


def choose_fit(facts: Sequence[ClipFacts], img_size: tuple[int, int]) -> tuple[Fit, str]:
    """What `fit='auto'` stands for, by the aspect ratios of clips, and why.

    The centre crop is taken as long as it keeps most of the middle one of the clips; else whole frames with black bars.

    Args:
        facts: What some of the clips are like, see `flatzoo.data.survey.survey`.
        img_size: Height and width of the model's frames.
    """
    if not facts:
        return 'crop', 'none of the clips that were looked at can be read'
    losses = [centre_crop_loss(one.height, one.width, img_size) for one in facts]
    loss = median(losses)
    one = facts[losses.index(loss)]
    share, middle = f'{100 * loss:.0f} % of the longer side', f'the middle clip ({one.width}x{one.height})'
    if loss <= 0.01:
        return 'crop', f'a centre crop loses next to nothing of {middle}'
    if loss > MAX_CROP_LOSS:
        return 'letterbox', f'a centre crop would lose {share} of {middle}; --fit crop takes it all the same'
    return 'crop', f'a centre crop loses {share} of {middle}; --fit letterbox keeps all'


def _fit_of(recipe: Recipe) -> Fit:
    return 'crop' if recipe.fit == 'auto' else recipe.fit  # auto: not chosen yet


def train_clips(recipe: Recipe, videos: VideoList, model: VideoModel, **cache: Any) -> ClipDataset:
    """The data set to train on.

    Args:
        recipe: The recipe.
        videos: The list.
        model: The model.
        **cache: `shrink` and `cache` of the data set.

    Raises:
        ValueError: An augmentation is unknown or does not fit the data.
    """
    flip = recipe.hflip if recipe.hflip is not None else 0.5 if videos.flip else 0.0
    transform = None
    if recipe.policy:
        if videos.in_chans != 3:
            raise ValueError(f'aa {recipe.policy} changes colours, and depth maps have none; leave it out')
        transform = AutoAugment(recipe.policy, model.img_size, model.pretrained_cfg.get('mean', (0.5, 0.5, 0.5)))
    swaps: dict[str, Any] = {}
    if recipe.hflip_swap and flip and not recipe.no_aug:
        swaps, flip = dict(mirror=flip, mirrored_labels=_swapped_labels(videos)), 0.0
    if flip and not videos.flip:
        warnings.warn(f'hflip {flip:g} mirrors clips of {videos.name} though: {videos.note}', stacklevel=2)
    return ClipDataset(
        videos, model.num_frames, model.img_size, train=True, transform=transform, sampling=recipe.sampling,
        stride=recipe.stride, seed=recipe.seed, span=recipe.span,
        crop=train_crop(model.img_size, flip, recipe.scale, recipe.ratio, recipe.no_aug, _fit_of(recipe)),
        **swaps, **cache)


def _swapped_labels(videos: VideoList) -> list[int]:
    """Labels of mirrored clips. Warns about classes that name a side and have no counterpart: they keep their label."""
    if not videos.named:
        raise ValueError(
            f'hflip_swap goes by the names of the classes, and {videos.name} has none; use hflip without it')
    labels = mirrored_labels(videos.classes)
    if alone := [name for name in sided_classes(videos.classes) if labels[videos.classes.index(name)] ==
                 videos.classes.index(name)]:
        warnings.warn(
            f'hflip_swap: mirrored clips of these classes keep their label, because no class names their other side: '
            f'{some(alone)}', stacklevel=3)
    return labels


def normalised(model: VideoModel, clips: Tensor) -> Tensor:
    """Normalises uint8 clips `[B, C, T, H, W]` as the model does, for augmentations that need normalised clips."""
    images = model.super_image
    if clips.dtype != torch.uint8 or not images.normalizes:
        return clips.float() if clips.dtype == torch.uint8 else clips
    return clips.to(images.norm_scale.dtype).mul_(images.norm_scale[:, None]).add_(images.norm_shift[:, None])


def mixing_of(
        recipe: Recipe, videos: VideoList, device: torch.device) -> tuple[ClipMixup | None, ClipErasing | None]:
    """The augmentations of normalised batches: mixing and erasing. Each is None if it is off."""
    mixup = erasing = None
    if recipe.mixes:
        mixup = ClipMixup(
            mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, prob=recipe.mixup_prob,
            switch_prob=recipe.mixup_switch_prob, mode=recipe.mixup_mode, label_smoothing=recipe.smoothing,
            num_classes=len(videos.classes), multi_label=videos.multi_label)
    if recipe.reprob and not recipe.no_aug:
        erasing = ClipErasing(recipe.reprob, recipe.remode, recipe.recount, device)
    return mixup, erasing


class _ClipTeacher(DistillationTeacher):
    """timm's teacher for clips: its channel statistics apply to dimension C of `[B, C, T, H, W]`."""

    def __init__(self, teacher: VideoModel, student: VideoModel):
        super().__init__(teacher)
        for name, model in (('own', teacher), ('student', student)):
            mean, std = (torch.tensor(stats)[:, None, None, None] for stats in _stats(model))  # [C, 1, 1, 1]
            self.register_buffer(f'{name}_mean', mean, persistent=False)
            self.register_buffer(f'{name}_std', std, persistent=False)

    def normalize_input(self, input: Tensor, *_: Tensor) -> Tensor:
        """Converts clips from the student's normalisation to the teacher's. Uint8 clips stay as they are."""
        if input.dtype == torch.uint8:
            return input
        return (input * self.student_std + self.student_mean - self.own_mean) / self.own_std


def _stats(model: VideoModel) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return channel_stats(model.pretrained_cfg, model.in_chans)


def build_task(recipe: Recipe, model: VideoModel, videos: VideoList, device: torch.device) -> TrainingTask:
    """Builds what timm calls a task: model and loss, and a teacher if the recipe names one.

    Raises:
        ValueError: The teacher does not fit the model or the data.
    """
    criterion = criterion_of(recipe, videos)
    if not recipe.kd_model_name:
        task = MultiLabelClassificationTask if videos.multi_label else ClassificationTask
        return task(model, device=device, verbose=False, **criterion)
    if videos.multi_label:
        raise ValueError(f'{videos.name} has clips of several classes, and teachers answer with one; leave it out.')
    teacher = _teacher(recipe, model, videos).to(device)
    make: Callable[..., TrainingTask] = FeatureDistillationTask
    if recipe.kd_distill_type == 'logit':
        make = functools.partial(LogitDistillationTask, temperature=recipe.kd_temperature)
    return make(
        model, teacher, **criterion, distill_loss_weight=recipe.distill_loss_weight,
        task_loss_weight=recipe.task_loss_weight, device=device, verbose=False)


def _teacher(recipe: Recipe, model: VideoModel, videos: VideoList) -> DistillationTeacher:
    name = recipe.kd_model_name
    options: dict[str, Any] = {}
    if recipe.kd_checkpoint:
        options = dict(
            num_classes=len(videos.classes), pretrained_cfg_overlay=dict(file=recipe.kd_checkpoint, label_names=None))
    teacher = timm.create_model(name, pretrained=True, **options)
    if not isinstance(teacher, VideoModel):
        raise ValueError(f'the teacher {name} is an image model; it must take clips, as the models of flatzoo do')
    own = (teacher.num_classes, teacher.num_frames, teacher.in_chans)
    wanted = (len(videos.classes), model.num_frames, model.in_chans)
    if own != wanted or not teacher.head_trained:
        raise ValueError(
            f'the teacher {name} has {own[0]} classes, {own[1]} frames and {own[2]} channels'
            f'{"" if teacher.head_trained else " and no trained classifier"}; the model learns {wanted[0]} classes '
            f'from {wanted[1]} frames of {wanted[2]} channels. They must agree.')
    labels = teacher.pretrained_cfg.get('label_names')
    if labels is not None and videos.named and tuple(map(same_name, labels)) != videos.classes:
        raise ValueError(f'the teacher {name} knows other classes than {videos.name}, or in another order')
    if recipe.amp:
        check_convolutions(teacher)
    return _ClipTeacher(teacher.requires_grad_(False), model)


def build_optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """Builds timm's optimizer for all parameters that are not frozen.

    Raises:
        ValueError: timm does not know the optimizer.
    """
    options: dict[str, Any] = {}
    if recipe.opt_eps is not None:
        options['eps'] = recipe.opt_eps
    if recipe.opt_betas is not None:
        options['betas'] = recipe.opt_betas
    optimizer = create_optimizer_v2(
        model, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum,
        layer_decay=recipe.layer_decay, **options)
    if recipe.backbone_lr_scale != 1:
        _scale_below_classifier(optimizer, model, recipe.backbone_lr_scale)
    if recipe.sched == 'none':  # timm's schedules scale rates, and nobody else
        for group in optimizer.param_groups:
            group['lr'] = recipe.lr * group.get('lr_scale', 1.0)
    if 'muon' in recipe.opt.lower() and next(model.parameters()).device.type == 'cpu':
        _orthogonalise_in_float32(optimizer)
    return optimizer


def _orthogonalise_in_float32(optimizer: torch.optim.Optimizer) -> None:
    """Lets timm's Muon compute in float32. Its bfloat16 is many times slower on CPUs without such instructions.

    timm passes no dtype to its Newton-Schulz iteration, so the function is exchanged while the optimizer steps.
    """
    iterate = muon.zeropower_via_newtonschulz

    def in_float32(*args: Any, **kwargs: Any) -> Tensor:
        return iterate(*args, **{**kwargs, 'dtype': torch.float32})

    optimizer.register_step_pre_hook(lambda *_: setattr(muon, 'zeropower_via_newtonschulz', in_float32))
    optimizer.register_step_post_hook(lambda *_: setattr(muon, 'zeropower_via_newtonschulz', iterate))


def _scale_below_classifier(optimizer: torch.optim.Optimizer, model: nn.Module, factor: float) -> None:
    """Splits each group of parameters in two: those of the classifier keep their rate."""
    videos = next(module for module in model.modules() if isinstance(module, VideoModel))  # perhaps below distillation
    names = videos.classifier_keys()
    heads = {id(parameter) for name, parameter in videos.named_parameters() if name in names}
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        for in_head in (False, True):
            chosen = [parameter for parameter in group['params'] if (id(parameter) in heads) == in_head]
            scale = group.get('lr_scale', 1.0) * (1.0 if in_head else factor)
            if chosen:
                optimizer.add_param_group({**group, 'params': chosen, 'lr_scale': scale})


def build_schedule(
        recipe: Recipe, optimizer: torch.optim.Optimizer, updates_per_epoch: int) -> Callable[[int, int], None]:
    """A function of (epoch, update) that sets the learning rate of an update. It has no state."""
    schedule, _ = create_scheduler_v2(
        optimizer, sched=recipe.sched, num_epochs=recipe.epochs, warmup_epochs=recipe.warmup,
        warmup_lr=recipe.warmup_lr, min_lr=recipe.min_lr, decay_epochs=recipe.decay_epochs,
        decay_rate=recipe.decay_rate, decay_milestones=list(recipe.decay_milestones),
        step_on_epochs=not recipe.sched_on_updates, updates_per_epoch=updates_per_epoch)

    def set_rate(epoch: int, update: int) -> None:
        if schedule is not None and recipe.sched_on_updates:
            schedule.step_update(update)
        elif schedule is not None:
            schedule.step(epoch)

    return set_rate
