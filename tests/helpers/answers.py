"""A results table as tests like to look at it."""

from __future__ import annotations

from retouch.outputs import results


def answered(output: str) -> dict[str, tuple[str, str]]:
    """Key to (fingerprint, status) of every answer that stands."""
    columns = (column.to_pylist() for column in results.read_done(output).columns)
    return {key: (fingerprint, status) for key, fingerprint, status in zip(*columns, strict=True)}
