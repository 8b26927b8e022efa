"""Time and memory of the operators of AM Flow against attention on the same queries and keys, and a whole ViT-B block.

12 heads of 64 channels, one clip; 257 tokens are 224 pixels in patches of 14, 1370 are 518 pixels. Variants take turns
in every round and medians are given, as ratios to attention and to the block. On one CPU thread time is that of the
process, which other programs disturb less than the clock's, and memory is the peak of all allocations, as the profiler
records them. On CUDA devices time is between events and memory that of the allocator. Memory counts what lives beside
q, k, v, the output and their gradients.

    python benchmarks/speed/attention_flow.py --out benchmarks/results
    python benchmarks/speed/attention_flow.py --device cuda --dtype bfloat16 --frames 8 16 32 --rounds 20 --out .

writes `attention_flow.md`, and `data/attention_flow.csv` beside it; rows of other machines are kept.
On a CUDA device the naive form, the same compiled, flex_attention, the chunked form and the Triton kernels are
compared. Those figures are not in `results/`: no GPU was at hand, and that part of the script has not been run.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


import torch

from benchmarks.common.attention_flow import DIM, HEADS, SHOWN, measure
from benchmarks.common.timing import SETTING, clock_name, markdown, save


def main() -> None:
    """Prints the rows and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--dtype', choices=['float32', 'bfloat16', 'float16'], default='float32')
    parser.add_argument('--tokens', type=int, nargs='+', default=[257, 1370])
    parser.add_argument('--frames', type=int, nargs='+', default=[8, 24])
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--forward', action='store_true', help='no backward')
    parser.add_argument('--threads', type=int, default=1, help='of the CPU')
    parser.add_argument('--out', type=Path, default=None, help='folder')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = []
    for tokens in args.tokens:
        for frames in args.frames:
            rows += measure(
                tokens, frames, args.rounds, args.device, getattr(torch, args.dtype), not args.forward)
    if args.out is None:
        return
    rows = save(args.out / 'data/attention_flow.csv', rows, ('tokens', 'frames', 'pass', 'variant'))
    markdown(args.out / 'attention_flow.md', 'Cost of the operators of AM Flow', [
        f'`python benchmarks/speed/attention_flow.py`; {clock_name(args.device)}, medians of {args.rounds} rounds '
        f'in which variants took turns; {HEADS} heads of {DIM} channels, one clip. Extra memory is the '
        'exact peak of allocations beside q, k, v, the output and their gradients.',
        [{key: row[key] for key in (*SHOWN, *SETTING)} for row in rows]])


if __name__ == '__main__':
    main()
