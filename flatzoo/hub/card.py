"""Model cards. They are generated from the registry and from measured results, so they always agree with the code."""
import inspect
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData
from timm.models import get_pretrained_cfg

from flatzoo.data.protocol import EvalProtocol
from flatzoo.models import eval_protocol
from flatzoo.models.builder import is_video_model
from flatzoo.models.record import Figure, tag_record
from flatzoo.zoo.sources import WeightSource, weight_source

__all__ = ['model_card']


def model_card(name: str, cost: dict[str, Any], results: dict[str, Any] | None = None) -> str:
    """The card of a set of weights, in Markdown with the front matter that the Hub reads.

    Args:
        name: `architecture.tag`.
        cost: The model's row of `benchmarks/results/data/cost.csv`.
        results: Measured accuracies as `benchmarks/learning/train_actions.py` writes them, for weights that
            flatzoo trained.

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
    """The facts for the sections of a card."""

    def __init__(self, name: str, source: WeightSource, cost: dict[str, Any], results: dict[str, Any] | None):
        self.name, self.source, self.cost, self.results = name, source, cost, results
        self.arch, self.tag = name.split('.', 1)
        self.cfg = get_pretrained_cfg(name)
        self.of_video = is_video_model(name)
        self.starts_fresh = self.of_video and self.cfg.label_names is None
        self.record = tag_record(name)
        self.frame_size = f'{cost["frame_height"]}, {cost["frame_width"]}'

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
                  if self.record.frozen_backbone else []),
                clip, 'logits = model(clip)  # (1, 51): train them', '```']
        return lines + [
            clip, 'with torch.inference_mode():',
            f'    probabilities = model.eval()(clip).softmax(-1)  # (1, {self.cfg.num_classes})',
            "print(model.pretrained_cfg['label_names'][probabilities.argmax()])", '```', '',
            f'For video files: `flatzoo predict video.mp4 --model {self.name}`.']

    def intended_use(self) -> list[str]:
        """What the weights can be used for, and what not."""
        if self.record.intended_use:
            text = self.record.intended_use
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
            start = f', starting from {self.record.started_from}' if self.record.started_from else ''
            return f'{start}. {self.cfg.num_classes} classes.'
        return f'. {self.record.starts_fresh}'

    def cost_table(self) -> list[str]:
        """Parameters, multiply-adds and memory, counted and not measured."""
        cost, views = self.cost, eval_protocol(self.name).views
        params = f'{float(cost["params_m"]):.2f} M'
        if cost.get('trainable_m'):
            params += f', {float(cost["trainable_m"]):.2f} M trainable'
        gmacs = f'{float(cost["gmacs_per_view"]):.2f} G' + (f' x {views} view(s)' if self.of_video else '')
        return [
            f'`python benchmarks/cost/models.py {self.arch}`, {cost["num_classes"]} classes, float32. Activations are '
            'those that training keeps with eager attention; fused attention keeps less.'
            + (' Trainable are the parameters outside the frozen backbone.' if cost.get('trainable_m') else ''), '',
            '| frames | size | layout | parameters | multiply-adds | weights | activations |',
            '|---|---|---|---|---|---|---|',
            f'| {cost["num_frames"] if self.of_video else "-"} | {cost["frame_height"]}x{cost["frame_width"]} '
            f'| {cost["layout"] or "-"} | {params} | {gmacs} '
            f'| {cost["weights_mb"]} MB | {cost["activations_mb"]} MB |']

    def evaluation(self) -> list[str]:
        """The protocol, and the figures with their origin."""
        lines = [f'Protocol: {_describe(eval_protocol(self.name))} (`flatzoo.eval_protocol`).'] if self.of_video else []
        for name, protocol in self.record.other_protocols.items():
            lines[0] += f' With `--views {name}`: {_describe(protocol)}.'
        lines += [''] if lines else []
        if self.record.figures:
            lines += ["The **paper's** figures, not measured by us"
                      + (' and not reached by these weights, which are to be trained first:' if self.starts_fresh
                         else ':'), '', *_figure_table(self.record.figures), '']
            if self.record.about_figures:
                lines += [self.record.about_figures, '']
        if self.results:
            lines += _tables(self.results)
        if not self.record.figures and not self.results:
            lines.append('No accuracy was measured for these weights by us, and no figure of the paper for them is '
                         'known to us.')
        return lines if lines[-1] else lines[:-1]

    def limits(self) -> list[str]:
        """What the model cannot do."""
        lines = [self.record.limits]
        if self.record.unsupported:
            names = ' and '.join(f'`{name}`' for name in self.record.unsupported)
            lines[0] += f' {names} cannot be used with it.'
        return lines

    def citation(self) -> list[str]:
        """BibTeX of the paper."""
        return ['```bibtex', self.record.paper.bibtex, '```']


def _papers(cfg: Any) -> tuple[str, ...]:
    return (cfg.paper_ids,) if isinstance(cfg.paper_ids, str) else tuple(cfg.paper_ids or ())


def _describe(protocol: EvalProtocol) -> str:
    """An evaluation protocol in words."""
    stride = f' with a stride of {protocol.stride}' if protocol.stride else ''
    margin = ', cut from frames that are larger by 1 / 0.875' if protocol.scale_up else ''
    rule = f' by the rule of {protocol.rule}' if protocol.rule else ''
    whole = {'crop': '', 'letterbox': ', whole frames with black bars', 'stretch': ', whole frames, stretched'}
    return (f'{protocol.sampling} sampling{stride}{rule}, {protocol.num_clips} clip(s) x {protocol.num_crops} crop(s)'
            f'{margin}{whole[protocol.fit]}, logits averaged')


def _figure_table(figures: tuple[Figure, ...]) -> list[str]:
    """Figures of a paper as a table in Markdown. A dash stands for what is not printed."""
    lines = [
        '| data | top-1 / top-5 | frames | clips x crops | printed as | where |', '|---|---|---|---|---|---|']
    for figure in figures:
        top5 = '-' if figure.top5 is None else f'{figure.top5:.1f}'
        views = '-' if figure.views is None else f'{figure.clips} x {figure.crops}'
        about = '; '.join(filter(None, (
            figure.setting, figure.backbone, f'{figure.params} parameters' if figure.params else '', figure.cost,
            figure.note)))
        lines.append(
            f'| {figure.data} | {figure.top1:.1f} / {top5} | {figure.frames or "-"} | {views} | {about or "-"} '
            f'| {figure.where} |')
    return lines


def _measured(results: dict[str, Any]) -> list[EvalResult]:
    """The figures that the Hub may show: only those that we measured."""
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
