"""``python -m pipeline`` is the command."""

from pipeline.cli.app import main

main()
