"""The mean of the weights of several epochs, which is often better than each of them (SWA, arXiv:1803.05407).

After each epoch that may take part, what was trained is written to the folder `epochs` of the run, so that a run that
is killed goes on with it. With `keep='last'` the last epochs take part, with `keep='best'` the best ones.
"""
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from flatzoo.models import VideoModel

from .checkpoint import write_file

__all__ = ['EPOCHS', 'EpochWeights', 'chosen_epochs']

EPOCHS = 'epochs'


def chosen_epochs(history: Sequence[Mapping[str, Any]], count: int, metric: str | None = None) -> list[int]:
    """The epochs whose mean is taken, in their order.

    Args:
        history: A row for each epoch.
        count: How many, at most all.
        metric: The column by which the best ones are chosen, the earlier ones of equals; without one the last ones.
    """
    if metric is None:
        return [row['epoch'] for row in history][-count:]
    values = {row['epoch']: row[metric] for row in history if row.get(metric) is not None}
    best = sorted(values, key=lambda epoch: (-values[epoch], epoch))[:count]
    return sorted(best)


class EpochWeights:
    """The weights of some epochs as files.

    Args:
        folder: Folder of the run.
        count: How many epochs take part.
        metric: See `chosen_epochs`.
    """

    def __init__(self, folder: Path, count: int, metric: str | None = None):
        self.folder, self.count, self.metric = folder / EPOCHS, count, metric

    def add(self, model: VideoModel, history: Sequence[Mapping[str, Any]]) -> None:
        """Writes what was trained in the last epoch, if it may take part.

        Raises:
            OSError: The file cannot be written.
        """
        epoch = history[-1]['epoch']
        if epoch not in chosen_epochs(history, self.count, self.metric):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        data = safetensors.torch.save(trained_part(model))
        write_file(self._path(epoch), lambda file: file.write(data))

    def remove_others(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Removes the files of epochs that take no part any more."""
        wanted = {self._path(epoch) for epoch in chosen_epochs(history, self.count, self.metric)}
        for path in self.folder.glob('*.safetensors') if self.folder.is_dir() else ():
            if path not in wanted:
                path.unlink(missing_ok=True)

    def mean(self, history: Sequence[Mapping[str, Any]]) -> tuple[list[int], dict[str, Tensor]]:
        """The epochs that take part, and the mean of their weights. Counters are those of the last of them.

        Raises:
            ValueError: A file is missing.
        """
        epochs = chosen_epochs(history, self.count, self.metric)
        total: dict[str, Tensor] = {}
        for number, epoch in enumerate(epochs, 1):
            try:
                tensors = safetensors.torch.load_file(self._path(epoch))
            except FileNotFoundError:
                raise ValueError(
                    f'{self._path(epoch)}: is missing, so the weights of epoch {epoch} cannot take part in the mean. '
                    'Restore it, or train anew without average_epochs.') from None
            for name, tensor in tensors.items():
                if tensor.is_floating_point():
                    before = total.get(name, torch.zeros((), dtype=torch.float64))
                    total[name] = before + (tensor.double() - before) / number
                else:
                    total[name] = tensor
            kinds = {name: tensor.dtype for name, tensor in tensors.items()}
        return epochs, {name: tensor.to(kinds[name]) for name, tensor in total.items()}

    def _path(self, epoch: int) -> Path:
        return self.folder / f'{epoch:0{max(4, int(math.log10(epoch)) + 1)}d}.safetensors'


def trained_part(model: VideoModel) -> dict[str, Tensor]:
    """The parameters that are trained, and all buffers that are saved, on the CPU."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
