"""Registered models side by side: size, cost, licence, measured speed, and what the papers print.

A row has three kinds of figures, which are never mixed: counted ones (`flatzoo.runtime.cost`), measured ones (from CSV
files that name the hardware), and printed ones (from the records of the weights, `flatzoo.models.record`).
"""
import csv
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm

from flatzoo.models import eval_protocol
from flatzoo.models.record import Figure, tag_record
from flatzoo.runtime.cost import count_forward

from .sources import weight_source

__all__ = [
    'Column', 'NOTES', 'Table', 'accuracy_columns', 'accuracy_text', 'compare_models', 'fastest', 'figure_of',
    'figure_text', 'number_column', 'printed_in', 'read_measured', 'setting_of', 'size_column', 'speed_columns',
    'speed_note', 'table_of', 'variants_in']

MEASURED_COLUMNS = ('model', 'clips_per_s', 'hardware', 'precision', 'batch')
NOTES = (
    'Parameters, multiply-adds and memory are counted on the meta device, by flatzoo.runtime.cost, for the number '
    'of classes that a name has. Multiply-adds are those of products and convolutions, of one view; the logits of a '
    'video are the mean over its views.',
    'Peak is the largest sum of the bytes of all tensors that live at the same time in a forward pass of one clip in '
    'float32 without gradients, the clip included and weights not, with attention fused where the model fuses it. '
    'What operators need inside and what an allocator rounds up is not in it.',
    'Accuracies are printed by the papers or in their repositories; none of them was measured by us. They differ in '
    'data set, frames and views, so they are compared within a data set alone. † What the name loads does not have '
    'this accuracy: train it, or convert the file of the authors with `flatzoo convert` where there is one.',
)


def compare_models(
        names: Iterable[str],
        measured: Mapping[str, Sequence[dict[str, Any]]] | None = None,
        counted: MutableMapping[str, dict[str, int]] | None = None,
) -> list[dict[str, Any]]:
    """Facts of registered video models.

    Args:
        names: Names of models, `architecture` or `architecture.tag`.
        measured: Speeds, as `read_measured` returns them.
        counted: What was counted before, as this function left it here. Only what is missing is counted, and added.

    Returns:
        A dictionary for each name, with these keys:

        - `name`, `family`, `num_frames`, `img_size` (height and width of a frame in pixels), `layout`, `num_classes`;
        - `params`, `trainable` (parameters outside of a frozen backbone), `weight_bytes`;
        - `macs` and `peak_bytes` of one view, see `ForwardCost`; `views` of a video in the evaluation protocol;
        - `licence`, `data` and `source` of the weights, None if there are none;
        - `measured`, a list with the keys `MEASURED_COLUMNS`, `variant` and `pass`;
        - `paper`, a list of the accuracies that papers print: `data_set`, `top1`, `top5` (in %), `frames` and `views`
          (None if not printed), `setting` (what differs from the registered model, empty if nothing does), `of_weights`
          (whether these weights reach the figure; otherwise the model must be trained first), and `backbone`, `params`,
          `cost`, `note` and `where` as in `flatzoo.models.record.Figure`.
    """
    counted = {} if counted is None else counted
    rows = []
    for name in names:
        architecture = name.partition('.')[0]
        model = timm.create_model(name, device='meta')  # shapes alone: no memory, no initialisation
        key = f'{architecture}, {model.num_classes} classes'
        if key not in counted:
            counted[key] = count_forward(model)._asdict()
        params = list(model.parameters())
        if hasattr(model, 'freeze_backbone'):
            model.freeze_backbone()
        source, record = weight_source(name), tag_record(name)
        rows.append({
            'name': name,
            'family': _family(name),
            'num_frames': model.num_frames,
            'img_size': list(model.img_size),
            'layout': str(model.layout),
            'num_classes': model.num_classes,
            'params': sum(p.numel() for p in params),
            'trainable': sum(p.numel() for p in params if p.requires_grad),
            'weight_bytes': sum(p.numel() * p.element_size() for p in params),
            **counted[key],
            'views': eval_protocol(name).views,
            'licence': source and source.licence,
            'data': source and source.data,
            'source': source and source.page,
            'paper_id': record.paper and record.paper.id,
            'measured': [*(measured or {}).get(architecture, ()), *_of_tag(measured or {}, name)],
            'paper': _paper_figures(name),
        })
    return rows


def read_measured(
        paths: Iterable[str | Path], passes: Sequence[str] = ('forward',)) -> dict[str, list[dict[str, Any]]]:
    """Measured speeds from CSV files, by the name of the model.

    Args:
        paths: Files with the columns `MEASURED_COLUMNS`. Two columns are optional: `variant` (such as `compiled`) and
            `pass`, of which only the rows of `passes` are read. Other columns are ignored.
        passes: `forward`, which is also `inference` or empty, and `train`, forward and backward.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is not CSV, a column is missing, or a speed is not a positive number.
    """
    measured: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        try:
            with open(path, newline='', encoding='utf-8') as file:
                reader = csv.DictReader(file)
                missing = [column for column in MEASURED_COLUMNS if column not in (reader.fieldnames or ())]
                if missing:
                    raise ValueError(
                        f'{path} has no column {", ".join(missing)}. Files of measured speeds are CSV with a header '
                        f'and the columns {", ".join(MEASURED_COLUMNS)}.')
                for row in reader:
                    kind = row.get('pass') or 'forward'
                    kind = 'forward' if kind == 'inference' else kind
                    if kind not in passes:
                        continue
                    speed = _positive(row['clips_per_s'])
                    if speed is None:
                        raise ValueError(
                            f'{path}, line {reader.line_num}: clips_per_s is {row["clips_per_s"]!r}, not a positive '
                            'number.')
                    values = {column: row[column] for column in MEASURED_COLUMNS[2:]}
                    measured.setdefault(row['model'], []).append(
                        {'clips_per_s': speed, **values, 'variant': row.get('variant') or '', 'pass': kind})
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f'{path} is not a CSV file ({error}).') from error
    return measured


def setting_of(entry: Mapping[str, Any]) -> str:
    """What two speeds must have in common to be compared: hardware, precision and variant, as a title."""
    return ', '.join(entry[key] for key in ('hardware', 'precision', 'variant') if entry[key])


def machine_of(entry: Mapping[str, Any]) -> str:
    """Hardware and precision of a speed, as a title."""
    return f'{entry["hardware"]}, {entry["precision"]}'


def fastest(row: Mapping[str, Any], setting: str) -> dict[str, Any] | None:
    """The fastest entry of `measured` in a setting, over all batch sizes. None if there is no entry."""
    entries = [entry for entry in row['measured'] if setting_of(entry) == setting]
    return max(entries, key=lambda entry: entry['clips_per_s'], default=None)


def figure_text(figure: Mapping[str, Any]) -> str:
    """A figure of a paper in words: data set, frames, views and table. It is marked if the weights do not reach it."""
    about = [figure['setting']] if figure['setting'] else []
    about += [] if figure['frames'] is None else [f'{figure["frames"]} frames']
    views = figure['views']
    about.append('views not printed' if views is None else f'{views} view{"s" * (views != 1)}')
    about.append(figure['where'])
    mark = '' if figure['of_weights'] else ' †'
    return f'{figure["top1"]:.1f} {figure["data_set"]} ({", ".join(about)}){mark}'


def accuracy_text(row: Mapping[str, Any]) -> str:
    """The figures that papers print for a model as it is registered, a line each."""
    return '\n'.join(figure_text(figure) for figure in row['paper'] if not figure['setting'])


class Column(NamedTuple):
    """A column of the comparison.

    Attributes:
        title: Its title.
        text: Function from a row to the text of its cell. Several figures are several lines; unknown is empty.
        value: Function from a row to the number that rows are sorted by. None if its figures cannot be compared.
        right: Whether the text is flush right.
        note: Explanation of the title.
        choice: A page shows the columns of one choice at a time. This is its name in the selection.
        selection: What is chosen.
        chosen: Whether a page shows it at first, however few rows have it.
    """
    title: str
    text: Callable[[dict[str, Any]], str]
    value: Callable[[dict[str, Any]], Any] | None
    right: bool = True
    note: str = ''
    choice: str = ''
    selection: str = ''
    chosen: bool = False


class Section(NamedTuple):
    """A further small table below a comparison.

    Attributes:
        title: What stands above it.
        note: What its figures mean.
        titles: Titles of its columns.
        rows: Its cells.
    """
    title: str
    note: str
    titles: list[str]
    rows: list[list[str]]


class Table(NamedTuple):
    """A comparison as text or as a page.

    Attributes:
        title: What stands above it.
        columns: Its columns.
        page_columns: Those of the page that sorts itself, on which alternatives share a place.
        notes: What the figures mean, a text each.
        settings: Where the speeds were measured, a text each.
        sections: Further tables below it.
    """
    title: str
    columns: list[Column]
    page_columns: list[Column]
    notes: list[str]
    settings: list[str]
    sections: Sequence[Section] = ()


def table_of(rows: Sequence[Mapping[str, Any]], machine: str = '') -> Table:
    """The table of rows of `compare_models`.

    Args:
        rows: The rows.
        machine: Part of the name of the machine whose speeds are shown; see `speed_columns`.

    Raises:
        ValueError: If nothing was measured on such a machine.
    """
    speeds = speed_columns(rows, {'clips/s': 'forward'}, machine)
    name, *facts, licence = _facts()
    printed = Column(
        "the paper's top-1 (%)", accuracy_text, None, right=False, note='printed there, not measured by us')
    return Table(
        'Models side by side', [name, *facts, *speeds[:1], licence, printed],
        [name, *accuracy_columns(rows), *speeds, *facts, licence],
        [*NOTES, *printed_in(rows), *variants_in(rows)], speed_note(speeds))


def accuracy_columns(rows: Iterable[Mapping[str, Any]]) -> list[Column]:
    """What papers print, a column for each data set, those with the most models first: they sort by the best figure."""
    counts: dict[str, int] = {}
    for row in rows:
        for data in {figure['data_set'] for figure in row['paper'] if not figure['setting']}:
            counts[data] = counts.get(data, 0) + 1
    return [_accuracy(data) for data in sorted(counts, key=lambda data: (-counts[data], data))]


def _accuracy(data: str) -> Column:
    def figures(row: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [figure for figure in row['paper'] if figure['data_set'] == data and not figure['setting']]

    return Column(
        "the paper's top-1 (%)",
        lambda row: '\n'.join(figure_text(figure).replace(f' {data} (', ' (') for figure in figures(row)),
        lambda row: max((figure['top1'] for figure in figures(row)), default=None),
        right=False, note='printed there, not measured by us', choice=data, selection="the paper's top-1 (%)")


def _facts() -> list[Column]:
    """The columns of what is counted and known of a model: its name first, the licence last."""
    return [
        Column('name', lambda row: row['name'], lambda row: row['name'], right=False),
        Column('frames', lambda row: str(row['num_frames']), lambda row: row['num_frames']),
        size_column(),
        number_column('params (M)', lambda row: row['params'] / 1e6, note='parameters'),
        number_column(
            'trainable (M)', lambda row: row['trainable'] / 1e6, note='parameters outside the frozen backbone'),
        Column(
            'multiply-adds (G) x views', lambda row: f'{_rounded(row["macs"] / 1e9)} x {row["views"]}',
            lambda row: row['macs'] * row['views'], note='of one view, counted; views of the evaluation protocol'),
        number_column('peak (MB)', lambda row: row['peak_bytes'] / 1e6, note='tensors of a forward pass of one clip'),
        number_column('weights (MB)', lambda row: row['weight_bytes'] / 1e6, note='in float32'),
        Column('licence', lambda row: row['licence'] or '', lambda row: row['licence'], right=False,
            note='of the weights'),
    ]


def speed_columns(
        rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], machine: str = '') -> list[Column]:
    """Columns of measured speeds, one for each title and machine, of which a reader sees those of one machine.

    Args:
        rows: Dictionaries with `measured`, as `compare_models` returns them.
        kinds: The pass (`forward` or `train`) by the title of its columns.
        machine: Part of the name of a machine, which is hardware and precision. Among those that it fits, and without
            it among all, the machine on which most rows were measured comes first.

    Raises:
        ValueError: If nothing was measured on such a machine.
    """
    counts = Counter(name for row in rows for name in {machine_of(entry) for entry in row['measured']})
    names = sorted(counts, key=lambda name: (machine.lower() not in name.lower(), -counts[name], name))
    if machine and not any(machine.lower() in name.lower() for name in names):
        raise ValueError(
            f'nothing was measured on a machine {machine!r}. Give a part of one of these names: '
            f'{"; ".join(names) or "(there are no speeds of these models)"}.')
    return [
        _speed(title, kind, name, bool(machine) and name == names[0]) for name in names
        for title, kind in kinds.items()]


def speed_note(speeds: Sequence[Column]) -> list[str]:
    """Where the speeds that a reader sees were measured, as one text; none without speeds."""
    if not speeds:
        return []
    first, *others = dict.fromkeys(column.choice for column in speeds)
    also = f' Other machines, for `--machine`: {"; ".join(others)}.' * bool(others)
    return [f'clips/s: {first}. The fastest form of a model; one clip at a time where no batch stands.{also}']


def printed_in(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The papers that print the figures of these rows, as one text. Empty without figures."""
    papers = dict.fromkeys(f'{row["family"]}: {row["paper_id"]}' for row in rows if row['paper'])
    return ['Tables are those of the papers: ' + '; '.join(papers)] * bool(papers)


def variants_in(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Figures that papers print for variants of the registered models, one text for each architecture."""
    texts = {}
    for row in rows:
        figures = [figure_text(figure) for figure in row['paper'] if figure['setting']]
        if figures:
            texts[row['name'].partition('.')[0]] = '; '.join(figures)
    return [f'The paper on variants of {name}: {text}' for name, text in texts.items()]


def number_column(title: str, value: Callable[[dict[str, Any]], float], note: str) -> Column:
    """A column of numbers, with as many digits as a reader compares."""
    return Column(title, lambda row: _rounded(value(row)), value, note=note)


def size_column() -> Column:
    """The column of frame sizes."""
    return Column('size', _size, lambda row: row['img_size'][0] * row['img_size'][1], note='of a frame, in pixels')


def _speed(title: str, kind: str, machine: str, chosen: bool) -> Column:
    """The fastest speed of a pass on a machine, over all forms of a model and sizes of a batch."""
    def best(row: Mapping[str, Any]) -> dict[str, Any] | None:
        entries = [entry for entry in row['measured'] if machine_of(entry) == machine and entry['pass'] == kind]
        return max(entries, key=lambda entry: entry['clips_per_s'], default=None)

    def text(row: Mapping[str, Any]) -> str:
        entry = best(row)
        if entry is None:
            return ''
        about = ['' if entry['batch'] == '1' else f'batch {entry["batch"]}', entry['variant']]
        about = ', '.join(filter(None, about))
        return f'{entry["clips_per_s"]:.3g}' + f' ({about})' * bool(about)

    def value(row: Mapping[str, Any]) -> float | None:
        entry = best(row)
        return entry and entry['clips_per_s']

    return Column(title, text, value, note='measured', choice=machine, selection='machine', chosen=chosen)


def _rounded(number: float) -> str:
    """A number with few digits, for reading."""
    return f'{number:.0f}' if number >= 100 else f'{number:.1f}' if number >= 1 else f'{number:.2g}'


def _size(row: Mapping[str, Any]) -> str:
    height, width = row['img_size']
    return str(height) if height == width else f'{height}x{width}'


def _family(name: str) -> str:
    paper = tag_record(name).paper
    return paper.name if paper else 'Any backbone'


def _of_tag(measured: Mapping[str, Sequence[dict[str, Any]]], name: str) -> Sequence[dict[str, Any]]:
    return measured.get(name, ()) if '.' in name else ()


def _paper_figures(name: str) -> list[dict[str, Any]]:
    """The figures in the record of a model, as dictionaries."""
    cfg = timm.get_pretrained_cfg(name)
    of_weights = bool(cfg.has_weights and cfg.label_names is not None)
    return [figure_of(figure, of_weights) for figure in tag_record(name).figures]


def figure_of(figure: Figure, of_weights: bool) -> dict[str, Any]:
    """A figure as `compare_models` returns it; `of_weights` as there."""
    return {
        'data_set': figure.data, 'top1': figure.top1, 'top5': figure.top5, 'frames': figure.frames,
        'views': figure.views, 'setting': figure.setting, 'of_weights': of_weights and not figure.setting,
        'backbone': figure.backbone, 'params': figure.params, 'cost': figure.cost, 'note': figure.note,
        'where': figure.where}


def _positive(text: str) -> float | None:
    """The number if it is finite and positive, else None."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None
