"""Output for the terminal: safe text and progress."""
