"""Many small objects: what the storage gives a bare client, what it gives ours, and what a sink makes of images."""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from retouch import storage
from retouch.errors import ConfigError
from retouch.execution.stages import DECODE_THREADS
from retouch.outputs.sinks import FileSink, Sink, TarSink

ROUNDS: Final = 3
ROWS_A_BLOCK: Final = 64
SINKS: Final[dict[str, type[Sink]]] = {"files": FileSink, "tar": TarSink}


@dataclass(frozen=True)
class _Client:
    """Puts and gets an object by its name below a folder."""

    put: Callable[..., None]
    get: Callable[[str], bytes]


def measure(address: str, *, objects: int = 1000, size: int = 20_000) -> dict[str, Any]:
    """Objects a second, medians of rounds in which all ways take turns; what was written is deleted again.

    Args:
        address: a folder on S3, or a local one.
        objects: how many a round.
        size: bytes of each.

    Raises:
        ConfigError: another kind of storage.
        StorageError: it cannot be written to.
    """
    place = storage.join(address, f"bench-{secrets.token_hex(4)}")
    names, data = [f"{number:06d}.bin" for number in range(objects)], secrets.token_bytes(size)
    clients = {"retouch": _ours(place), "bare": _bare(place)}  # ours first: it says in one line what is amiss
    rates: dict[str, list[float]] = {}
    try:
        for _ in range(ROUNDS):
            for name, client in clients.items():
                folder = [f"{name}-{secrets.token_hex(4)}/{object_}" for object_ in names]
                rates.setdefault(f"{name} put", []).append(_rate(partial(client.put, data=data), folder))
                rates.setdefault(f"{name} get", []).append(_rate(client.get, folder))
            for name, sink in SINKS.items():
                rates.setdefault(f"{name} images", []).append(_sunk(sink, place, names, data))
    finally:
        _rate(storage.delete, storage.list_files(place))
    middle = {name: round(statistics.median(found), 1) for name, found in rates.items()}
    ratios = {
        f"retouch / bare, {way}": round(middle[f"retouch {way}"] / middle[f"bare {way}"], 3) for way in ("put", "get")
    }
    ratios["tar / files"] = round(middle["tar images"] / middle["files images"], 3)
    return {"objects": objects, "bytes": size, "threads": DECODE_THREADS, "per_second": middle, "ratios": ratios}


def _rate(work: Callable[[str], Any], names: Sequence[str]) -> float:
    """Pieces of work a second."""
    began = time.perf_counter()
    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        list(threads.map(work, names))
    return len(names) / (time.perf_counter() - began)


def _sunk(kind: type[Sink], place: str, names: Sequence[str], data: bytes) -> float:
    """Images a second that a sink makes durable, block by block."""
    output, began = storage.join(place, f"{kind.__name__}-{secrets.token_hex(4)}"), time.perf_counter()
    for some in _blocks(names):
        sink = kind(output, [(name, "f" * 64) for name in some])
        with ThreadPoolExecutor(DECODE_THREADS) as threads:
            list(threads.map(partial(sink.put, fingerprint="f" * 64, data=data, extension="png"), some))
        sink.close()
    return len(names) / (time.perf_counter() - began)


def _blocks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), ROWS_A_BLOCK):
        yield names[start : start + ROWS_A_BLOCK]


def _ours(place: str) -> _Client:
    return _Client(
        lambda name, data: storage.write_bytes(storage.join(place, name), data),
        lambda name: storage.read_bytes(storage.join(place, name)),
    )


def _bare(place: str) -> _Client:
    """A client without retries, checks or flushes: botocore's for S3, the operating system's for files."""
    path = storage.local_path(place)
    if path is not None:
        return _Client(lambda name, data: _put_file(path / name, data), lambda name: (path / name).read_bytes())
    if not place.startswith("s3://"):
        raise ConfigError(f"{place} is neither local nor on S3, and no bare client is known for it")
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
    """One request an object: Arrow's client takes three to put one, and two to get it."""
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
    client.meta.events.unregister("before-call.s3", handlers.add_expect_header)  # waits for the server's leave to send
    return client
