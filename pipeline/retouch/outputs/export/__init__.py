"""Exports of a run's images as datasets that other libraries read."""
