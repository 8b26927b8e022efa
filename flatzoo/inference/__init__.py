"""Names the action in a video: for one file, for many files, or for frames in memory."""
