"""Where registered weights come from: publisher, file and licence, and size and digest if they are published.

timm's configuration of a tag has the place of its file and its licence. Its record (`flatzoo.models.record`) has the
data that the weights were trained on, and the size and digest that the publisher states. This module joins the two:
what a user wants to know before a download.
"""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

from flatzoo.models.record import tag_record
from flatzoo.weights.download import WEIGHT_FILES

__all__ = ['WeightSource', 'weight_source']

HUB = 'https://huggingface.co'


@dataclass(frozen=True)
class WeightSource:
    """Where a set of weights comes from.

    Attributes:
        name: `architecture.tag`.
        kind: `'hub'` (a repository of the Hugging Face Hub), `'url'` (a file elsewhere) or `'package'`.
        address: Repository, address or path of the file.
        files: Names of files in the repository, in the order of the search. For other kinds the name of the file.
        licence: Identifier of the licence.
        origin: Page of those who published the weights.
        task: What the weights were trained to do.
        data: Data set that they were trained on.
        dataset: Name of the data set on the Hub, None if it is not there.
        size: Bytes of the file, to three digits if the publisher rounds them.
        sha256: Digest of the file.
    """
    name: str
    kind: str
    address: str
    files: tuple[str, ...]
    licence: str
    origin: str
    task: str
    data: str
    dataset: str | None = None
    size: int | None = None
    sha256: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Addresses of the files. Empty for files of the package."""
        if self.kind == 'hub':
            return tuple(f'{HUB}/{self.address}/resolve/main/{file}' for file in self.files)
        return (self.address,) if self.kind == 'url' else ()

    @property
    def page(self) -> str:
        """The page about the weights: `'in the package'`, or an address."""
        if self.kind == 'hub':
            return f'{HUB}/{self.address}'
        return 'in the package' if self.kind == 'package' else self.address

    def agrees_with(self, size: int, sha256: str | None = None) -> bool:
        """Whether size and digest of a file agree with what the publisher states.

        Args:
            size: Bytes of the file.
            sha256: Its digest, None if it is not known.
        """
        if self.size is not None and not math.isclose(size, self.size, rel_tol=0.01):
            return False
        return None in (self.sha256, sha256) or self.sha256 == sha256


def weight_source(name: str) -> WeightSource | None:
    """Where the registered weights `architecture.tag` come from.

    Args:
        name: A model of flatzoo. An architecture alone stands for its default tag.

    Returns:
        None if the tag has no weights.

    Raises:
        RuntimeError: If timm knows no such name.
        ValueError: If the tag has no record, or one without data.
    """
    cfg = timm.get_pretrained_cfg(name)
    if not cfg.has_weights:
        return None
    name = f'{cfg.architecture}.{cfg.tag}'
    record = tag_record(name)
    if record.data is None:
        raise ValueError(
            f'{name} has weights but no record of what they were trained on. Beside its default_cfgs, call '
            f'register_records({{{name!r}: TagRecord(paper, data)}}), see flatzoo.models.record.')
    kind, address, files = _place(cfg)
    return WeightSource(
        name=name, kind=kind, address=address, files=files, licence=(cfg.license or 'other').lower(),
        origin=_origin(cfg, kind, address), task=record.task or record.data.task, data=record.data.title,
        dataset=record.data.hub_name, size=record.size, sha256=record.sha256)


def _place(cfg: Any) -> tuple[str, str, tuple[str, ...]]:
    """Kind, address and files of the source that timm would take."""
    if cfg.file:
        return 'package', cfg.file, (Path(cfg.file).name,)
    if cfg.hf_hub_id:
        files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else WEIGHT_FILES
        return 'hub', cfg.hf_hub_id.partition('@')[0], files
    return 'url', cfg.url, (cfg.url.rpartition('/')[2],)


def _origin(cfg: Any, kind: str, address: str) -> str:
    """Page of the publisher. timm's repositories of image weights name it themselves."""
    if kind == 'hub' and address.startswith('timm/'):
        return f'{HUB}/{address}'
    return cfg.origin_url or f'{HUB}/{address}'
