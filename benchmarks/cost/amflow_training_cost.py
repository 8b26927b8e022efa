"""Peak memory and time of a training step: adapters on a frozen backbone against full fine-tuning of the same backbone.

Every row is a process of its own that builds the model with random weights (cost only), takes one step to warm up and
times the next ones, on one clip by default. Saved activations are the distinct tensors that autograd keeps for the
backward pass, those of the weights left out; recomputed ones (gradient checkpointing) are not among them, but in the
peak. The peak is what the steps add to the weights: activations, gradients, optimizer state and scratch; on the CPU it
is the growth of the resident set, which is coarse by some ten MB, on CUDA what the allocator counts. Time is CPU time
summed over threads on the CPU, time of the wall on CUDA. Ratios hold within a table.

    python benchmarks/cost/amflow_training_cost.py --out benchmarks/results/amflow_training_cost.md
    python benchmarks/cost/amflow_training_cost.py --device cuda --backbone vit_base_patch14_dinov2 --dtype bfloat16
"""
import argparse
import multiprocessing
import platform
import resource
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2

import flatzoo  # noqa: F401 - registers the models
from benchmarks.common.files import write_file

# row -> (arguments of the model or None for the backbone alone, frozen backbone, gradient checkpointing)
CASES = {
    'full fine-tuning, backbone alone': (None, False, False),
    'full fine-tuning, same AM Flow model': ({}, False, False),
    'frozen + adapters': ({}, True, False),
    'frozen + adapters, `flow_grad=False`': (dict(flow_grad=False), True, False),
    'frozen + adapters, vanilla flow': (dict(flow='vanilla'), True, False),
    'frozen + adapters, vanilla flow, `flow_grad=False`': (dict(flow='vanilla', flow_grad=False), True, False),
    'frozen + adapters, no flow': (dict(flow='none'), True, False),
    'full fine-tuning, backbone alone, checkpointing': (None, False, True),
    'frozen + adapters, checkpointing': ({}, True, True),
    'frozen + adapters, `flow_grad=False`, checkpointing': (dict(flow_grad=False), True, True),
}
COLUMNS = ('saved_mb', 'peak_mb', 'seconds')  # which the table gives as ratios, too


def build(model_args: dict | None, frozen: bool, checkpointing: bool, options: argparse.Namespace) -> torch.nn.Module:
    """The model of a row; the backbone alone scores every frame and takes the mean of the frames."""
    common = dict(
        backbone=options.backbone, num_frames=options.frames, img_size=options.img_size, num_classes=174,
        device=options.device)
    if model_args is None:
        model = timm.create_model('superimage', layout='time:1', **common)
    else:
        model = timm.create_model(options.model, **model_args, **common)
    if frozen:
        model.freeze_backbone()
    model.set_grad_checkpointing(checkpointing)
    return model.train()


def saved_bytes(model: torch.nn.Module, clip: torch.Tensor) -> int:
    """What autograd keeps of a forward pass, without the model's own tensors."""
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    saved = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage  # holding it keeps its address from being reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(clip)
    return sum(storage.nbytes() for storage in saved.values())


def resident() -> float:
    """Resident set of this process in bytes."""
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def measure(case: str, options: argparse.Namespace) -> dict[str, float]:
    """The row of one case; to be called once in a process."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    cuda = options.device == 'cuda'
    model = build(*CASES[case], options)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = create_optimizer_v2(model, opt='adamw', lr=1e-4)
    size = (options.batch_size, 3, options.frames, options.img_size, options.img_size)
    clip = torch.randint(256, size, dtype=torch.uint8, device=options.device)
    labels = torch.zeros(options.batch_size, dtype=torch.long, device=options.device)

    clock = time.perf_counter if cuda else time.process_time  # on the CPU, other processes do not count

    def step() -> float:
        start = clock()
        with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == 'bfloat16'):
            logits = model(clip)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        return clock() - start

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else resident()
    seconds = [step() for _ in range(options.steps + 1)][1:]
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == 'bfloat16'):
        saved = saved_bytes(model, clip)
    return dict(
        parameters_m=sum(p.numel() for p in model.parameters()) / 1e6, trained_m=sum(p.numel() for p in trained) / 1e6,
        saved_mb=saved / 1e6, peak_mb=(peak - before) / 1e6, seconds=min(seconds))


def table(rows: dict[str, dict[str, float]]) -> list[str]:
    """Rows with their ratios to the first."""
    base = next(iter(rows.values()))
    lines = [
        '| training | M parameters | M trained | MB saved activations | MB peak beyond the weights | s per step '
        '| saved, ratio | peak, ratio | time, ratio |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for case, row in rows.items():
        ratios = ' | '.join(f'{row[column] / base[column]:.2f}' for column in COLUMNS)
        lines.append(
            f'| {case} | {row["parameters_m"]:.2f} | {row["trained_m"]:.2f} | {row["saved_mb"]:.0f} '
            f'| {row["peak_mb"]:.0f} | {row["seconds"]:.2f} | {ratios} |')
    return lines


def main() -> None:
    """Measures all rows one after the other, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', default='amflow_dinov2_s_tcn_lite', help='AM Flow entry point (%(default)s)')
    parser.add_argument('--backbone', default='vit_small_patch14_dinov2', help='timm name (%(default)s)')
    parser.add_argument('--img-size', type=int, default=224)
    parser.add_argument('--frames', type=int, default=8)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--steps', type=int, default=3, help='steps that are timed; the fastest counts (%(default)s)')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16'), default='float32', help='of autocast (%(default)s)')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--out', type=Path, help='Markdown table to write')
    args = parser.parse_args()

    rows = {}
    for case in CASES:  # a fresh process each: the peak of a process does not go down
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
            rows[case] = pool.submit(measure, case, args).result()
        print(case, {key: round(value, 2) for key, value in rows[case].items()}, flush=True)
    cpu = f'{platform.machine()} CPU, {args.threads} thread(s)'
    device = cpu if args.device == 'cpu' else torch.cuda.get_device_name()
    lines = [
        '# Training cost: adapters on a frozen backbone against full fine-tuning', '',
        f'`{shlex.join(["python", *sys.argv])}`; {device}, {args.dtype}; torch {torch.__version__}, '
        f'timm {timm.__version__}.',
        f'`{args.model}` on `{args.backbone}` of random weights (cost only): {args.batch_size} clip(s) of '
        f'{args.frames} frames at {args.img_size} pixels, AdamW, 174 classes. Ratios are to the first row.', '',
        *table(rows),
    ]
    print('\n'.join(lines))
    if args.out:
        write_file(args.out, ('\n'.join(lines) + '\n').encode())


if __name__ == '__main__':
    main()
