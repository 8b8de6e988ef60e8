"""The ``retouch`` command: one module per command; open ``app`` first."""
