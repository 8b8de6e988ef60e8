"""An exemplar training as plain data: its task, its identity, its progress.

Imports no torch, so that processes that only pass a task on (a driver, Ray Train's controller) start quickly.
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

VERSION: Final = "1"  # of the training; bump it when the same task gives other weights
NETWORKS: Final = "networks"  # folder in the output; an address for an editor's ``weights``
RECORD_FILE: Final = "training.json"
PROGRESS_FILE: Final = "progress.json"
STATE: Final = "state"  # folder of checkpoints
NOT_IDENTITY: Final = ("steps", "save_every", "checkpointing")  # params that may change when a run is resumed
UNREADABLE: Final = "unreadable"  # why a row is not used
WITHOUT_BOX: Final = "without a box"  # does not count as a failure


@dataclass(frozen=True)
class TrainTask:
    """One training, as it is sent to the workers."""

    name: str
    manifests: tuple[str, ...]
    output: str
    weights: Weights
    params: Mapping[str, Any]
    seed: int
    max_failure_rate: float = 0.05
    threads: int = 1  # of each worker, for making samples


def identity(task: TrainTask) -> dict[str, Any]:
    """Return all that determines the trained networks; an output with another identity is not resumed.

    The number of workers and of steps does not count. Manifest files count by their content.

    Raises:
        StopRun: params are wrong, or the manifest or weights cannot be read.
    """
    params = asdict(plugins.check_params(TrainParams, task.params, "params"))
    files = storage.identities(reader.read(task.manifests).files)
    return {
        "version": VERSION,
        "params": {name: value for name, value in params.items() if name not in NOT_IDENTITY},
        "seed": task.seed,
        "manifest": sorted(str(file) for file in files.values()),
        "weights": weights.resolve(task.weights).digest,
    }


def check_identity(output: str, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise OutputError unless the output's recorded identity is the wanted one."""
    differ = sorted(name for name in {*recorded, *wanted} if recorded.get(name) != wanted.get(name))
    if differ:
        raise OutputError(f"{output} holds another training (it differs in {', '.join(differ)}); give another output")


def finished_record(task: TrainTask) -> dict[str, Any] | None:
    """Return the record of a training that has taken all its steps; None if it has not."""
    params: TrainParams = plugins.check_params(TrainParams, task.params, "params")
    try:
        record: dict[str, Any] = json.loads(storage.read_bytes(storage.join(task.output, RECORD_FILE)))
    except ObjectMissing:
        return None
    return record if record["steps"] >= params.steps else None


def progress_line(facts: Mapping[str, float]) -> str:
    """Return the content of a progress file as one line of text."""
    line = f"update {facts['step']} of {facts['steps']}: loss {facts['loss']:.4g}, rate {facts['learning_rate']:.3g}"
    unused = "".join(f", {facts[f'rows {kind}']} rows {kind}" for kind in (UNREADABLE, WITHOUT_BOX))
    return f"{line}, {facts['images_per_second']:.3g} images/s{unused}"
