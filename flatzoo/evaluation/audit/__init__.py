"""Does a model look at time? The same clips with their order, motion or background taken away, and what that proves."""
