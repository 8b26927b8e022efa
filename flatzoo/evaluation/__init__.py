"""Measures how good the answers are: accuracy by the evaluation protocol, and tables of results."""
