"""Weights and their cards."""
