"""The table of results of `flatzoo validate`. Each row holds a measurement, its settings and its cost."""
import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatzoo.data.lists import VideoList
from flatzoo.data.protocol import EvalProtocol
from flatzoo.runtime import precision_of
from flatzoo.runtime.cost import count_forward

if TYPE_CHECKING:
    from flatzoo.models import VideoModel

    from .evaluate import Evaluation, Order
    from .multi_label import MultiLabelEvaluation

__all__ = ['COLUMNS', 'json_row', 'read_results', 'result_row', 'result_setting', 'write_results']

COLUMNS = (
    # those of timm
    'model', 'img_size', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'crop_pct', 'interpolation',
    # those of video
    'num_frames', 'views', 'gmacs', 'gmacs_views', 'mean_class', 'clips', 'broken', 'missing', 'data', 'root',
    'split', 'order', 'sampling', 'stride', 'num_clips', 'num_crops', 'fit', 'checkpoint',
    'model_kwargs', 'precision', 'seconds', 'map',
)
"""Columns of the results: accuracies and errors in per cent, parameters in millions, multiply-adds in 10^9.

Where clips may have several classes, `map` is the mean average precision, and the accuracies are empty; else it is.
"""
_ACCURACIES = ('top1', 'top1_err', 'top5', 'top5_err', 'mean_class')
_BEFORE = {'fit': 'crop', 'precision': 'fp32', 'map': ''}  # what had no column in files of earlier releases


def result_setting(
        name: str,
        model: 'VideoModel',
        videos: VideoList,
        protocol: EvalProtocol,
        order: 'Order' = 'normal',
        checkpoint: str | None = None,
        root: str = '',
        model_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The settings of a row of results, as text. Two rows with equal settings are the same measurement."""
    height, width = model.img_size
    values = {
        'model': name,
        'img_size': height if height == width else f'{height}x{width}',
        'crop_pct': 0.875 if protocol.scale_up else 1.0,
        'num_frames': model.num_frames,
        'data': videos.name,
        'root': root,
        'split': videos.split,
        'order': order,
        'sampling': protocol.sampling,
        'stride': '' if protocol.stride is None else protocol.stride,
        'num_clips': protocol.num_clips,
        'num_crops': protocol.num_crops,
        'fit': protocol.fit,
        'checkpoint': checkpoint or '',
        'model_kwargs': ' '.join(f'{key}={value}' for key, value in sorted((model_kwargs or {}).items())),
        'precision': precision_of(model),
    }
    return {key: str(value) for key, value in values.items()}


def result_row(
        setting: Mapping[str, str],
        model: 'VideoModel',
        videos: VideoList,
        evaluation: 'Evaluation | MultiLabelEvaluation',
) -> dict[str, Any]:
    """A row of the results, with the columns `COLUMNS`.

    Args:
        setting: The settings, from `result_setting`.
        model: The model.
        videos: The list.
        evaluation: The result of `evaluate`.
    """
    gmacs = count_forward(model).macs / 1e9
    views = int(setting['num_clips']) * int(setting['num_crops'])
    row = {
        **setting,
        **_figures(evaluation),
        'param_count': round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2),
        'interpolation': 'bilinear',
        'views': views,
        'gmacs': round(gmacs, 3),
        'gmacs_views': round(gmacs * views, 3),
        'clips': evaluation.clips,
        'broken': len(evaluation.broken),
        'missing': len(videos.missing),
        'seconds': round(evaluation.seconds, 1),
    }
    return {column: row[column] for column in COLUMNS}


def _figures(evaluation: 'Evaluation | MultiLabelEvaluation') -> dict[str, Any]:
    if hasattr(evaluation, 'map'):
        return {**dict.fromkeys(_ACCURACIES, ''), 'map': round(evaluation.map, 4)}
    values = evaluation.top1, 100 - evaluation.top1, evaluation.top5, 100 - evaluation.top5, evaluation.mean_class
    return {**{name: round(value, 4) for name, value in zip(_ACCURACIES, values)}, 'map': ''}


_WHOLE = ('num_frames', 'stride', 'num_clips', 'num_crops')


def json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `result_row` for JSON, which knows more than text.

    Returns:
        The row with numbers as numbers. `img_size` is one number, or `[height, width]` where these differ. `stride` and
        `checkpoint` are None where there is none.
    """
    values = dict(row)
    size = [int(side) for side in str(row['img_size']).split('x')]
    values['img_size'] = size[0] if len(size) == 1 else size
    values['crop_pct'] = float(row['crop_pct'])
    values |= {name: int(row[name]) if str(row[name]) else None for name in _WHOLE}
    values['checkpoint'] = row['checkpoint'] or None
    unmeasured = [name for name in (*_ACCURACIES, 'map') if row.get(name, '') == '']
    return {name: value for name, value in values.items() if name not in unmeasured}


def read_results(path: str | os.PathLike) -> list[dict[str, str]]:
    """Reads the rows of a file that `write_results` wrote, as text. A missing file has no rows.

    Raises:
        ValueError: The file has other columns.
    """
    try:
        with open(path, encoding='utf-8', newline='') as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except FileNotFoundError:
        return []
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f'{os.fsdecode(path)}: is not a CSV file ({error}).') from error
    columns = tuple(reader.fieldnames or ())
    known = tuple(column for column in COLUMNS if column in columns or column not in _BEFORE)
    if columns != known:
        raise ValueError(
            f"{os.fsdecode(path)}: does not have the columns of 'flatzoo validate'. Give another file for the results.")
    return [{column: row.get(column, _BEFORE.get(column)) for column in COLUMNS} for row in rows]


def write_results(path: str | os.PathLike, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = COLUMNS) -> None:
    """Writes a CSV file under a temporary name, then renames it. No reader sees an incomplete file."""
    path = Path(path)
    partial = path.with_name(f'{path.name}.partial')
    try:
        with partial.open('w', encoding='utf-8', errors='backslashreplace', newline='') as file:
            writer = csv.DictWriter(file, tuple(columns))
            writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
