"""Time and memory that can be compared: variants take turns, ratios are taken round by round, medians count.

On a CPU with one thread time is that of the process, which other programs disturb less than the clock's; with several
threads it is the clock's. On CUDA devices it lies between events. Memory is what a run needs beyond what was there
before: the growth of the resident set (Linux), or what the allocator of the device handed out.
"""
import csv
import ctypes
import functools
import gc
import math
import os
import platform
import random
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import write_file

__all__ = [
    'clock_name', 'cpu_name', 'cpu_seconds', 'hardware', 'in_turn', 'least', 'markdown', 'peak_bytes', 'ratio',
    'same_setting', 'save', 'seconds', 'setting', 'slope']

SETTING = ('hardware', 'precision', 'threads', 'torch')


def clock_name(device: str) -> str:
    """What `seconds` measures."""
    if device == 'cuda':
        return 'CUDA events'
    return 'process time' if torch.get_num_threads() == 1 else 'wall time'


def seconds(run: Callable[[], Any], device: str, queued: int = 0) -> float:
    """Time of one run.

    Args:
        run: It.
        device: `cpu` or `cuda`.
        queued: On CUDA, that many runs wait behind work that keeps the device busy while they are launched, and their
            mean is given: what kernels take, however slowly Python launches them. 0 takes one run with its launches.
    """
    if device == 'cuda':
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        if queued:
            _keep_busy()
        start.record()
        for _ in range(queued or 1):
            run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000 / (queued or 1)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


@functools.cache
def _large_matrices() -> torch.Tensor:
    return torch.randn(3, 8192, 8192, device='cuda', dtype=torch.bfloat16)


def _keep_busy() -> None:
    """Starts products that take about 10 ms on a large GPU, and longer on others."""
    a, b, out = _large_matrices()
    for _ in range(8):
        torch.mm(a, b, out=out)


def in_turn(
        runs: Mapping[str, Callable[[], Any]], rounds: int, device: str, queued: int = 0) -> dict[str, list[float]]:
    """Seconds of every run in every round, each round in another order; the runs have been warmed up before.

    What a run finds in caches and heap is what the one before it left there: always the same one would be unfair.
    """
    times = {name: [] for name in runs}
    shuffle = random.Random(0)
    for _ in range(rounds):
        for name in shuffle.sample(list(runs), len(runs)):
            times[name].append(seconds(runs[name], device, queued))
    return times


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def least(over: Sequence[float], under: Sequence[float]) -> float:
    """The lower end of the 95 % interval of the mean ratio of the rounds (Student's t of their logarithms)."""
    from scipy.stats import sem, t

    ratios = [math.log(a / b) for a, b in zip(over, under, strict=True)]
    if len(ratios) < 2 or len(set(ratios)) == 1:
        return math.exp(statistics.fmean(ratios))
    return math.exp(t.interval(0.95, len(ratios) - 1, statistics.fmean(ratios), sem(ratios))[0])


def peak_bytes(run: Callable[[], Any], device: str) -> int | None:
    """Most memory in use at once during a run beyond what was in use before; None where it cannot be known."""
    gc.collect()
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free but still held would hide what the run needs
        Path('/proc/self/clear_refs').write_text('5')  # the high-water mark starts anew
        before = _status('VmRSS')
    except (AttributeError, OSError, TypeError):
        return None
    run()
    return max(0, _status('VmHWM') - before)


def _status(field: str) -> int:
    lines = Path('/proc/self/status').read_text()
    return 1024 * int(re.search(rf'^{field}:\s+(\d+) kB$', lines, re.M)[1])


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Exponent of y in x, by a straight line through the logarithms; None for fewer than three points."""
    if len(x) < 3:
        return None
    return float(np.polyfit([math.log(v) for v in x], [math.log(v) for v in y], 1)[0])


def hardware(device: str) -> str:
    """The processor that is measured, with the number of its threads if it is a CPU."""
    if device == 'cuda':
        return torch.cuda.get_device_name()
    threads, limit = torch.get_num_threads(), os.environ.get('ONEDNN_MAX_CPU_ISA')
    limited = f', ONEDNN_MAX_CPU_ISA={limit}' if limit else ''
    return f'{cpu_name()} ({threads} {"thread" if threads == 1 else "threads"}{limited})'


def setting(device: str, precision: str) -> dict[str, Any]:
    """What two rows must have in common to be compared, as columns: machine, precision, threads and torch."""
    return {
        'hardware': hardware(device), 'precision': precision, 'threads': torch.get_num_threads(),
        'torch': torch.__version__}


def same_setting(rows: Sequence[dict[str, Any]], device: str, precision: str) -> list[dict[str, Any]]:
    """The rows that were measured here: on this machine, in this precision, with as many threads and this torch."""
    here = {key: str(value) for key, value in setting(device, precision).items()}
    return [row for row in rows if all(str(row[key]) == value for key, value in here.items())]


def save(path: Path, rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Writes a CSV file, and returns its rows: the new ones, and older ones that were not measured again.

    Args:
        path: The file.
        rows: New rows, all with the same columns.
        keys: Columns that tell what a row measured. Rows of another machine, precision, number of threads or torch
            are kept in any case, if the rows have these columns (`setting`).

    Raises:
        ValueError: If the file has other columns, whose rows would be lost.
    """
    new = [{column: '' if value is None else str(value) for column, value in row.items()} for row in rows]
    keys = [*keys, *(key for key in SETTING if key in new[0] and key not in keys)]
    measured = {tuple(row[key] for key in keys) for row in new}
    old = []
    if path.exists():
        with path.open(newline='') as file:
            reader = csv.DictReader(file)
            if reader.fieldnames and set(reader.fieldnames) != set(new[0]):
                raise ValueError(
                    f'{path} has the columns {", ".join(reader.fieldnames)}, the new rows have {", ".join(new[0])}. '
                    'Name another folder for the results, or remove the file.')
            old = [{column: row[column] for column in new[0]} for row in reader
                   if tuple(row[key] for key in keys) not in measured]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.tmp')
    with partial.open('w', newline='') as file:
        writer = csv.DictWriter(file, new[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(old + new)
    partial.replace(path)
    return old + new


def markdown(path: Path, title: str, parts: Sequence[str | Sequence[dict[str, Any]]]) -> None:
    """Writes a page of paragraphs and tables; a table is rows, with the keys of the first one as columns."""
    blocks = [f'# {title}']
    for part in parts:
        if not isinstance(part, str):
            lines = [part[0], {key: '---' for key in part[0]}, *part]
            cells = [list(part[0]), *(['' if v is None else str(v) for v in row.values()] for row in lines[1:])]
            part = '\n'.join(f'| {" | ".join(row)} |' for row in cells)
        blocks.append(part)
    write_file(path, ('\n\n'.join(blocks) + '\n').encode())


def cpu_seconds() -> float:
    """CPU time of this process and of those that it started and that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def cpu_name() -> str:
    """Model of the processor, with what tells apart those that call themselves alike."""
    try:
        info = dict(re.findall(r'^([\w ]+?)\s*: (.+)$', Path('/proc/cpuinfo').read_text().split('\n\n')[0], re.M))
    except OSError:
        return platform.processor() or platform.machine()
    return f'{info.get("model name", platform.machine())} family {info.get("cpu family")} model {info.get("model")}'
