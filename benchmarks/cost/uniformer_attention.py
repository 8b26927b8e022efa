"""What windows save on a super image: UniFormer with global, hybrid and windowed attention in stage 3.

16 frames of 224 pixels in 4x4, windows of one frame (14 x 14 tokens). Multiply-adds of one view, and the float32
activations that training keeps per clip: with eager attention, which keeps its matrices, counted on the meta device,
and with fused attention, counted in a real step on the CPU.

    python benchmarks/cost/uniformer_attention.py --out benchmarks/results/uniformer_attention.md
"""
import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


from benchmarks.common.cost import count


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/uniformer_attention.md'))
    args = parser.parse_args()
    lines = [
        '# Attention of UniFormer on 16 frames of 224 pixels', '',
        '`python benchmarks/cost/uniformer_attention.py`; counted, float32.', '',
        '| model | attention in stage 3 | G multiply-adds | MB kept per clip, eager | MB kept per clip, fused |',
        '|---|---|---|---|---|',
    ]
    for name, layout in (('flatten_uniformer_s', '4x4'), ('flatten_uniformer_b', '4x4')):
        for attn in ('global', 'hybrid', 'window'):
            options = dict(num_frames=16, layout=layout, img_size=224, attn=attn)
            row, fused = count(name, **options), count(name, device='cpu', fused=True, **options)
            lines.append(f'| `{name}` | {attn} | {row["gmacs_per_view"]:.1f} | {row["activations_mb"]:.0f} '
                         f'| {fused["activations_mb"]:.0f} |')
    lines += [
        '', 'Windows save multiply-adds whatever the kernel, and memory where attention is eager: fused attention',
        'never writes the matrices that windows make smaller.']
    text = '\n'.join(lines) + '\n'
    print(text)
    partial = args.out.with_suffix('.partial')
    partial.write_text(text)
    os.replace(partial, args.out)


if __name__ == '__main__':
    main()
