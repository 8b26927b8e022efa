"""The card: what it is, what is installed beside it, and the rates from which floors follow."""
import platform
import shutil
import statistics
import subprocess
from importlib import metadata
from typing import Any

import torch

from benchmarks.common.timing import seconds

from .context import Context, write_facts

__all__ = ['run']

PACKAGES = (
    'torch', 'triton', 'torchvision', 'timm', 'transformers', 'av', 'einops', 'safetensors', 'huggingface_hub', 'numpy',
    'pillow', 'pytest', 'onnx', 'onnxruntime', 'onnxscript')
NEEDED_FOR = {
    'av': 'files of videos, and real textures in rendered actions', 'pytest': 'the GPU tests',
    'transformers': 'its video models', 'triton': 'the kernels of AM flow', 'onnx': 'ONNX tests'}


def run(context: Context) -> None:
    """Describes the card, then measures its rates, one after the other."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            context.note('missing', f'{package} ({NEEDED_FOR.get(package, "see pyproject.toml")})')
    card: dict[str, Any] = {'device': context.device, 'packages': versions, 'python': platform.python_version()}
    write_facts(context.out, card=card)
    if context.rehearse:
        card |= {'name': platform.processor() or platform.machine(), 'driver': '', 'cuda': ''}
    else:
        if not torch.cuda.is_available():
            write_facts(context.out, card=card | {'device': 'none'})
            raise SystemExit('torch sees no CUDA device')
        properties = torch.cuda.get_device_properties(0)
        card |= {
            'name': properties.name, 'cuda': torch.version.cuda, 'driver': '',
            'capability': f'{properties.major}.{properties.minor}', 'multiprocessors': properties.multi_processor_count,
            'memory_gb': round(properties.total_memory / 1e9, 1), **_nvidia_smi(context)}
    write_facts(context.out, card=card)
    for key, rate, unit in (
            ('matrix_tflops', matrix_rate, 1e12), ('copy_gb_per_s', copy_rate, 1e9),
            ('exponentials_t_per_s', exponential_rate, 1e12)):
        with context.attempt(key):
            card[key] = round(rate(context) / unit, 4 if context.rehearse else 2)
            write_facts(context.out, card=card)
    print(card, flush=True)


def _nvidia_smi(context: Context) -> dict[str, str]:
    """Driver and highest clock; the driver is in every row."""
    if shutil.which('nvidia-smi') is None:
        context.note('missing', 'nvidia-smi (version of the driver)')
        return {}
    with context.attempt('nvidia-smi'):
        query = ['nvidia-smi', '--query-gpu=driver_version,clocks.max.sm', '--format=csv,noheader,nounits', '--id=0']
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        driver, clock = (part.strip() for part in answer.split(',')[:2])
        return {'driver': driver, 'max_clock_mhz': clock}
    return {}


def matrix_rate(context: Context) -> float:
    """Floating-point operations per second of a large product in bf16 of random numbers."""
    size = 128 if context.rehearse else 8192
    a, b = torch.randn(2, size, size, device=context.device).bfloat16()
    out = torch.empty_like(a)
    return 2 * size ** 3 / _median(lambda: torch.mm(a, b, out=out), context)


def copy_rate(context: Context) -> float:
    """Bytes per second, read and written, of a copy within the device's memory."""
    source = torch.ones(2 ** (16 if context.rehearse else 31), dtype=torch.uint8, device=context.device)
    out = torch.empty_like(source)
    return 2 * source.numel() / _median(lambda: out.copy_(source), context)


def exponential_rate(context: Context) -> float:
    """Powers of two per second in float32, computed in registers by the units that attention's softmax needs."""
    if context.rehearse:
        x = torch.rand(10_000)
        return x.numel() / _median(x.exp2, context)
    from .exponentials import launch
    programs, repeats, size = 32 * torch.cuda.get_device_properties(0).multi_processor_count, 2000, 1024
    out = torch.empty(programs * size, device='cuda')
    took = _median(lambda: launch(out, programs, repeats, size), context)
    if not (out - 0.6412).abs().max() < 1e-3:  # the fixed point of 2 ** -x
        raise RuntimeError(f'exponentials are wrong: {out.aminmax()}')
    return programs * size * repeats / took


def _median(run, context: Context) -> float:
    for _ in range(3):
        run()
    return statistics.median(seconds(run, context.device) for _ in range(10))
