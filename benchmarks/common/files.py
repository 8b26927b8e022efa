"""Results are written whole or not at all."""
import os
from pathlib import Path

__all__ = ['beside_data', 'shrink_picture', 'write_file']


def write_file(path: Path, content: bytes) -> None:
    """Writes under a temporary name, then renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.partial')
    partial.write_bytes(content)
    os.replace(partial, path)


def shrink_picture(path: Path, colors: int = 256) -> None:
    """Saves a PNG or a GIF again with a palette, which suffices for charts and small pictures; times of frames stay."""
    from PIL import Image, ImageSequence

    with Image.open(path) as picture:
        frames = [frame.convert('RGB').quantize(colors) for frame in ImageSequence.Iterator(picture)]
        several = dict(save_all=True, append_images=frames[1:], loop=0, duration=[
            frame.info.get('duration', 0) for frame in ImageSequence.Iterator(picture)]) if len(frames) > 1 else {}
    frames[0].save(path, optimize=True, **several)


def beside_data(path: Path, suffix: str) -> Path:
    """The page or picture that shows a file of raw data: beside the folder `data`, if the file lies in one."""
    folder = path.parent.parent if path.parent.name == 'data' else path.parent
    return folder / f'{path.stem}{suffix}'
