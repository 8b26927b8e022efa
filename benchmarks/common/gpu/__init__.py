"""Parts of `gpu.py`, each a function of a `Context` that runs in a process of its own."""
