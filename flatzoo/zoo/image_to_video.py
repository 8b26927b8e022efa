"""Every way to make an image model see video, side by side: what is trained, what it costs, what papers print.

The rows are `MEMBERS`: each method on one backbone, CLIP's ViT-B/16 with 8 frames of 224 pixels and 400 classes, and
then the models as their papers have them. Each backbone also has a row of full fine-tuning, the measure of the others.
Figures are counted on the meta device, as in `flatzoo.zoo.comparison`; speeds come from files that name the hardware.
"""
import fnmatch
import json
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm

from flatzoo.models.record import tag_record
from flatzoo.runtime.cost import count_forward, count_kept

from .catalogue import list_names
from .comparison import (
    Column,
    Section,
    Table,
    accuracy_columns,
    accuracy_text,
    figure_of,
    number_column,
    size_column,
    speed_columns,
    speed_note,
)
from .sources import weight_source

__all__ = ['MEMBERS', 'Member', 'compare_members', 'matching_members', 'members_table', 'read_learned']


class Member(NamedTuple):
    """A row of the table.

    Attributes:
        name: What the row is called; for models with arguments of their own no name of timm.
        group: Under which title it stands.
        model: Name of the entry point.
        args: Its arguments.
    """
    name: str
    group: str
    model: str
    args: Mapping[str, Any]

    @property
    def built(self) -> str:
        """The call that builds it."""
        args = ''.join(f', {name}={value!r}' for name, value in self.args.items())
        return f'timm.create_model({self.model!r}{args})'


_CLIP, _DINOV2 = 'vit_base_patch16_clip_quickgelu_224.openai', 'vit_base_patch14_dinov2.lvd142m'
_FRAMES = dict(num_frames=8, img_size=224, num_classes=400)
_SAME, _FINE = 'On one backbone: CLIP ViT-B/16', 'full fine-tuning'
_PAPERS = 'As the papers have them'
_LEARNED = ['way', 'top-1 (%)', 'reversed', 'shuffled', 'epochs', 'seed', 'CPU minutes']


def _on(backbone: str, group: str, *rows: tuple[str, str, dict[str, Any]]) -> tuple[Member, ...]:
    return tuple(Member(name, group, model, dict(backbone=backbone, **args)) for name, model, args in rows)


def _named(*names: str, group: str = _PAPERS) -> tuple[Member, ...]:
    return tuple(Member(name, group, name, {}) for name in names)


MEMBERS: tuple[Member, ...] = (
    *_on(
        _CLIP, _SAME,
        (_FINE, 'superimage', dict(layout='time:1', **_FRAMES)),
        ('SIFAR, grid of 3x3', 'superimage', dict(layout='grid', **_FRAMES)),
        ('Flatten, grid of 2x4', 'superimage', dict(layout='2x4', **_FRAMES)),
        ('TIME, n=2', 'time_vit_b', {}),
        ('TALL, grids of 2x2', 'tall', _FRAMES),
        ('linear probe', 'probe', dict(probe='linear', **_FRAMES)),
        ('attentive probe', 'probe', dict(probe='attentive', **_FRAMES)),
        ('attentive probe, 1 block', 'probe', dict(probe='attentive', probe_depth=1, **_FRAMES)),
        ('STEP probe', 'probe', dict(probe='step', **_FRAMES))),
    *_named('st_adapter_clip_b', 'aim_clip_b', 'zeroi2v_clip_b', group=_SAME),
    Member('zeroi2v_clip_b, merged', _SAME, 'zeroi2v_clip_b', dict(merged=True)),
    *_named('dualpath_clip_b', 'amflow_clip_b_tcn_lite', 'amflow_clip_b_tcn', group=_SAME),
    *_named(
        'sifar_swin_b12', 'sifar_swin_b14', 'sifar_swin_b14_16f', 'sifar_resnet50', 'flatten_uniformer_s',
        'flatten_uniformer_s_16f', 'flatten_swinv2_b', 'flatten_resnet50', 'time_vit_b', 'time_resnet50',
        'tall', 'tsm_resnet50', 'tsm_resnet50_16f', 'tsm_resnet50_nl', 'tsm_resnet101', 'tsm_mobilenetv2_100',
        'tsm_online_mobilenetv2_100', 'st_adapter_clip_b_ssv2', 'st_adapter_clip_l', 'st_adapter_dinov2_b',
        'aim_clip_b_ssv2', 'aim_clip_l', 'aim_dinov2_b', 'zeroi2v_clip_b_ssv2', 'zeroi2v_clip_l', 'zeroi2v_clip_l_32f',
        'zeroi2v_clip_l_ssv2', 'zeroi2v_dinov2_b', 'dualpath_clip_l', 'probe_dinov2_s', 'probe_dinov2_b',
        'probe_dinov2_l', 'amflow_dinov2_b_tcn_lite', 'amflow_dinov2_b_tcn', 'amflow_dinov2_b_transformer',
        'amflow_dinov2_b_lstm'),
    *_on(_DINOV2, _PAPERS, (f'{_FINE}, DINOv2 ViT-B/14', 'superimage', dict(layout='time:1', **_FRAMES))),
    *_on('resnet50.tv_in1k', _PAPERS, (f'{_FINE}, ResNet-50', 'superimage', dict(layout='time:1', **_FRAMES))),
)

NOTES = (
    'Parameters, multiply-adds and kept activations are counted on the meta device, by flatzoo.runtime.cost. '
    'Multiply-adds are those of one view. Trained are the parameters that are left when a method with adapters or a '
    'probe has frozen its backbone; the other methods train everything.',
    'Kept is what autograd keeps of the forward pass of one clip for the backward pass, in float32, with fused '
    'attention and nothing recomputed. Gradients and states of an optimizer are not in it: with AdamW in float32 they '
    'take 12 bytes for each trained parameter.',
    'File is what has to be stored of a trained model in float32: its adapters, its probe, or all weights.',
    'Backward means forward and backward of one clip, as the method is trained, without an optimizer. Speeds of few '
    'runs on a machine that does other work, too, differ by up to a third from run to run.',
    'Accuracies are printed by the papers, their repositories, or the paper that is named; none of them was measured '
    'by us. They differ in training, frames and views. † What the name loads does not have this accuracy: train it, or '
    'convert the file of the authors with `flatzoo convert` where there is one.',
)


def matching_members(patterns: Sequence[str]) -> list[Member]:
    """The members whose name or entry point matches any of the wildcards; all without one.

    Raises:
        ValueError: If nothing matches one of them.
    """
    for pattern in patterns:
        if not any(_matches(member, pattern) for member in MEMBERS):
            names = ', '.join(dict.fromkeys(member.name for member in MEMBERS))
            raise ValueError(f'no row of the family matches {pattern!r}. Its rows are: {names}.')
    return [member for member in MEMBERS if not patterns or any(_matches(member, pattern) for pattern in patterns)]


def _matches(member: Member, pattern: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for name in (member.name, member.model))


def compare_members(
        members: Sequence[Member],
        measured: Mapping[str, Sequence[dict[str, Any]]] | None = None,
        done: Callable[[], None] = lambda: None,
        counted: MutableMapping[str, dict[str, int]] | None = None,
) -> list[dict[str, Any]]:
    """Facts of members of the family.

    Args:
        members: Which.
        measured: Speeds by name, as `flatzoo.zoo.comparison.read_measured` returns them with both passes.
        done: Called after each row.
        counted: What was counted before, as this function left it here. Only what is missing is counted, and added.

    Returns:
        A dictionary for each member, of `name`, `group`, `built` (the call that builds it), `family` (of its paper),
        `backbone`, `num_frames`, `img_size`, `num_classes`; `params`, `trainable`, `macs` (of one view), `kept_bytes`
        (see `count_kept`), `file_bytes` (what is stored of a trained model); `licence` of the image weights or of the
        trained ones (several are joined by commas), `measured`, and `paper` as in `compare_models`.
    """
    counted = {} if counted is None else counted
    rows = []
    for member in members:
        model = timm.create_model(member.model, device='meta', **member.args)  # shapes alone
        macs = counted[member.built]['macs'] if member.built in counted else count_forward(model).macs
        params = list(model.parameters())
        merged = getattr(model, 'merged', False)
        if merged:  # is trained no more
            model.requires_grad_(False)
        elif hasattr(model, 'freeze_backbone'):
            model.freeze_backbone()
        has_file = hasattr(model, 'adapter_tensors') and not merged
        stored = model.adapter_tensors() if has_file else model.state_dict()
        record = tag_record(member.model)
        if member.built not in counted:
            counted[member.built] = {'macs': macs, 'kept_bytes': count_kept(model)}
        rows.append({
            'name': member.name, 'group': member.group, 'built': member.built,
            'family': record.paper.name if record.paper else 'Any backbone',
            'backbone': member.args.get('backbone') or model._backbone_name,
            'num_frames': model.num_frames, 'img_size': list(model.img_size), 'num_classes': model.num_classes,
            'params': sum(p.numel() for p in params),
            'trainable': sum(p.numel() for p in params if p.requires_grad),
            **counted[member.built],
            'file_bytes': sum(tensor.numel() * tensor.element_size() for tensor in stored.values()),
            'licence': _licence(member, model),
            'measured': list((measured or {}).get(member.name, ())),
            'paper': [] if member.args else _figures(member.model),
        })
        done()
    return rows


def _licence(member: Member, model: Any) -> str | None:
    """Licences of the weights: those of the tags, or those of the image backbone."""
    sources = [] if member.args else [weight_source(name) for name in list_names(member.model)]
    licences = [source.licence for source in sources if source]
    licences = licences or [(model.backbone.pretrained_cfg.get('license') or '').lower()]
    return ', '.join(dict.fromkeys(filter(None, licences))) or None


def _figures(architecture: str) -> list[dict[str, Any]]:
    """What papers print for an architecture, over all its tags; a figure of published weights stands for itself."""
    figures: dict[tuple, dict[str, Any]] = {}
    for name in list_names(architecture):
        cfg = timm.get_pretrained_cfg(name)
        of_weights = bool(cfg and cfg.has_weights and cfg.label_names is not None)
        for figure in tag_record(name).figures:
            row = figure_of(figure, of_weights)
            key = row['data_set'], row['top1'], row['frames'], row['views'], row['setting']
            if not figure.setting and (key not in figures or row['of_weights']):
                figures[key] = row
    return list(figures.values())


def read_learned(path: Path) -> Section:
    """Accuracies of ways to make an image model see video, as `benchmarks/learning/family.py` keeps them.

    Args:
        path: A JSON file of an object with `title`, `about` and `rows`. A row has the name of the `arm`, its top-1 in
            % on clips in `normal` order, in `reverse` and in `shuffle`, the `seed`, `epochs` (None for probes),
            `cpu_seconds` and the `machine` that they are of.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds something else.
    """
    try:
        kept = json.loads(path.read_text(encoding='utf-8'))
        machines = list(dict.fromkeys(row['machine'] for row in kept['rows']))
        rows = [[
            row['arm'], *(f'{row[order]:.1f}' for order in ('normal', 'reverse', 'shuffle')),
            str(row['epochs'] or '-'), str(row['seed']),
            f'{row["cpu_seconds"] / 60:.1f} [{machines.index(row["machine"]) + 1}]'] for row in kept['rows']]
        where = ', '.join(f'[{number}] {machine}' for number, machine in enumerate(machines, 1))
        return Section(kept['title'], f'{kept["about"]} CPU minutes of: {where}.', _LEARNED, rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: no accuracies as benchmarks/learning/family.py keeps them: {type(error).__name__}: '
            f'{error}') from error


def members_table(
        rows: Sequence[Mapping[str, Any]], learned: Section | None = None, machine: str = '') -> Table:
    """The table of rows of `compare_members`, with speeds of one machine.

    Args:
        rows: The rows.
        learned: Accuracies of `read_learned`, which stand below the table.
        machine: Part of the name of the machine; see `flatzoo.zoo.comparison.speed_columns`.

    Raises:
        ValueError: If nothing was measured on such a machine.
    """
    speeds = speed_columns(rows, {'clips/s, forward': 'forward', 'clips/s, backward': 'train'}, machine)
    name = Column('name', lambda row: row['name'], lambda row: row['name'], right=False)
    counted = [
        Column('backbone', lambda row: row['backbone'], lambda row: row['backbone'], right=False),
        Column('frames', lambda row: str(row['num_frames']), lambda row: row['num_frames']),
        size_column(),
        number_column('params (M)', lambda row: row['params'] / 1e6, 'parameters'),
        number_column('trained (M)', lambda row: row['trainable'] / 1e6, 'parameters that are trained'),
        number_column('multiply-adds (G)', lambda row: row['macs'] / 1e9, 'of one view, counted'),
        number_column('kept (MB)', lambda row: row['kept_bytes'] / 1e6, 'activations of a clip in training'),
        number_column('file (MB)', lambda row: row['file_bytes'] / 1e6, 'what is stored of a trained model'),
        Column('licence', lambda row: row['licence'] or '', lambda row: row['licence'], right=False,
            note='of the weights'),
    ]
    accuracy = Column(
        "the paper's top-1 (%)", accuracy_text, None, right=False, note='printed there, not measured by us')
    return Table(
        'Image to video', [name, *counted[:7], *speeds[:2], *counted[7:], accuracy],
        [name, *accuracy_columns(rows), *speeds, *counted], [*NOTES, *_built_in(rows)], speed_note(speeds),
        () if learned is None else (learned,))


def _built_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    calls = [f'{row["name"]}: `{row["built"]}`' for row in rows if not row['built'].endswith(f'({row["name"]!r})')]
    return ['Rows that are no names of the zoo: ' + '; '.join(calls)] * bool(calls)
