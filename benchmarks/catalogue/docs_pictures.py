"""Draws the pictures of the documentation: the idea, layouts with numbered frames, and what `flatzoo show` writes.

    python benchmarks/catalogue/docs_pictures.py [--out docs/images]
"""
import argparse
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import flatzoo
import flatzoo.data.decode
from benchmarks.common.files import shrink_picture
from flatzoo.cli import main as flatzoo_command

matplotlib.use('agg')
import matplotlib.pyplot as plt  # noqa: E402

PICTURES = {
    'grids': (8, ['grid', '2x4', '3x3:column', '3x3:snake']),
    'nested': (16, ['nested:2x2/2x2', 'nested:2x2/2x2:strided', 'random:4x4:always']),
    'time': (8, ['time:2:spatial', 'time:2:temporal']),
}
SHOWN = ('super_image.png', 'cam.png', 'cam.gif', 'importance.png')


def numbered_frames(num_frames: int, size: int = 120) -> Tensor:
    """A clip `[1, 3, T, size, size]` in 0...1 whose frames show their numbers, on colours from early to late."""
    frames = []
    for t in range(num_frames):
        color = tuple(int(255 * c) for c in plt.cm.viridis(t / max(num_frames - 1, 1))[:3])
        frame = Image.new('RGB', (size, size), color)
        draw = ImageDraw.Draw(frame)
        draw.rectangle((0, 0, size - 1, size - 1), outline='white', width=3)
        ink = 'black' if sum(color) > 380 else 'white'
        draw.text((size / 2, size / 2), str(t), ink, ImageFont.load_default(size // 2), anchor='mm')
        frames.append(torch.from_numpy(np.asarray(frame) / 255).permute(2, 0, 1))
    return torch.stack(frames, 1)[None].float()


def draw_layouts(path: Path, num_frames: int, layouts: list[str]) -> None:
    """Writes the images that several layouts make of numbered frames, side by side; empty cells are light grey."""
    clip = numbered_frames(num_frames)
    torch.manual_seed(0)
    panels = [flatzoo.SuperImage(num_frames, f'{layout},pad=0.9', 120).eval()(clip) for layout in layouts]
    figure, axes = plt.subplots(
        1, len(layouts), figsize=(2.9 * len(layouts), 3.3), squeeze=False, layout='constrained',
        width_ratios=[image.shape[3] * len(image) for image in panels])
    for axis, layout, images in zip(axes[0], layouts, panels):
        gap = torch.ones(3, images.shape[2], 16)
        row = torch.cat([part for image in images for part in (gap, image)][1:], 2)
        axis.imshow(row.permute(1, 2, 0).clamp(0, 1))
        axis.set_title(layout, family='monospace', fontsize=11)
        axis.axis('off')
    figure.get_layout_engine().set(wspace=0.06)
    figure.savefig(path, dpi=110, bbox_inches='tight', pad_inches=0.08)
    plt.close(figure)


def draw_idea(path: Path) -> None:
    """Writes the idea in one picture: frames of a real clip, the image that holds them, a backbone, an answer."""
    clip = flatzoo.data.decode.VideoReader(Path(flatzoo.__file__).parent / 'data/assets/carphone.mp4')
    frames = clip.get_frames(np.linspace(0, len(clip) - 1, 8).round().astype(int).tolist())
    side = min(frames.shape[-2:])
    top, left = (frames.shape[-2] - side) // 2, (frames.shape[-1] - side) // 2
    frames = frames[..., top:top + side, left:left + side]  # uint8 [8, 3, side, side]
    image = flatzoo.SuperImage(8, '3x3,pad=0.9', side).eval()((frames / 255).movedim(0, 1)[None])[0]
    figure, axis = plt.subplots(figsize=(10, 3.1), layout='constrained')
    axis.set(xlim=(0, 100), ylim=(0, 31), aspect='equal')
    axis.axis('off')
    for t, frame in enumerate(frames):  # one behind the other, the first one in front
        x, y = 14 - 2 * t, 4 + 1.6 * t
        axis.imshow(frame.movedim(0, -1), extent=(16 - x, 16 - x + 11, y, y + 11), zorder=9 - t)
        axis.add_patch(plt.Rectangle((16 - x, y), 11, 11, fill=False, color='white', lw=1, zorder=9 - t))
    axis.imshow(image.movedim(0, -1).clamp(0, 1), extent=(36, 61, 4, 29))
    for x, text in ((15, 'eight frames'), (48.5, 'one image'), (74.5, 'a backbone'), (93, 'a name')):
        axis.text(x, 0.8, text, ha='center', va='center', fontsize=12)
    for x, width, text in ((67, 15, 'any image\nmodel of timm'), (87, 12, 'one of\nyour classes')):
        axis.add_patch(plt.Rectangle((x, 10), width, 13, facecolor='#dfe8f2', edgecolor='#35506b'))
        axis.text(x + width / 2, 16.5, text, ha='center', va='center', fontsize=11, color='#1b2b3a')
    for begin, end in ((31, 35.3), (61.7, 66.3), (82.7, 86.3)):
        axis.annotate('', (end, 16.5), (begin, 16.5), arrowprops=dict(arrowstyle='-|>', color='#35506b', lw=2))
    figure.savefig(path, dpi=110, bbox_inches='tight', pad_inches=0.05, facecolor='white')
    plt.close(figure)


def main() -> None:
    """Draws everything into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('docs/images'))
    parser.add_argument('--layouts-only', action='store_true', help='leave out the pictures of flatzoo show')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    draw_idea(args.out / 'idea.png')
    shrink_picture(args.out / 'idea.png')
    for name, (num_frames, layouts) in PICTURES.items():
        draw_layouts(args.out / f'{name}.png', num_frames, layouts)
    if args.layouts_only:
        return
    clip = Path(flatzoo.__file__).parent / 'data/assets/is_picked_up.mp4'
    with tempfile.TemporaryDirectory() as folder:
        if code := flatzoo_command(['show', str(clip), '--out', folder]):
            raise SystemExit(code)
        for name in SHOWN:
            shutil.copy(Path(folder, f'{clip.stem}.{name}'), args.out / name)
            shrink_picture(args.out / name, 48 if name.endswith('gif') else 256)


if __name__ == '__main__':
    main()
