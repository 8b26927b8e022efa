"""Readers of published data sets, one file per publisher.

A reader is a module with three names. `SPLITS` are the splits that it knows. `matches(root)` tells whether a folder has
this layout. `read(root, split, **options) -> VideoList` reads the lists and the names of files, and opens no video. Its
result names every listed file, whether the file exists or not.
"""
import importlib
from types import ModuleType
from typing import Any

__all__ = ['GENERIC', 'READERS', 'open_reader']

# Name of a layout -> its module here, and fixed arguments of its functions; publishers first, generic layouts last.
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
    """The module of a layout, and the fixed arguments of its functions."""
    module, fixed = _READERS[name]
    return importlib.import_module(f'{__name__}.{module}'), fixed
