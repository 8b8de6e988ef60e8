"""Rows at work: what the network sees of one, its candidates round by round, and batches of them. Knows no editor."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retouch.execution.outcomes import KeptCandidate
from retouch.execution.specs import EngineSpec
from retouch.imaging import codec
from retouch.manifests.samples import Failure, Sample
from retouch.schema import Batch, Pixels


@dataclass
class Row:
    """A sample at work: what the network sees of it, and what came back so far."""

    sample: Sample
    region: codec.View
    image: Pixels  # [S, S, 3]
    mask: Any  # [S, S] bool
    exemplar: Pixels | None
    checkpoint: str | None  # a role of the job's weights, or a local file
    rounds: int = 0  # of candidates that were tried, or are about to be
    kept: list[KeptCandidate] = field(default_factory=list)
    failures: list[tuple[int, Failure]] = field(default_factory=list)  # with the candidate's number
    seconds: float = 0.0
    alone: bool = False  # a worker died with it in hand: it shares no pass


@dataclass(frozen=True)
class Entry:
    """One candidate of one row: one place in a batch."""

    row: Row
    candidate: int
    seed: int


def candidate_seed(run_seed: int, key: str, candidate: int) -> int:
    """Seed of a candidate in 0..2**63-1: a digest of run, row and number, so no batch, shard or order enters."""
    digest = hashlib.sha256(json.dumps([run_seed, key, candidate]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def entries(rows: Sequence[Row], spec: EngineSpec, budget: int, shape: int) -> list[Entry]:
    """The next round of each row, and further ones where the last pass would else be padded: they cost nothing.

    Args:
        rows: that may share a pass and have rounds left.
        spec: candidates of a round, and the run's seed.
        budget: rounds that a row may take.
        shape: entries of a pass.
    """
    found = [entry for row in rows for entry in _next_round(row, spec)]
    spare, waiting = -len(found) % shape, deque(rows)
    while waiting and spare >= spec.candidates:
        row = waiting.popleft()
        if row.rounds < budget:
            found += _next_round(row, spec)
            spare -= spec.candidates
            waiting.append(row)
    return found


def _next_round(row: Row, spec: EngineSpec) -> list[Entry]:
    run_seed = spec.seed if row.sample.seed is None else row.sample.seed
    first = row.rounds * spec.candidates
    row.rounds += 1
    numbers = range(first, first + spec.candidates)
    return [Entry(row, k, candidate_seed(run_seed, row.sample.key, k)) for k in numbers]


def batch_of(some: Sequence[Entry], shape: int = 0) -> Batch:
    """Entries as a batch of at least ``shape``, the last one repeated: kernels see one shape whatever the mates."""
    padded = [*some, *[some[-1]] * (shape - len(some))]
    rows = [entry.row for entry in padded]
    exemplars = [row.exemplar for row in rows if row.exemplar is not None]
    sources = [row.sample.source_prompt for row in rows]
    return Batch(
        image=np.stack([row.image for row in rows]),
        mask=np.stack([row.mask for row in rows]),
        prompt=[row.sample.prompt for row in rows],
        seed=[entry.seed for entry in padded],
        exemplar=np.stack(exemplars) if exemplars else None,
        source_prompt=[source or "" for source in sources] if any(sources) else None,
        checkpoint=rows[0].checkpoint,
        params=rows[0].sample.params,
    )
