"""Rows in the engine, their candidates round by round, and batches of them."""

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
from retouch.imaging import regions
from retouch.imaging.canvas import Strip
from retouch.manifests.samples import Failure, Sample
from retouch.schema import Batch, Mask, Pixels


@dataclass(frozen=True)
class StripPass:
    """One pass of a row on a canvas: what the network sees, apart from the pixels, which each candidate paints."""

    strip: Strip
    view: regions.Region  # of ``strip.after``
    mask: Mask  # [H, W] at the network's size
    control: Pixels | None  # [H, W, 3]
    prompt: str


@dataclass
class Row:
    """A sample in the engine: the network's inputs, and the results so far.

    A row on a canvas takes the passes of ``strips`` one after another; its image, mask and control are those of the
    whole canvas at native size.
    """

    sample: Sample
    region: regions.View
    image: Pixels  # [H, W, 3] at the network's size
    mask: Any  # [H, W] bool
    exemplar: Pixels | None
    control: Pixels | None  # [H, W, 3]
    checkpoint: str | None  # a role of the job's weights, or a local file
    strips: tuple[StripPass, ...] = ()
    rounds: int = 0  # of candidates, begun so far
    kept: list[KeptCandidate] = field(default_factory=list)
    failures: list[tuple[int, Failure]] = field(default_factory=list)  # with the number of the candidate
    seconds: float = 0.0
    alone: bool = False  # shares no pass, since a worker died while it was in flight

    @property
    def network_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The network's (H, W) in each pass. Rows share passes only if these are equal."""
        return tuple(step.mask.shape for step in self.strips) or (self.mask.shape,)


@dataclass(frozen=True)
class Entry:
    """One candidate of one row: one entry of a batch."""

    row: Row
    candidate: int
    seed: int


def candidate_seed(run_seed: int, key: str, candidate: int) -> int:
    """Return the seed of a candidate, 0..2**63-1: a digest of run seed, row key and number.

    It does not depend on the batch, the shard or the order.
    """
    digest = hashlib.sha256(json.dumps([run_seed, key, candidate]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def next_entries(rows: Sequence[Row], spec: EngineSpec, budget: int, shape: int) -> list[Entry]:
    """Return the next round of each row, and further rounds in place of the last pass's padding, at no cost.

    Args:
        rows: that may share a pass and have rounds left.
        spec: candidates of a round, and the run's seed.
        budget: rounds that a row may take.
        shape: entries of a pass.
    """
    found = [entry for row in rows for entry in _next_round(row, spec)]
    spare, queue = -len(found) % shape, deque(rows)
    while queue and spare >= spec.candidates:
        row = queue.popleft()
        if row.rounds < budget:
            found += _next_round(row, spec)
            spare -= spec.candidates
            queue.append(row)
    return found


def _next_round(row: Row, spec: EngineSpec) -> list[Entry]:
    run_seed = spec.seed if row.sample.seed is None else row.sample.seed
    first = row.rounds * spec.candidates
    row.rounds += 1
    numbers = range(first, first + spec.candidates)
    return [Entry(row, k, candidate_seed(run_seed, row.sample.key, k)) for k in numbers]


def batch_of(some: Sequence[Entry], shape: int = 0) -> Batch:
    """Return entries as a batch, padded to ``shape`` with the last one, so that kernels see one shape only."""
    padded = [*some, *[some[-1]] * (shape - len(some))]
    rows = [entry.row for entry in padded]
    return Batch(
        image=np.stack([row.image for row in rows]),
        mask=np.stack([row.mask for row in rows]),
        prompt=[row.sample.prompt for row in rows],
        seed=[entry.seed for entry in padded],
        exemplar=_stacked([row.exemplar for row in rows]),
        control=_stacked([row.control for row in rows]),
        source_prompt=_texts([row.sample.source_prompt for row in rows]),
        negative_prompt=_texts([row.sample.negative_prompt for row in rows]),
        checkpoint=rows[0].checkpoint,
        params=rows[0].sample.params,
    )


def _stacked(images: Sequence[Pixels | None]) -> Pixels | None:
    """Return images as one array; None if there are none. Rows of a pass all have one, or none has."""
    found = [image for image in images if image is not None]
    return np.stack(found) if found else None


def _texts(cells: Sequence[str | None]) -> list[str] | None:
    return [cell or "" for cell in cells] if any(cells) else None
