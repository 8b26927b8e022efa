"""Memory and time of forward and backward: as timm trains, with selective recomputation, with gradient checkpointing.

timm's Swin stands for the official SIFAR code, whose numbers and saved activations are the same. All ways take turns in
one process, with the same weights and clips. `kept_mb` counts the bytes of all tensors that the forward pass made and
that are alive behind it, which is what autograd and checkpointing keep, together with the logits; it is exact.
`peak_mb` is what forward and backward add to the resident set (VmHWM) on the CPU, to the allocator's count on CUDA,
gradients included. Times are of the process, so other processes do not count, and of the wall on CUDA; `speed` is the
median over the rounds of the ratio to the first way. Gradients are compared with the first way's.

    python benchmarks/speed/training_memory.py --out benchmarks/results
    python benchmarks/speed/training_memory.py --device cuda --dtype bfloat16 --batch-size 32 --compile
"""
import argparse
import ctypes
import re
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import timm
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import flatzoo  # noqa: F401 - registers the models
from benchmarks.common.timing import markdown, save, setting

WAYS = {
    'timm': dict(enable=False),
    'selective': dict(selective=True),
    'checkpointing': dict(),
}


class KeptBytes(TorchDispatchMode):
    """Counts the storages that operators make and that are still alive, those of a model left out.

    Weak references see what autograd keeps just as what checkpointing keeps elsewhere.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        self.refs: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                ref = StorageWeakRef(storage)  # holding it keeps its address from being reused
                self.refs.setdefault(ref.cdata, (ref, storage.nbytes()))
        return out

    def total(self) -> int:
        """Bytes alive now."""
        return sum(size for ref, size in self.refs.values() if ref.cdata not in self.own and not ref.expired())


def resident(key: str) -> int:
    """`VmRSS` or `VmHWM` of this process in bytes."""
    return 1024 * int(re.search(rf'{key}:\s+(\d+)', Path('/proc/self/status').read_text())[1])


def reset_peak(cuda: bool) -> int:
    """Bytes in use, from which a new peak is counted."""
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, so that it does not count
    Path('/proc/self/clear_refs').write_text('5')  # VmHWM starts anew
    return resident('VmRSS')


def measure(name: str, options: argparse.Namespace) -> list[dict]:
    """The rows of one model, a way each."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    cuda = options.device == 'cuda'
    model = timm.create_model(name, num_classes=51, device=options.device).train()
    clip = torch.randn(options.batch_size, model.in_chans, model.num_frames, *model.img_size, device=options.device)
    clock = time.perf_counter if cuda else time.process_time

    def forward() -> Tensor:
        torch.manual_seed(1)  # stochastic depth: the same subnetwork in all ways
        with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == 'bfloat16'):
            return run(clip)

    rows = {way: dict(model=name, way=way) for way in options.ways}
    seconds, expected = {way: [] for way in rows}, []
    for turn in range(options.rounds + 1):
        for way in rows:
            model.set_grad_checkpointing(**WAYS[way])
            run = torch.compile(model) if options.compile else model
            model.zero_grad()
            if turn == 0 and not options.compile:  # a mode sees nothing of compiled code
                with KeptBytes(model) as kept:
                    logits = forward()
                rows[way]['kept_mb'] = kept.total() / 1e6
                del logits
            if turn == 0 and options.compile:
                forward().float().square().mean().backward()
                model.zero_grad()
            before, start = reset_peak(cuda), clock()
            forward().float().square().mean().backward()
            if cuda:
                torch.cuda.synchronize()
            seconds[way].append(clock() - start)
            if turn == 0:
                peak = torch.cuda.max_memory_allocated() if cuda else resident('VmHWM')
                rows[way]['peak_mb'] = (peak - before) / 1e6
                gradients = [p.grad.clone() for p in model.parameters()]
                expected = expected or gradients
                rows[way]['gradient_error'] = max(
                    ((a - b).norm() / b.norm()).item() for a, b in zip(gradients, expected, strict=True))
            print(name, way, turn, round(seconds[way][-1], 3), rows[way], flush=True)
    for way, row in rows.items():
        row['seconds'] = statistics.median(seconds[way][1:])
        pairs = zip(seconds[options.ways[0]][1:], seconds[way][1:], strict=True)
        row['speed'] = statistics.median(base / other for base, other in pairs)
        for column in ('kept_mb', 'peak_mb'):
            if column in row:
                row[column.replace('_mb', '_less')] = rows[options.ways[0]][column] / row[column]
    return list(rows.values())


def main() -> None:
    """Measures the models one after the other and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', nargs='+', default=['sifar_swin_b12'], help='entry points (%(default)s)')
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=list(WAYS), help='in turn (%(default)s)')
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=3, help='that are timed (%(default)s)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of autocast (%(default)s)')
    parser.add_argument('--compile', action='store_true', help='torch.compile the model in all ways')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', type=Path, help='folder for the table, as CSV and Markdown')
    options = parser.parse_args()

    rows = [row for name in options.model for row in measure(name, options)]
    facts = dict(
        batch_size=options.batch_size, rounds=options.rounds, compiled=options.compile,
        **setting(options.device, options.dtype), timm=timm.__version__)
    columns = (
        'model', 'way', 'kept_mb', 'kept_less', 'peak_mb', 'peak_less', 'seconds', 'speed',
        'gradient_error')
    rows = [
        {key: f'{row[key]:.4g}' if isinstance(row[key], float) else row[key] for key in columns if key in row} | facts
        for row in rows]
    if options.out:
        rows = save(options.out / 'data/training_memory.csv', rows, ('model', 'way', 'batch_size', 'compiled'))
        markdown(options.out / 'training_memory.md', 'Memory of training', [
            '`python benchmarks/speed/training_memory.py`, which says what the columns are. The first way is '
            'timm as it is.',
            rows])


if __name__ == '__main__':
    main()
