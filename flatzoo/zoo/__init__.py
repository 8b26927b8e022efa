"""The catalogue of the zoo: where weights come from, and all models side by side."""
