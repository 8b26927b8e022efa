"""The Hugging Face Hub: save, push, pull, convert, write cards, and the classes for transformers."""
