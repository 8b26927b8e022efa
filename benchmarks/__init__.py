"""The scripts behind every figure of ours, by what they ask; `benchmarks/results/README.md` has the answers."""
