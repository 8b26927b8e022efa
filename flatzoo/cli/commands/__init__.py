"""The subcommands of `flatzoo`: one file each, found by its name."""
