"""The processes of a run: one, or those of torchrun. They train data-parallel copies (DDP) or shards (FSDP2)."""
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from timm.task import TrainingTask
from timm.utils.distributed import init_distributed_device_so
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import Sampler

__all__ = ['GlobalBatches', 'Processes', 'load_state', 'parallelise', 'seed_all', 'state_of', 'whole_state']


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
        device: Device of this process.
    """
    rank: int
    size: int
    device: torch.device

    @classmethod
    def start(cls, device: str = 'auto') -> 'Processes':
        """Joins the processes of torchrun, if it started any, with nccl on CUDA and gloo on CPUs.

        Raises:
            ValueError: The device does not exist here.
        """
        if device == 'auto':
            device = 'cuda' if torch.cuda.is_available() else 'cpu'
        if device.startswith('cuda') and not torch.cuda.is_available():
            raise ValueError(f'device {device}: there is no CUDA here. Try --device cpu.')
        if dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), torch.device(device))
        found = init_distributed_device_so(device)
        device = torch.device(found['device'])
        if device.type == 'cuda':
            torch.cuda.set_device(device)
        return cls(found['global_rank'], found['world_size'], device)

    @staticmethod
    def stop() -> None:
        """Leaves the other processes."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes. The given values are not changed."""
        values = values.clone()
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def check_same(self, value: Any, what: str) -> None:
        """Checks that all processes have the same value.

        Raises:
            ValueError: The values differ, for example because machines have different files.
        """
        others = [rank for rank, other in enumerate(self.gather(value)) if other != value]
        if others:
            raise ValueError(
                f'{what} of process {self.rank} are not those of process {others[0]}. Give all machines the same '
                'files.')

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            dist.barrier()


class GlobalBatches(Sampler[list[int]]):
    """The batches of one process. All processes share one order of the clips.

    An epoch is a permutation of the clips that follows from (seed, epoch). It is cut into updates, each update into
    steps, and each step into one batch per process. In one update, n processes therefore see the same clips as one
    process with n times the batch size. Clips that do not fill the last update are left out. Each epoch leaves out
    other clips.

    Args:
        num_clips: Clips of the data set.
        batch_size: Clips per process and step.
        steps: Steps per update.
        processes: The processes.
        seed: Seed of the order.
        weights: How often each clip is drawn, `[num_clips]`. An epoch is then as many draws, with replacement, and a
            batch holds pairs of a clip and how often it has come in this epoch before, as `ClipDataset` takes them.

    Raises:
        ValueError: There are fewer clips than one update needs.
    """

    def __init__(
            self,
            num_clips: int,
            batch_size: int,
            steps: int,
            processes: Processes,
            seed: int,
            weights: Tensor | None = None,
    ):
        self.weights = weights
        self.num_clips, self.batch_size, self.steps, self.seed = num_clips, batch_size, steps, seed
        self.processes = processes
        self.global_batch = batch_size * steps * processes.size
        self.updates = num_clips // self.global_batch
        self.epoch = self.first_update = 0
        if not self.updates:
            raise ValueError(
                f'an update takes {self.global_batch} clips (batch_size {batch_size} x grad_accum_steps {steps} x '
                f'{processes.size} process(es)), and there are {num_clips}. Choose a smaller batch size.')

    def set_epoch(self, epoch: int, first_update: int = 0) -> None:
        """Chooses the epoch and the first update in it."""
        self.epoch, self.first_update = epoch, first_update

    def __len__(self) -> int:
        return (self.updates - self.first_update) * self.steps

    def __iter__(self) -> Iterator[list[int] | list[tuple[int, int]]]:
        order = self._order()
        width = self.batch_size * self.processes.size
        for step in range(self.first_update * self.steps, self.updates * self.steps):
            start = step * width + self.processes.rank * self.batch_size
            yield order[start:start + self.batch_size]

    def _order(self) -> list[int] | list[tuple[int, int]]:
        seed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        if self.weights is None:
            return torch.randperm(self.num_clips, generator=generator).tolist()
        drawn = torch.multinomial(self.weights, self.num_clips, replacement=True, generator=generator).tolist()
        before: Counter[int] = Counter()
        order = []
        for index in drawn:
            order.append((index, before[index]))
            before[index] += 1
        return order


def seed_all(*key: int) -> None:
    """Sets the default generators of torch (all devices), numpy and Python to a state that follows from `key`."""
    seeds = np.random.SeedSequence(key).generate_state(3)
    torch.manual_seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    random.seed(int(seeds[2]))


def parallelise(task: TrainingTask, model: nn.Module, processes: Processes, fsdp: bool) -> None:
    """Makes the processes train together. Call it before the optimizer is built.

    Args:
        task: The task. Its model is on the device.
        model: The video model in it.
        processes: The processes.
        fsdp: Whether to use FSDP2 instead of DDP.

    Raises:
        ValueError: FSDP2 has only one process, or cannot shard the model.
    """
    if not fsdp:
        if processes.size > 1:
            task.prepare_distributed(device_ids=[processes.device.index] if processes.device.type == 'cuda' else None)
        return
    if processes.size == 1:
        raise ValueError(
            'fsdp shards a model over several processes: start with torchrun --nproc-per-node N -m flatzoo train ...')
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    scalars = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise ValueError(
            f'fsdp cannot shard parameters without dimensions, and the model has {len(scalars)} such as {scalars[0]}. '
            'Leave fsdp out: DDP takes any model.')
    mesh = init_device_mesh(processes.device.type, (processes.size,))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The innermost lists of modules of one class: the blocks that a backbone repeats."""
    for module in model.modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1:
            kinds = {type(child) for child in module}
            if len(kinds) == 1 and not kinds & {nn.Linear, nn.Identity}:
                inner = [m for child in module for m in child.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))
                         and len(m) > 1 and len({type(c) for c in m}) == 1]
                if not inner:
                    yield from module


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer, fsdp: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state of model and optimizer.

    The first process gets shards joined on its CPU. The other processes get empty states then.
    """
    if not fsdp:
        return model.state_dict(), optimizer.state_dict()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options), get_optimizer_state_dict(model, optimizer, options=options)


def whole_state(model: nn.Module) -> dict[str, Any]:
    """The state of a sharded model, joined on every process."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def load_state(
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        model_state: dict[str, Any],
        optimizer_state: dict[str, Any],
        fsdp: bool,
) -> None:
    """Restores the state that `state_of` returned."""
    if not fsdp:
        model.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
        return
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, model_state, options=options)
    set_optimizer_state_dict(model, optimizer, optimizer_state, options=options)
