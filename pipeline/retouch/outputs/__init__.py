"""TODO: what this package is for, in one line."""
