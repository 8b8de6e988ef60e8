"""Score one shard of images: a state for each set metric, a table for the row metrics.

Runs in this process or in a task of a cluster. A shard's files are written before it is reported as done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from retouch import plugins, storage
from retouch.errors import ConfigError, EditError
from retouch.execution.evaluation import image_sets
from retouch.execution.evaluation import metric_states as states
from retouch.execution.evaluation.image_sets import ImageRef
from retouch.jobs.canvas import CanvasSpec
from retouch.jobs.config import ImagesSpec, MaskSpec, MetricSpec, Weights
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.samples import Failure, scaled_to
from retouch.models import weights
from retouch.plugins import Metric, SetMetric
from retouch.schema import Batch, Pixels

HASH_DIGITS = 12  # of a weights file's sha256 in a metric's id


@dataclass(frozen=True)
class ScoreSpec:
    """What a ``Scorer`` loads."""

    metrics: tuple[MetricSpec, ...]
    row_metrics: tuple[MetricSpec, ...] = ()
    weights: Weights | None = None  # for metrics that name none
    mask: MaskSpec = field(default_factory=MaskSpec)
    images: ImagesSpec = field(default_factory=ImagesSpec)
    canvas: CanvasSpec | None = None  # of the run that made the images
    output_size: str = "native"  # of the run that made the images


@dataclass(frozen=True)
class Shard:
    """Images that are scored together, and the addresses of the files to write."""

    name: str
    base: str | None
    rows: tuple[ImageRef, ...]
    states: Mapping[int, str]  # index of a set metric to the address of its state
    scores: str | None = None  # address of the row metrics' table


@dataclass(frozen=True)
class LoadedMetric:
    """A loaded set metric, and the id that two comparable values share."""

    name: str
    metric: SetMetric
    id: Mapping[str, Any]


class Scorer:
    """Metrics loaded on one device."""

    def __init__(self, spec: ScoreSpec, device: str) -> None:
        self.spec = spec
        self.set_metrics = [_load_set_metric(metric, spec.weights, device) for metric in spec.metrics]
        self.row_metrics: list[Metric] = [_load_row_metric(metric, spec.weights, device) for metric in spec.row_metrics]

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Columns of the row metrics, name to Arrow type."""
        return {n: t for metric in self.row_metrics for n, t in plugins.column_types(metric.columns).items()}

    def score(self, shard: Shard) -> str:
        """Write a shard's files and return its name. They list the images that could not be scored.

        Raises:
            StorageError: a file could not be written.
        """
        features: dict[int, list[npt.NDArray[np.float32]]] = {number: [] for number in shard.states}
        failed: dict[int, dict[str, str]] = {number: {} for number in shard.states}
        rows: list[dict[str, Any]] = []
        for row, image in image_sets.decode_images(shard.base, shard.rows):
            for number in shard.states:
                try:
                    features[number].append(self.set_metrics[number].metric.features(_require_pixels(image)))
                except EditError as error:
                    failed[number][row.key] = str(error)
            if shard.scores is not None:
                rows.append(self._score_row(row, image))
        for number, address in shard.states.items():
            found, metric = features[number], self.set_metrics[number]
            state = metric.metric.state(np.stack(found)) if found else {}
            states.write(address, states.StoredState(state, len(found), metric.id, failed[number]))
        if shard.scores is not None:
            _write_rows(shard.scores, rows, self.columns)
        return shard.name

    def _score_row(self, row: ImageRef, image: Pixels | str) -> dict[str, Any]:
        scored: dict[str, Any] = {"key": row.key}
        try:
            batch, edited = _batch(row, _require_pixels(image), self.spec)
        except EditError as error:
            return {**scored, "error": str(error)}
        errors = []
        for spec, metric in zip(self.spec.row_metrics, self.row_metrics, strict=True):
            try:
                scored |= metric.score_batch(batch, edited[None])[0]
            except Exception as error:  # a metric may raise anything, and it concerns only this row's scores
                errors.append(f"{spec.name}: {Failure.of(error, 'score').message}")
        return {**scored, "error": "; ".join(errors) or None}


def resolve_weights(metric: MetricSpec, default: Weights | None) -> weights.Resolved:
    """Return a metric's weights as local files.

    Raises:
        WeightsError: a file is missing.
    """
    return weights.resolve(metric.weights if metric.weights is not None else default or {})


def row_metric_id(metric: MetricSpec, default: Weights | None) -> dict[str, Any]:
    """Return what determines a row metric's scores: its name, its options and the sha256 of all its weights."""
    return _metric_id(metric, resolve_weights(metric, default).sha256)


def _load_set_metric(spec: MetricSpec, default: Weights | None, device: str) -> LoadedMetric:
    found: Any = plugins.find("set_metrics", spec.name)
    resolved = resolve_weights(spec, default)
    metric: SetMetric = _load(found, spec, resolved, device)
    used = {role: sha for role, sha in resolved.sha256.items() if role.removesuffix(".json") in metric.roles}
    return LoadedMetric(spec.name, metric, {**_metric_id(spec, used), **metric.id})


def _load_row_metric(spec: MetricSpec, default: Weights | None, device: str) -> Metric:
    metric: Metric = _load(plugins.find("metrics", spec.name), spec, resolve_weights(spec, default), device)
    return metric


def _load(found: Any, spec: MetricSpec, resolved: weights.Resolved, device: str) -> Any:
    try:
        return found.load(resolved.files, device, **spec.options)
    except TypeError as error:
        raise ConfigError(f"metric {spec.name}: options {spec.options}: {error}") from error


def _metric_id(spec: MetricSpec, sha256: Mapping[str, str]) -> dict[str, Any]:
    short = {role: digest[:HASH_DIGITS] for role, digest in sorted(sha256.items())}
    return {"metric": spec.name, "options": spec.options, "weights": short}


def _require_pixels(image: Pixels | str) -> Pixels:
    if isinstance(image, str):
        raise EditError(image)
    return image


def _batch(row: ImageRef, edited: Pixels, spec: ScoreSpec) -> tuple[Batch, Pixels]:
    """Return a row's request at its edited image's size as a batch of one.

    Raises:
        EditError: the row has no request, its files cannot be read, or the edited image has another size.
    """
    if row.request is None:
        raise EditError("the manifest has no row of this key")
    how = DecodeSpec(plugins.INPUTS, spec.mask, spec.images, spec.canvas)
    sample = decode({**row.request, "fingerprint": ""}, how)
    if spec.output_size == "network":
        sample = scaled_to(sample, (edited.shape[0], edited.shape[1]))
    if sample.failure is not None or sample.source is None or sample.mask is None:
        raise EditError(f"its source: {sample.failure.message if sample.failure else 'no pixels'}")
    if sample.source.shape != edited.shape:
        (high, wide), (height, width) = edited.shape[:2], sample.source.shape[:2]
        raise EditError(f"the image has {wide}x{high} pixels, its source {width}x{height}")
    batch = Batch(
        image=sample.as_seen()[None],
        mask=sample.mask[None],
        prompt=[sample.prompt],
        seed=[sample.seed or 0],
        exemplar=None if sample.exemplar is None else sample.exemplar[None],
        source_prompt=None if sample.source_prompt is None else [sample.source_prompt],
        params=sample.params,
    )
    return batch, edited


def _write_rows(address: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, pa.DataType]) -> None:
    schema = pa.schema([("key", pa.string()), ("error", pa.string()), *columns.items()])
    storage.write_table(address, pa.Table.from_pylist([dict(row) for row in rows], schema=schema))
