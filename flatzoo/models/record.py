"""The facts about a set of weights that timm's configuration lacks: one record per tag, in the paper's own file.

timm's configuration (`default_cfgs`) has the place of the weights, their licence, the normalisation of pixels and the
names of the classes. It has no fields for other facts, so a `TagRecord` stands beside it: the paper, how accuracy is
measured, the training data, the size and digest that the publisher states, the accuracies that the paper prints, and
what a user must know. Cards, lists, comparisons and tests read only these two.

    PAPER = Paper('Spiral', 'arXiv:2501.01234', 'Spirals', 'Doe, Jane', 2025, 'doe2025spiral')
    default_cfgs = generate_default_cfgs({'spiral_resnet18.a1_in1k': _cfg(...)})
    register_records({'spiral_resnet18.a1_in1k': TagRecord(PAPER, IMAGENET_1K)})
"""
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import timm

from flatzoo.data.protocol import EvalProtocol
from flatzoo.data.temporal import TemporalContract

__all__ = [
    'DataSet', 'Figure', 'IMAGENET_1K', 'IMAGENET_21K', 'IMAGENET_22K', 'KINETICS_400', 'KINETICS_710', 'LVD_142M',
    'Paper', 'SSV2', 'TagRecord', 'register_records', 'tag_record',
]

Unsupported = Literal['torch.jit.script', 'torch.fx']


@dataclass(frozen=True)
class Paper:
    """A paper whose models are registered.

    Attributes:
        name: Common name of its models, such as `SIFAR`.
        id: Its `paper_ids` in timm, such as `arXiv:2106.14104`.
        title: Its title.
        authors: Its authors, in the form of BibTeX.
        year: Year of publication.
        key: Key of its BibTeX entry.
    """
    name: str
    id: str
    title: str
    authors: str
    year: int
    key: str

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        return '\n'.join([
            f'@article{{{self.key},', f'  title = {{{self.title}}},', f'  author = {{{self.authors}}},',
            f'  journal = {{arXiv preprint {self.id}}},', f'  year = {{{self.year}}}', '}'])


@dataclass(frozen=True)
class DataSet:
    """A data set that weights were trained on.

    Attributes:
        title: Its name.
        hub_name: Its name on the Hub, None if it is not there.
        task: The usual task of training on it.
    """
    title: str
    hub_name: str | None
    task: str


IMAGENET_1K = DataSet('ImageNet-1k', 'imagenet-1k', 'image classification')
IMAGENET_21K = DataSet('ImageNet-21k', 'imagenet-21k', 'image classification')
IMAGENET_22K = DataSet('ImageNet-22k', 'imagenet-22k', 'image classification')
KINETICS_400 = DataSet('Kinetics-400', 'kinetics-400', 'action recognition')
LVD_142M = DataSet('LVD-142M', None, 'self-supervised image features')
KINETICS_710 = DataSet('Kinetics-710', None, 'action recognition')
SSV2 = DataSet('Something-Something v2', 'something-something-v2', 'action recognition')


@dataclass(frozen=True)
class Figure:
    """An accuracy that a paper, or its official repository, prints. It was not measured by us.

    Attributes:
        data: Title of the data set.
        top1: Top-1 accuracy in %.
        top5: Top-5 accuracy in %, None if it is not printed.
        where: Its place, such as `Table 3`.
        frames: Frames per clip, None if they are not printed.
        clips: Clips per video, None if they are not printed.
        crops: Crops per clip, None if they are not printed.
        setting: What differs from the registered model, such as `reversed frames`. Empty if nothing does.
        backbone: The printed backbone, if the paper has several.
        params: The printed number of parameters, in millions.
        cost: The printed cost.
        note: A note to the figure.
    """
    data: str
    top1: float
    top5: float | None
    where: str
    frames: int | None = None
    clips: int | None = None
    crops: int | None = None
    setting: str = ''
    backbone: str = ''
    params: str = ''
    cost: str = ''
    note: str = ''

    @property
    def views(self) -> int | None:
        """Clips x crops, None if they are not printed."""
        return None if self.clips is None or self.crops is None else self.clips * self.crops


@dataclass(frozen=True)
class TagRecord:
    """The facts about the weights `architecture.tag` that timm's configuration lacks.

    Attributes:
        paper: The paper that the model is from, None if there is none.
        data: Training data of the weights, None if there are no weights.
        task: Task of the training. By default the usual task of the data set.
        started_from: The weights with which training started, as the end of a sentence, if they are known.
        protocol: Clips and crops over which the paper measures accuracy.
        other_protocols: Further protocols by name, such as `repository`.
        temporal: How much time the clips of the training covered; None if it is not known.
        figures: Accuracies that are printed for the model. For weights with a trained head only those of these weights.
        about_figures: Facts that a reader of the figures must know.
        size: Bytes of the file, to three digits if its publisher rounds them. None if the size is not stated.
        sha256: Digest of the file, None if it is not stated.
        starts_fresh: A sentence that names the parts of the model that stay untrained, for weights without a head.
        intended_use: Use of the weights. By default it follows from data and task.
        limits: What the weights cannot do.
        frozen_backbone: Whether the method freezes the backbone (`freeze_backbone`).
        unsupported: Functions of torch that the model does not support.
    """
    paper: Paper | None = None
    data: DataSet | None = None
    task: str | None = None
    started_from: str = ''
    protocol: EvalProtocol = EvalProtocol()
    other_protocols: Mapping[str, EvalProtocol] = field(default_factory=lambda: MappingProxyType({}))
    temporal: TemporalContract | None = None
    figures: tuple[Figure, ...] = ()
    about_figures: str = ''
    size: int | None = None
    sha256: str | None = None
    starts_fresh: str = '**The classifier is freshly initialised** and must be fine-tuned.'
    intended_use: str = ''
    limits: str = ''
    frozen_backbone: bool = False
    unsupported: tuple[Unsupported, ...] = ()

    def protocol_named(self, name: str) -> EvalProtocol:
        """A protocol by its name: `paper`, or one of `other_protocols`.

        Raises:
            ValueError: If there is no protocol of this name.
        """
        known = {'paper': self.protocol, **self.other_protocols}
        if name not in known:
            raise ValueError(f'there is no evaluation protocol {name!r} of these weights, only {", ".join(known)}')
        return known[name]


_RECORDS: dict[str, TagRecord] = {}
_UNKNOWN = TagRecord()


def register_records(records: Mapping[str, TagRecord]) -> None:
    """Registers the records of weights.

    Args:
        records: `architecture.tag`, the name in `default_cfgs` -> its record.
    """
    _RECORDS.update(records)


def tag_record(name: str) -> TagRecord:
    """The record of a set of weights.

    Args:
        name: `architecture.tag`. An architecture alone stands for its default tag.

    Returns:
        The record. It is empty if none was registered.
    """
    if '.' not in name and timm.is_model(name):
        cfg = timm.get_pretrained_cfg(name)
        name = f'{cfg.architecture}.{cfg.tag}' if cfg is not None else name
    return _RECORDS.get(name, _UNKNOWN)
