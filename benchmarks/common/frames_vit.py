"""The small ViT that learns from single frames and serves as a frozen backbone."""
from pathlib import Path

__all__ = ['ARCHITECTURE', 'WEIGHTS']

ARCHITECTURE = dict(img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=4)
WEIGHTS = Path('runs/frames_vit.safetensors')  # where `benchmarks/learning/train_frames_vit.py` leaves them
