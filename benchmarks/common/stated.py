"""Speed beside the accuracy that a paper or a publisher states: one table for each machine, sorted by speed.

The speeds are rows of `benchmarks/speed/models.py`; nothing is measured here. Of a model of ours counts the faster
form that `flatzoo.optimize` gives, of a peer the fastest one whose logits are right.
"""
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import timm
from torchvision.models import get_model_weights

from flatzoo.models.record import KINETICS_400, tag_record
from flatzoo.zoo.catalogue import list_names

from .timing import markdown

__all__ = ['MOST', 'Stated', 'stated', 'stated_length', 'write_stated']

MOST = 0.05  # difference of logits in bfloat16, over the largest one: several times what rounding makes
_OURS = {'optimized': 'optimize', 'optimized, compiled': 'optimize, compile=True'}
_THEIRS = {'plain': 'eager', 'compiled': 'torch.compile'}


class Stated(NamedTuple):
    """A top-1 accuracy on Kinetics-400 that was not measured by us.

    Attributes:
        top1: In %.
        frames: Of a clip, None if they are not stated.
        views: Clips x crops, None if they are not stated.
        where: Who states it.
        weights: The tag of ours that loads weights of this accuracy; empty for peers, and where there are none.
    """
    top1: float
    frames: int | None
    views: int | None
    where: str
    weights: str = ''

    @property
    def text(self) -> str:
        """The accuracy, with its place."""
        frames = [] if self.frames is None else [f'{self.frames} frames']
        views = [] if self.views is None else [f'{self.views} view{"s" * (self.views != 1)}']
        return f'{self.top1:.1f} ({", ".join([self.where, *frames, *views])})'


_PEERS = {
    'transformers:videomae_b': Stated(
        81.5, 16, 15, 'model zoo of the official repository; 80.9 on the card at the Hub'),
    'transformers:timesformer_b': Stated(77.9, 8, None, 'README of the official repository'),
    'transformers:vivit_b': Stated(80.0, 32, None, 'arXiv:2103.15691, Table 2, model 1'),
}


def stated(name: str) -> Stated | None:
    """What is stated for a model, the best of its weights; without weights what the paper prints for the architecture.

    Args:
        name: Of an architecture of ours, or of a peer, `library:model`.
    """
    library, _, model = name.partition(':')
    if library == 'torchvision':
        meta = get_model_weights(model).DEFAULT.meta
        frames, views = (re.search(rf'`{key}=(\d+)`', meta['_docs']) for key in ('clip_len', 'clips_per_video'))
        return Stated(
            meta['_metrics'][KINETICS_400.title]['acc@1'], frames and int(frames[1]), views and int(views[1]),
            'weights of torchvision')
    if model:
        return _PEERS.get(name)
    found = []
    for tag in list_names(name):
        cfg, record = timm.get_pretrained_cfg(tag), tag_record(tag)
        weights = tag if cfg.has_weights and cfg.label_names is not None else ''
        found += [
            Stated(figure.top1, figure.frames, figure.views, f'{record.paper.id}, {figure.where}', weights)
            for figure in record.figures if figure.data == KINETICS_400.title and not figure.setting]
    return max(found, key=lambda one: (bool(one.weights), one.top1), default=None)


def stated_length(name: str) -> int:
    """Frames of a clip for which the accuracy of a peer is stated."""
    found = stated(name)
    return 16 if found is None or found.frames is None else found.frames


def write_stated(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Writes the page.

    Args:
        path: The page.
        rows: Rows of `benchmarks/speed/models.py`.
    """
    parts = [
        '`python benchmarks/speed/models.py --stated` measures, one clip at a time, and writes [all rows](models.md), '
        'which say what was run under torch.compile. Here is one row for each model: of ours what `flatzoo.optimize` '
        'gives, the faster of both if it was measured with compile=True as well, of the others the fastest form whose '
        'logits are right. Weights are random and cost as much as trained '
        'ones.',
        '**Accuracies are those that papers and publishers state**: top-1 on Kinetics-400 in %, with frames x views of '
        'a video. None was measured by us; - means that none is stated. An answer of several views costs as many '
        'clips. † no such weights can be loaded: the paper trained them. ‡ stated for clips of another length than '
        'these, which have another speed. Speeds of two tables are not to be compared. Those of the Intel Xeon are '
        'nine rounds of 35 models and forms in turn; a model that was measured alone was up to 1.6 times as fast, so '
        'neighbours may change places. What `flatzoo.optimize` gains stands in [another table](cpu_inference.md).']
    for machine in dict.fromkeys(map(_machine, rows)):
        table = _table([row for row in rows if _machine(row) == machine])
        if table:
            parts += ['## ' + ', '.join(machine), table]
    markdown(path, 'Speed and stated accuracy', parts)


def _machine(row: dict[str, str]) -> tuple[str, ...]:
    return row['hardware'], row['precision'], f'torch {row["torch"]}'


def _table(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of one machine that count, the fastest first."""
    lines = []
    for name in dict.fromkeys(row['model'] for row in rows):
        found = stated(name)
        names = _THEIRS if ':' in name else _OURS
        forms = [
            row for row in rows if row['model'] == name and row['pass'] == 'forward' and row['batch'] == '1'
            and row['variant'] in names and _is_right(row)]
        if not forms or name.startswith(('timm:', 'official:')):
            continue
        length = found.frames if found and any(int(row['frames']) == found.frames for row in forms) else max(
            int(row['frames']) for row in forms)
        best = max(
            (row for row in forms if int(row['frames']) == length), key=lambda row: float(row['clips_per_s']))
        lines.append((float(best['clips_per_s']), {
            'model': _name(name, found), 'clips/s': f'{float(best["clips_per_s"]):.3g}',
            'by': names[best['variant']], 'frames': f'{best["frames"]} x {best["size"]}',
            **_accuracy(found, length)}))
    return [line for _, line in sorted(lines, key=lambda line: -line[0])]


def _accuracy(found: Stated | None, length: int) -> dict[str, str]:
    """The cells of a stated accuracy, beside the speed of clips of a length."""
    top1 = protocol = where = '-'
    if found:
        top1, where = f'{found.top1:.1f}', found.where
        if found.frames or found.views:
            protocol = f'{found.frames or "?"} x {found.views or "?"}'
        if found.frames not in (None, length):
            top1 += ' ‡'
    return {'top-1, stated': top1, 'of frames x views': protocol, 'stated by': where}


def _name(name: str, found: Stated | None) -> str:
    """A model of ours as code, with its weights."""
    if ':' in name:
        return name.replace(':', ' ')
    return f'`{found and found.weights or name}`' + ' †' * bool(found and not found.weights)


def _is_right(row: dict[str, str]) -> bool:
    return not row['error'] or float(row['error']) < MOST
