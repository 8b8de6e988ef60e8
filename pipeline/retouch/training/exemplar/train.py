"""One exemplar training from its rows to its written networks, in each worker of a group; resumes from a checkpoint.

The caller starts the workers and chooses where checkpoints are kept (:class:`CheckpointStore`).
"""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
import torch

from retouch import plugins, storage
from retouch.errors import ConfigError, ObjectMissing
from retouch.jobs.train_params import TrainParams
from retouch.models import weights
from retouch.models.checkpoint import read_state
from retouch.models.paint_by_example import PaintByExampleNetworks, save_networks
from retouch.redaction import redacted_all
from retouch.training.exemplar.data import Samples, read_rows
from retouch.training.exemplar.distributed import WorkerGroup
from retouch.training.exemplar.examples import Sizes
from retouch.training.exemplar.initial_weights import load_start
from retouch.training.exemplar.task import (
    NETWORKS,
    PROGRESS_FILE,
    RECORD_FILE,
    STATE,
    UNREADABLE,
    WITHOUT_BOX,
    TrainTask,
    progress_line,
)
from retouch.training.exemplar.trainer import Progress, Trainer
from retouch.training.plots import loss_curves

MAX_NAMED: Final = 20  # rows per problem that the record lists
MAX_POINTS: Final = 2000  # of the plotted curve


class CheckpointStore(Protocol):
    """Keeps the last checkpoint of a training."""

    def load(self) -> Mapping[str, Any] | None:
        """Return the last complete checkpoint, on the CPU; None if there is none."""

    def save(self, state: Callable[[], Mapping[str, Any]], facts: Mapping[str, float]) -> None:
        """Replace the checkpoint. Every worker of a group calls it; the first worker's state is kept."""


class FileCheckpoint:
    """A checkpoint as one file in the output, for a single worker."""

    def __init__(self, output: str) -> None:
        self._uri = storage.join(output, STATE, "local.ckpt")

    def load(self) -> Mapping[str, Any] | None:
        """Return the saved state; None if there is none."""
        try:
            data = storage.read_bytes(self._uri)
        except ObjectMissing:
            return None
        return read_state(data, self._uri)

    def save(self, state: Callable[[], Mapping[str, Any]], facts: Mapping[str, float]) -> None:
        """Replace the saved state."""
        out = io.BytesIO()
        torch.save(dict(state()), out)
        storage.write_bytes(self._uri, out.getvalue())


def run_training(
    task: TrainTask, device: str, checkpoints: CheckpointStore, report: Callable[[str], None] = lambda _: None
) -> dict[str, Any] | None:
    """Train to the last step and write the networks. Return the record in the group's first worker, else None.

    Raises:
        StopRun: rows or weights cannot be used; raised in every worker.
    """
    group = WorkerGroup(device)
    trainer = group.succeed_or_fail_together(lambda: _trainer(task, group))
    try:
        if (state := checkpoints.load()) is not None:
            trainer.restore(state)
            report(f"resuming at update {trainer.progress.step} of {trainer.params.steps}")
        trainer.run(_AfterStep(task, checkpoints, report))
    finally:
        trainer.samples.close()
    return _write(task, trainer) if group.rank == 0 else None


def _trainer(task: TrainTask, group: WorkerGroup) -> Trainer:
    params: TrainParams = plugins.check_params(TrainParams, task.params, "params")
    rows = read_rows(task.manifests)
    networks = load_start(weights.resolve(task.weights).files, params.prior, task.seed)
    for module in networks.parts().values():
        module.to(group.device)
    if params.image_size:
        networks = _sized(networks, params.image_size)
    sizes = Sizes(networks.image_size, networks.reference_size)
    samples = Samples(rows.table, params, sizes, task.seed, task.threads)
    return Trainer(networks, samples, params, task.seed, group, task.max_failure_rate)


def _sized(networks: PaintByExampleNetworks, image_size: int) -> PaintByExampleNetworks:
    """Return the networks with another image size in their config.

    Raises:
        ConfigError: autoencoder and UNet cannot halve the size as often as they need to.
    """
    levels = len(networks.unet.config["block_out_channels"]) - 1
    multiple = networks.factor * 2**levels
    if image_size % multiple:
        raise ConfigError(f"image_size is {image_size}; these networks take multiples of {multiple}")
    sample_size = image_size // networks.factor
    networks.unet.register_to_config(sample_size=sample_size)
    config = dataclasses.replace(networks.config, unet={**networks.config.unet, "sample_size": sample_size})
    return dataclasses.replace(networks, config=config)


class _AfterStep:
    """Saves a checkpoint and reports progress every ``save_every`` updates."""

    def __init__(self, task: TrainTask, checkpoints: CheckpointStore, report: Callable[[str], None]) -> None:
        self._task, self._checkpoints, self._report = task, checkpoints, report
        self._since, self._drawn = time.monotonic(), None  # type: float, int | None

    def __call__(self, trainer: Trainer) -> None:
        at = trainer.progress
        if self._drawn is None:
            self._drawn = at.drawn - trainer.global_batch
        if at.step % trainer.params.save_every and at.step < trainer.params.steps:
            return
        facts = self._facts(trainer)
        self._checkpoints.save(trainer.state, facts)
        if trainer.group.rank == 0:
            data = json.dumps(facts, indent=1).encode()
            storage.write_bytes(storage.join(self._task.output, PROGRESS_FILE), data)
            self._report(progress_line(facts))

    def _facts(self, trainer: Trainer) -> dict[str, float]:
        at, now = trainer.progress, time.monotonic()
        last = at.curve[-trainer.params.save_every :]
        rate = (at.drawn - (self._drawn or 0)) / max(now - self._since, 1e-9)
        self._since, self._drawn = now, at.drawn
        return {
            "step": at.step,
            "steps": trainer.params.steps,
            "samples": at.drawn,
            "loss": float(np.mean([loss for loss, _ in last])),
            "learning_rate": last[-1][1],
            "images_per_second": round(rate, 2),
            **{f"rows {kind}": len(_problem_rows(at, kind)) for kind in (UNREADABLE, WITHOUT_BOX)},
        }


def _problem_rows(progress: Progress, kind: str) -> dict[str, str]:
    return {key: found.reason for key, found in sorted(progress.problems.items()) if found.kind == kind}


def _write(task: TrainTask, trainer: Trainer) -> dict[str, Any]:
    """Write networks, curve and record. The record is last: it marks the output as complete."""
    at = trainer.progress
    sha256 = _write_networks(trainer.result(), storage.join(task.output, NETWORKS))
    curve = [{"batch": i, "loss": loss, "learning_rate": rate} for i, (loss, rate) in enumerate(at.curve)]
    losses = pa.Table.from_pylist(curve).rename_columns(["step", "loss", "learning_rate"])
    storage.write_table(storage.join(task.output, "losses.parquet"), losses)
    storage.write_bytes(storage.join(task.output, "losses.png"), loss_curves(_thinned(curve), task.name))
    problems = {kind: _problem_rows(at, kind) for kind in (UNREADABLE, WITHOUT_BOX)}
    record = {
        "name": task.name,
        "steps": at.step,
        "samples": at.drawn,
        "workers": trainer.group.size,  # of the last run
        "rows": len(trainer.samples),
        "tokens": trainer.params.tokens,  # an editor's param of this name must be equal
        "problems": {
            kind: {"rows": len(rows), "first": dict(list(rows.items())[:MAX_NAMED])} for kind, rows in problems.items()
        },
        "sha256": sha256,
        "last": {name: curve[-1][name] for name in ("loss", "learning_rate")},
    }
    text = json.dumps(redacted_all(record), indent=1) + "\n"
    storage.write_bytes(storage.join(task.output, RECORD_FILE), text.encode())
    return record


def _write_networks(networks: PaintByExampleNetworks, folder: str) -> dict[str, str]:
    """Write the family's files, and ``family.json`` last. Return each file's sha256 by name."""
    found = {}
    with tempfile.TemporaryDirectory() as local:
        family = save_networks(networks, Path(local))
        (Path(local) / weights.FAMILY_FILE).write_text(json.dumps(family, indent=1) + "\n")
        for path in sorted(Path(local).iterdir(), key=lambda path: path.name == weights.FAMILY_FILE):
            storage.write_bytes(storage.join(folder, path.name), path.read_bytes())
            found[path.name] = storage.sha256_of(path)
    return found


def _thinned(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the means of at most ``MAX_POINTS`` equal sections of a curve."""
    size = -(-len(curve) // MAX_POINTS)
    sections = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [{name: float(np.mean([point[name] for point in part])) for name in part[0]} for part in sections]
