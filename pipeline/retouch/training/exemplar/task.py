"""A training as plain data: what is asked for, what decides it, where it stands. Knows neither torch nor Ray.

Light to import, so that processes that only pass a training on (a driver, Ray Train's controller) start quickly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from retouch import plugins, storage
from retouch.errors import ObjectMissing, OutputError
from retouch.jobs.config import Weights
from retouch.jobs.train_params import TrainParams
from retouch.manifests import reader
from retouch.models import weights

VERSION: Final = "1"  # of the training; another one makes other weights
NETWORKS: Final = "networks"  # folder in the output, which an editor's ``weights`` may name
RECORD_FILE: Final = "training.json"
PROGRESS_FILE: Final = "progress.json"
STATE: Final = "state"  # folder of checkpoints
UNDECIDING: Final = ("steps", "save_every", "checkpointing")  # params that may change from one start to the next
UNREADABLE: Final = "unreadable"  # kinds of rows that are not learned from
WITHOUT_BOX: Final = "without a box"  # which is no failure


@dataclass(frozen=True)
class TrainTask:
    """All that a worker is told: plain data."""

    name: str
    manifests: tuple[str, ...]
    output: str
    weights: Weights
    params: Mapping[str, Any]
    seed: int
    max_failure_rate: float = 0.05
    threads: int = 1  # that make samples


def decides(task: TrainTask) -> dict[str, Any]:
    """What decides the networks; an output that was begun with something else is not gone on with.

    Not among it: the number of workers, and how long it lasts. Manifest files count by their content.

    Raises:
        StopRun: params, manifest or weights that are not there.
    """
    params = asdict(plugins.check_params(TrainParams, task.params, "params"))
    files = storage.identities(reader.read(task.manifests).files)
    return {
        "version": VERSION,
        "params": {name: value for name, value in params.items() if name not in UNDECIDING},
        "seed": task.seed,
        "manifest": sorted(str(identity) for identity in files.values()),
        "weights": weights.resolve(task.weights).digest,
    }


def refuse_other(output: str, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Raise OutputError unless both are the same."""
    differ = sorted(name for name in {*theirs, *mine} if theirs.get(name) != mine.get(name))
    if differ:
        raise OutputError(f"{output} holds another training (it differs in {', '.join(differ)}); give another output")


def done(task: TrainTask) -> dict[str, Any] | None:
    """The record of a training that has taken all its steps; None where there is more to do."""
    params: TrainParams = plugins.check_params(TrainParams, task.params, "params")
    try:
        record: dict[str, Any] = json.loads(storage.read_bytes(storage.join(task.output, RECORD_FILE)))
    except ObjectMissing:
        return None
    return record if record["steps"] >= params.steps else None


def said(facts: Mapping[str, float]) -> str:
    """Progress in a line."""
    line = f"update {facts['step']} of {facts['steps']}: loss {facts['loss']:.4g}, rate {facts['learning_rate']:.3g}"
    troubles = "".join(f", {facts[f'rows {kind}']} rows {kind}" for kind in (UNREADABLE, WITHOUT_BOX))
    return f"{line}, {facts['images_per_second']:.3g} images/s{troubles}"
