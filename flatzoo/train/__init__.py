"""Fine-tuning: recipes, augmentation of clips, the training loop and its checkpoints."""
