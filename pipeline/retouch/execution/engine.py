"""A loaded editor and its metrics over rows: batches of one shape, candidates, halving after errors.

It runs in this process, in a Ray actor and in benchmarks alike.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa

from retouch import plugins, telemetry
from retouch.errors import ConfigError, EditError, Unavailable
from retouch.execution import latent_cache, outpainting, quality_gate
from retouch.execution.candidates import Entry, Row, batch_of, next_entries
from retouch.execution.outcomes import KeptCandidate, Outcome, lost_row, pack_rows, unpack_rows
from retouch.execution.specs import EngineSpec
from retouch.imaging import alignment, framing, regions
from retouch.imaging.quad import Quad
from retouch.jobs.config import MetricSpec
from retouch.manifests.samples import Failure, Sample
from retouch.models import weights
from retouch.outputs.in_flight import InFlight, WorkerLoss
from retouch.plugins import Editor, Metric
from retouch.schema import FAILED_QUALITY, Batch, EditResult, Mask, Pixels

GROW_AFTER: Final = 8  # good passes at a smaller shape, doubled after every shortage, until a larger one is tried


@dataclass(frozen=True)
class _PassFailure:
    """Why a forward pass gave no results."""

    failure: Failure
    out_of_memory: bool


class Engine:
    """A loaded editor and its metrics on one device.

    Args:
        spec: what is loaded, and how rows are batched.
        device: ``cuda``, ``cuda:1`` or ``cpu``.
        dry_run: load everything and check batches, without edits and scores: outcomes have the unedited images.
    """

    def __init__(self, spec: EngineSpec, device: str, *, dry_run: bool = False) -> None:
        editor: Any = plugins.find("editors", spec.editor)
        self.spec, self.dry_run = spec, dry_run
        self.params_type: type = editor.Params
        params = plugins.check_params(self.params_type, spec.params, "editor.params")
        resolved = weights.resolve(spec.weights)
        self.roles = frozenset(resolved.files)
        self.editor: Editor = editor.load(params, resolved.files, device)
        if spec.canvas is not None:
            outpainting.refuse_unfit(spec.editor, self.editor)
        if spec.latents is not None:
            _set_latent_cache(self.editor, spec, resolved, device)
        self.budget = quality_gate.budget(spec.quality)  # rounds that a row may take
        self.face_detector = framing.detector_for(spec.fit, resolved.files)
        self.metrics = [_load_metric(metric, spec, device) for metric in spec.metrics]
        # Entries per pass; halved while they do not fit into the device's memory.
        self.full_shape = min(spec.batch_size, getattr(self.editor, "max_batch", None) or spec.batch_size)
        self.shape = self.full_shape
        self._good_passes, self._grow_after = 0, GROW_AFTER
        self._preparing = InFlight(spec.output, "prepare", spec.seconds)
        self._editing = InFlight(spec.output, "edit", spec.seconds)
        self._checkpoints: dict[str, str] = {}  # address to local file
        self._current_checkpoint: str | None = None  # of the last pass

    @property
    def losses(self) -> Mapping[str, WorkerLoss]:
        """Rows of the last block that were in flight when a worker died."""
        return self._editing.losses

    def edit(self, samples: Sequence[Sample], *, candidates: int | None = None) -> list[Outcome]:
        """Return one outcome per sample, in order. An error that one row causes is its failure, and not raised.

        Args:
            samples: of one block, their keys unique.
            candidates: of each row, all of them kept; the spec's number if None.
        """
        spec = self.spec if candidates is None else replace(self.spec, candidates=candidates, keep=candidates)
        prepared = self._prepare_all(samples)
        rows = self._without_given_up([row for row in prepared.values() if isinstance(row, Row)])
        while pending := [row for row in rows if row.rounds < self.budget and _deciding_round(row, spec) is None]:
            for entries in self._passes(pending, spec):
                self._edit(entries)
        self._editing.clear(list(prepared))
        return [self._finish(row, spec) if isinstance(row, Row) else row for row in prepared.values()]

    def _prepare_all(self, samples: Sequence[Sample]) -> dict[str, Row | Outcome]:
        by_key = {sample.key: sample for sample in samples}
        prepared: dict[str, Row | Outcome] = {}
        for keys in self._preparing.groups(list(by_key)):
            with self._preparing.mark(keys):
                prepared |= {key: self._prepare(by_key[key]) for key in keys}
        for key, loss in self._preparing.given_up.items():
            prepared[key] = Outcome(by_key[key], failure=lost_row(loss, "prepare"))
        self._preparing.clear(by_key)
        return {key: prepared[key] for key in by_key}

    def _without_given_up(self, rows: list[Row]) -> list[Row]:
        """Return the rows to edit. Rows with which a worker died share no pass; those given up get their failure."""
        losses = self._editing.find_losses([row.sample.key for row in rows])
        for row in rows:
            loss = losses.get(row.sample.key)
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
            seen = sample.as_seen()
            if sample.frame is not None:
                return self._on_canvas(sample, seen, sample.mask)
            region = framing.frame(
                seen,
                sample.mask,
                self.editor.image_size,
                self.spec.fit,
                landmarks=sample.landmarks,
                detector=self.face_detector,
                context=self.spec.context,
                feather=self.spec.feather,
            )
            size = self._network_size(region)
            return Row(
                sample,
                region,
                image=region.extract(seen, size),
                mask=region.extract_mask(sample.mask, size),
                exemplar=None if sample.exemplar is None else self._exemplar(sample.exemplar, sample.params),
                control=None if sample.control is None else region.extract(sample.control, size),
                checkpoint=self._local(sample.checkpoint),
            )
        except Exception as error:
            return Outcome(sample, failure=Failure.of(error, "prepare"))

    def _on_canvas(self, sample: Sample, seen: Pixels, mask: Mask) -> Row:
        return Row(
            sample,
            regions.Region(0, 0, seen.shape[1], seen.shape[0]),
            image=seen,
            mask=mask,
            exemplar=None if sample.exemplar is None else self._exemplar(sample.exemplar, sample.params),
            control=sample.control,
            checkpoint=self._local(sample.checkpoint),
            strips=outpainting.strip_passes(sample, self.editor.image_size, self._network_size, self.spec),
        )

    def _network_size(self, region: regions.View) -> regions.Size:
        """Return the network's input size for a part of an image: square unless the editor has ``sizes``."""
        sizes = getattr(self.editor, "sizes", None)
        if sizes is None or isinstance(region, Quad):
            return self.editor.image_size, self.editor.image_size
        height, width = sizes(*region.shape)
        return int(height), int(width)

    def _exemplar(self, exemplar: Pixels, params: Mapping[str, Any]) -> Pixels:
        """Resize an exemplar, or call the editor's ``prepare_exemplar``, which gets it at native size."""
        prepare = getattr(self.editor, "prepare_exemplar", None)
        if prepare is None:
            return regions.resize(exemplar, self.editor.image_size, self.editor.image_size)
        prepared: Pixels = prepare(exemplar, params)
        return prepared

    def _local(self, checkpoint: str | None) -> str | None:
        """Return a row's checkpoint for the editor: a role of the job's weights, or a local file, fetched once."""
        if not checkpoint or checkpoint in self.roles or "checkpoint" not in self.editor.inputs:
            return checkpoint or None
        if checkpoint not in self._checkpoints:
            self._checkpoints[checkpoint] = weights.resolve({"checkpoint": checkpoint}).files["checkpoint"]
        return self._checkpoints[checkpoint]

    def _passes(self, rows: Sequence[Row], spec: EngineSpec) -> Iterator[list[Entry]]:
        """Yield the entries of each forward pass for one more round of each row.

        Passes with the same checkpoint follow each other, the current one first, so that it is loaded once.
        """
        buckets: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            alone = row.sample.key if row.alone else ""
            bucket = (
                row.checkpoint,
                json.dumps(row.sample.params, sort_keys=True),
                row.exemplar is not None,
                row.control is not None,
                row.network_shapes,
                alone,
            )
            buckets.setdefault(bucket, []).append(row)
        order = list(dict.fromkeys([self._current_checkpoint, *(checkpoint for checkpoint, *_ in buckets)]))
        for bucket in sorted(buckets, key=lambda bucket: order.index(bucket[0])):
            entries, start = next_entries(buckets[bucket], spec, self.budget, self.shape), 0
            self._current_checkpoint = bucket[0]
            while start < len(entries):  # the shape may shrink between passes
                yield entries[start : (start := start + self.shape)]

    def _edit(self, entries: list[Entry]) -> None:
        """Run one padded pass. An error halves the entries, down to the bad one; out of memory halves the shape."""
        if len(entries) > self.shape:  # the shape shrank since these were collected
            self._edit_halves(entries)
            return
        started = time.perf_counter()
        with self._editing.mark(list(dict.fromkeys(entry.row.sample.key for entry in entries))):
            edited = self._try_pass(entries)
        telemetry.count_pass(len(entries), self.shape, time.perf_counter() - started)
        if isinstance(edited, _PassFailure):
            if edited.out_of_memory and self.shape > 1:
                self._shrink()
                self._edit(entries)
            elif len(entries) > 1:
                self._edit_halves(entries)
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
        """Halve the entries per pass. After each shortage it takes twice as many good passes to grow again."""
        telemetry.count("retries.out of memory")
        self.shape //= 2
        self._good_passes, self._grow_after = 0, self._grow_after * 2

    def _grow(self) -> None:
        """Count a good pass; after enough of them try a larger shape, since the shortage may have been temporary."""
        if self.shape < self.full_shape:
            self._good_passes += 1
            if self._good_passes >= self._grow_after:
                self.shape, self._good_passes = min(self.shape * 2, self.full_shape), 0

    def _edit_halves(self, entries: list[Entry]) -> None:
        middle = (len(entries) + 1) // 2
        self._edit(entries[:middle])
        self._edit(entries[middle:])

    def _try_pass(self, entries: Sequence[Entry]) -> list[KeptCandidate | Failure] | _PassFailure:
        """Run a pass, or return its failure without the exception, whose frames hold the device's memory."""
        try:
            return self._pass(entries)
        except Unavailable:  # not a row's fault
            raise
        except Exception as error:
            return _PassFailure(Failure.of(error, "edit"), _is_out_of_memory(error))

    def _pass(self, entries: Sequence[Entry]) -> list[KeptCandidate | Failure]:
        on_canvas = bool(entries[0].row.strips)
        results = outpainting.outpaint(entries, self._edit_batch) if on_canvas else self._edit_batch(entries)
        scores = [dict(result.metrics) for result in results]
        if not self.dry_run:
            at_once = 1 if on_canvas else len(entries)  # canvases differ in size
            for start in range(0, len(entries), at_once):
                part = slice(start, start + at_once)
                self._score(entries[part], results[part], scores[part])
        return [
            KeptCandidate(entry.candidate, entry.seed, result.image, score)
            if result.error is None
            else Failure.of(result.error, "edit")
            for entry, result, score in zip(entries, results, scores, strict=True)
        ]

    def _edit_batch(self, entries: Sequence[Entry]) -> list[EditResult]:
        """Return one result per entry from the editor, which gets a batch of the full shape."""
        batch = batch_of(entries, self.shape)
        results = self._dry_run(batch) if self.dry_run else self.editor.edit_batch(batch)
        if len(results) != len(batch):
            raise EditError(f"editor {self.spec.editor} gave {len(results)} results for a batch of {len(batch)}")
        results = results[: len(entries)]  # without the padding
        for result in results:
            plugins.check_edited(result.image, batch.image.shape[1:], self.spec.editor)
        if self.spec.align and not self.dry_run:
            return [_aligned(entry.row, result) for entry, result in zip(entries, results, strict=True)]
        return results

    def _score(self, entries: Sequence[Entry], results: Sequence[EditResult], scores: Sequence[dict[str, Any]]) -> None:
        """Add the metrics of edited entries to their scores."""
        edited = np.stack([result.image for result in results])
        for metric in self.metrics:
            for score, more in zip(scores, metric.score_batch(batch_of(entries), edited), strict=True):
                score.update(more)

    def _dry_run(self, batch: Batch) -> list[EditResult]:
        """Raise what the editor raises for a batch that it refuses; else return the images unedited."""
        check = getattr(self.editor, "check_batch", None)
        if check is not None:
            check(batch)
        return [EditResult(image) for image in batch.image]

    def _rank(self, kept: KeptCandidate) -> tuple[bool, float, int]:
        """Return a sort key, best first: candidates that pass the thresholds, then by the editor's score.

        Ties are broken by number, so that the order of the passes has no influence.
        """
        by = self.editor.rank_by
        missed = bool(quality_gate.misses(kept.scores, self.spec.quality.thresholds))
        return missed, kept.scores.get(by, 0.0) if by else 0.0, kept.candidate

    def _finish(self, row: Row, spec: EngineSpec) -> Outcome:
        """Rank a row's candidates; those of rounds after the deciding one are dropped."""
        deciding = _deciding_round(row, spec)
        tried = (row.rounds if deciding is None else deciding + 1) * spec.candidates
        failures = sorted(((k, failure) for k, failure in row.failures if k < max(tried, 1)), key=lambda pair: pair[0])
        ranked = sorted((kept for kept in row.kept if kept.candidate < tried), key=self._rank)
        attempts = len(ranked) + len(failures)
        if not ranked:
            return Outcome(row.sample, failure=failures[0][1], attempts=attempts, edit_seconds=row.seconds)
        best_misses = quality_gate.misses(ranked[0].scores, spec.quality.thresholds)
        misses = best_misses if spec.quality.mode != "score" else []
        failure = Failure(FAILED_QUALITY, "QualityError", "; ".join(misses), "score") if misses else None
        at_network_size = spec.output_size == "network" and _is_whole(row)
        return Outcome(row.sample, row.region, ranked[: spec.keep], failure, attempts, row.seconds, at_network_size)


def _is_whole(row: Row) -> bool:
    """Return whether every pixel of the image is edited."""
    return isinstance(row.region, regions.Region) and bool(np.all(row.sample.mask))


def _aligned(row: Row, result: EditResult) -> EditResult:
    shift = alignment.measure(row.image, result.image, alignment.compared(row.mask))
    return replace(result, image=alignment.moved_back(result.image, shift))


def _deciding_round(row: Row, spec: EngineSpec) -> int | None:
    return quality_gate.decided_in(row.kept, spec.quality, spec.candidates)


def _set_latent_cache(editor: Any, spec: EngineSpec, resolved: weights.Resolved, device: str) -> None:
    """Let the editor cache its inversions on storage, in a folder named by what decides them."""
    if not hasattr(editor, "memory"):
        raise ConfigError(f"latents: editor {spec.editor} inverts no images; remove latents from the job")
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


def _is_out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's, by name, since the engine does not import torch


@telemetry.timed("stage_seconds.edit")
def edit_block(engine: Engine, table: pa.Table) -> pa.Table:
    """Edit a block: its samples become outcomes."""
    return pack_rows(table, engine.edit(unpack_rows(table)))
