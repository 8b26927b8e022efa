"""How long does a classifier from 120 clips take: features, probe and saved model, on few CPU cores?

    python benchmarks/speed/few_clips.py --out benchmarks/results/few_clips.md

120 rendered clips of five seconds at 320x240 pixels, a ViT-S/14 of the size of DINOv2-S at 224 pixels, 4 frames. Its
weights are random, which changes no time: an accuracy on them would mean nothing and is not reported.
"""
import argparse
import dataclasses
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo

import torch

import flatzoo
from benchmarks.common.timing import cpu_name
from flatzoo.data.actions import ACTIONS, write_action
from flatzoo.inference.embed import every_split

SIZE, FRAMES, FPS = 320, 80, 16  # five seconds


def main(argv: list[str] | None = None) -> list[tuple[str, float, float]]:
    """Times every step, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, help='page')
    parser.add_argument('--clips', type=int, default=120)
    parser.add_argument('--model', default='vit_small_patch14_dinov2.lvd142m')
    parser.add_argument('--img-size', type=int, default=224)
    args = parser.parse_args(argv)
    steps: list[tuple[str, float, float]] = []

    def timed(name: str, action):
        start, cpu = time.perf_counter(), time.process_time()
        result = action()
        steps.append((name, time.process_time() - cpu, time.perf_counter() - start))
        print(f'{name}: {steps[-1][1]:.1f} s of CPU time, {steps[-1][2]:.1f} s', flush=True)
        return result

    with tempfile.TemporaryDirectory() as root:
        render(Path(root), args.clips)
        lists = every_split('folder', root)
        options = dict(allow_untrained=True, num_frames=4, img_size=args.img_size)
        out = Path(root, 'features')
        timed('embed', lambda: flatzoo.embed(lists, args.model, out, workers=2, **options))
        timed('embed again', lambda: flatzoo.embed(lists, args.model, out, workers=2, **options))
        features = flatzoo.load_features(out)
        noise = torch.randn(features.values.shape, generator=torch.Generator().manual_seed(0))
        features = dataclasses.replace(features, values=features.values + features.values.std() * noise)  # no copies
        result = None
        for kind in ('knn', 'ridge', 'logistic'):
            result = timed(f'probe: {kind}', lambda kind=kind: flatzoo.probe(features, kind))
        timed('save', lambda: result.save(Path(root, 'probe')))
    if args.out is not None:
        args.out.write_text(page(steps, args))
    return steps


def render(root: Path, count: int) -> None:
    """Eight rendered actions, whose files are copied under other names, since the content changes no time.

    Of the square frames the middle 240 lines are kept.
    """
    import av

    for index in range(count):
        label, split = index // 4 % 8, 'val' if index % 4 == 3 else 'train'
        folder, first = root / split / ACTIONS[label], root / f'{label}.mp4'
        folder.mkdir(parents=True, exist_ok=True)
        if not first.exists():
            square = write_action(root / 'square.mp4', label, index, SIZE, FRAMES, FPS)
            with av.open(str(square)) as source, av.open(str(first), 'w') as target:
                stream = target.add_stream('h264', rate=FPS)
                stream.width, stream.height, stream.pix_fmt = SIZE, 240, 'yuv420p'
                for frame in source.decode(video=0):
                    picture = frame.to_ndarray(format='rgb24')[40:280]
                    target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
                target.mux(stream.encode())
            square.unlink()
        shutil.copyfile(first, folder / f'{index}.mp4')


def page(steps: list[tuple[str, float, float]], args: argparse.Namespace) -> str:
    """The results as Markdown."""
    rows = '\n'.join(f'| {name} | {cpu:.1f} | {wall:.1f} |' for name, cpu, wall in steps)
    total = sum(cpu for name, cpu, _ in steps if name in ('embed', 'probe: logistic', 'save'))
    return (
        '# A classifier from 120 clips\n\n'
        '`python benchmarks/speed/few_clips.py --out benchmarks/results/few_clips.md`\n\n'
        f'{args.clips} rendered clips of {FRAMES / FPS:.0f} s at {SIZE}x240, `{args.model}` with random weights at '
        f'{args.img_size} pixels, 4 frames, fp32. {cpu_name()}, {os.cpu_count()} cores shared with other work, '
        f'{torch.get_num_threads()} thread of torch, torch {torch.__version__}.\n\n'
        f'| step | CPU seconds | seconds |\n|---|---|---|\n{rows}\n\n'
        f'Embed, logistic probe and save take {total:.0f} s of CPU time. The seconds of the clock were measured beside '
        'other work and are upper bounds.\n')


if __name__ == '__main__':
    main()
