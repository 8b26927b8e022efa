"""Model cards, generated from the registry and from measured results, so that they cannot disagree with the code."""
import inspect
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData
from timm.models import get_pretrained_cfg

from flatzoo.data.protocol import EvalProtocol
from flatzoo.models import eval_protocol
from flatzoo.models.builder import is_video_model
from flatzoo.zoo.sources import WeightSource, weight_source

__all__ = ['PAPER_FIGURES', 'model_card']

_SSV2, _K400 = 'Something-Something v2', 'Kinetics-400'
_README, _AMFLOW = 'README of the official repository', 'arXiv:2411.02065'
_AMFLOW_INFERRED = f'{_AMFLOW}, backbone inferred'

# accuracies that papers print, top-1 / top-5 in %; never ours. Keyed by architecture and tag, or architecture alone
PAPER_FIGURES: dict[str, list[tuple[str, str, str]]] = {
    'uniformer_small.in1k': [('ImageNet-1k', '82.9 / -', _README)],
    'uniformer_small_plus.in1k': [('ImageNet-1k', '83.4 / -', _README)],
    'uniformer_base.in1k': [('ImageNet-1k', '83.8 / -', _README)],
    'sifar_swin_b14.ibm_k400': [(_K400, '80.2 / 94.4', _README)],
    'sifar_swin_b14.ibm_ssv2': [(_SSV2, '61.6 / 87.9', _README)],
    'sifar_swin_b14_16f.ibm_k400': [(_K400, '81.8 / 95.2', _README)],
    'sifar_swin_b14_16f.ibm_ssv2': [(_SSV2, '62.6 / 88.5', _README)],
    'flatten_uniformer_s_16f.in1k': [(_K400, '81.1 / -', 'arXiv:2408.09220, frames and frame size not known to us')],
    'amflow_dinov2_b_tcn': [(f'{_SSV2}, 24 frames', '74.8 / 95.0', _AMFLOW)],
    'amflow_clip_b_tcn': [(f'{_SSV2}, 24 frames', '73.5 / 94.7', _AMFLOW)],
    'amflow_dinov2_b_transformer': [
        (f'{_SSV2}, 24 frames', '74.6 / 95.0', _AMFLOW_INFERRED),
        (f'{_K400}, 8 frames', '89.1 / 98.3', _AMFLOW_INFERRED),
        (f'{_K400}, 32 frames', '89.6 / 98.4', _AMFLOW_INFERRED)],
    'amflow_dinov2_b_lstm': [
        (f'{_SSV2}, 8 frames', '58.3 / 82.8', _AMFLOW_INFERRED),
        (f'{_K400}, 8 frames', '88.8 / 98.2', _AMFLOW_INFERRED)],
    'amflow_dinov2_b_smarthome': [('Toyota Smarthome, cross-subject, 8 frames', '70.2 / -', _AMFLOW_INFERRED)],
}
_CAUTIONS = {
    'amflow': (
        'No code and no weights were published with these figures, and the paper does not print what is needed to '
        'repeat them (learning rate, resolution, widths). It gives "IN-21K" as the pre-training of backbones that were '
        'trained on LVD-142M or on image-text pairs. The zoo promises none of them.'),
}

_CITATIONS = {
    'arXiv:2106.14104': ('fan2022sifar', 'Can an Image Classifier Suffice for Action Recognition?',
                         'Fan, Quanfu and Chen, Chun-Fu and Panda, Rameswar', 2022),
    'arXiv:2408.09220': ('chen2024flatten', 'Flatten: Video Action Recognition is an Image Classification task',
                         'Chen, Junlin and Xu, Chengcheng and Xu, Yangfan and Yang, Jian and Li, Jun and Shi, Zhiping',
                         2024),
    'arXiv:2411.15284': ('chen2024time', 'When Spatial meets Temporal in Action Recognition',
                         'Chen, Huilin and Wang, Lei and Chen, Yifan and Gedeon, Tom and Koniusz, Piotr', 2024),
    'arXiv:2203.12602': (
        'tong2022videomae',
        'VideoMAE: Masked Autoencoders are Data-Efficient Learners for Self-Supervised Video Pre-Training',
        'Tong, Zhan and Song, Yibing and Wang, Jue and Wang, Limin', 2022),
    'arXiv:2201.09450': ('li2023uniformer',
                         'UniFormer: Unifying Convolution and Self-attention for Visual Recognition',
                         'Li, Kunchang and others', 2023),
    'arXiv:1811.08383': ('lin2019tsm', 'TSM: Temporal Shift Module for Efficient Video Understanding',
                         'Lin, Ji and Gan, Chuang and Han, Song', 2019),
    'arXiv:2303.16727': ('wang2023videomaev2', 'VideoMAE V2: Scaling Video Masked Autoencoders with Dual Masking',
                         'Wang, Limin and others', 2023),
    'arXiv:2506.09985': (
        'assran2025vjepa2', 'V-JEPA 2: Self-Supervised Video Models Enable Understanding, Prediction and Planning',
        'Assran, Mido and others', 2025),
    'arXiv:2411.02065': ('agrawal2024amflow', 'AM Flow: Adapters for Temporal Processing in Action Recognition',
                         'Agrawal, Tanay and Ali, Abid and Dantcheva, Antitza and Bremond, Francois', 2024),
}


def model_card(name: str, cost: dict[str, Any], results: dict[str, Any] | None = None) -> str:
    """The card of a set of weights, in Markdown with the front matter that the Hub reads.

    Args:
        name: `architecture.tag`.
        cost: The model's row of `benchmarks/results/cost.csv`.
        results: Measured accuracies as `benchmarks/train_actions.py` writes them, for weights that flatzoo trained.

    Raises:
        ValueError: If there are no such weights.
    """
    source = weight_source(name)
    if source is None:
        raise ValueError(f"{name} has no weights. 'flatzoo list --pretrained' shows those that have.")
    card = _Card(name, source, cost, results)
    sections = {
        'Usage': card.usage(), 'Intended use': card.intended_use(), 'Weights': card.weights(),
        'Cost, counted': card.cost_table(), 'Evaluation': card.evaluation(), 'Limits': card.limits(),
        'Citation': card.citation(),
    }
    summary = inspect.getdoc(timm.model_entrypoint(card.arch)) or ''
    lines = ['---', card.front_matter(), '---', '', f'# {name}', '', summary, '']
    for title, text in sections.items():
        lines += [f'## {title}', '', *text, '']
    return '\n'.join(lines[:-1]) + '\n'


class _Card:
    """What the sections of a card are made of."""

    def __init__(self, name: str, source: WeightSource, cost: dict[str, Any], results: dict[str, Any] | None):
        self.name, self.source, self.cost, self.results = name, source, cost, results
        self.arch, self.tag = name.split('.', 1)
        self.cfg = get_pretrained_cfg(name)
        self.of_video = is_video_model(name)
        self.starts_fresh = self.of_video and self.cfg.label_names is None
        self.with_adapters = self.arch.startswith(('amflow', 'probe'))
        self.frame_size = f'{cost["frame_height"]}, {cost["frame_width"]}'
        self.figures = PAPER_FIGURES.get(name, PAPER_FIGURES.get(self.arch, []))

    def front_matter(self) -> str:
        """The YAML of the card, without the lines around it."""
        return ModelCardData(
            license=self.source.licence, library_name='flatzoo',
            pipeline_tag='video-classification' if self.of_video else 'image-classification',
            tags=['flatzoo', 'timm', *(['video', 'action-recognition'] if self.of_video else [])],
            datasets=[self.source.dataset] if self.source.dataset else None,
            base_model=self.source.address if self.source.kind == 'hub' else None,
            model_name=self.name if self.results else None,
            eval_results=_measured(self.results) if self.results else None,
        ).to_yaml()

    def usage(self) -> list[str]:
        """A snippet that runs as it stands."""
        classes = ", num_classes=51)  # fresh heads" if self.starts_fresh else ')'
        lines = [
            '```python', 'import timm', 'import torch', '', 'import flatzoo  # registers the models with timm', '',
            f"model = timm.create_model('{self.name}', pretrained=True{classes}"]
        if not self.of_video:
            return lines + [
                'image = torch.randn(1, 3, 224, 224)  # (B, C, H, W), normalised; any size will do',
                'with torch.inference_mode():',
                '    logits = model.eval()(image)  # (1, 1000)', '```']
        shape = f'{self.cost["in_chans"]}, {self.cost["num_frames"]}, {self.frame_size}'
        clip = f'clip = torch.randint(256, (1, {shape}), dtype=torch.uint8)  # (B, C, T, H, W): RGB frames'
        if self.starts_fresh:
            return lines + [
                *(['model.freeze_backbone()  # adapters, temporal units and heads remain to be trained']
                  if self.with_adapters else []),
                clip, 'logits = model(clip)  # (1, 51): train them', '```']
        return lines + [
            clip, 'with torch.inference_mode():',
            f'    probabilities = model.eval()(clip).softmax(-1)  # (1, {self.cfg.num_classes})',
            "print(model.pretrained_cfg['label_names'][probabilities.argmax()])", '```', '',
            f'For video files: `flatzoo predict video.mp4 --model {self.name}`.']

    def intended_use(self) -> list[str]:
        """What the weights are good for, and what not."""
        if self.results:
            text = 'To try flatzoo without a download, in tests and for demonstrations. Not for real video.'
        elif not self.of_video:
            text = 'An image backbone for `flatten_uniformer_*`, and classification of ImageNet-1k.'
        elif self.starts_fresh:
            text = ('A start for fine-tuning on your own actions. Without that the model cannot name any; '
                    '`flatzoo predict` refuses it.')
        else:
            text = (f'Naming the {self.cfg.num_classes} actions of {self.source.data} in short clips, and a start for '
                    'fine-tuning on others.')
        if '-nc-' in self.source.licence:
            text += ' The licence excludes commercial use.'
        return [text]

    def weights(self) -> list[str]:
        """Where the weights come from, and what they were trained on."""
        source = self.source
        files = ' or '.join(f'`{file}`' for file in source.files)
        place = 'shipped in the flatzoo package' if source.kind == 'package' else source.page
        lines = [
            f'- Source: {place}' + ('' if source.kind == 'url' else f', file {files}'),
            f'- Publisher: {source.origin}', f'- Licence: {source.licence}']
        if source.size:
            digest = f', sha256 `{source.sha256}`' if source.sha256 else ''
            lines.append(f'- Size: {source.size / 1e6:.3g} MB{digest}')
        lines.append(f'- Trained on: {source.data}, for {source.task}{self._what_is_fresh()}')
        if self.results:
            lines.append(f'- Trained by: `{self.results["command"]}` (seed {self.results["seed"]}, '
                         f'{self.results["train_seconds"]} s, {self.results["hardware"]})')
        if self.cfg.paper_ids:
            lines.append(f'- Paper: {self.cfg.paper_name}, {", ".join(_papers(self.cfg))}')
        return lines

    def _what_is_fresh(self) -> str:
        if not self.starts_fresh:
            of_backbone = ' (on an ImageNet-21K backbone)' if self.tag == 'ibm_k400' else ''
            of_backbone = ' (from weights of Kinetics-400)' if self.tag == 'ibm_ssv2' else of_backbone
            return f'{of_backbone}. {self.cfg.num_classes} classes.'
        if self.with_adapters:
            return ('. These are weights of the image backbone; **adapters, temporal units and classifiers are freshly '
                    'initialised** and must be trained.')
        if self.arch.startswith('time_videomae'):
            return '. They saw ordinary frames, not a TIME layer: fine-tune the model.'
        return '. **The classifier is freshly initialised** and must be fine-tuned.'

    def cost_table(self) -> list[str]:
        """Parameters, multiply-adds and memory, counted and not measured."""
        cost, views = self.cost, eval_protocol(self.name).views
        params = f'{float(cost["params_m"]):.2f} M'
        if cost.get('trainable_m'):
            params += f', {float(cost["trainable_m"]):.2f} M trainable'
        gmacs = f'{float(cost["gmacs_per_view"]):.2f} G' + (f' x {views} view(s)' if self.of_video else '')
        return [
            f'`python benchmarks/cost.py {self.arch}`, {cost["num_classes"]} classes, float32. Activations are those '
            'that training keeps with eager attention; fused attention keeps less.'
            + (' Trainable are the parameters outside the frozen backbone.' if cost.get('trainable_m') else ''), '',
            '| frames | size | layout | parameters | multiply-adds | weights | activations |',
            '|---|---|---|---|---|---|---|',
            f'| {cost["num_frames"] if self.of_video else "-"} | {cost["frame_height"]}x{cost["frame_width"]} '
            f'| {cost["layout"] or "-"} | {params} | {gmacs} '
            f'| {cost["weights_mb"]} MB | {cost["activations_mb"]} MB |']

    def evaluation(self) -> list[str]:
        """The protocol, and the figures with how they came about."""
        lines = [f'Protocol: {_describe(eval_protocol(self.name))}', ''] if self.of_video else []
        if self.figures:
            if self.with_adapters:
                lines += ['**Reported by the paper**, not measured by us and not reached by these weights, which are '
                          'to be trained first:']
            else:
                lines += ["The **paper's** figures, not measured by us"
                          + (' and not reached by these weights:' if self.starts_fresh else ':')]
            lines += ['', '| data | top-1 / top-5 | where it is printed |', '|---|---|---|',
                      *(f'| {data} | {value} | {where} |' for data, value, where in self.figures), '']
            lines += [text for prefix, text in _CAUTIONS.items() if self.arch.startswith(prefix)]
        if self.results:
            lines += _tables(self.results)
        if not self.figures and not self.results:
            lines.append('No accuracy was measured for these weights by us, and no figure of the paper for them is '
                         'known to us.')
        return lines if lines[-1] else lines[:-1]

    def limits(self) -> list[str]:
        """What not to expect."""
        if self.results:
            text = ('The sixteen classes are motions of textured shapes in rendered scenes. On real video the model '
                    'names the motion that it believes to see; it was never measured there.')
        elif not self.of_video:
            text = 'An image model; `flatten_uniformer_*` make video models of it.'
        elif self.with_adapters:
            text = ("The paper does not print the widths of its adapters and temporal units. Those here were fitted to "
                    'its parameter counts' + (' and then narrowed.' if self.arch.endswith('_lite') else '.'))
        elif self.arch.startswith('time_videomae'):
            text = ('With 400 classes the Kinetics classifier comes along; it has seen ordinary frames only, no grids '
                    'of them.') if self.tag == 'mcg_k400' else 'The encoder has seen no grids of frames.'
        elif self.starts_fresh:
            text = 'The backbone has seen single images only, no clips.'
            if '_mae_' in f'_{self.tag}_':
                text = 'The encoder has seen no labels.'
        else:
            text = ('The order of the class names is inferred from public label lists. The conversion is tested on '
                    'small models of the original code; this file itself was not measured by us.')
        return [text]

    def citation(self) -> list[str]:
        """BibTeX of the papers."""
        entries = [_CITATIONS[paper] + (paper,) for paper in _papers(self.cfg) if paper in _CITATIONS]
        lines = []
        for key, title, authors, year, paper in entries:
            lines += [f'@article{{{key},', f'  title = {{{title}}},', f'  author = {{{authors}}},',
                      f'  journal = {{arXiv preprint {paper}}},', f'  year = {{{year}}}', '}']
        return ['```bibtex', *lines, '```']


def _papers(cfg: Any) -> tuple[str, ...]:
    return (cfg.paper_ids,) if isinstance(cfg.paper_ids, str) else tuple(cfg.paper_ids or ())


def _describe(protocol: EvalProtocol) -> str:
    """An evaluation protocol in words."""
    stride = f' with a stride of {protocol.stride}' if protocol.stride else ''
    margin = ', cut from frames that are larger by 1 / 0.875' if protocol.scale_up else ''
    return (f'{protocol.sampling} sampling{stride}, {protocol.num_clips} clip(s) x {protocol.num_crops} crop(s)'
            f'{margin}, logits averaged (`flatzoo.eval_protocol`).')


def _measured(results: dict[str, Any]) -> list[EvalResult]:
    """The figures that the Hub may show: those that we measured."""
    return [EvalResult(
        task_type='video-classification', dataset_type='procedural', dataset_name='flatzoo actions, held-out textures',
        metric_type='accuracy', metric_value=round(100 * results['eval']['still_camera']['normal'], 2))]


def _tables(results: dict[str, Any]) -> list[str]:
    clips, files = results['eval']['still_camera']['clips'], results['eval']['files'][0]['clips']
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    lines = [
        f'Measured by us: `{results["evaluate_command"]}`, on {clips} clips per row of the held-out split, in memory, '
        f'and on {files} clips per row as H.264 files, decoded, sampled and cropped by the protocol ({versions}).', '',
        '| held-out clips | frames in order | reversed | reversed, called the opposite action | shuffled |',
        '|---|---|---|---|---|']
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
    return lines + [
        '', 'Reversing or shuffling the frames takes the accuracy away, as Table 9 of SIFAR shows for '
        'Something-Something v2: the model reads the order of frames.']
