"""Exports a video model to a file, and compares the file with the model."""
import copy
import errno
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from flatzoo.models import VideoModel, eval_protocol
from flatzoo.models.base import channel_stats
from flatzoo.weights.config import video_block

from .check import ExportError, Report, check_clips, largest_difference, speed_ratio
from .formats import FORMATS, Format, load, write

__all__ = ['export']

TOLERANCE = 1e-4
INT8_TOLERANCE = 0.1
ONNX_PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
DTYPES = {'uint8': torch.uint8, 'float': torch.float32}


def export(
        model: VideoModel,
        path: str | Path,
        format: Format = 'torch-export',
        input: Literal['uint8', 'float'] = 'uint8',
        tolerance: float | None = None,
        quantize: Literal['int8'] | None = None,
) -> Report:
    """Writes a model into a file that runs without flatzoo: clips `[B, C, T, H, W]` in, logits `[B, num_classes]` out.

        report = flatzoo.export.export(model, 'model.onnx', format='onnx')
        logits = flatzoo.export.load('model.onnx')(clip)

    Layout and, for uint8 clips, normalisation are part of the file, as are class names, evaluation protocol, mean,
    standard deviation and layout as JSON (`load(path).metadata`). The batch size is free; the frame size is fixed.
    Before the file gets its name, its logits are compared with the model's on noise and on the two real videos of the
    package, in batches of 1, 2 and 3.

    Args:
        model: A video model in float32. It is not changed. The export always uses eval mode.
        path: The file. An existing file is replaced.
        format: `torch-export` (`torch.export.load`), `onnx` (any ONNX runtime; needs `pip install 'flatzoo[onnx]'`),
            `torchscript` (`torch.jit.load`, C++) or `aoti` (AOTInductor: machine code for this kind of processor; needs
            a C++ compiler). All but ONNX keep the device of the model.
        input: `uint8` clips (0...255), normalised inside, or `float` clips, normalised outside.
        tolerance: Accepted difference of a logit from the model's, relative to the largest logit of the batch; None for
            1e-4, and for 0.1 with `quantize`.
        quantize: `'int8'` stores the weights of linear layers in 8 bits, a quarter of the size, and multiplies integers
            (onnxruntime's dynamic quantization, with a scale for each output channel). Only with `format='onnx'`.

    Raises:
        TypeError: `model` is not a video model.
        ValueError: The format, input, dtype or layout cannot be exported.
        ModuleNotFoundError: If the packages of the extra `onnx` are missing.
        OSError: If the file cannot be written.
        ExportError: The model cannot be written in this format, or the file gives other answers than the model.
    """
    _check_arguments(model, format, input)
    if quantize is not None:
        _check_quantize(quantize, format)
    if tolerance is None:
        tolerance = TOLERANCE if quantize is None else INT8_TOLERANCE
    path = Path(path)
    partial = _partial(path, format)
    model = copy.deepcopy(model).eval().requires_grad_(False)
    model.set_grad_checkpointing(False)  # it would become part of the program
    if format == 'onnx':
        model.cpu()
    batches = check_clips(model, DTYPES[input])
    example, *_, real = batches.values()
    try:
        try:
            write(model, example, partial, format, _metadata(model, example, input), quantize)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - exporters raise anything
            raise ExportError(f'{format} cannot hold this model: {_reason(error)}') from error
        exported = load(partial)
        difference = largest_difference(model, exported, batches)
        if not difference <= tolerance:
            raise ExportError(
                f'{format}: the logits of the file differ from those of the model by {difference:.1e} of the largest '
                f'logit, more than the {tolerance:.0e} that is accepted. Nothing was kept. Another format may do.')
        speed = speed_ratio(model, exported, real[:1])
        size = partial.stat().st_size
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return Report(
        path, format, input, tuple(example.shape[1:]), model.num_classes, size, difference, tolerance, tuple(batches),
        speed, str(example.device), torch.get_num_threads())


def _check_arguments(model: Any, format: str, input: str) -> None:
    if not isinstance(model, VideoModel):
        raise TypeError(f'Only video models of flatzoo can be exported, got {type(model).__name__}.')
    if format not in FORMATS:
        raise ValueError(f'format={format!r} is none of {", ".join(FORMATS)}.')
    if input not in DTYPES:
        raise ValueError(f'input={input!r} is none of {", ".join(DTYPES)}.')
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None] if format == 'onnx' else ()
    if missing:
        raise ModuleNotFoundError(f"ONNX needs {', '.join(missing)}: pip install 'flatzoo[onnx]'.")
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if dtypes != {torch.float32}:
        raise ValueError(
            f'Only float32 models can be exported. This one has {", ".join(map(str, dtypes))}: use float().')
    if model.super_image.shuffles_in_eval:
        raise ValueError(
            f'Layout {str(model.layout)!r} draws a new order for every clip, so no two answers are the same. Export '
            'the model with a layout that does so in training only.')


def _check_quantize(quantize: str, format: str) -> None:
    if quantize != 'int8':
        raise ValueError(f"quantize is 'int8' or None, got {quantize!r}.")
    if format != 'onnx':
        raise ValueError(
            f"quantize='int8' needs format='onnx', got {format!r}. In torch, flatzoo.optimize(model, quantize='int8') "
            'prepares the model itself.')


def _metadata(model: VideoModel, example: torch.Tensor, input: str) -> dict[str, Any]:
    """The metadata that the file stores."""
    mean_std = channel_stats(model.pretrained_cfg, model.in_chans)
    cfg = model.pretrained_cfg
    return {
        'architecture': cfg.get('architecture'),
        'tag': cfg.get('tag'),
        'num_classes': model.num_classes,
        'label_names': cfg.get('label_names'),
        'license': cfg.get('license'),
        'input': {
            'dtype': str(example.dtype).removeprefix('torch.'),
            'shape': ['batch', *example.shape[1:]],
            'range': '0...255' if input == 'uint8' else 'normalised: (x / 255 - mean) / std',
            'device': str(example.device),
        },
        **video_block(model, eval_protocol(model), *mean_std),
        'torch_version': torch.__version__,
    }


def _partial(path: Path, format: str) -> Path:
    """The temporary name of a file. Also checks that it can be written, because exporters report that late and
    unclearly.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, 'is a folder', str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, 'there is no such folder', str(path.parent))
    partial = path.with_name(f'{path.name}.partial{FORMATS[format]}')  # exporters look at the suffix
    partial.touch()
    partial.unlink()
    return partial


def _reason(error: BaseException) -> str:
    """The error of an exporter in one line. ONNX's own text says how to report a bug; its reason is in the first cause.
    """
    while isinstance(error, torch.onnx.errors.OnnxExporterError) and error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r'\x1b\[[\d;]*m', '', str(error))  # colours of a terminal
    return ' '.join(text.split())[:500] or type(error).__name__
