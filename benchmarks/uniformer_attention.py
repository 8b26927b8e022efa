"""What windows save on a super image: UniFormer with global, hybrid and windowed attention in stage 3.

16 frames of 224 pixels in 4x4, windows of one frame (14 x 14 tokens). Multiply-adds of one view, and the float32
activations that training keeps per clip with eager attention, both counted on the meta device.

    python benchmarks/uniformer_attention.py --out benchmarks/results/uniformer_attention.md
"""
import argparse
import os
from pathlib import Path

import timm.layers
from cost import count


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('benchmarks/results/uniformer_attention.md'))
    args = parser.parse_args()
    timm.layers.set_fused_attn(False)
    lines = [
        '# Attention of UniFormer on 16 frames of 224 pixels', '',
        '`python benchmarks/uniformer_attention.py`; counted, eager attention, float32.', '',
        '| model | attention in stage 3 | G multiply-adds | activations kept per clip, MB |', '|---|---|---|---|',
    ]
    for name, layout in (('flatten_uniformer_s', '4x4'), ('flatten_uniformer_b', '4x4')):
        for attn in ('global', 'hybrid', 'window'):
            row = count(name, num_frames=16, layout=layout, img_size=224, attn=attn)
            lines.append(f'| `{name}` | {attn} | {row["gmacs_per_view"]:.1f} | {row["activations_mb"]:.0f} |')
    text = '\n'.join(lines) + '\n'
    print(text)
    partial = args.out.with_suffix('.partial')
    partial.write_text(text)
    os.replace(partial, args.out)


if __name__ == '__main__':
    main()
