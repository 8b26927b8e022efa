"""Where registered weights come from: publisher, file, licence, and size and digest as far as they are published.

timm's configuration of a tag says where its file is and what its licence is; this room adds what a user wants to know
before a download. Sizes are those that the pages of the Hub state, rounded to three digits there, and digests those
that their publisher states; what is not stated is None.
"""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm

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
        files: File names in the repository, in the order in which they are looked for; the file's name otherwise.
        licence: Identifier of the licence.
        origin: Page of those who published the weights.
        task: What the weights were trained to do.
        data: Data set that they were trained on.
        dataset: Its name on the Hub, None if it is not there.
        size: Bytes of the file, rounded to three digits where its publisher rounds.
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
        """Addresses of the files, none for those of the package."""
        if self.kind == 'hub':
            return tuple(f'{HUB}/{self.address}/resolve/main/{file}' for file in self.files)
        return (self.address,) if self.kind == 'url' else ()

    @property
    def page(self) -> str:
        """Where a person reads about the weights: `'in the package'`, or an address."""
        if self.kind == 'hub':
            return f'{HUB}/{self.address}'
        return 'in the package' if self.kind == 'package' else self.address

    def agrees_with(self, size: int, sha256: str | None = None) -> bool:
        """Whether a file of this size and digest is the published one, as far as that can be told.

        Args:
            size: Bytes of the file.
            sha256: Its digest, None if it is not known.
        """
        if self.size is not None and not math.isclose(size, self.size, rel_tol=0.01):
            return False
        return None in (self.sha256, sha256) or self.sha256 == sha256


# the end of a tag says the data, as timm names its weights -> (title, name on the Hub, what was trained on it)
_DATA = {
    'in1k': ('ImageNet-1k', 'imagenet-1k', 'image classification'),
    'in21k': ('ImageNet-21k', 'imagenet-21k', 'image classification'),
    'in22k': ('ImageNet-22k', 'imagenet-22k', 'image classification'),
    'lvd142m': ('LVD-142M', None, 'self-supervised image features'),
    'openai': ('400 M image-text pairs', None, 'matching images and text'),
    'k400': ('Kinetics-400', 'kinetics-400', 'action recognition'),
    'k710': ('Kinetics-710', None, 'action recognition'),
    'ssv2': ('Something-Something v2', 'something-something-v2', 'action recognition'),
    'jester': ('Jester', None, 'action recognition'),
    'actions16': ('flatzoo.data.actions', None, 'action recognition'),
}

# (repository or address, file) -> (bytes, sha256). The digest of uniformer_small is that of the equally long copy in
# Andy1621/uniformer. A None for the file stands for the one that timm takes.
_PUBLISHED: dict[tuple[str, str | None], tuple[int | None, str | None]] = {
    ('Sense-X/uniformer_image', 'uniformer_small_in1k.pth'): (
        86_314_461, 'fd192c31f8bd77670de8f171111bd51f56fd87e6aea45043ab2edc181e1fa775'),
    ('Sense-X/uniformer_image', 'uniformer_small_plus_in1k.pth'): (
        96_300_000, '53bc55180eb750f00b12933c75fefb5f9ee652bea606cd26104b738f0c4c472e'),
    ('Sense-X/uniformer_image', 'uniformer_base_in1k.pth'): (
        199_378_501, '82c01015818cb897b00a29352043053df53ce4c02c2d012226b3a8a12ccb60eb'),
    ('MCG-NJU/videomae-base', None): (377_000_000, None),
    ('MCG-NJU/videomae-base-finetuned-kinetics', None): (346_000_000, None),
    ('MCG-NJU/videomae-base-finetuned-ssv2', None): (346_000_000, None),
    ('MCG-NJU/videomae-small-finetuned-ssv2', None): (87_800_000, None),
    ('timm/resnet50.a1_in1k', None): (102_000_000, None),
    ('timm/resnetv2_50x1_bit.goog_in21k', None): (273_000_000, None),
    ('timm/swin_large_patch4_window7_224.ms_in22k', None): (916_000_000, None),
    ('timm/swinv2_tiny_window8_256.ms_in1k', None): (115_000_000, None),
    ('timm/swinv2_small_window8_256.ms_in1k', None): (201_000_000, None),
    ('timm/vit_base_patch14_dinov2.lvd142m', None): (346_000_000, None),
    ('timm/vit_base_patch16_224.augreg_in21k', None): (410_000_000, None),
    ('package', 'sifar_resnet10t.actions16.safetensors'): (
        2_487_160, 'd2a6cc41e130ada3eaf4c6c97955631c60bce0cd70a1a7306bf36ddca47f59a5'),
}


def weight_source(name: str) -> WeightSource | None:
    """Where the registered weights `architecture.tag` come from.

    Args:
        name: A model of flatzoo; an architecture alone stands for its default tag.

    Returns:
        None if the tag has no weights.

    Raises:
        RuntimeError: If timm knows no such name.
        ValueError: If the tag does not end in a data set that is known here.
    """
    cfg = timm.get_pretrained_cfg(name)
    if not cfg.has_weights:
        return None
    kind, address, files, key = _place(cfg)
    data = cfg.tag.rpartition('_')[2]
    if data not in _DATA:
        raise ValueError(
            f'{name}: the tag ends in {data!r}, which names no known data set ({", ".join(_DATA)}). Add it to _DATA.')
    title, dataset, task = _DATA[data]
    size, sha256 = _PUBLISHED.get(key, (None, None))
    return WeightSource(
        name=f'{cfg.architecture}.{cfg.tag}', kind=kind, address=address, files=files,
        licence=(cfg.license or 'other').lower(), origin=_origin(cfg, kind, address),
        task='masked autoencoding of videos' if '_mae_' in f'_{cfg.tag}_' else task, data=title, dataset=dataset,
        size=size, sha256=sha256)


def _place(cfg: Any) -> tuple[str, str, tuple[str, ...], tuple[str, str | None]]:
    """Kind, address, files and key in `_PUBLISHED`, of the source that timm would take."""
    if cfg.file:
        file = Path(cfg.file)
        return 'package', str(file), (file.name,), ('package', file.name)
    if cfg.hf_hub_id:
        repository = cfg.hf_hub_id.partition('@')[0]
        files = (cfg.hf_hub_filename,) if cfg.hf_hub_filename else WEIGHT_FILES
        return 'hub', repository, files, (repository, cfg.hf_hub_filename)
    return 'url', cfg.url, (cfg.url.rpartition('/')[2],), (cfg.url, None)


def _origin(cfg: Any, kind: str, address: str) -> str:
    """Page of the publisher: timm's repositories of image weights say theirs themselves."""
    if kind == 'hub' and address.startswith('timm/'):
        return f'{HUB}/{address}'
    return cfg.origin_url or f'{HUB}/{address}'
