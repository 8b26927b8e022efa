"""Results are written whole or not at all."""
import os
from pathlib import Path

__all__ = ['beside_data', 'write_file']


def write_file(path: Path, content: bytes) -> None:
    """Writes under a temporary name, then renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.partial')
    partial.write_bytes(content)
    os.replace(partial, path)


def beside_data(path: Path, suffix: str) -> Path:
    """The page or picture that shows a file of raw data: beside the folder `data`, if the file lies in one."""
    folder = path.parent.parent if path.parent.name == 'data' else path.parent
    return folder / f'{path.stem}{suffix}'
