"""Pictures of what a model sees: functions that return arrays, and figures of them (which need `flatzoo[show]`)."""
