"""Weights: where they come from, how they get here and to the Hub, and their cards."""
