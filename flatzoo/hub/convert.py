"""Converts official weight files to the names of flatzoo and back, and accounts for every key.

`convert` reads everything that the models' own filters read: SIFAR release files, UniFormer image weights, VideoMAE
(names of transformers and of the official code), weights of the image backbones, and checkpoints of flatzoo. It writes
a safetensors file with the names of flatzoo. Its metadata says what it holds; it needs no further conversion.

No tensor disappears silently. Each tensor of the input is followed while the filters rename, split, join and resize it.
The report names every key that was left out, with the reason, and every parameter that the file did not have. A key
that is left out without a reason is an error, and so is a classifier with another number of classes.

The way back (`to='official'`) exists for models whose official code can read the result: SIFAR on Swin Transformers,
UniFormer (also the one inside `flatten_uniformer_*`) and VideoMAE (names of the official code). It also writes
safetensors, because flatzoo writes no pickles. Official code computes some buffers by itself (Swin's masks and index
tables); they are not written, so load the weights with `strict=False` there.
"""
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flatzoo.models.adapter_model import AdapterModel
from flatzoo.models.base import VideoModel
from flatzoo.models.flatten import FlattenUniFormer
from flatzoo.models.sifar import SifarSwin
from flatzoo.models.uniformer import UniFormer, checkpoint_filter_fn as uniformer_filter
from flatzoo.models.videomae import VideoMAE
from flatzoo.version import __version__
from flatzoo.weights.checkpoint import choose_weights, load_checkpoint

__all__ = ['Conversion', 'convert', 'convert_state_dict']


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        state_dict: The weights under their new names.
        taken: Names of input tensors that are in the output.
        resized: Names of output tensors that have another number of elements than their input tensor.
        dropped: Names of input tensors that are not in the output, with the reason.
        new: Parameters of the model that the input does not have, with their origin.
        beside: Content beside the weights (optimizer, arguments, EMA, ...), which was not read.
        metadata: Content of the header of the file.
    """
    state_dict: dict[str, Tensor]
    taken: list[str]
    resized: list[str]
    dropped: dict[str, str]
    new: dict[str, str]
    beside: list[str]
    metadata: dict[str, str] = field(default_factory=dict)

    def report(self) -> str:
        """A text for people that says what happened to every key."""
        lines = [f'{len(self.taken)} tensors taken, {len(self.state_dict)} written']
        groups = [('resized', name, '') for name in self.resized]
        groups += [('dropped', name, reason) for name, reason in self.dropped.items()]
        groups += [('new', name, reason) for name, reason in self.new.items()]
        for title, reason in dict.fromkeys((title, reason) for title, _, reason in groups):
            names = [name for group, name, why in groups if (group, why) == (title, reason)]
            lines.append(f'{title}{reason and ": "}{reason} ({len(names)})')
            lines += [f'    {name}' for name in names]
        if self.beside:
            lines.append(f'left beside the weights: {", ".join(self.beside)}')
        return '\n'.join(lines)


def convert(
        source: str | os.PathLike,
        target: str | os.PathLike,
        model: str,
        to: Literal['flatzoo', 'official'] = 'flatzoo',
        num_classes: int | None = None,
        use_ema: bool | None = None,
        **model_args: Any,
) -> Conversion:
    """Converts a weight file.

    Args:
        source: Weight file (safetensors, or PyTorch with tensors, plain containers and `argparse.Namespace`), or a
            folder with `model.safetensors`.
        target: Safetensors file to write. It appears complete or not at all.
        model: Name of the model that the weights are for, with or without a tag.
        to: `'flatzoo'`, or `'official'` for the names of the official code.
        num_classes: Number of classes of the file's classifier. 0 leaves it out. None takes the number of the model.
        use_ema: Whether to take the moving average if a checkpoint has it beside the raw weights. None takes it and
            warns.
        **model_args: Further arguments of the model.

    Returns:
        The conversion. The file is written.

    Raises:
        FileNotFoundError: There is no such file, or no folder to write to.
        ValueError: The file cannot be read safely, the target is not a safetensors file, there is no such model or
            official code, or the classifier does not fit.
        RuntimeError: A key is missing or left over. The message names it.
    """
    source, target = Path(source), Path(target)
    if target.suffix != '.safetensors':
        raise ValueError(f'{target}: only safetensors files are written; give it a name that ends in .safetensors.')
    if not target.parent.is_dir():
        raise FileNotFoundError(f'{target.parent}: no such folder to write to.')
    if source.is_dir():
        source = source / 'model.safetensors'
    conversion = convert_state_dict(load_checkpoint(source), model, to, num_classes, use_ema, **model_args)
    with source.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    conversion = replace(
        conversion, metadata=conversion.metadata | {'source': source.name, 'source_sha256': digest})
    _write(target, conversion.state_dict, conversion.metadata)
    return conversion


def convert_state_dict(
        checkpoint: dict[str, Any],
        model: str,
        to: Literal['flatzoo', 'official'] = 'flatzoo',
        num_classes: int | None = None,
        use_ema: bool | None = None,
        **model_args: Any,
) -> Conversion:
    """Converts a checkpoint in memory, see `convert`."""
    if to not in ('flatzoo', 'official'):
        raise ValueError(f"to={to!r} is neither 'flatzoo' nor 'official'.")
    args = dict(model_args, **({} if num_classes is None else {'num_classes': num_classes}))
    built = _build(model, device='meta', **args)
    if to == 'official':
        _check_official(model, built)
    if isinstance(built, VideoModel):
        built.use_ema = use_ema
        chosen = built.choose_weights(checkpoint)
    else:
        chosen = choose_weights(checkpoint, use_ema)
    weights, beside = _weights_of(checkpoint, chosen)
    with _Follow(weights) as follow:
        converted = _filter(built, chosen)
    wanted = built.state_dict()
    state_dict = {key: tensor for key, tensor in converted.items() if key in wanted}
    origins = {key: follow.origins(tensor) for key, tensor in state_dict.items()}
    taken = [key for key in weights if any(key in keys for keys in origins.values())]
    dropped = _reasons(weights, taken, built, model, num_classes)
    _check_shapes(state_dict, wanted, model)

    made = 'not in the file, made by the filter'
    if isinstance(built, AdapterModel):  # official files without the frozen backbone
        made = f'not in the file: image weights {built._image_weights_name()}'
    new = {key: made for key, keys in origins.items() if not keys}
    classifier = _classifier_keys(built)
    missing = [key for key in wanted if key not in state_dict]
    new |= {key: 'classifier, not written: it starts fresh' for key in missing if key in classifier}
    fresh = [key for key in missing if key not in classifier]
    if fresh:
        initial = _initial(model, fresh, **args)
        state_dict |= initial
        new |= {key: 'not in the file, as the model initialises it' for key in fresh}
    resized = [
        key for key, keys in origins.items()
        if len(keys) == 1 and state_dict[key].numel() != weights[next(iter(keys))].numel()
    ]
    if to == 'official':
        state_dict, lost = _to_official(built, state_dict)
        dropped |= lost
    metadata = {
        'format': 'pt', 'flatzoo_version': __version__, 'architecture': model, 'names': to,
        'model_args': json.dumps(args),
    }
    return Conversion(state_dict, taken, resized, dropped, new, beside, metadata)


# Models


def _build(name: str, **kwargs: Any) -> nn.Module:
    try:
        model = timm.create_model(name, pretrained=False, **kwargs)
    except RuntimeError as error:
        if 'Unknown model' not in str(error) and 'Invalid pretrained tag' not in str(error):
            raise
        raise ValueError(f"there is no model {name!r}; 'flatzoo list' shows the video models.") from error
    if not isinstance(model, (VideoModel, UniFormer)):
        raise ValueError(f"{name} is no model of flatzoo; 'flatzoo list' shows the video models.")
    return model


def _initial(name: str, keys: list[str], **kwargs: Any) -> dict[str, Tensor]:
    """Parameters as the model initialises them. They are the same in every run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state_dict = _build(name, **kwargs).state_dict()
    return {key: state_dict[key] for key in keys}


def _filter(model: nn.Module, checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The model's own conversion, which refuses unknown and missing keys."""
    if isinstance(model, VideoModel):
        return model.filter_checkpoint(checkpoint)
    state_dict, wanted, head = uniformer_filter(checkpoint, model), model.state_dict(), _classifier_keys(model)
    missing = [key for key in wanted if key not in state_dict and key not in head]
    unexpected = [key for key in state_dict if key not in wanted and not key.startswith('head.fc.')]
    if missing or unexpected:
        raise RuntimeError(
            f'These weights are not those of this UniFormer: missing are {missing[:5]}, not wanted {unexpected[:5]}. '
            'Choose another uniformer_* model, or load others.')
    return {  # a classifier of another size is left out, as for video models
        key: tensor for key, tensor in state_dict.items()
        if key not in head or tensor.shape == wanted[key].shape
    }


def _classifier_keys(model: nn.Module) -> set[str]:
    if isinstance(model, VideoModel):
        return model.classifier_keys()
    return {f'head.fc.{name}' for name, _ in model.get_classifier().named_parameters()}


# Keys


class _Follow(TorchFunctionMode):
    """Follows tensors through operations: it knows from which entries of a state dict each result was made."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        self._known: dict[int, tuple[Tensor, set[str]]] = {}  # the tensor is kept, so that no other one gets its id
        for key, tensor in weights.items():
            self._note(tensor, {key})

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not getattr(func, '__name__', '').endswith('_like'):  # zeros_like(x) has no values of x
            keys = set().union(*(self.origins(tensor) for tensor in _tensors((args, kwargs))))
            if keys:
                for tensor in _tensors(result):
                    self._note(tensor, keys)
        return result

    def _note(self, tensor: Tensor, keys: set[str]) -> None:
        self._known[id(tensor)] = (tensor, self.origins(tensor) | keys)

    def origins(self, tensor: Tensor) -> set[str]:
        """Keys of the entries from which a tensor was made."""
        return self._known[id(tensor)][1] if id(tensor) in self._known else set()


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (dict, list, tuple)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors(value)


def _weights_of(checkpoint: dict[str, Any], chosen: dict[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the chosen weights of a checkpoint, and the names of the other entries."""
    beside = []
    tensors = {id(value) for value in chosen.values()}

    def holds(value: Any) -> bool:
        return id(value) in tensors or isinstance(value, dict) and any(map(holds, value.values()))

    while not any(id(value) in tensors for value in checkpoint.values()):
        inner = next((key for key, value in checkpoint.items() if holds(value)), None)
        if inner is None:
            break
        beside += [str(key) for key in checkpoint if key != inner]
        checkpoint = checkpoint[inner]
    return {key: value for key, value in chosen.items() if isinstance(value, Tensor)}, beside


_CLASSIFIER = re.compile(
    r'(^|\.)(head|classifier|fc|new_fc|fc_cls|linear|side_head)(\.fc|\.l|\.\d+|\.linear2)*\.(weight|bias)$')
# tensors that may be left out
_EXPENDABLE = [(re.compile(pattern), reason) for pattern, reason in (
    (r'(^|\.)(attn_mask|relative_position_index|relative_coords_table)$', 'buffer that the model computes itself'),
    (r'num_batches_tracked$', 'counter of batch norm that the model does not keep'),
    (r'^(module\.)?(decoder\.|encoder_to_decoder\.|mask_token$)', 'decoder of the pre-training'),
    (r'^(module\.)?norm[1-4]\.', 'norm of a dense prediction model'),
)]
_MAE_NORM = re.compile(r'^(module\.)?(videomae\.layernorm|layernorm|encoder\.norm|norm)\.')


def _reasons(
        weights: dict[str, Tensor],
        taken: list[str],
        model: nn.Module,
        name: str,
        num_classes: int | None,
) -> dict[str, str]:
    """The reasons why tensors of the input were left out.

    Raises:
        ValueError: A classifier would be left out, but num_classes does not ask for it.
        RuntimeError: There is no reason for a tensor.
    """
    reasons, unexplained = {}, []
    for key in weights:
        if key in taken:
            continue
        reason = next((why for pattern, why in _EXPENDABLE if pattern.search(key)), None)
        if reason is None and isinstance(model, VideoMAE) and _MAE_NORM.match(key):
            reason = 'last norm of the pre-training, which mean pooling replaces by fc_norm'
        if reason is None and _CLASSIFIER.search(key):
            if model.num_classes:
                classes = len(weights[key])
                if classes == model.num_classes:
                    raise RuntimeError(
                        f'the classifier of the file ({key}) has the shape {list(weights[key].shape)}, {name} wants '
                        'another one. Build the model with the arguments of the weights.')
                raise ValueError(
                    f'the classifier of the file ({key}) has {classes} classes, {name} '
                    f'{"is asked for" if num_classes else "has"} {model.num_classes}. Give num_classes={classes} '
                    '(--num-classes) to keep it, or 0 to leave it out and start with a fresh one.')
            reason = 'classifier, as num_classes=0 asks'
        if reason is None:
            unexplained.append(key)
        else:
            reasons[key] = reason
    if unexplained:
        raise RuntimeError(
            f'{len(unexplained)} keys of the file are not accounted for by {name}: {", ".join(unexplained[:5])}'
            f'{", ..." if len(unexplained) > 5 else ""}. Choose the model that the weights are for.')
    return reasons


def _check_shapes(state_dict: dict[str, Tensor], wanted: dict[str, Tensor], name: str) -> None:
    wrong = [
        f'{key} {list(tensor.shape)} in place of {list(wanted[key].shape)}'
        for key, tensor in state_dict.items() if tensor.shape != wanted[key].shape
    ]
    if wrong:
        raise RuntimeError(
            f'{len(wrong)} tensors do not have the shape that {name} wants: {"; ".join(wrong[:3])}. Build the model '
            'with the arguments of the weights.')


# The way back


def _check_official(name: str, model: nn.Module) -> None:
    if not isinstance(model, (SifarSwin, FlattenUniFormer, UniFormer, VideoMAE)):
        raise ValueError(
            f'{name} has no official code whose names could be written. Models with such code: sifar_swin_*, '
            'uniformer_*, flatten_uniformer_*, videomae_* and time_videomae_*.')


def _to_official(model: nn.Module, state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights under the names of the official code, and what it cannot hold. Converting them back is the check."""
    official, lost = {}, {}
    for key, tensor in state_dict.items():
        name = key.removeprefix('backbone.')
        if isinstance(model, SifarSwin):
            name = name.removeprefix('patch_embed.') if name.endswith('frame_pos_embed') else name
            name = re.sub(r'^layers\.(\d+)\.downsample\.', lambda m: f'layers.{int(m[1]) - 1}.downsample.', name)
        elif isinstance(model, VideoMAE):
            if name == 'patch_embed.proj.weight':  # [D, t * C, p, p] -> [D, C, t, p, p]
                tensor = tensor.unflatten(1, (-1, model.in_chans)).transpose(1, 2)
            elif name.endswith('attn.qkv.bias'):
                query, _, value = tensor.chunk(3)
                stem = name.removesuffix('qkv.bias')
                official |= {f'{stem}q_bias': query, f'{stem}v_bias': value}
                lost[f'{key} (keys)'] = 'bias of keys, which does not change the softmax'
                continue
        else:
            name = re.sub(r'^stages\.(\d)\.downsample\.(\d)', lambda m: f'patch_embed{int(m[1]) + 1}.proj.{m[2]}', name)
            name = re.sub(r'^stages\.(\d)\.downsample\.', lambda m: f'patch_embed{int(m[1]) + 1}.', name)
            name = re.sub(r'^stages\.(\d)\.blocks\.', lambda m: f'blocks{int(m[1]) + 1}.', name)
            name = re.sub(r'\.ls([12])\.gamma$', r'.gamma_\1', name)
        official[re.sub(r'^head\.fc\.', 'head.', name)] = tensor

    for key, tensor in _filter(model, official).items():
        if key.endswith('attn.qkv.bias') and isinstance(model, VideoMAE):
            tensor, expected = (torch.cat([x.chunk(3)[0], x.chunk(3)[2]]) for x in (tensor, state_dict[key]))
        else:
            expected = state_dict[key]
        if not torch.equal(tensor, expected):
            raise RuntimeError(f'{key} changes on the way to the official names and back. Nothing was written.')
    return official, lost


def _write(path: Path, state_dict: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a file under a temporary name and renames it."""
    partial = path.with_name(f'{path.name}.partial')
    copies = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in state_dict.items()}
    try:
        partial.touch()
        mode = partial.stat().st_mode  # of an ordinary new file; safetensors lets only the owner read
        save_file(copies, partial, metadata)
        partial.chmod(mode)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
