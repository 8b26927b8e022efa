"""The training loop, on one device or in many processes. A run can be killed at any moment and resumed without a trace.

No random state is carried from step to step. The order of the clips follows from (seed, epoch). The content of a clip
follows from (seed, epoch, index). Before each step all generators are set from (seed, step, process). A checkpoint
therefore holds only weights, the optimizer's moments and a count of updates. With the same versions on the same device
a resumed run ends with the same bits as an uninterrupted run.
"""
import contextlib
import dataclasses
import functools
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from timm.utils import dispatch_clip_grad
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from flatzoo.console.progress import LogLines
from flatzoo.data.clips import collate_clips
from flatzoo.data.lists import some
from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.survey import survey
from flatzoo.data.temporal import TemporalContract
from flatzoo.data.workers import default_workers
from flatzoo.evaluation.evaluate import evaluate
from flatzoo.models import VideoModel

from . import build, checkpoint as files
from .averaging import EpochWeights
from .balance import clip_weights, hits
from .cached import make_caches
from .distributed import GlobalBatches, Processes, load_state, parallelise, seed_all, state_of, whole_state
from .ends import Interruption, TrainingInterrupted, TrainingStopped, clear_ends, leave_interrupts
from .recipe import Recipe
from .results import conclude, eval_columns, eval_row, is_over, read_test_list
from .start import report_start
from .trackers import check_trackers, open_trackers
from .trial import about_wrong_convolutions

__all__ = ['Trainer', 'TrainingInterrupted', 'TrainingStopped', 'train']


def train(recipe: Recipe, report: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Trains a model from a recipe.

    The folder of the run then holds the files that `checkpoint.py` describes. Under torchrun every process calls this.

    Args:
        recipe: The options of the run.
        report: Called with each line for the user. None prints the lines on standard error.

    Returns:
        The last row of `summary.csv`.

    Raises:
        TrainingStopped: Memory or a disk ran out, the loss became NaN, or too many clips could not be read.
        TrainingInterrupted: The user pressed Ctrl-C, or SIGTERM came. The run first finishes its update. After a second
            signal it does not.
        ValueError: The recipe does not fit the data, the model or the folder.
    """
    processes = Processes.start(recipe.device)
    try:
        return Trainer(recipe, processes, report).fit()
    finally:
        processes.stop()


class Trainer:
    """One training run. `train` creates it and calls `fit`.

    Attributes:
        model: The video model.
        history: A row per epoch, as in `summary.csv`.
        results: Of a finished run: what `results.json` says, see `flatzoo.train.results.conclude`.
        broken: For each training clip that could not be read: its index and the reason.
        update: Number of updates so far.
        kept: Number of updates in the last checkpoint, None without a checkpoint.
        interruption: The signal that came, if any.
    """

    def __init__(self, recipe: Recipe, processes: Processes, report: Callable[[str], None] | None = None):
        self.recipe, self.processes, self.folder = recipe, processes, recipe.folder
        self.report = report or (lambda line: tqdm.write(line, file=sys.stderr))
        self.history: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}
        self.broken: dict[int, str] = {}
        self.reported_broken = 0  # how many of them the user has been told about
        self.log: LogLines | None = None  # in place of a bar
        self.update = 0
        self.kept: int | None = None
        self.interruption = Interruption(alone=processes.size == 1)
        check_trackers(recipe)
        saved = self._load_checkpoint()

        self.train_list, self.val_list = build.read_lists(recipe)
        self.test_list = read_test_list(recipe, self.train_list, self.val_list)
        self.lists = build.list_digests(recipe, self.train_list, self.val_list)
        processes.check_same(self.lists, 'the lists of clips')
        seed_all(recipe.seed)
        self.model = build.build_model(recipe, self.train_list, pretrained=None if saved is None else False)
        self.fit_reason = ''
        if saved is not None and 'cache_gb' not in saved['recipe']:  # an older flatzoo, which kept nothing
            self.recipe = recipe = dataclasses.replace(recipe, cache_gb=0)
        facts = survey(self.train_list) if recipe.cache_gb or (recipe.fit == 'auto' and saved is None) else []
        if recipe.fit == 'auto':
            if saved is not None:  # as the run began
                fit = saved['recipe'].get('fit', 'crop')
            else:
                fit, self.fit_reason = build.choose_fit(facts, self.model.img_size)
            processes.check_same(fit, 'the fit of the clips')
            self.recipe = recipe = dataclasses.replace(recipe, fit=fit)
        self.protocol = dataclasses.replace(build.protocol_of(recipe, self.model), depth=self.train_list.depth)
        if recipe.freeze_backbone:
            build.freeze(self.model)
        build.set_recomputing(self.model, recipe)
        device = processes.device
        self.model.to(device)
        if recipe.channels_last:
            build.order_channels_last(self.model)
        self.mixup, self.erasing = build.mixing_of(recipe, self.train_list, device)
        self.task = build.build_task(recipe, self.model, self.train_list, device)
        self.whole_copy = None  # the unsharded model for evaluation and saving, if the trained model is sharded
        if recipe.fsdp:
            self.whole_copy = build.build_model(recipe, self.train_list, pretrained=False).to(device)
        self.module = self.task.get_trainable_module()  # the model, and what distillation adds; never a wrapper
        if recipe.model_ema:
            self.task.setup_ema(recipe.model_ema_decay, use_warmup=recipe.model_ema_warmup)
        if recipe.torchcompile:
            self.task.compile(backend=recipe.torchcompile)
        parallelise(self.task, self.model, processes, recipe.fsdp)
        self.optimizer = build.build_optimizer(recipe, self.module)
        self.amp_dtype = getattr(torch, recipe.amp_dtype) if recipe.amp else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp_dtype == torch.float16)

        self.caches = make_caches(recipe, self.model, self.train_list, self.val_list, facts)
        clips = build.train_clips(
            recipe, self.train_list, self.model, shrink=self.caches.shrink, cache=self.caches.train)
        self.batches = GlobalBatches(
            len(clips), recipe.batch_size, recipe.grad_accum_steps, processes, recipe.seed,
            clip_weights(self.train_list, recipe.balanced_sampling))
        self.workers = recipe.workers
        if self.workers is None:  # one prepares a whole batch
            self.workers = min(default_workers(), self.batches.updates * recipe.grad_accum_steps)
        self.loader = DataLoader(
            clips, batch_sampler=self.batches, collate_fn=collate_clips, num_workers=self.workers,
            persistent_workers=self.workers > 0, pin_memory=device.type == 'cuda', worker_init_fn=leave_interrupts)
        self.set_rate = build.build_schedule(recipe, self.optimizer, self.batches.updates)
        self.meters = torch.zeros(3, dtype=torch.float64, device=device)  # of the epoch: loss, right, clips
        self.best: float | None = None
        self.epoch_weights = EpochWeights(
            self.folder, recipe.average_epochs, self.metric if recipe.keep == 'best' else None)
        if saved is not None:
            self._resume_from(saved)

    # The run

    def fit(self) -> dict[str, Any]:
        """Trains to the end of the recipe; see `train`."""
        if self.processes.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            files.remove_leftovers(self.folder)
        with clear_ends(self):
            if self.processes.first:
                files.write_file(self.folder / files.ARGS, lambda file: file.write(self.recipe.to_yaml().encode()))
            if self.processes.first:
                report_start(self)
            self._write_missing_files()
            trackers = open_trackers(self.recipe, self.folder, self.update, self.report)
            with trackers if self.processes.first else contextlib.nullcontext() as track, tqdm(
                    total=self._total, initial=self.update, unit='update', dynamic_ncols=True, leave=False,
                    disable=None if self.processes.first else True) as bar:
                if self.processes.first and bar.disable:
                    self.log = LogLines(self._total, self.recipe.log_seconds, self.report, done=self.update)
                for epoch in range(self.update // self.batches.updates, self.recipe.epochs):
                    if is_over(self.recipe, self.history, self.metric):
                        break
                    speed = self._train_epoch(epoch, bar)
                    self._end_epoch(epoch, speed, track)
                    if self.interruption.number is not None:
                        raise TrainingInterrupted
            self.results = conclude(self)
        return self.history[-1]

    def _train_epoch(self, epoch: int, bar: tqdm) -> dict[str, float]:
        """Trains the rest of an epoch, and returns the speed."""
        recipe, updates = self.recipe, self.batches.updates
        bar.set_description(f'epoch {epoch + 1}/{recipe.epochs}')
        first_update = self.update - epoch * updates
        self.batches.set_epoch(epoch, first_update)
        self.loader.dataset.set_epoch(epoch)
        if self.mixup is not None and recipe.mixup_off_epoch:
            self.mixup.mixup_enabled = epoch < recipe.mixup_off_epoch
        self.task.train()
        if recipe.freeze_backbone:
            self.model.backbone.eval()  # otherwise batch norms would continue to change
        meters_at_start = meters_at_log = self.processes.sum(self.meters).tolist()
        start_time = log_time = time.monotonic()
        waiting_seconds = 0.0
        batches = iter(self.loader)
        for update_in_epoch in range(first_update, updates):
            self.interruption.can_wait = True
            self.set_rate(epoch, self.update)
            for step in range(recipe.grad_accum_steps):
                wait_start = time.monotonic()
                batch = next(batches)
                waiting_seconds += time.monotonic() - wait_start
                for index, reason in batch['broken']:
                    self.broken[index] = reason
                seed_all(recipe.seed, self.update, step, self.processes.rank)
                is_last_step = step == recipe.grad_accum_steps - 1
                with contextlib.nullcontext() if is_last_step else self.task.no_sync():
                    self._step(batch)
            self._optimize()
            self.update += 1
            if recipe.model_ema:
                self.task.update_ema(step=self.update)
            end = update_in_epoch == updates - 1
            recover = bool(recipe.recovery_interval) and self.update % recipe.recovery_interval == 0 and not end
            if end or recover or self.update % recipe.log_interval == 0:
                meters_now, time_now = self._sum_meters(), time.monotonic()
                loss, right, clips = (now - before for before, now in zip(meters_at_log, meters_now))
                progress = (
                    f'loss {loss / max(clips, 1):.3f}, acc {100 * right / max(clips, 1):.1f}, '
                    f'{clips / (time_now - log_time):.1f} clips/s')
                bar.set_postfix_str(progress, refresh=False)
                if self.log is not None and not end:  # the end of the epoch has its own line
                    self.log.say(self.update, f'epoch {epoch + 1}/{recipe.epochs}, update', progress)
                meters_at_log, log_time = meters_now, time_now
            if end or recover:
                self._check_weights()
            bar.update()
            self.interruption.can_wait = False
            stop = self.interruption.number is not None and not end  # the end of the epoch saves anyway
            if recover or stop:
                self._save_last()
            if stop:
                raise TrainingInterrupted
        epoch_seconds = time.monotonic() - start_time
        trained_clips = meters_at_log[2] - meters_at_start[2]
        return {'clips_per_second': trained_clips / epoch_seconds, 'waiting': waiting_seconds / epoch_seconds}

    def _step(self, batch: dict[str, Any]) -> None:
        """Forward and backward of one batch."""
        clips, labels, count = batch['clip'], batch['label'], len(batch['label'])
        if clips is None:  # no clip could be read, but other processes wait for gradients; these are 0
            clips, labels = self._no_clip(), torch.zeros(1, dtype=torch.int64)
            if self.train_list.multi_label:
                labels = torch.zeros(1, len(self.train_list.classes))
        device = self.processes.device
        clips, labels = clips.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        target = labels
        if self.mixup is not None or self.erasing is not None:
            clips = build.normalised(self.model, clips)
        if self.erasing is not None:
            clips = self.erasing(clips)
        if self.mixup is not None:
            clips, target = self.mixup(clips, labels)
        with torch.autocast(device.type, self.amp_dtype, enabled=self.amp_dtype is not None):
            result = self.task(clips, target)
        # each clip has the same weight, however many of its batch could be read
        share = count / (self.recipe.batch_size * self.recipe.grad_accum_steps)
        self.scaler.scale(result['loss'] * share).backward()
        right = hits(result['output'].detach(), labels, target)
        values = torch.stack([result['loss'].detach() * count, right, right.new_tensor(count)])
        self.meters += values.double() if count else 0

    def _optimize(self) -> None:
        if self.recipe.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
            dispatch_clip_grad(trained, self.recipe.clip_grad, mode=self.recipe.clip_mode)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def _sum_meters(self) -> list[float]:
        """Sums loss, right answers and clips of the epoch over all processes. Stops the run if it cannot continue."""
        meters = self.processes.sum(self.meters).tolist()
        if not math.isfinite(meters[0]):
            raise TrainingStopped(
                f'the loss is {meters[0]} at update {self.update} (learning rate '
                f'{self.optimizer.param_groups[0]["lr"]:.2g}). Lower --lr, lengthen --warmup-epochs, clip gradients '
                'with --clip-grad 1, or leave out --amp.')
        for other in self.processes.gather(self.broken):
            self.broken |= other
        if len(self.broken) > self.reported_broken:
            self._name_broken()
        return meters

    def _check_weights(self) -> None:
        """Stops the run before it saves weights that are not finite. The loss would show them one update later."""
        local = (p.to_local() if hasattr(p, 'to_local') else p for p in self.module.parameters())  # FSDP2 has shards
        wrong = torch.stack([~p.detach().isfinite().all() for p in local]).sum()
        if self.processes.sum(wrong) > 0:
            raise TrainingStopped(
                f'update {self.update} made weights that are not finite, although the loss was finite. Clip gradients '
                'with --clip-grad 1, lower --lr, or leave out --amp.')

    def _name_broken(self) -> None:
        """Reports the clips that could not be read, and stops the run if there are too many."""
        reasons = [self.broken[index] for index in sorted(self.broken)]
        share = len(reasons) / len(self.train_list)
        self.reported_broken = len(reasons)
        if self.processes.first:
            files.write_file(
                self.folder / files.BROKEN, lambda file: file.write(''.join(f'{r}\n' for r in reasons).encode()))
            self.report(
                f'{len(reasons)} of {len(self.train_list)} clips cannot be read and are skipped ({files.BROKEN} names '
                f'all): {some(reasons)}')
        if share > self.recipe.max_broken:
            raise TrainingStopped(
                f'{len(reasons)} of {len(self.train_list)} clips ({100 * share:.2g} %) cannot be read, more than '
                f'--max-broken {self.recipe.max_broken:g} allows: {some(reasons)}. {self.folder / files.BROKEN} names '
                "all; 'flatzoo data check' looks at the rest.")

    def _end_epoch(self, epoch: int, speed: dict[str, float], track: Callable[[dict[str, Any], int], None]) -> None:
        """Evaluates. Then writes the checkpoint, the model if it is the best so far, and the summary."""
        loss, right, clips = self.processes.sum(self.meters).tolist()
        self.meters.zero_()
        row = {
            'epoch': epoch + 1, 'train_loss': loss / max(clips, 1), 'train_top1': 100 * right / max(clips, 1),
            **self._evaluate(), 'lr': max(group['lr'] for group in self.optimizer.param_groups), **speed,
            'broken': len(self.broken)}
        self.history.append(row)
        if epoch == 0 and self.processes.first and (line := about_wrong_convolutions(self.model)):
            self.report(line)
        value = None if self.metric is None else row[self.metric]
        if value is not None and (self.best is None or value > self.best):
            self.best = value
        keep = self._is_kept()
        self._save_epoch()
        self._save_last()  # first: if the run is killed now, `_write_missing_files` makes the other two files from it
        if keep:
            self._save_best()
        if not self.processes.first:
            return
        self.epoch_weights.remove_others(self.history)
        files.write_csv(self.folder / files.SUMMARY, self.history)
        track({name.replace('_', '/', 1): number for name, number in row.items() if number is not None}, self.update)
        hidden = ('eval_broken', 'eval_top5') if len(self.train_list.classes) <= 5 else ('eval_broken',)
        shown = {
            name: number for name, number in row.items()
            if name.startswith(('train_', 'eval_')) and name not in hidden and number is not None}
        self.report(
            f'epoch {epoch + 1}/{self.recipe.epochs}: '
            + ', '.join(f'{name} {number:.4g}' for name, number in shown.items())
            + f', {speed["clips_per_second"]:.1f} clips/s'
            + (', the best so far' if value is not None and self.recipe.keep == 'best' and keep else ''))

    def _write_missing_files(self) -> None:
        """Writes the best model and the summary if the run was killed after its checkpoint and before these files."""
        if not self.history or self.update % self.batches.updates:
            return
        if self.processes.first:
            files.write_csv(self.folder / files.SUMMARY, self.history)
        if self._is_kept():
            self._save_best()

    def _is_kept(self) -> bool:
        """Whether the model after the last epoch is the one to keep."""
        if self.val_list is None or self.recipe.keep == 'last':
            return True
        *former, last = (row[self.metric] for row in self.history)
        return last is not None and all(value is None or value < last for value in former)

    @property
    def metric(self) -> str | None:
        """The column of the summary by which epochs are compared; None without an evaluation."""
        return None if self.val_list is None else f'eval_{self.val_list.metric}'

    @property
    def _total(self) -> int:
        """Updates of the whole run."""
        return self.recipe.epochs * self.batches.updates

    def _evaluate(self) -> dict[str, float | None]:
        if self.val_list is None:
            return {}
        recipe, epoch = self.recipe, self.update // self.batches.updates
        if epoch % recipe.val_interval and epoch < recipe.epochs:
            return dict.fromkeys(eval_columns(self.val_list))
        seed_all(recipe.seed, self.update, 0, self.processes.rank)  # for layouts that are also random in evaluation
        result = evaluate(
            self.whole_model(), self.val_list, build.validation_protocol(recipe),
            batch_size=recipe.validation_batch_size or recipe.batch_size, workers=self.workers,
            amp_dtype=self.amp_dtype, cache=self.caches.val)
        if result.broken and self.processes.first:
            self.report(
                f'{len(result.broken)} of {len(self.val_list)} clips of the evaluation have no answer and count as '
                f'wrong: {some(reason for _, reason in result.broken)}')
        return eval_row(self.val_list, result)

    def whole_model(self) -> VideoModel:
        """The model to evaluate and save: the moving average if there is one. It is never sharded."""
        if self.whole_copy is not None:
            self.whole_copy.load_state_dict(whole_state(self.model))
            return self.whole_copy
        if self.recipe.model_ema:
            return self.task.get_eval_model(module=self.task.trainable_module_ema.module)
        return self.model

    # Checkpoints

    def _no_clip(self) -> Tensor:
        return torch.zeros(1, self.model.in_chans, self.model.num_frames, *self.model.img_size, dtype=torch.uint8)

    @functools.cached_property
    def temporal(self) -> TemporalContract | None:
        return build.temporal_of(self.recipe, self.model, self.train_list) or self.model.temporal_contract

    def _save_best(self) -> None:
        model = self.whole_model()
        if self.processes.first:
            model.temporal_contract = self.temporal
            files.save_model(model, self.folder, self.train_list.classes, self.protocol)

    def _save_epoch(self) -> None:
        """Keeps the weights of an epoch that may take part in the mean."""
        if self.recipe.average_epochs:
            model = self.whole_model()
            if self.processes.first:
                self.epoch_weights.add(model, self.history)

    def _save_last(self) -> None:
        model, optimizer = state_of(self.module, self.optimizer, self.recipe.fsdp)
        meters = self.processes.sum(self.meters)
        if not self.processes.first:
            return
        files.save_last(self.folder / files.LAST, {
            'recipe': self.recipe.to_dict(), 'global_batch': self.batches.global_batch,
            'classes': list(self.train_list.classes), 'num_clips': len(self.train_list), 'update': self.update,
            'model': model, 'optimizer': optimizer, 'scaler': self.scaler.state_dict(),
            'ema': self.task.trainable_module_ema.module.state_dict() if self.recipe.model_ema else None,
            'protocol': self.protocol.to_dict(), 'meters': meters.cpu(),
            'history': self.history, 'best': self.best, 'broken': self.broken, 'lists': self.lists})
        self.kept = self.update

    def _load_checkpoint(self) -> dict[str, Any] | None:
        """The checkpoint to resume from, None for a new run."""
        last = self.folder / files.LAST
        if not last.exists():
            return None
        if self.recipe.resume is None:
            raise ValueError(
                f'{self.folder} already holds a run. Continue it with --resume auto, or give another --output.')
        return files.load_last(last)

    def _resume_from(self, saved: dict[str, Any]) -> None:
        """Restores the state that a checkpoint holds.

        Raises:
            ValueError: The checkpoint belongs to another recipe or other data, or its content is damaged.
        """
        self._check_same_run(saved)
        try:
            self._restore(saved)
        except Exception as error:  # noqa: BLE001 - torch raises anything about states that do not fit
            why = ' '.join(str(error).split())[:200] or type(error).__name__
            raise files.damaged(self.folder / files.LAST, f'{type(error).__name__}: {why}') from error

    def _check_same_run(self, saved: dict[str, Any]) -> None:
        """Refuses a checkpoint of a run with other options or other data."""
        differ, remedies = self.recipe.changes(saved['recipe'])
        for name, value in (
                ('global_batch', self.batches.global_batch), ('classes', list(self.train_list.classes)),
                ('num_clips', len(self.train_list))):
            if saved[name] != value:
                differ.append(f'{name} (changed)' if name == 'classes' else f'{name} {value} (was {saved[name]})')
        if not differ:  # otherwise a named option already explains why the lists differ
            saved_lists = saved['lists'] if isinstance(saved.get('lists'), dict) else {}  # older ones have none
            differ = [f'the clips of {split} (changed)' for split, digest in saved_lists.items()
                      if digest != self.lists.get(split)]
        if differ:
            raise ValueError(
                f'{self.folder} holds a run with other options: {", ".join(differ)}. Give the same ones '
                f'(--config {self.folder / files.ARGS}), or another --output.')
        former = saved['recipe'].get('epochs')
        done = saved['update'] / self.batches.updates
        if former != self.recipe.epochs and done > self.recipe.epochs:
            raise ValueError(
                f'{self.folder} has done {done:g} epochs already; give --epochs {math.ceil(done)} or more, or another '
                '--output.')
        if remedies and self.processes.first:
            self.report(f'continues with other options: {", ".join(remedies)}')
            if former != self.recipe.epochs:
                self.report(
                    f'the learning rate follows the schedule of {self.recipe.epochs} epochs from here on; what went '
                    f'before followed that of {former}')

    def _restore(self, saved: dict[str, Any]) -> None:
        rates = [group['lr'] for group in self.optimizer.param_groups]
        load_state(self.module, self.optimizer, saved['model'], saved['optimizer'], self.recipe.fsdp)
        for group, rate in zip(self.optimizer.param_groups, rates):
            group['lr'] = rate  # the rate of this recipe; a schedule, if any, sets it before each update
        if saved['scaler']:  # empty if it was not in use
            self.scaler.load_state_dict(saved['scaler'])
        if self.recipe.model_ema:
            self.task.trainable_module_ema.module.load_state_dict(saved['ema'])
        if self.processes.first:
            self.meters.copy_(saved['meters'])  # the sum over all processes
        self.update, self.history, self.best = saved['update'], saved['history'], saved['best']
        self.kept = self.update
        if len(self.history) != self.update // self.batches.updates or self.update > self._total:
            raise ValueError(f'{len(self.history)} epochs in {self.update} updates')
        if self.history and self.history[0]['epoch'] == 0:  # an older flatzoo counted from 0
            self.history = [row | {'epoch': row['epoch'] + 1} for row in self.history]
        self.protocol = EvalProtocol.from_dict(saved['protocol'])
        self.broken = saved['broken']
        self.reported_broken = len(self.broken)
