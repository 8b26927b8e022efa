"""A Hugging Face Hub on this machine, for the unmodified client, with the faults that a test asks for."""
