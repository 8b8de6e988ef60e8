"""Loaded metrics over one shard of finished images: features to states, scores to rows. Knows neither Ray nor sets.

Runs the same in this process and in a task of a cluster. What a shard yields lies on storage before it is reported.
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
from retouch.execution.evaluation.image_sets import Finished
from retouch.jobs.config import MaskSpec, MetricSpec, Weights
from retouch.manifests.decode import DecodeSpec, decode
from retouch.manifests.samples import Failure
from retouch.models import weights
from retouch.plugins import Metric, SetMetric
from retouch.schema import Batch, Pixels

HASH_DIGITS = 12  # of a weights file's sha256 that an id shows


@dataclass(frozen=True)
class ScoreSpec:
    """What a scorer loads."""

    metrics: tuple[MetricSpec, ...]
    row_metrics: tuple[MetricSpec, ...] = ()
    weights: Weights | None = None  # of metrics that name none
    mask: MaskSpec = field(default_factory=MaskSpec)


@dataclass(frozen=True)
class Shard:
    """Images that are scored together, and the files that are to be made of them; plain data."""

    name: str
    base: str | None
    rows: tuple[Finished, ...]
    states: Mapping[int, str]  # number of a set metric to its state's address
    scores: str | None = None  # address of the row metrics' table


@dataclass(frozen=True)
class Loaded:
    """A set metric ready for work, and what says what its numbers are."""

    name: str
    metric: SetMetric
    id: Mapping[str, Any]


class Scorer:
    """Owns loaded metrics on one device."""

    def __init__(self, spec: ScoreSpec, device: str) -> None:
        self.spec = spec
        self.set_metrics = [_load_set_metric(metric, spec.weights, device) for metric in spec.metrics]
        self.row_metrics: list[Metric] = [_load_row_metric(metric, spec.weights, device) for metric in spec.row_metrics]

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """Of the row metrics, name to Arrow type."""
        return {n: t for metric in self.row_metrics for n, t in plugins.column_types(metric.columns).items()}

    def score(self, shard: Shard) -> str:
        """Make a shard's files, and return its name. An image that cannot be scored is named in them.

        Raises:
            StorageError: they could not be written.
        """
        features: dict[int, list[npt.NDArray[np.float32]]] = {number: [] for number in shard.states}
        failed: dict[int, dict[str, str]] = {number: {} for number in shard.states}
        rows: list[dict[str, Any]] = []
        for row, image in image_sets.pixels(shard.base, shard.rows):
            for number in shard.states:
                try:
                    features[number].append(self.set_metrics[number].metric.features(_there(image)))
                except EditError as error:
                    failed[number][row.key] = str(error)
            if shard.scores is not None:
                rows.append(self._scored(row, image))
        for number, address in shard.states.items():
            found, metric = features[number], self.set_metrics[number]
            state = metric.metric.state(np.stack(found)) if found else {}
            states.write(address, states.Kept(state, len(found), metric.id, failed[number]))
        if shard.scores is not None:
            _write_rows(shard.scores, rows, self.columns)
        return shard.name

    def _scored(self, row: Finished, image: Pixels | str) -> dict[str, Any]:
        scored: dict[str, Any] = {"key": row.key}
        try:
            batch, edited = _batch(row, _there(image), self.spec.mask)
        except EditError as error:
            return {**scored, "error": str(error)}
        errors = []
        for spec, metric in zip(self.spec.row_metrics, self.row_metrics, strict=True):
            try:
                scored |= metric.score_batch(batch, edited[None])[0]
            except Exception as error:  # whatever a metric raises is this row's and this metric's
                errors.append(f"{spec.name}: {Failure.of(error, 'score').message}")
        return {**scored, "error": "; ".join(errors) or None}


def weights_of(metric: MetricSpec, default: Weights | None) -> weights.Resolved:
    """A metric's weights on this machine.

    Raises:
        WeightsError: one that is not there.
    """
    return weights.resolve(metric.weights if metric.weights is not None else default or {})


def row_metric_id(metric: MetricSpec, default: Weights | None) -> dict[str, Any]:
    """What decides a row metric's numbers: its name, options and the content of all weights that it was given."""
    return _identified(metric, weights_of(metric, default).sha256)


def _load_set_metric(spec: MetricSpec, default: Weights | None, device: str) -> Loaded:
    found: Any = plugins.find("set_metrics", spec.name)
    resolved = weights_of(spec, default)
    metric: SetMetric = _loaded(found, spec, resolved, device)
    used = {role: sha for role, sha in resolved.sha256.items() if role.removesuffix(".json") in metric.roles}
    return Loaded(spec.name, metric, {**_identified(spec, used), **metric.id})


def _load_row_metric(spec: MetricSpec, default: Weights | None, device: str) -> Metric:
    metric: Metric = _loaded(plugins.find("metrics", spec.name), spec, weights_of(spec, default), device)
    return metric


def _loaded(found: Any, spec: MetricSpec, resolved: weights.Resolved, device: str) -> Any:
    try:
        return found.load(resolved.files, device, **spec.options)
    except TypeError as error:
        raise ConfigError(f"metric {spec.name}: options {spec.options}: {error}") from error


def _identified(spec: MetricSpec, sha256: Mapping[str, str]) -> dict[str, Any]:
    short = {role: digest[:HASH_DIGITS] for role, digest in sorted(sha256.items())}
    return {"metric": spec.name, "options": spec.options, "weights": short}


def _there(image: Pixels | str) -> Pixels:
    if isinstance(image, str):
        raise EditError(image)
    return image


def _batch(row: Finished, edited: Pixels, mask: MaskSpec) -> tuple[Batch, Pixels]:
    """A row's request at native size as a batch of one.

    Raises:
        EditError: no request, its files cannot be read, or the edited image is of another size.
    """
    if row.request is None:
        raise EditError("the manifest has no row of this key")
    inputs = frozenset({"mask", "exemplar", "prompt", "source_prompt"})
    sample = decode({**row.request, "fingerprint": ""}, DecodeSpec(inputs, mask))
    if sample.failure is not None or sample.source is None or sample.mask is None:
        raise EditError(f"its source: {sample.failure.message if sample.failure else 'no pixels'}")
    if sample.source.shape != edited.shape:
        (high, wide), (height, width) = edited.shape[:2], sample.source.shape[:2]
        raise EditError(f"the image has {wide}x{high} pixels, its source {width}x{height}")
    batch = Batch(
        image=sample.source[None],
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
