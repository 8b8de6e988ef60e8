"""A loaded editor and its metrics over rows: buckets, candidates, fixed batch shape, halving, timing.

Knows neither files nor Ray; runs the same in this process, in an actor and in a benchmark.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipeline import figures, framing, images, latents, plugins, weights
from pipeline.config import MetricSpec
from pipeline.errors import ConfigError, EditError, Unavailable
from pipeline.flights import Flights, Loss
from pipeline.plugins import Editor, Metric
from pipeline.samples import Answer, Failure, Kept, Sample, travellers, with_travellers
from pipeline.schema import FAILED_QUALITY, Batch, Pixels
from pipeline.specs import EngineSpec

PATIENCE: Final = 8  # good passes at a smaller shape, doubled at every shortage, until the larger one is tried again


@dataclass
class _Row:
    """A sample at work: what the network sees of it, and what came back so far."""

    sample: Sample
    region: images.View
    image: Pixels  # [S, S, 3]
    mask: Any  # [S, S] bool
    exemplar: Pixels | None
    checkpoint: str | None  # a role of the job's weights, or a local file
    kept: list[Kept] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0
    alone: bool = False  # a worker died with it in hand: it shares no pass


@dataclass(frozen=True)
class _Entry:
    """One candidate of one row: one place in a batch."""

    row: _Row
    candidate: int
    seed: int


@dataclass(frozen=True)
class _Fault:
    """Why a pass gave nothing."""

    failure: Failure
    of_memory: bool


def candidate_seed(run_seed: int, key: str, candidate: int) -> int:
    """Seed of a candidate in 0..2**63-1: a digest of run, row and number, so no batch, shard or order enters."""
    digest = hashlib.sha256(json.dumps([run_seed, key, candidate]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


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
        self.face_detector = framing.detector_for(spec.fit, resolved.files)
        self.metrics = [_load_metric(metric, spec, device) for metric in spec.metrics]
        self.shape = spec.batch_size  # entries a pass; halved while the device's memory does not hold it
        self._good, self._patience = 0, PATIENCE
        self._preparing = Flights(spec.output, "prepare", spec.seconds)
        self._editing = Flights(spec.output, "edit", spec.seconds)
        self.losses: Mapping[str, Loss] = {}  # with which rows of the last block a worker had died
        self._checkpoints: dict[str, str] = {}  # address to local file
        self._in_use: str | None = None  # the checkpoint of the last pass

    def answer(self, samples: Sequence[Sample]) -> list[Answer]:
        """One answer a sample, in order. Never raises for a row's own fault."""
        prepared = self._preparing.in_turns(
            samples,
            lambda sample: sample.key,
            lambda some: [self._prepare(sample) for sample in some],
            lambda sample, loss: Answer(sample, failure=Failure.of_loss(loss, "prepare")),
        )
        rows = self._not_lost([row for row in prepared if isinstance(row, _Row)])
        for round_ in range(self.spec.quality.rounds if self.spec.quality.mode == "retry" else 1):
            pending = [row for row in rows if not self._good_enough(row)]
            for entries in self._passes(pending, round_):
                self._edit(entries)
        self._editing.forget([sample.key for sample in samples], self.losses)
        return [self._finish(row) if isinstance(row, _Row) else row for row in prepared]

    def _not_lost(self, rows: list[_Row]) -> list[_Row]:
        """The rows to be tried; those that killed too many workers get their failure, others of them stand alone."""
        self.losses = self._editing.losses([row.sample.key for row in rows])
        for row in rows:
            loss = self.losses.get(row.sample.key)
            row.alone = loss is not None
            if loss is not None and loss.is_final:
                row.failures.append(Failure.of_loss(loss, "edit"))
        return [row for row in rows if not row.failures]

    def _prepare(self, sample: Sample) -> _Row | Answer:
        if sample.failure is not None or sample.source is None or sample.mask is None:
            return Answer(sample, failure=sample.failure)
        try:
            if sample.params:
                plugins.check_params(self.params_type, {**self.spec.params, **sample.params}, "this row's params")
            size = self.editor.image_size
            region = framing.frame(sample, size, self.spec.fit, self.face_detector)
            exemplar = None if sample.exemplar is None else self._exemplar(sample.exemplar, sample.params)
            seen = images.extract(sample.source, region, size)
            mask = images.extract_mask(sample.mask, region, size)
            return _Row(sample, region, seen, mask, exemplar, self._local(sample.checkpoint))
        except Exception as error:
            return Answer(sample, failure=Failure.of(error, "prepare"))

    def _exemplar(self, exemplar: Pixels, params: Mapping[str, Any]) -> Pixels:
        """As the editor wants it: an editor with ``prepare_exemplar`` gets it at native size, once."""
        prepare = getattr(self.editor, "prepare_exemplar", None)
        if prepare is None:
            return images.resize(exemplar, self.editor.image_size)
        prepared: Pixels = prepare(exemplar, params)
        return prepared

    def _local(self, checkpoint: str | None) -> str | None:
        """A row's checkpoint as the editor takes it: a role of the job's weights, or a local file, fetched once."""
        if not checkpoint or checkpoint in self.roles or "checkpoint" not in self.editor.inputs:
            return checkpoint or None
        if checkpoint not in self._checkpoints:
            self._checkpoints[checkpoint] = weights.resolve({"checkpoint": checkpoint}).files["checkpoint"]
        return self._checkpoints[checkpoint]

    def _passes(self, rows: Sequence[_Row], round_: int) -> Iterator[list[_Entry]]:
        """Entries that may share a forward pass, in passes of at most the batch shape.

        A checkpoint's passes are together and those of the one in use come first: an editor need not read it again.
        """
        buckets: dict[tuple[str | None, str, bool, str], list[_Entry]] = {}
        first = round_ * self.spec.candidates
        for row in rows:
            sample = row.sample
            run_seed = self.spec.seed if sample.seed is None else sample.seed
            alone = sample.key if row.alone else ""
            like = (row.checkpoint, json.dumps(sample.params, sort_keys=True), row.exemplar is not None, alone)
            bucket = buckets.setdefault(like, [])
            for k in range(first, first + self.spec.candidates):
                bucket.append(_Entry(row, k, candidate_seed(run_seed, sample.key, k)))
        order = list(dict.fromkeys([self._in_use, *(checkpoint for checkpoint, *_ in buckets)]))
        for like in sorted(buckets, key=lambda like: order.index(like[0])):
            bucket, start = buckets[like], 0
            self._in_use = like[0]
            while start < len(bucket):  # the shape may shrink between passes
                yield bucket[start : (start := start + self.shape)]

    def _edit(self, entries: list[_Entry]) -> None:
        """One padded pass; an exception halves the entries down to the bad one, too little memory halves the shape."""
        if len(entries) > self.shape:  # it shrank since these were put together
            self._halves(entries)
            return
        started = time.perf_counter()
        with self._editing.over(list(dict.fromkeys(entry.row.sample.key for entry in entries)), self.losses):
            edited = self._tried(entries)
        figures.count_pass(len(entries), self.shape, time.perf_counter() - started)
        if isinstance(edited, _Fault):
            if edited.of_memory and self.shape > 1:
                self._shrink()
                self._edit(entries)
            elif len(entries) > 1:
                self._halves(entries)
            else:
                entries[0].row.failures.append(edited.failure)
            return
        self._grow()
        seconds = (time.perf_counter() - started) / len(entries)
        for entry, result in zip(entries, edited, strict=True):
            entry.row.seconds += seconds
            if isinstance(result, Kept):
                entry.row.kept.append(result)
            else:
                entry.row.failures.append(result)

    def _shrink(self) -> None:
        """Half the entries a pass; every time, it takes twice as many good passes to try more again."""
        figures.count("retries.out of memory")
        self.shape //= 2
        self._good, self._patience = 0, self._patience * 2

    def _grow(self) -> None:
        """After a good pass: memory that was short for a while (another process's, fragments) may be there again."""
        if self.shape < self.spec.batch_size:
            self._good += 1
            if self._good >= self._patience:
                self.shape, self._good = min(self.shape * 2, self.spec.batch_size), 0

    def _halves(self, entries: list[_Entry]) -> None:
        middle = (len(entries) + 1) // 2
        self._edit(entries[:middle])
        self._edit(entries[middle:])

    def _tried(self, entries: Sequence[_Entry]) -> list[Kept | Failure] | _Fault:
        """A pass, or what went wrong in it, without the exception, whose frames hold the device's memory."""
        try:
            return self._pass(entries)
        except Unavailable:  # no row's fault
            raise
        except Exception as error:
            return _Fault(Failure.of(error, "edit"), _out_of_memory(error))

    def _pass(self, entries: Sequence[_Entry]) -> list[Kept | Failure]:
        batch = _batch(entries, self.shape)
        results = self.editor.edit_batch(batch)
        if len(results) != len(batch):
            raise EditError(f"editor {self.spec.editor} gave {len(results)} results for a batch of {len(batch)}")
        results = results[: len(entries)]  # the padding's fall off
        for result in results:
            plugins.check_edited(result.image, batch.image.shape[1:], self.spec.editor)
        edited = np.stack([result.image for result in results])
        scores: list[dict[str, Any]] = [dict(result.metrics) for result in results]
        for metric in self.metrics:
            for score, more in zip(scores, metric.score_batch(_batch(entries), edited), strict=True):
                score.update(more)
        return [
            Kept(entry.candidate, entry.seed, result.image, score)
            if result.error is None
            else Failure.of(result.error, "edit")
            for entry, result, score in zip(entries, results, scores, strict=True)
        ]

    def _good_enough(self, row: _Row) -> bool:
        return bool(row.kept) and not self._misses(self._ranked(row)[0])

    def _ranked(self, row: _Row) -> list[Kept]:
        """Candidates, the best first; ties by number, so that the order they ran in decides nothing."""
        by = self.editor.rank_by
        return sorted(row.kept, key=lambda kept: (kept.scores.get(by, 0.0) if by else 0.0, kept.candidate))

    def _misses(self, kept: Kept) -> list[str]:
        misses = []
        for name, bound in self.spec.quality.thresholds.items():
            score = kept.scores.get(name)
            if score is None:
                continue
            if bound.min is not None and score < bound.min:
                misses.append(f"{name} {score:.4g} is under {bound.min:g}")
            if bound.max is not None and score > bound.max:
                misses.append(f"{name} {score:.4g} is over {bound.max:g}")
        return misses

    def _finish(self, row: _Row) -> Answer:
        tried = len(row.kept) + len(row.failures)
        if not row.kept:
            return Answer(row.sample, failure=row.failures[0], attempts=tried, edit_seconds=row.seconds)
        # With thresholds, a candidate that keeps them comes before one that ranks better.
        ranked = sorted(self._ranked(row), key=lambda kept: bool(self._misses(kept)))
        misses = self._misses(ranked[0]) if self.spec.quality.mode != "score" else []
        failure = Failure(FAILED_QUALITY, "QualityError", "; ".join(misses), "score") if misses else None
        return Answer(row.sample, row.region, ranked[: self.spec.keep], failure, tried, row.seconds)


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
    editor.memory = latents.StoredLatents(str(spec.latents), decides)


def _load_metric(metric: MetricSpec, spec: EngineSpec, device: str) -> Metric:
    files = weights.resolve(metric.weights or spec.weights).files
    found: Any = plugins.find("metrics", metric.name)
    loaded: Metric = found.load(files, device, **metric.options)
    return loaded


def _batch(entries: Sequence[_Entry], shape: int = 0) -> Batch:
    """Entries as a batch of at least ``shape``, the last one repeated: kernels see one shape whatever the mates."""
    padded = [*entries, *[entries[-1]] * (shape - len(entries))]
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


def _out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's, by name: the engine itself needs no torch


@figures.timed("stage_seconds.edit")
def edit_block(engine: Engine, table: pa.Table) -> pa.Table:
    """A block that carries samples to one that carries answers."""
    return with_travellers(table, engine.answer(travellers(table)))
