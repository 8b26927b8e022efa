"""What a run has reached: the last epoch and the best one, and, on clips that chose nothing, the test.

The best epoch is chosen by its accuracy on the evaluation split. Its figure there is therefore too high for other
clips: of many epochs, the luckiest one wins. `test_split` names clips that are neither trained on nor choose anything.
"""
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch.distributed as dist

from flatzoo.data.lists import DataError, VideoList, read_videos, some
from flatzoo.data.multi_label import as_multi_label, one_class_only
from flatzoo.evaluation.evaluate import Evaluation, evaluate
from flatzoo.evaluation.multi_label import MultiLabelEvaluation
from flatzoo.models import VideoModel

from . import build
from .checkpoint import RESULTS, save_model, write_file
from .recipe import Recipe

if TYPE_CHECKING:
    from .loop import Trainer

__all__ = ['best_and_last', 'conclude', 'eval_columns', 'eval_row', 'is_over', 'read_test_list']


def read_test_list(recipe: Recipe, train: VideoList, val: VideoList | None) -> VideoList | None:
    """The clips of `test_split`, with the classes of the training; None without one.

    Raises:
        DataError: Some of these clips are trained on or choose the epoch, or they have classes that are not trained.
    """
    if recipe.test_split is None:
        return None
    test = read_videos(recipe.spec, recipe.root, recipe.test_split)
    for videos in filter(None, (train, val)):
        known = {_place(clip) for clip in videos.clips}
        shared = [clip.name for clip in test.clips if _place(clip) in known]
        if shared:
            raise DataError(
                f'test_split {recipe.test_split}: {len(shared)} of its {len(test)} clips are also in {videos.split} '
                f'({some(shared, 2)}), so its figure would not be one of new clips. Give a split of other clips, or '
                "--val-split none, with which the last epoch is tested and nothing is chosen.")
    if train.multi_label:
        test = as_multi_label(test)
    else:
        one_class_only(test, f'test_split {recipe.test_split}')
    return test if test.classes == train.classes else test.with_classes(train.classes)


def _place(clip: Any) -> tuple:
    return clip.path, clip.member, clip.start, clip.end, clip.unit


def eval_columns(videos: VideoList) -> tuple[str, ...]:
    """The columns of the summary that an evaluation on a list fills."""
    if videos.multi_label:
        return 'eval_map', 'eval_micro_f1', 'eval_top1', 'eval_broken'
    return ('eval_top1', 'eval_top5', 'eval_broken', 'eval_mean_class')[:3 + (videos.metric != 'top1')]


def eval_row(videos: VideoList, result: Evaluation | MultiLabelEvaluation) -> dict[str, float]:
    """These columns of a result."""
    return {
        name: len(result.broken) if name == 'eval_broken' else getattr(result, name.removeprefix('eval_'))
        for name in eval_columns(videos)}


def is_over(recipe: Recipe, history: Sequence[Mapping[str, Any]], metric: str | None) -> bool:
    """Whether a run stops early: no evaluation was better than the best one for `early_stopping` epochs.

    Args:
        recipe: The recipe.
        history: A row for each epoch.
        metric: The column that compares epochs; None without an evaluation.
    """
    measured = [row for row in history if metric is not None and row[metric] is not None]
    if not recipe.early_stopping or not measured:
        return False
    best, _ = best_and_last(history, metric)
    return measured[-1]['epoch'] - best['epoch'] >= recipe.early_stopping


def best_and_last(history: Sequence[Mapping[str, Any]], metric: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of the best epoch, the first one of equals, and of the last epoch.

    Args:
        history: A row for each epoch.
        metric: The column that chose the best epoch; without one it is the last epoch.
    """
    *_, last = history
    measured = [row for row in history if metric is not None and row.get(metric) is not None]
    return dict(max(measured, key=lambda row: row[metric], default=last)), dict(last)


def conclude(trainer: 'Trainer') -> dict[str, Any]:
    """Says and writes (`results.json`) what a finished run has reached. All processes call this.

    Returns:
        `best` and `last`, each with its `epoch`, the evaluation's columns and, with a test split, `test_top1`,
        `test_mean_class` (or `test_map`) and `test_clips`; with `average_epochs` also `averaged`, with its `epochs`;
        `kept`, the epoch whose weights are saved (None if that is the mean); `chosen_on`, the split that chose it (None
        if none did); `stopped_early`; and what was trained and measured on.
    """
    metric = trainer.metric
    rows = best_and_last(trainer.history, metric)
    best, last = ({name: row[name] for name in row if name == 'epoch' or name.startswith('eval_')} for row in rows)
    kept = last['epoch'] if trainer.recipe.keep == 'last' else best['epoch']
    if trainer.test_list is not None:
        last |= _tested(trainer, trainer.whole_model())
        if best['epoch'] == last['epoch']:
            best = dict(last)
        elif kept == best['epoch']:
            best |= _tested(trainer, _saved_model(trainer))
    averaged = _averaged(trainer) if trainer.recipe.average_epochs else None
    results = {
        'best': best, 'last': last, **({} if averaged is None else {'averaged': averaged}),
        'kept': kept if averaged is None else None,
        'stopped_early': last['epoch'] < trainer.recipe.epochs,
        'chosen_on': None if metric is None or trainer.recipe.keep == 'last' else trainer.val_list.split,
        'test_split': trainer.recipe.test_split, 'group_held_out': trainer.recipe.hold_out,
        'train_clips': len(trainer.train_list), 'eval_clips': len(trainer.val_list or ())}
    if trainer.processes.first:
        text = json.dumps(results, indent=2) + '\n'
        write_file(Path(trainer.folder, RESULTS), lambda file: file.write(text.encode()))
        for line in _lines(results, metric):
            trainer.report(line)
    return results


def _tested(trainer: 'Trainer', model: VideoModel) -> dict[str, Any]:
    recipe = trainer.recipe
    result = evaluate(
        model, trainer.test_list, trainer.protocol, batch_size=recipe.validation_batch_size or recipe.batch_size,
        workers=trainer.workers, amp_dtype=trainer.amp_dtype)
    names = ('map', 'top1') if trainer.test_list.multi_label else ('top1', 'mean_class')
    return {**{f'test_{name}': getattr(result, name) for name in names}, 'test_clips': result.clips}


def _averaged(trainer: 'Trainer') -> dict[str, Any]:
    """Saves the mean of the weights of several epochs as the model of the run, and measures it."""
    recipe, whole = trainer.recipe, trainer.whole_model()
    epochs: list[int] = []
    model = build.build_model(recipe, trainer.train_list, pretrained=False)
    if trainer.processes.first:
        epochs, mean = trainer.epoch_weights.mean(trainer.history)
        model.load_state_dict({**whole.state_dict(), **mean})
    _share(trainer, model)
    row: dict[str, Any] = {'epochs': epochs}
    if trainer.val_list is not None:
        result = evaluate(
            model, trainer.val_list, build.validation_protocol(recipe),
            batch_size=recipe.validation_batch_size or recipe.batch_size, workers=trainer.workers,
            amp_dtype=trainer.amp_dtype, cache=trainer.caches.val)
        row |= eval_row(trainer.val_list, result)
    if trainer.test_list is not None:
        row |= _tested(trainer, model)
    if trainer.processes.first:
        if recipe.freeze_backbone:
            build.freeze(model)  # by which a model with adapters knows to save these apart
        model.temporal_contract = trainer.temporal
        save_model(model, trainer.folder, trainer.train_list.classes, trainer.protocol)
    return row


def _saved_model(trainer: 'Trainer') -> VideoModel:
    """The model that the folder of the run holds, in every process; the first one has the file."""
    model = build.build_model(trainer.recipe, trainer.train_list, pretrained=False)
    if trainer.processes.first:
        model.load_state_dict(timm.create_model(f'local-dir:{trainer.folder}', pretrained=True).state_dict())
    return _share(trainer, model)


def _share(trainer: 'Trainer', model: VideoModel) -> VideoModel:
    """The model of the first process in every process, on its device."""
    model.to(trainer.processes.device)
    if trainer.processes.size > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
    return model


def _lines(results: dict[str, Any], metric: str | None) -> list[str]:
    best, last = results['best'], results['last']
    lines = []
    if metric is not None:
        if results['chosen_on'] is None:
            chosen = 'the last epoch is kept (--keep last), so nothing was chosen by this figure'
            lines.append(f'last epoch, {last["epoch"]}: {metric} {last[metric]:.4g}; {chosen}')
            metric = None
    if metric is not None:
        chosen = (
            f'chosen on {results["chosen_on"]}, so this figure is too high for other clips'
            + ('' if results['test_split'] else ' (--test-split measures on some)'))
        if last['epoch'] == best['epoch']:
            lines.append(f'the last epoch, {last["epoch"]}, is the best one: {metric} {best[metric]:.4g}; {chosen}')
        else:
            lines += [f'last epoch, {last["epoch"]}: {metric} {last[metric]:.4g}',
                      f'best epoch, {best["epoch"]}: {metric} {best[metric]:.4g}; {chosen}']
    for name, row in (('best', best), ('last', last)):
        if 'test_clips' in row and (name == 'last' or row['epoch'] != last['epoch']):
            lines.append(
                f'test on {row["test_clips"]} clips of {results["test_split"]}, {name} epoch, {row["epoch"]}: '
                + _test_text(row))
    if results['stopped_early']:
        lines.insert(0, f'stopped after epoch {last["epoch"]}: no better evaluation since epoch {best["epoch"]}')
    if 'averaged' not in results:
        return [*lines, f'the saved model is that of epoch {results["kept"]}']
    row = results['averaged']
    figures = [
        f'{name} {value:.4g}' for name, value in row.items() if name.startswith('eval_') and name != 'eval_broken']
    if 'test_clips' in row:
        figures.append(f'test on {row["test_clips"]} clips of {results["test_split"]}: {_test_text(row)}')
    return [*lines, (
        f'the saved model is the mean of the weights of epochs {", ".join(map(str, row["epochs"]))}'
        + ''.join(f', {figure}' for figure in figures))]


def _test_text(row: Mapping[str, Any]) -> str:
    if 'test_map' in row:
        return f'mean average precision {row["test_map"]:.4g} %'
    return f'top-1 {row["test_top1"]:.4g} %, mean of the classes {row["test_mean_class"]:.4g} %'
