"""The way to and from the Hugging Face Hub: save, push, pull, convert, cards, and the classes for transformers."""
