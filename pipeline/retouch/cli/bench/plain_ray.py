"""The least that Ray Data does for a job: read, edit, write. What `retouch bench pipeline` holds ``ray_data`` against.

The script that one would write by hand: an actor fetches, decodes, edits and encodes its rows, and Ray writes them to
Parquet. No ledger, no check of what was written, no notes of rows in hand, no figures, and a failure has no row.
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
    """An engine that does all of a row's way."""

    def __init__(self, spec: EngineSpec, decode: DecodeSpec) -> None:
        self.engine, self.decode = Engine(spec, devices.CPU), decode

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Rows of the manifest to keys, PNG files and the moment when the edit began."""
        samples = unpack_rows(decode_block(rows, self.decode))
        began = time.time()
        done = [(answer.sample.key, _encoded(answer), began) for answer in self.engine.answer(samples) if answer.kept]
        return pa.Table.from_arrays(list(map(pa.array, zip(*done, strict=True))), names=["key", "image", "began"])


def carry_out(
    manifest: str, output: str, engine: EngineSpec, decode: DecodeSpec, *, actors: int, rows_a_block: int
) -> tuple[int, float]:
    """Edit a manifest's rows on a cluster started here; rows answered, and seconds from first edit to last file.

    Args:
        manifest: a Parquet file with fingerprints.
        output: folder of the Parquet files.
        engine: what the actors load.
        decode: how they read.
        actors: of one CPU each.
        rows_a_block: that an actor is given at a time.
    """
    with cluster(None, actors, spare_cpus=1.0):
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        resources: dict[str, Any] = {"num_cpus": 1, "compute": ray.data.ActorPoolStrategy(size=actors)}
        (
            ray.data.read_parquet(manifest)
            .repartition(target_num_rows_per_block=rows_a_block)
            .map_batches(
                PlainActor,
                fn_constructor_args=(engine, decode),
                batch_size=rows_a_block,
                batch_format="pyarrow",
                **resources,
            )
            .write_parquet(output)
        )
        ended = time.time()
    began = pq.read_table(output, columns=["began"])["began"].to_pylist()
    return len(began), ended - min(began)


def _encoded(answer: Outcome) -> bytes:
    sample = answer.sample
    assert sample.source is not None
    assert sample.mask is not None
    return codec.encode(codec.composite(sample.source, answer.kept[0].image, sample.mask, answer.region))
