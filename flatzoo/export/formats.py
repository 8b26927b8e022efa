"""The export formats: how each file is written, read back and called.

Every file takes clips `[B, C, T, H, W]` of any batch size B and of one dtype, and returns logits `[B, num_classes]`. It
holds the layout, the normalisation of uint8 clips, and a JSON text with the expected clips and the classes. No file
needs flatzoo: flatzoo's own operators are replaced by torch's.
"""
import json
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flatzoo.layers.attention_flow import attention_columns

__all__ = ['FORMATS', 'Exported', 'Format', 'load', 'write']

METADATA = 'flatzoo'  # key of the JSON text
METADATA_FILE = f'{METADATA}.json'  # where a format has files in place of keys
Format = Literal['torch-export', 'onnx', 'torchscript', 'aoti']
FORMATS: dict[Format, str] = {  # with their suffixes
    'torch-export': '.pt2', 'onnx': '.onnx', 'torchscript': '.pt', 'aoti': '.aoti.pt2'}
BATCH = {0: torch.export.Dim('batch', min=1)}


@dataclass(frozen=True)
class Exported:
    """A model that was read from an exported file. Calling it with a clip returns the logits.

    Attributes:
        format: One of `FORMATS`.
        metadata: The metadata of the file: `input` (`dtype`, `shape`, `range`, `device`), `label_names` if it knows
            them, `layout`, `num_frames`, `img_size`, `mean`, `std`, `protocol`, `architecture`, `flatzoo_version`.
        run: Clips `[B, C, T, H, W]` of that dtype on that device -> logits `[B, num_classes]`.
    """
    format: Format
    metadata: dict[str, Any]
    run: Callable[[Tensor], Tensor]

    def __call__(self, clip: Tensor) -> Tensor:
        """Clips `[B, C, T, H, W]` -> logits `[B, num_classes]`.

        Raises:
            ValueError: The clips have another shape or dtype. Some formats would accept them silently.
        """
        wanted = self.metadata['input']
        if list(clip.shape[1:]) != wanted['shape'][1:] or clip.dtype != getattr(torch, wanted['dtype']):
            raise ValueError(
                f'Expected {wanted["dtype"]} clips {wanted["shape"]}, got {clip.dtype} of shape {list(clip.shape)}.')
        with torch.no_grad():
            return self.run(clip)


class PlainOperators(TorchFunctionMode):
    """Replaces AM Flow's operators by their equations while a model is recorded, and attention by its 4-D form.

    The equations hold whole attention maps of a clip, so the files of AM Flow models need more memory than the models.
    ONNX has attention in four dimensions only; Hiera's windows are a fifth.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        ops, op = torch.ops.flatzoo, getattr(func, 'overloadpacket', func)
        if op is ops.attention_columns:
            return attention_columns(*args, **(kwargs or {}))
        if op is ops.attention_columns_triton:
            return attention_columns(*args, **(kwargs or {})), None
        masked = (kwargs or {}).get('attn_mask') is not None
        if func is F.scaled_dot_product_attention and len(args) == 3 and args[0].ndim > 4 and not masked:
            out = func(*(x.flatten(0, -4) for x in args), **(kwargs or {}))
            return out.reshape(*args[0].shape[:-1], out.shape[-1])
        return func(*args, **(kwargs or {}))


class CheckedClip(nn.Module):
    """Refuses clips of another shape or dtype than the trace was made with. The trace alone would accept them silently.
    """

    def __init__(self, traced: torch.jit.ScriptModule, clip: Tensor):
        super().__init__()
        self.traced = traced
        self.dtype = clip.dtype
        self.shape: list[int] = list(clip.shape[1:])
        self.expected = f'Expected a batch of {clip.dtype} clips of shape {self.shape}.'

    def forward(self, clip: Tensor) -> Tensor:
        if clip.dtype != self.dtype or list(clip.shape[1:]) != self.shape:
            raise ValueError(self.expected)
        return self.traced(clip)


def write(
        model: nn.Module,
        clip: Tensor,
        path: Path,
        format: Format,
        metadata: dict[str, Any],
        quantize: Literal['int8'] | None = None,
) -> None:
    """Writes a file.

    Args:
        model: A model in eval mode, whose parameters need no gradients.
        clip: An example batch of at least two clips. With one clip, some exporters would fix the batch size.
        path: The file to write, with the suffix of the format.
        format: One of `FORMATS`.
        metadata: Values that JSON can hold.
        quantize: 8-bit weights of linear layers; only for ONNX.
    """
    text = json.dumps(metadata, ensure_ascii=False)
    with PlainOperators(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # TorchScript is deprecated; traces warn of every shape that is a constant
        if format == 'torchscript':
            traced = torch.jit.trace(model, clip, check_trace=False)
            torch.jit.script(CheckedClip(traced, clip)).save(str(path), _extra_files={METADATA_FILE: text})
            return
        if format == 'onnx':
            program = torch.onnx.export(
                model, (clip,), dynamo=True, dynamic_shapes=(BATCH,), input_names=['clip'], output_names=['logits'],
                verbose=False)
            program.model.metadata_props[METADATA] = text
            program.save(path)
            if quantize is not None:
                _quantize_onnx(path)
            return
        program = torch.export.export(model, (clip,), dynamic_shapes=(BATCH,))
    if format == 'torch-export':
        torch.export.save(program, path, extra_files={METADATA_FILE: text})
    else:
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs={'aot_inductor.metadata': {METADATA: text}})


def _quantize_onnx(path: Path) -> None:
    """Rewrites a file with integer products. onnxruntime keeps the metadata."""
    import logging

    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it advises to optimise the graph first, which changes nothing here
    try:
        quantize_dynamic(
            path, path, op_types_to_quantize=['MatMul', 'Gemm'], per_channel=True, weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)


def load(path: str | Path) -> Exported:
    """Reads an exported file of any format. The format is recognised from its content.

    These files are programs. Those of AOTInductor are machine code. Load only files that you trust.

    Args:
        path: A file that `flatzoo.export.export` wrote.

    Returns:
        The model. Call it with clips on the device that `metadata['input']['device']` names. ONNX runs on the CPU in
        onnxruntime, with the thread count of torch.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: The file has another format, or flatzoo did not write it.
        ModuleNotFoundError: If onnxruntime is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: there is no such file.')
    extra = {METADATA_FILE: ''}
    format = _format(path)
    try:
        if format == 'onnx':
            run, text = _load_onnx(path)
        elif format == 'torchscript':
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                run = torch.jit.load(str(path), _extra_files=extra)
            text = extra[METADATA_FILE]
        elif format == 'torch-export':
            run = torch.export.load(path, extra_files=extra).module()
            text = extra[METADATA_FILE]
        else:
            run = torch._inductor.aoti_load_package(str(path))
            text = run.get_metadata()[METADATA]
        metadata = json.loads(text)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - each runtime has exceptions of its own
        raise ValueError(
            f'{path}: is not a file of `flatzoo export`, or is damaged ({error}). Export it again.') from error
    return Exported(format, metadata, run)


def _format(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return 'onnx'
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any('/aotinductor/' in name for name in names):
        return 'aoti'
    return 'torchscript' if any('/code/' in name for name in names) else 'torch-export'


def _load_onnx(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def run(clip: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {'clip': clip.cpu().contiguous().numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map[METADATA]
