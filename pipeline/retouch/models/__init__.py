"""Networks, and loaders of their published weights."""
