"""Parameters, multiply-adds and memory of every video model and of the UniFormer image models, counted on the meta
device with eager attention.

Nothing is computed and no weights are drawn. Multiply-adds are those of `flatzoo.runtime.cost`, for one view;
activations are the distinct tensors that autograd keeps for the backward pass of one clip, in float32.

    python benchmarks/cost/models.py --out benchmarks/results/data/cost.csv
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the repository: benchmarks.common, flatzoo


from benchmarks.common.cost import count, names, write


def main() -> None:
    """Counts all models and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('filter', nargs='?', default='', help="wildcard such as 'sifar*'")
    parser.add_argument('--out', type=Path, help='CSV file to write')
    args = parser.parse_args()
    rows = []
    for name in names(args.filter):
        rows.append(count(name))
        print(rows[-1], flush=True)
    if args.out:
        write(args.out, rows)


if __name__ == '__main__':
    main()
