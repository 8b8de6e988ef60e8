"""One training from its rows to its written networks, in one worker of a crew; where it was stopped, it goes on.

Runs wherever there are files and a device. What makes workers a crew, and where checkpoints are kept meanwhile, is the
caller's (:class:`Keeper`). Knows no cluster.
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
from retouch.models.checkpoint import read_state as read_state  # whoever keeps states elsewhere reads them so
from retouch.models.paint_by_example import LatentNetworks, save_latent
from retouch.redaction import redacted_all
from retouch.training.exemplar.data import Samples, read_rows
from retouch.training.exemplar.distributed import Crew
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
    said,
)
from retouch.training.exemplar.trainer import Progress, Trainer
from retouch.training.plots import loss_curves

NAMED: Final = 20  # rows of each problem that the record names
PLOTTED: Final = 2000  # points of the curve's picture


class Keeper(Protocol):
    """Keeps a training's state from one start to the next."""

    def load(self) -> Mapping[str, Any] | None:
        """The last state that was saved whole, on the CPU; None where there is none."""

    def save(self, state: Callable[[], Mapping[str, Any]], facts: Mapping[str, float]) -> None:
        """Keep a state in place of the one before. Every worker of a crew calls it; the first one's is kept."""


class StorageKeeper:
    """One file in the output, for a crew of one."""

    def __init__(self, output: str) -> None:
        self._uri = storage.join(output, STATE, "local.ckpt")

    def load(self) -> Mapping[str, Any] | None:
        """The saved state."""
        try:
            data = storage.read_bytes(self._uri)
        except ObjectMissing:
            return None
        return read_state(data, self._uri)

    def save(self, state: Callable[[], Mapping[str, Any]], facts: Mapping[str, float]) -> None:
        """Put it over the one before."""
        out = io.BytesIO()
        torch.save(dict(state()), out)
        storage.write_bytes(self._uri, out.getvalue())


def carry_out(
    task: TrainTask, device: str, keeper: Keeper, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any] | None:
    """Train to the end and write what came of it; the record in the crew's first worker, None in the others.

    Raises:
        StopRun: rows or weights that cannot be learned from; in every worker alike.
    """
    crew = Crew(device)
    trainer = crew.agreed(lambda: _trainer(task, crew))
    try:
        if (state := keeper.load()) is not None:
            trainer.restore(state)
            say(f"goes on at update {trainer.progress.step} of {trainer.params.steps}")
        trainer.run(_Saving(task, keeper, say))
    finally:
        trainer.samples.close()
    return _write(task, trainer) if crew.rank == 0 else None


def _trainer(task: TrainTask, crew: Crew) -> Trainer:
    params: TrainParams = plugins.check_params(TrainParams, task.params, "params")
    rows = read_rows(task.manifests)
    networks = load_start(weights.resolve(task.weights).files, params.prior, task.seed)
    for module in networks.parts().values():
        module.to(crew.device)
    if params.image_size:
        networks = _sized(networks, params.image_size)
    sizes = Sizes(networks.image_size, networks.reference_size)
    samples = Samples(rows.table, params, sizes, task.seed, task.threads)
    return Trainer(networks, samples, params, task.seed, crew, task.max_failure_rate)


def _sized(networks: LatentNetworks, image_size: int) -> LatentNetworks:
    """The same networks for images of another size, which those who load them are told of.

    Raises:
        ConfigError: autoencoder and UNet cannot halve such a size as often as they do.
    """
    levels = len(networks.unet.config["block_out_channels"]) - 1
    multiple = networks.factor * 2**levels
    if image_size % multiple:
        raise ConfigError(f"image_size is {image_size}; these networks take multiples of {multiple}")
    sample_size = image_size // networks.factor
    networks.unet.register_to_config(sample_size=sample_size)
    config = dataclasses.replace(networks.config, unet={**networks.config.unet, "sample_size": sample_size})
    return dataclasses.replace(networks, config=config)


class _Saving:
    """What happens after an update: now and then a checkpoint, and a word on how far it is."""

    def __init__(self, task: TrainTask, keeper: Keeper, say: Callable[[str], None]) -> None:
        self._task, self._keeper, self._say = task, keeper, say
        self._since, self._drawn = time.monotonic(), None  # type: float, int | None

    def __call__(self, trainer: Trainer) -> None:
        at = trainer.progress
        if self._drawn is None:
            self._drawn = at.drawn - trainer.global_batch
        if at.step % trainer.params.save_every and at.step < trainer.params.steps:
            return
        facts = self._facts(trainer)
        self._keeper.save(trainer.state, facts)
        if trainer.crew.rank == 0:
            data = json.dumps(facts, indent=1).encode()
            storage.write_bytes(storage.join(self._task.output, PROGRESS_FILE), data)
            self._say(said(facts))

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
            **{f"rows {kind}": len(_named(at, kind)) for kind in (UNREADABLE, WITHOUT_BOX)},
        }


def _named(progress: Progress, kind: str) -> dict[str, str]:
    return {key: found.reason for key, found in sorted(progress.problems.items()) if found.kind == kind}


def _write(task: TrainTask, trainer: Trainer) -> dict[str, Any]:
    """Networks, curve and record; the family's card behind its files, the record last: they say that all is there."""
    at = trainer.progress
    sha256 = _write_networks(trainer.finished(), storage.join(task.output, NETWORKS))
    curve = [{"batch": i, "loss": loss, "learning_rate": rate} for i, (loss, rate) in enumerate(at.curve)]
    losses = pa.Table.from_pylist(curve).rename_columns(["step", "loss", "learning_rate"])
    storage.write_table(storage.join(task.output, "losses.parquet"), losses)
    storage.write_bytes(storage.join(task.output, "losses.png"), loss_curves(_thinned(curve), task.name))
    troubles = {kind: _named(at, kind) for kind in (UNREADABLE, WITHOUT_BOX)}
    record = {
        "name": task.name,
        "steps": at.step,
        "samples": at.drawn,
        "workers": trainer.crew.size,  # of the last start
        "rows": len(trainer.samples),
        "tokens": trainer.params.tokens,  # an editor's param of this name must say the same
        "problems": {
            kind: {"rows": len(rows), "first": dict(list(rows.items())[:NAMED])} for kind, rows in troubles.items()
        },
        "sha256": sha256,
        "last": {name: curve[-1][name] for name in ("loss", "learning_rate")},
    }
    text = json.dumps(redacted_all(record), indent=1) + "\n"
    storage.write_bytes(storage.join(task.output, RECORD_FILE), text.encode())
    return record


def _write_networks(networks: LatentNetworks, folder: str) -> dict[str, str]:
    """The family's files and card; file name to sha256."""
    found = {}
    with tempfile.TemporaryDirectory() as here:
        family = save_latent(networks, Path(here))
        (Path(here) / weights.FAMILY_FILE).write_text(json.dumps(family, indent=1) + "\n")
        for path in sorted(Path(here).iterdir(), key=lambda path: path.name == weights.FAMILY_FILE):
            storage.write_bytes(storage.join(folder, path.name), path.read_bytes())
            found[path.name] = storage.sha256_of(path)
    return found


def _thinned(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """Means of equal stretches, few enough to be drawn."""
    size = -(-len(curve) // PLOTTED)
    stretches = [curve[start : start + size] for start in range(0, len(curve), size)]
    return [{name: float(np.mean([point[name] for point in part])) for name in part[0]} for part in stretches]
