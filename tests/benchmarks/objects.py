"""Time many small objects on a storage: a bare client, ours, and each sink.

``python -m tests.benchmarks.objects s3://BUCKET/FOLDER`` prints a JSON object.
"""

from __future__ import annotations

import json
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from retouch import storage
from retouch.errors import ConfigError
from retouch.execution.stages import DECODE_THREADS
from retouch.outputs.sinks import FileSink, Sink, TarSink

ROUNDS: Final = 3
ROWS_PER_BLOCK: Final = 64
SINKS: Final[dict[str, type[Sink]]] = {"files": FileSink, "tar": TarSink}


@dataclass(frozen=True)
class _Client:
    """Puts and gets objects by their names below a folder."""

    put: Callable[..., None]
    get: Callable[[str], bytes]


def measure(address: str, *, objects: int = 1000, size: int = 20_000) -> dict[str, Any]:
    """Return objects per second: medians of rounds in which all ways take turns. Delete what was written.

    Args:
        address: a folder on S3, or a local one.
        objects: how many per round.
        size: bytes of each.

    Raises:
        ConfigError: another kind of storage.
        StorageError: it cannot be written to.
    """
    place = storage.join(address, f"bench-{secrets.token_hex(4)}")
    names, data = [f"{number:06d}.bin" for number in range(objects)], secrets.token_bytes(size)
    clients = {"retouch": _ours(place), "bare": _bare(place)}  # ours first: its error is one readable line
    rates: dict[str, list[float]] = {}
    try:
        for _ in range(ROUNDS):
            for name, client in clients.items():
                folder = [f"{name}-{secrets.token_hex(4)}/{object_}" for object_ in names]
                rates.setdefault(f"{name} put", []).append(_rate(partial(client.put, data=data), folder))
                rates.setdefault(f"{name} get", []).append(_rate(client.get, folder))
            for name, sink in SINKS.items():
                rates.setdefault(f"{name} images", []).append(_sink_rate(sink, place, names, data))
    finally:
        _rate(storage.delete, storage.list_files(place))
    middle = {name: round(statistics.median(found), 1) for name, found in rates.items()}
    ratios = {
        f"retouch / bare, {way}": round(middle[f"retouch {way}"] / middle[f"bare {way}"], 3) for way in ("put", "get")
    }
    ratios["tar / files"] = round(middle["tar images"] / middle["files images"], 3)
    return {"objects": objects, "bytes": size, "threads": DECODE_THREADS, "per_second": middle, "ratios": ratios}


def _rate(work: Callable[[str], Any], names: Sequence[str]) -> float:
    """Return how many names per second ``work`` handles."""
    began = time.perf_counter()
    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        list(threads.map(work, names))
    return len(names) / (time.perf_counter() - began)


def _sink_rate(kind: type[Sink], place: str, names: Sequence[str], data: bytes) -> float:
    """Return the images per second that a sink writes, block by block."""
    output, began = storage.join(place, f"{kind.__name__}-{secrets.token_hex(4)}"), time.perf_counter()
    for some in _blocks(names):
        sink = kind(output, [(name, "f" * 64) for name in some])
        with ThreadPoolExecutor(DECODE_THREADS) as threads:
            list(threads.map(partial(sink.put, fingerprint="f" * 64, data=data, extension="png"), some))
        sink.close()
    return len(names) / (time.perf_counter() - began)


def _blocks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), ROWS_PER_BLOCK):
        yield names[start : start + ROWS_PER_BLOCK]


def _ours(place: str) -> _Client:
    return _Client(
        lambda name, data: storage.write_bytes(storage.join(place, name), data),
        lambda name: storage.read_bytes(storage.join(place, name)),
    )


def _bare(place: str) -> _Client:
    """Return a client without retries, checks or flushes: botocore's for S3, the file system's for local folders."""
    path = storage.local_path(place)
    if path is not None:
        return _Client(lambda name, data: _put_file(path / name, data), lambda name: (path / name).read_bytes())
    if not place.startswith("s3://"):
        raise ConfigError(f"{place} is neither local nor on S3; no bare client is known for it")
    bucket, _, inside = place.removeprefix("s3://").partition("/")
    client = _botocore()

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket=bucket, Key=f"{inside}/{name}", Body=data)

    def get(name: str) -> bytes:
        found: bytes = client.get_object(Bucket=bucket, Key=f"{inside}/{name}")["Body"].read()
        return found

    return _Client(put, get)


def _put_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _botocore() -> Any:
    """Return a client with one request per object: Arrow's takes three to put an object and two to get it."""
    from botocore import handlers
    from botocore.config import Config
    from botocore.session import get_session

    config = Config(
        retries={"total_max_attempts": 1},
        max_pool_connections=DECODE_THREADS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    client = get_session().create_client("s3", config=config)
    client.meta.events.unregister(
        "before-call.s3", handlers.add_expect_header
    )  # it waits for the server's permission to send
    return client


def main(
    address: Annotated[str, typer.Argument(help="Folder on S3, or a local one.")],
    objects: Annotated[int, typer.Option(min=10, help="Objects per round.")] = 1000,
    size: Annotated[int, typer.Option(min=1, help="Bytes per object.")] = 20_000,
) -> None:
    """Print objects per second by a bare client and by ours, and images per second by each sink."""
    typer.echo(json.dumps(measure(address, objects=objects, size=size)))


if __name__ == "__main__":
    typer.run(main)
