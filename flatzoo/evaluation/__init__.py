"""How good the answers are: accuracy by the evaluation protocol, tables of results, and what a forward pass costs."""
