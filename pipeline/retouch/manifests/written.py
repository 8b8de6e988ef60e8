"""The result of writing a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class WrittenManifest:
    """What was written as a manifest, and what was not."""

    rows: int  # 0 if nothing was written because of ``problems``
    problems: Mapping[str, Sequence[str]] = field(default_factory=dict)  # kind of problem to the files that have it
    notes: Sequence[str] = ()
