"""Fine-tuning and evaluation: recipes, what clips need beside timm, the training loop, and measuring accuracy."""
