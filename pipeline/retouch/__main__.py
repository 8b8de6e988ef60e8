"""``python -m retouch`` is the command."""

from retouch.cli.app import main

main()
