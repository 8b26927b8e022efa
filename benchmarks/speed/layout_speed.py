"""The layout and the pixels: super images from clips and from decoded frames, against the usual ways.

First table: float clips `[B, 3, T, H, W]` to super images, as multiples of a plain copy of the clips into a buffer.
`kept` writes into a kept `out=`, `image` is a plain copy of that image, empty cells included. Official form: a zero
frame is appended, then einops; results are compared bit by bit.
Second table: uint8 frames of 340 x 256 pixels, as decoders give them (`[T, H, W, C]`), to one normalised super image.
Ours resizes and crops in uint8 (`EvalTransform`) and normalises into a kept image, whose channels lie side by side as
those of the frames do; `resize` is torch's uint8 resize in it. The usual way is torchvision's v2 transforms in float
(resize with antialias, crop, normalise), then official layout.
Variants take turns, several runs of one in a row; process time of one thread, medians.

    python benchmarks/speed/layout_speed.py --rounds 15 --out benchmarks/results
"""
import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import torch
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.common.official import official_layout
from benchmarks.common.timing import markdown, save, setting
from flatzoo.data.transforms import EvalTransform
from flatzoo.layers import SuperImage

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CASES = ((1, 8, 224), (8, 8, 192), (8, 8, 224), (8, 9, 192), (8, 16, 224))  # batch, frames, pixels
SIZES = (192, 224)  # pixels of a cell


def milliseconds(ways: dict[str, Callable], rounds: int, repeats: int) -> dict[str, float]:
    """Median process time of each way, in turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            for _ in range(repeats):
                way()
            if turn:
                times[name].append(1000 * (time.process_time() - start) / repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def layout(batch: int, frames: int, size: int, rounds: int) -> dict:
    """A row of the first table."""
    clip = torch.randn(batch, 3, frames, size, size)
    layer, copy = SuperImage(frames, 'grid', size), torch.empty_like(clip)
    kept, image = torch.empty_like(official_layout(clip)), torch.empty_like(official_layout(clip))
    assert torch.equal(layer(clip, out=kept), official_layout(clip))
    medians = milliseconds({
        'copy': lambda: copy.copy_(clip), 'image': lambda: image.copy_(kept), 'kept': lambda: layer(clip, out=kept),
        'new': lambda: layer(clip), 'official': lambda: official_layout(clip)}, rounds, max(5, 16 // batch))
    return dict(batch=batch, frames=frames, pixels=size, copy_ms=round(medians['copy'], 2), **{
        name: round(medians[name] / medians['copy'], 2) for name in ('image', 'kept', 'new', 'official')})


def pixels(size: int, rounds: int) -> list[dict]:
    """Rows of the second table for frames of `size` pixels."""
    decoded = torch.randint(0, 256, (8, 256, 340, 3), dtype=torch.uint8)
    transform, layer = EvalTransform(size), SuperImage(8, 'grid', size, MEAN, STD)
    kept = torch.empty(1, 3, 3 * size, 3 * size).to(memory_format=torch.channels_last)
    usual_transform = v2.Compose([
        v2.ToDtype(torch.float32, scale=True), v2.Resize(size, antialias=True), v2.CenterCrop(size),
        v2.Normalize(MEAN, STD)])

    def ours() -> Tensor:
        return layer(transform(decoded.permute(0, 3, 1, 2))[0].transpose(0, 1)[None], out=kept)

    def usual() -> Tensor:
        frames = [usual_transform(frame.permute(2, 0, 1).contiguous()) for frame in decoded]
        return official_layout(torch.stack(frames, 1)[None])

    difference = (ours() - usual()).abs().max().item() * min(STD) * 255
    assert difference < 2 and not kept[..., 2 * size:, 2 * size:].any()  # grey levels; the empty cell is exactly 0
    frames = decoded.permute(0, 3, 1, 2)
    medians = milliseconds({'ours': ours, 'resize': lambda: transform.resize(frames), 'usual': usual}, rounds, 5)
    return [
        dict(pixels=size, way=name, ms=round(ms, 2), of_usual=round(ms / medians['usual'], 2))
        for name, ms in medians.items()]


@torch.no_grad()
def main() -> None:
    """Prints the tables and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--out', type=Path, default=None, help='folder')
    args = parser.parse_args()
    torch.set_num_threads(1)
    layouts = [layout(*case, args.rounds) | setting('cpu', 'float32') for case in CASES]
    frames = [row | setting('cpu', 'uint8 to float32') for size in SIZES for row in pixels(size, args.rounds)]
    for row in (*layouts, *frames):
        print(row)
    if args.out:
        layouts = save(args.out / 'data/layout_speed.csv', layouts, ('batch', 'frames', 'pixels'))
        frames = save(args.out / 'data/pixels_speed.csv', frames, ('pixels', 'way'))
        markdown(args.out / 'layout_speed.md', 'The layout and the pixels', [
            f'`python benchmarks/speed/layout_speed.py --rounds {args.rounds}`; process time, medians.',
            'Super images of float clips, as multiples of a copy of the clips:', layouts,
            'Eight uint8 frames of 340 x 256 pixels to a normalised super image of 3 x 3 cells:', frames])


if __name__ == '__main__':
    main()
