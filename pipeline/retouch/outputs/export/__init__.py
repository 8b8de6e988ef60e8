"""Finished edits as datasets that other projects' libraries read."""
