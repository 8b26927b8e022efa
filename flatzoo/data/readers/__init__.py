"""Readers of published data sets, one file per publisher.

A reader has `SPLITS`, the splits that it knows; `matches(root)`, whether a folder is laid out so; and
`read(root, split, **options) -> VideoList`, which opens lists and folders but no video, and names each listed file
whether it is there or not.
"""
import importlib
from types import ModuleType
from typing import Any

__all__ = ['GENERIC', 'READERS', 'open_reader']

# name -> module here, and the arguments that make it this data set; publishers first, generic layouts last
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    'ssv2': ('ssv2', {}),
    'ucf101': ('ucf101', {}),
    'hmdb51': ('hmdb51', {}),
    'diving48': ('diving48', {}),
    'jester': ('jester', {}),
    'moments': ('moments', {}),
    'kinetics': ('kinetics', {}),
    'ntu60': ('ntu', {'actions': 60}),
    'ntu120': ('ntu', {'actions': 120}),
    'uwa3d': ('uwa3d', {}),
    'smarthome': ('smarthome', {}),
    'wds': ('wds', {}),
    'sifar': ('sifar', {}),
    'csv': ('table', {'kind': 'csv'}),
    'jsonl': ('table', {'kind': 'jsonl'}),
    'folder': ('folder', {}),
    'frames': ('frames', {}),
}
READERS: tuple[str, ...] = tuple(_READERS)
"""Names of the layouts."""
GENERIC: tuple[str, ...] = READERS[READERS.index('wds'):]
"""Those that are no publisher's. The folders of a publisher may look like one of these, too."""


def open_reader(name: str) -> tuple[ModuleType, dict[str, Any]]:
    """The module of a layout and the arguments that its functions get."""
    module, fixed = _READERS[name]
    return importlib.import_module(f'{__name__}.{module}'), fixed
