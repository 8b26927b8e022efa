"""Where tensors come from: download, checkpoints, saved configurations, deferred initialisation, adapter files."""
