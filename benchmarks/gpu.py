"""Everything that needs a GPU, in one command that fits into a short loan of one, without a network.

    python benchmarks/gpu.py --minutes 9

Parts run one after the other, most telling first, each in a process of its own that is ended when its time is up; what
one leaves over, the next ones get. Results are written as soon as they exist: `gpu.md` (the page: goals, tables, what
did not run), `facts.json` (card, tests, training), `models.csv`, `kernel_errors.csv`, `kernel_speed.csv`, `layout.csv`
and `log.txt` with all tracebacks. A part that fails, and a package that is missing, costs its own results alone.

    card       name, driver, packages; rates of products in bf16, copies and exponentials, from which floors follow
    kernel     the Triton kernels of AM flow: errors against float64 forward and backward, speed, ratio to the floor
    tests      `pytest -m gpu`; beside them models are compiled into the caches on disk, which saves later parts time
    sifar      SIFAR-B-12 in bf16: stock timm, eager, fused, optimized, compiled; batch 64, 1 and 8
    inference  AM Flow, UniFormer-S, VideoMAE-B, SIFAR-B-14, models of torchvision and transformers, in eager mode
    training   clips/s and peak memory of forward and backward, with selective recomputation, too
    layout     the super image alone, as a share of the whole model
    compiled   the models of `inference` under torch.compile
    learn      the tiny SIFAR on rendered actions, for all the time that is left

`--rehearse` runs the whole plan in tiny sizes on a CPU, to see that it runs.
"""
import argparse
import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the repository: benchmarks.common, flatzoo

from benchmarks.common.gpu.context import Context, read_facts, write_facts
from benchmarks.common.gpu.report import write_report

PLAN = {  # part: its share of the time, module, function
    'card': (35, 'card', 'run'),
    'kernel': (80, 'kernel', 'run'),
    'tests': (110, 'tests', 'run'),
    'sifar': (90, 'speed', 'sifar'),
    'inference': (70, 'speed', 'inference'),
    'training': (60, 'speed', 'training'),
    'layout': (12, 'speed', 'layout'),
    'compiled': (55, 'speed', 'compiled'),
    'learn': (60, 'learn', 'run'),
}
WARM = (('sifar_swin_b12', 8, 64), ('sifar_swin_b12', 8, 1), ('sifar_swin_b12', 8, 8))  # and the first of `compiled`
WARM_OTHERS, MEMORY = 6, 0.75  # of the card, for all that warm up together
GRACE = 3.0  # seconds in which a part that was asked to end may do so
FILES = (
    'facts.json', 'gpu.md', 'log.txt', 'models.csv', 'kernel_errors.csv', 'kernel_speed.csv', 'layout.csv')


def preload() -> None:
    """Imports what all parts need, once: they are forks."""
    for module in ('torch', 'timm', 'torchvision', 'flatzoo', 'models'):
        try:
            importlib.import_module(module)
        except Exception as error:
            print(f'{module} cannot be imported: {type(error).__name__}: {error}', flush=True)


def start_method() -> str:
    """Forks save imports, but none of them can use a GPU if an import has loaded its driver here."""
    try:
        maps = Path('/proc/self/maps').read_text()
    except OSError:
        return 'spawn'
    return 'spawn' if 'libcuda.so' in maps else 'fork'


def child(context: Context, seconds: float, module: str, function: str, *args) -> None:
    """A part's process: a group of its own, whose output goes into the log."""
    os.setsid()
    log = os.open(context.out / 'log.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    print(f'\n===== {context.part} {" ".join(map(str, args))}, {seconds:.0f} s =====', flush=True)
    faulthandler.register(signal.SIGTERM, file=sys.__stderr__, chain=True)  # where it is when its time is up
    with context.attempt(context.part):
        getattr(importlib.import_module(f'benchmarks.common.gpu.{module}'), function)(context, *args)
        return
    raise SystemExit(1)


def start(context: Context, seconds: float, *target) -> multiprocessing.Process:
    """Starts a part, which should end by itself shortly before its time is up."""
    context.deadline = time.monotonic() + seconds - min(10.0, 0.15 * seconds)
    process = multiprocessing.get_context(start_method()).Process(target=child, args=(context, seconds, *target))
    process.start()
    return process


def end(process: multiprocessing.Process, seconds: float) -> str:
    """Waits for a part, ends it with all that it started if need be, and says how it ended."""
    process.join(max(0.0, seconds))
    late = process.is_alive()
    for number in (signal.SIGTERM, signal.SIGKILL) if late else (signal.SIGKILL,):  # what it left behind, too
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass
        process.join(GRACE)
    if late:
        return 'time was up'
    return {0: 'done', 1: 'failed'}.get(process.exitcode, f'ended with {process.exitcode}')


def warm_up(out: Path, rehearse: bool, seconds: float) -> list[multiprocessing.Process]:
    """Processes that compile models for later parts."""
    if rehearse:
        jobs = [('sifar_resnet10t', 8, 1)]
    else:
        from benchmarks.common.gpu.speed import COMPILED
        jobs = [*WARM, *((name, frames, 64) for name, frames in COMPILED[:WARM_OTHERS])]
    return [
        start(Context('warm-up', out, rehearse, 0), seconds, 'speed', 'warm_up', *job, MEMORY / len(jobs))
        for job in jobs]


def main(argv: list[str] | None = None) -> int:
    """Runs the plan; prints the page."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=9, help='for everything (%(default)s)')
    parser.add_argument('--parts', nargs='+', choices=PLAN, default=list(PLAN), help='only these; card always runs')
    parser.add_argument('--rehearse', action='store_true', help='on a CPU, in tiny sizes')
    parser.add_argument(
        '--out', type=Path, default=os.environ.get('OUT') or Path(__file__).parent / 'results' / 'gpu',
        help='folder (default: $OUT, else benchmarks/results/gpu)')
    args = parser.parse_args(argv)
    out = Path(args.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # rows of two machines never meet
        (out / name).unlink(missing_ok=True)
    os.environ.setdefault('HF_HUB_OFFLINE', '1')
    os.environ.setdefault('PYTHONUNBUFFERED', '1')
    os.environ.setdefault('PYTORCH_NVML_BASED_CUDA_CHECK', '1')  # asking for a GPU then does not load its driver
    preload()

    names = [name for name in PLAN if name in ('card', *args.parts)]
    for i, name in enumerate(names):
        left = 60 * args.minutes - (time.monotonic() - begin) - 2 * GRACE
        weights = [PLAN[other][0] for other in names[i:]]
        seconds = left * weights[0] / sum(weights)
        if seconds < 2:
            Context(name, out, args.rehearse, 0).note('left out', 'no time')
            continue
        started = time.monotonic()
        beside = warm_up(out, args.rehearse, seconds) if name == 'tests' else []
        process = start(Context(name, out, args.rehearse, 0), seconds, *PLAN[name][1:])
        ended = end(process, seconds)
        for other in beside:
            end(other, seconds - (time.monotonic() - started))
        took = round(time.monotonic() - started, 1)
        parts = read_facts(out).get('parts', {})
        write_facts(out, parts={**parts, name: {'ended': ended, 'seconds': took, 'limit': round(seconds, 1)}})
        write_report(out, args.rehearse)
        print(f'{name}: {ended}, {took} s', flush=True)
        if read_facts(out).get('card', {}).get('device') == 'none':
            print('No CUDA device: --rehearse tries the plan on a CPU.', file=sys.stderr)
            return 2
    print(write_report(out, args.rehearse))
    return 0


if __name__ == '__main__':
    sys.exit(main())
