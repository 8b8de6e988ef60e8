"""``python -P -m retouch`` runs the command; without ``-P``, Python prefers files of the current folder."""

from retouch.cli.app import main

main()
