"""From a video file to a clip: decode, sample, transform. Knows no model."""
