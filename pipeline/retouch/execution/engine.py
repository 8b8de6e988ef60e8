"""A loaded editor and its metrics over rows: buckets, candidates, fixed batch shape, halving, timing.

Knows neither files nor Ray; runs the same in this process, in an actor and in a benchmark.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from retouch import plugins, telemetry
from retouch.errors import ConfigError, EditError, Unavailable
from retouch.execution import candidates, latent_cache, quality_gate
from retouch.execution.candidates import Entry, Row, batch_of
from retouch.execution.outcomes import KeptCandidate, Outcome, lost_row, pack_rows, unpack_rows
from retouch.execution.specs import EngineSpec
from retouch.imaging import codec, framing
from retouch.jobs.config import MetricSpec
from retouch.manifests.samples import Failure, Sample
from retouch.models import weights
from retouch.outputs.in_flight import Flights, Loss
from retouch.plugins import Editor, Metric
from retouch.schema import FAILED_QUALITY, Pixels

PATIENCE: Final = 8  # good passes at a smaller shape, doubled at every shortage, until the larger one is tried again


@dataclass(frozen=True)
class _Fault:
    """Why a pass gave nothing."""

    failure: Failure
    of_memory: bool


class Engine:
    """Owns a loaded editor and metrics on one device."""

    def __init__(self, spec: EngineSpec, device: str) -> None:
        editor: Any = plugins.find("editors", spec.editor)
        self.spec = spec
        self.params_type: type = editor.Params
        params = plugins.check_params(self.params_type, spec.params, "editor.params")
        resolved = weights.resolve(spec.weights)
        self.roles = frozenset(resolved.files)
        self.editor: Editor = editor.load(params, resolved.files, device)
        if spec.latents is not None:
            _give_memory(self.editor, spec, resolved, device)
        self.budget = quality_gate.budget(spec.quality)  # rounds that a row may take
        self.face_detector = framing.detector_for(spec.fit, resolved.files)
        self.metrics = [_load_metric(metric, spec, device) for metric in spec.metrics]
        self.shape = spec.batch_size  # entries a pass; halved while the device's memory does not hold it
        self._good, self._patience = 0, PATIENCE
        self._preparing = Flights(spec.output, "prepare", spec.seconds)
        self._editing = Flights(spec.output, "edit", spec.seconds)
        self.losses: Mapping[str, Loss] = {}  # with which rows of the last block a worker had died
        self._checkpoints: dict[str, str] = {}  # address to local file
        self._in_use: str | None = None  # the checkpoint of the last pass

    def answer(self, samples: Sequence[Sample]) -> list[Outcome]:
        """One answer a sample, in order. Never raises for a row's own fault."""
        prepared = self._preparing.in_turns(
            samples,
            lambda sample: sample.key,
            lambda some: [self._prepare(sample) for sample in some],
            lambda sample, loss: Outcome(sample, failure=lost_row(loss, "prepare")),
        )
        rows = self._not_lost([row for row in prepared if isinstance(row, Row)])
        while pending := [row for row in rows if row.rounds < self.budget and self._decided_in(row) is None]:
            for entries in self._passes(pending):
                self._edit(entries)
        self._editing.forget([sample.key for sample in samples], self.losses)
        return [self._finish(row) if isinstance(row, Row) else row for row in prepared]

    def _not_lost(self, rows: list[Row]) -> list[Row]:
        """The rows to be tried; those that killed too many workers get their failure, others of them stand alone."""
        self.losses = self._editing.losses([row.sample.key for row in rows])
        for row in rows:
            loss = self.losses.get(row.sample.key)
            row.alone = loss is not None
            if loss is not None and loss.is_final:
                row.failures.append((0, lost_row(loss, "edit")))
        return [row for row in rows if not row.failures]

    def _prepare(self, sample: Sample) -> Row | Outcome:
        if sample.failure is not None or sample.source is None or sample.mask is None:
            return Outcome(sample, failure=sample.failure)
        try:
            if sample.params:
                plugins.check_params(self.params_type, {**self.spec.params, **sample.params}, "this row's params")
            size = self.editor.image_size
            region = framing.frame(
                sample.source,
                sample.mask,
                size,
                self.spec.fit,
                landmarks=sample.landmarks,
                detector=self.face_detector,
            )
            exemplar = None if sample.exemplar is None else self._exemplar(sample.exemplar, sample.params)
            seen = codec.extract(sample.source, region, size)
            mask = codec.extract_mask(sample.mask, region, size)
            return Row(sample, region, seen, mask, exemplar, self._local(sample.checkpoint))
        except Exception as error:
            return Outcome(sample, failure=Failure.of(error, "prepare"))

    def _exemplar(self, exemplar: Pixels, params: Mapping[str, Any]) -> Pixels:
        """As the editor wants it: an editor with ``prepare_exemplar`` gets it at native size, once."""
        prepare = getattr(self.editor, "prepare_exemplar", None)
        if prepare is None:
            return codec.resize(exemplar, self.editor.image_size)
        prepared: Pixels = prepare(exemplar, params)
        return prepared

    def _local(self, checkpoint: str | None) -> str | None:
        """A row's checkpoint as the editor takes it: a role of the job's weights, or a local file, fetched once."""
        if not checkpoint or checkpoint in self.roles or "checkpoint" not in self.editor.inputs:
            return checkpoint or None
        if checkpoint not in self._checkpoints:
            self._checkpoints[checkpoint] = weights.resolve({"checkpoint": checkpoint}).files["checkpoint"]
        return self._checkpoints[checkpoint]

    def _passes(self, rows: Sequence[Row]) -> Iterator[list[Entry]]:
        """One more round of each row, as entries that may share a forward pass, in passes of at most the batch shape.

        A checkpoint's passes are together and those of the one in use come first: an editor need not read it again.
        """
        buckets: dict[tuple[str | None, str, bool, str], list[Row]] = {}
        for row in rows:
            alone = row.sample.key if row.alone else ""
            like = (row.checkpoint, json.dumps(row.sample.params, sort_keys=True), row.exemplar is not None, alone)
            buckets.setdefault(like, []).append(row)
        order = list(dict.fromkeys([self._in_use, *(checkpoint for checkpoint, *_ in buckets)]))
        for like in sorted(buckets, key=lambda like: order.index(like[0])):
            entries, start = candidates.entries(buckets[like], self.spec, self.budget, self.shape), 0
            self._in_use = like[0]
            while start < len(entries):  # the shape may shrink between passes
                yield entries[start : (start := start + self.shape)]

    def _edit(self, entries: list[Entry]) -> None:
        """One padded pass; an exception halves the entries down to the bad one, too little memory halves the shape."""
        if len(entries) > self.shape:  # it shrank since these were put together
            self._halves(entries)
            return
        started = time.perf_counter()
        with self._editing.over(list(dict.fromkeys(entry.row.sample.key for entry in entries)), self.losses):
            edited = self._tried(entries)
        telemetry.count_pass(len(entries), self.shape, time.perf_counter() - started)
        if isinstance(edited, _Fault):
            if edited.of_memory and self.shape > 1:
                self._shrink()
                self._edit(entries)
            elif len(entries) > 1:
                self._halves(entries)
            else:
                entries[0].row.failures.append((entries[0].candidate, edited.failure))
            return
        self._grow()
        seconds = (time.perf_counter() - started) / len(entries)
        for entry, result in zip(entries, edited, strict=True):
            entry.row.seconds += seconds
            if isinstance(result, KeptCandidate):
                entry.row.kept.append(result)
            else:
                entry.row.failures.append((entry.candidate, result))

    def _shrink(self) -> None:
        """Half the entries a pass; every time, it takes twice as many good passes to try more again."""
        telemetry.count("retries.out of memory")
        self.shape //= 2
        self._good, self._patience = 0, self._patience * 2

    def _grow(self) -> None:
        """After a good pass: memory that was short for a while (another process's, fragments) may be there again."""
        if self.shape < self.spec.batch_size:
            self._good += 1
            if self._good >= self._patience:
                self.shape, self._good = min(self.shape * 2, self.spec.batch_size), 0

    def _halves(self, entries: list[Entry]) -> None:
        middle = (len(entries) + 1) // 2
        self._edit(entries[:middle])
        self._edit(entries[middle:])

    def _tried(self, entries: Sequence[Entry]) -> list[KeptCandidate | Failure] | _Fault:
        """A pass, or what went wrong in it, without the exception, whose frames hold the device's memory."""
        try:
            return self._pass(entries)
        except Unavailable:  # no row's fault
            raise
        except Exception as error:
            return _Fault(Failure.of(error, "edit"), _out_of_memory(error))

    def _pass(self, entries: Sequence[Entry]) -> list[KeptCandidate | Failure]:
        batch = batch_of(entries, self.shape)
        results = self.editor.edit_batch(batch)
        if len(results) != len(batch):
            raise EditError(f"editor {self.spec.editor} gave {len(results)} results for a batch of {len(batch)}")
        results = results[: len(entries)]  # the padding's fall off
        for result in results:
            plugins.check_edited(result.image, batch.image.shape[1:], self.spec.editor)
        edited = np.stack([result.image for result in results])
        scores: list[dict[str, Any]] = [dict(result.metrics) for result in results]
        for metric in self.metrics:
            for score, more in zip(scores, metric.score_batch(batch_of(entries), edited), strict=True):
                score.update(more)
        return [
            KeptCandidate(entry.candidate, entry.seed, result.image, score)
            if result.error is None
            else Failure.of(result.error, "edit")
            for entry, result, score in zip(entries, results, scores, strict=True)
        ]

    def _decided_in(self, row: Row) -> int | None:
        return quality_gate.decided_in(row.kept, self.spec.quality, self.spec.candidates)

    def _misses(self, kept: KeptCandidate) -> list[str]:
        return quality_gate.misses(kept.scores, self.spec.quality.thresholds)

    def _rank(self, kept: KeptCandidate) -> tuple[bool, float, int]:
        """The least comes first: with thresholds, what keeps them before what the editor ranks better.

        Ties by number, so that the order they ran in decides nothing.
        """
        by = self.editor.rank_by
        return bool(self._misses(kept)), kept.scores.get(by, 0.0) if by else 0.0, kept.candidate

    def _finish(self, row: Row) -> Outcome:
        decided = self._decided_in(row)
        # What came after the round that decided is for nothing.
        tried = (row.rounds if decided is None else decided + 1) * self.spec.candidates
        failures = sorted(((k, failure) for k, failure in row.failures if k < max(tried, 1)), key=lambda pair: pair[0])
        ranked = sorted((kept for kept in row.kept if kept.candidate < tried), key=self._rank)
        attempts = len(ranked) + len(failures)
        if not ranked:
            return Outcome(row.sample, failure=failures[0][1], attempts=attempts, edit_seconds=row.seconds)
        misses = self._misses(ranked[0]) if self.spec.quality.mode != "score" else []
        failure = Failure(FAILED_QUALITY, "QualityError", "; ".join(misses), "score") if misses else None
        return Outcome(row.sample, row.region, ranked[: self.spec.keep], failure, attempts, row.seconds)


def _give_memory(editor: Any, spec: EngineSpec, resolved: weights.Resolved, device: str) -> None:
    """Let the editor keep what it inverts on storage; what was computed by other means gets another folder."""
    if not hasattr(editor, "memory"):
        raise ConfigError(f"editor {spec.editor} inverts nothing that could be kept; take latents out of the job")
    roles = (weights.DEFAULT_ROLE, f"{weights.DEFAULT_ROLE}.json")
    decides = {
        "editor": spec.editor,
        "version": editor.version,
        "weights": {role: resolved.sha256[role] for role in roles if role in resolved.sha256},
        "batch_size": spec.batch_size,
        "device": device.partition(":")[0],  # two kinds of device round differently
    }
    editor.memory = latent_cache.StoredLatents(str(spec.latents), decides)


def _load_metric(metric: MetricSpec, spec: EngineSpec, device: str) -> Metric:
    files = weights.resolve(metric.weights or spec.weights).files
    found: Any = plugins.find("metrics", metric.name)
    loaded: Metric = found.load(files, device, **metric.options)
    return loaded


def _out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's, by name: the engine itself needs no torch


@telemetry.timed("stage_seconds.edit")
def edit_block(engine: Engine, table: pa.Table) -> pa.Table:
    """A block that carries samples to one that carries answers."""
    return pack_rows(table, engine.answer(unpack_rows(table)))
