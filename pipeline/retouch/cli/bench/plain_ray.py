"""A minimal Ray Data script for a job, the baseline of ``retouch bench pipeline``: read, edit, write.

An actor fetches, decodes, edits and encodes its rows, and Ray writes them to Parquet. No lease, no verification, no
in-flight markers, no counters, and a failed row has no result.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retouch.execution.engine import Engine
from retouch.execution.executors.ray.cluster import cluster
from retouch.execution.outcomes import Outcome, unpack_rows
from retouch.execution.specs import EngineSpec
from retouch.execution.stages import decode_block
from retouch.imaging import codec
from retouch.manifests.decode import DecodeSpec
from retouch.models import devices


class PlainActor:
    """An actor that decodes, edits and encodes rows."""

    def __init__(self, spec: EngineSpec, decode: DecodeSpec) -> None:
        self.engine, self.decode = Engine(spec, devices.CPU), decode

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return keys, PNG files and the time when the edit began, for rows of the manifest."""
        samples = unpack_rows(decode_block(rows, self.decode))
        began = time.time()
        done = [(outcome.sample.key, _encoded(outcome), began) for outcome in self.engine.edit(samples) if outcome.kept]
        return pa.Table.from_arrays(list(map(pa.array, zip(*done, strict=True))), names=["key", "image", "began"])


def edit_rows(
    manifest: str, output: str, engine: EngineSpec, decode: DecodeSpec, *, actors: int, rows_per_block: int
) -> tuple[int, float]:
    """Edit a manifest's rows on a new local cluster. Return the rows and the seconds from first edit to last file.

    Args:
        manifest: a Parquet file with fingerprints.
        output: folder of the Parquet files.
        engine: what each actor loads.
        decode: how they decode.
        actors: number of actors, one CPU each.
        rows_per_block: rows per call of an actor.
    """
    with cluster(None, actors, spare_cpus=1.0):
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        resources: dict[str, Any] = {"num_cpus": 1, "compute": ray.data.ActorPoolStrategy(size=actors)}
        (
            ray.data.read_parquet(manifest)
            .repartition(target_num_rows_per_block=rows_per_block)
            .map_batches(
                PlainActor,
                fn_constructor_args=(engine, decode),
                batch_size=rows_per_block,
                batch_format="pyarrow",
                **resources,
            )
            .write_parquet(output)
        )
        ended = time.time()
    began = pq.read_table(output, columns=["began"])["began"].to_pylist()
    return len(began), ended - min(began)


def _encoded(outcome: Outcome) -> bytes:
    sample = outcome.sample
    assert sample.source is not None
    assert sample.mask is not None
    return codec.encode(outcome.region.composite(sample.source, outcome.kept[0].image, sample.mask))
