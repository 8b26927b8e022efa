"""Model cards, generated from the registry and from measured results, so that they cannot disagree with the code."""
import inspect
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData
from timm.models import get_pretrained_cfg

from flatzoo.models import eval_protocol
from flatzoo.models._registry import is_video_model

__all__ = ['PAPER_FIGURES', 'model_card']

# accuracies that papers print, top-1 / top-5 in %; never ours
PAPER_FIGURES: dict[str, list[tuple[str, str, str]]] = {
    'uniformer_small.in1k': [('ImageNet-1k', '82.9 / -', 'README of the official repository')],
    'uniformer_small_plus.in1k': [('ImageNet-1k', '83.4 / -', 'README of the official repository')],
    'uniformer_base.in1k': [('ImageNet-1k', '83.8 / -', 'README of the official repository')],
    'sifar_swin_b14.ibm_k400': [('Kinetics-400', '80.2 / 94.4', 'README of the official repository')],
    'sifar_swin_b14.ibm_ssv2': [('Something-Something v2', '61.6 / 87.9', 'README of the official repository')],
    'sifar_swin_b14_16f.ibm_k400': [('Kinetics-400', '81.8 / 95.2', 'README of the official repository')],
    'sifar_swin_b14_16f.ibm_ssv2': [('Something-Something v2', '62.6 / 88.5', 'README of the official repository')],
    'flatten_uniformer_s_16f.in1k': [
        ('Kinetics-400', '81.1 / -', 'arXiv:2408.09220, frames and frame size not known to us')],
}


def model_card(name: str, cost: dict[str, Any], results: dict[str, Any] | None = None) -> str:
    """The card of a set of weights, in Markdown with the front matter that the Hub reads.

    Args:
        name: `architecture.tag`.
        cost: The model's row of `benchmarks/results/cost.csv`.
        results: Measured accuracies as `benchmarks/train_actions.py` writes them, for weights that flatzoo trained.
    """
    arch = name.split('.', 1)[0]
    cfg = get_pretrained_cfg(name)
    summary = inspect.getdoc(timm.model_entrypoint(arch)) or ''
    of_video = is_video_model(name)
    starts_fresh = of_video and 'label_names' not in cfg.to_dict()
    protocol = eval_protocol(name)

    data = ModelCardData(
        license=(cfg.license or 'other').lower(), library_name='flatzoo',
        pipeline_tag='video-classification' if of_video else 'image-classification',
        tags=['flatzoo', 'timm', *(['video', 'action-recognition'] if of_video else [])],
        model_name=name if results else None,
        eval_results=_measured(results) if results else None,
    )
    hub_page = f'https://huggingface.co/{cfg.hf_hub_id}' if cfg.hf_hub_id else 'shipped in the flatzoo package'
    source = cfg.url or hub_page
    size = cost['frame_height'], cost['frame_width']
    lines = [
        '---', data.to_yaml(), '---', '', f'# {name}', '', summary, '',
        '```python', 'import timm, flatzoo', '',
        f"model = timm.create_model('{name}', pretrained=True" + (', num_classes=51)' if starts_fresh else ')'),
        f'logits = model(clip)  # clip: (B, {cost["in_chans"]}, {cost["num_frames"]}, {size[0]}, {size[1]}), '
        'float normalised or uint8' if of_video else
        f'logits = model(image)  # image: (B, {cost["in_chans"]}, {size[0]}, {size[1]}), or any other size',
        '```', '',
        '## Weights', '',
        f'- Source: {source}' + (f', file `{cfg.hf_hub_filename}`' if cfg.hf_hub_filename else ''),
        f'- Licence: {cfg.license}',
        f'- Trained on: {_training_data(name, cfg.num_classes, starts_fresh)}',
    ]
    if results:
        lines.append(f'- Trained by: `{results["command"]}` (seed {results["seed"]}, {results["train_seconds"]} s, '
                     f'{results["hardware"]})')
    if cfg.paper_ids:
        papers = (cfg.paper_ids,) if isinstance(cfg.paper_ids, str) else cfg.paper_ids
        lines.append(f'- Paper: {cfg.paper_name}, {", ".join(papers)}')
    lines += [
        '', '## Cost, counted', '',
        f'`python benchmarks/cost.py {arch}`, {cost["num_classes"]} classes, float32. Activations are those that '
        'training keeps with eager attention; fused attention keeps less.', '',
        '| frames | size | layout | parameters | multiply-adds | weights | activations |',
        '|---|---|---|---|---|---|---|',
        f'| {cost["num_frames"] if of_video else "-"} | {size[0]}x{size[1]} | {cost["layout"] or "-"} '
        f'| {float(cost["params_m"]):.2f} M '
        f'| {float(cost["gmacs_per_view"]):.2f} G' + (f' x {protocol.views} view(s) ' if of_video else ' ')
        + f'| {cost["weights_mb"]} MB | {cost["activations_mb"]} MB |', '',
        '## Accuracy', '',
    ]
    if of_video:
        lines += [
            f'Evaluation protocol: {protocol.sampling} sampling, {protocol.num_clips} clip(s) x {protocol.num_crops} '
            'crop(s), logits averaged.', '']
    lines += _accuracy(name, results, starts_fresh)
    lines += ['## Limits', '', _limits(name, results, starts_fresh)]
    return '\n'.join(lines) + '\n'


def _training_data(name: str, num_classes: int, starts_fresh: bool) -> str:
    tag = name.split('.', 1)[1]
    fresh = 'The backbone is pretrained; **the classifier is freshly initialised** and must be fine-tuned.'
    if name.startswith('time_videomae'):
        return 'videos of Kinetics-400 as ordinary frames, not behind a TIME layer: fine-tune it.'
    if tag.startswith('mcg_mae'):
        return f'videos, self-supervised. {fresh}'
    if starts_fresh:
        return f'images only. {fresh}'
    data = {
        'in1k': 'ImageNet-1k',
        'ibm_k400': 'Kinetics-400 (ImageNet-21K backbone)',
        'ibm_ssv2': 'Something-Something v2, from Kinetics-400 weights',
        'mcg_k400': 'Kinetics-400',
        'mcg_ssv2': 'Something-Something v2',
        'actions16': 'the procedural actions of `flatzoo.data.actions`, rendered from seeds',
    }[tag]
    return f'{data}, {num_classes} classes.'


def _measured(results: dict[str, Any]) -> list[EvalResult]:
    return [EvalResult(
        task_type='video-classification', dataset_type='procedural', dataset_name='flatzoo actions, held-out textures',
        metric_type='accuracy', metric_value=round(100 * results['eval']['still_camera']['normal'], 2))]


def _accuracy(name: str, results: dict[str, Any] | None, starts_fresh: bool) -> list[str]:
    lines = []
    figures = PAPER_FIGURES.get(name, [])
    if figures:
        lines += [
            "The **paper's** figures, not measured by us"
            + (' and not reached by these weights:' if starts_fresh else ':'),
            '', '| data | top-1 / top-5 | where it is printed |', '|---|---|---|',
            *(f'| {data} | {value} | {where} |' for data, value, where in figures), '',
        ]
    if results:
        lines += [
            f'Measured by us: `{results["evaluate_command"]}`', '',
            '| held-out clips | frames in order | reversed | reversed, called the opposite action | shuffled |',
            '|---|---|---|---|---|',
        ]
        for key, title in (('still_camera', 'still camera'), ('shaking_camera', 'shaking camera')):
            row = results['eval'][key]
            values = (row[k] for k in ('normal', 'reversed', 'reversed_called_the_other_of_the_pair', 'shuffled'))
            lines.append(f'| {title} | ' + ' | '.join(f'{100 * value:.1f} %' for value in values) + ' |')
        lines += ['', '| H.264 files | accuracy |', '|---|---|']
        for row in results['eval']['files']:
            shake = ', shaking camera' if row['camera_shake'] else ''
            lines.append(
                f'| {row["size"]} pixels, {row["frames"]} frames, {row["fps"]} frames/s{shake} '
                f'| {100 * row["accuracy"]:.1f} % |')
        lines += ['', 'Reversing or shuffling the frames takes the accuracy away, as Table 9 of SIFAR shows for '
                  'Something-Something v2: the model reads the order of frames.', '']
    if not figures and not results:
        lines = ['None measured for these weights by us, and no figure of the paper for them is known to us.', '']
    return lines


def _limits(name: str, results: dict[str, Any] | None, starts_fresh: bool) -> str:
    if results:
        return ('The sixteen classes are motions of textured shapes in rendered scenes. On real video the model names '
                'the motion that it believes to see; it was never measured there.')
    if not is_video_model(name):
        return 'An image model; `flatten_uniformer_*` make video models of it.'
    if name.startswith('time_videomae'):
        return 'A Kinetics classifier comes along at 400 classes; it has seen ordinary frames only, no grids of them.'
    if starts_fresh:
        return 'Without fine-tuning the model cannot name actions; `flatzoo predict` refuses it.'
    return 'The order of the class names is inferred from public label lists; the checkpoint carries none.'
