"""How many files are decoded at the same time: by default one on each core that this process may use."""
import os
from pathlib import Path

__all__ = ['available_cores', 'default_workers', 'local_processes']

_QUOTA = Path('/sys/fs/cgroup/cpu.max')  # of a container (Linux, cgroup v2): microseconds per period, and the period


def available_cores() -> int:
    """Number of cores that this process may use: those of the machine, of its affinity, or of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        cores = min(cores, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no container, or 'max'
        pass
    return max(cores, 1)


def default_workers() -> int:
    """Number of decoding processes where the user gives none: the cores, shared by the processes of torchrun here."""
    return max(available_cores() // local_processes(), 1)


def local_processes() -> int:
    """Number of processes that torchrun has started on this machine, 1 without it."""
    text = os.environ.get('LOCAL_WORLD_SIZE', '1')
    return max(int(text), 1) if text.isdecimal() else 1
