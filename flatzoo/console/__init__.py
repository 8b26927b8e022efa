"""What a person at a terminal reads: text that cannot steer it, and progress."""
