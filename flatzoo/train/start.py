"""What a run says before its first update."""
from typing import TYPE_CHECKING

from flatzoo.data.lists import class_findings, some

from .balance import class_counts
from .checkpoint import write_csv

if TYPE_CHECKING:
    from .loop import Trainer

__all__ = ['FEW_SHOT', 'report_start']

FEW_SHOT = 'few_shot.csv'


def report_start(trainer: 'Trainer') -> None:
    """Reports what is trained on what, and writes the clips of `few_shot` into the folder of the run."""
    report, recipe, videos = trainer.report, trainer.recipe, trainer.train_list
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    report(
        f'{recipe.model}: {trained / 1e6:.2f} M parameters to train on {len(videos)} clips of {videos.name} '
        f'({len(videos.classes)} classes{", of which a clip may have several" if videos.multi_label else ""}), '
        f'{trainer.batches.global_batch} clips per update, {trainer.batches.updates} updates per epoch, into '
        f'{trainer.folder}')
    if recipe.few_shot is not None:
        _report_few_shot(trainer)
    if trainer.fit_reason:
        report(f'fit {recipe.fit}: {trainer.fit_reason}')
    if trainer.caches.line:
        report(trainer.caches.line)
    if videos.note:
        report(f'note: {videos.note}')
    for line in class_findings([videos] if trainer.val_list is None else [videos, trainer.val_list]):
        report(f'warning: {line}')
    if trainer.update:
        report(f'resumed after {trainer.update} updates')


def _report_few_shot(trainer: 'Trainer') -> None:
    recipe, videos = trainer.recipe, trainer.train_list
    rows = [
        {'path': clip.name, 'label': '|'.join(videos.classes[label] for label in clip.all_labels),
         'start': clip.start, 'end': clip.end, 'unit': clip.unit} for clip in videos.clips]
    write_csv(trainer.folder / FEW_SHOT, rows)
    counts = class_counts(videos)
    fewer = [name for name, count in zip(videos.classes, counts) if 0 < count < recipe.few_shot]
    trainer.report(
        f'few_shot {recipe.few_shot}: {min(filter(None, counts))} to {max(counts)} clips of each class, drawn by seed '
        f'{recipe.seed}; {FEW_SHOT} names them' + (f'. There are no more of {some(fewer)}' if fewer else ''))
