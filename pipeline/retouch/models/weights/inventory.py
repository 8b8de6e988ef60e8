"""What a job's weights are, where they lie, and whether they are whole. Fetches nothing and loads nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retouch import storage
from retouch.errors import StorageError, WeightsError
from retouch.jobs.config import EditJob, EvaluateJob, Job, Weights
from retouch.models import weights
from retouch.models.weights import fetch
from retouch.storage import downloads
from retouch.storage.file_hashes import cache_folder, file_sha256, recorded


@dataclass(frozen=True)
class Entry:
    """One file of a role, at one of its addresses."""

    role: str
    address: str
    state: str  # local, cached, remote, or by name (of what a library resolves itself); else what is wrong with it
    path: Path | None = None  # where it lies on this machine, or will
    size: int | None = None  # bytes
    sha256: str | None = None  # as far as it is known without fetching
    pin: str | None = None

    @property
    def here(self) -> bool:
        """Whether the file is on this machine."""
        return self.state in ("local", "cached")


def of_job(job: Job) -> list[Weights]:
    """All that a job names, each once."""
    if isinstance(job, EditJob):
        named = [job.editor.weights, *(metric.weights for metric in job.metrics)]
    elif isinstance(job, EvaluateJob):
        named = [metric.weights for metric in (*job.metrics, *job.row_metrics)]
    else:
        named = [job.weights]
    found: list[Weights] = []
    for spec in named:
        if spec is not None and spec not in found:
            found.append(spec)
    return found


def embedded() -> list[str]:
    """Addresses of the families that ship with the package."""
    return [f"embedded:{path.parent.name}" for path in sorted(weights.EMBEDDED.glob(f"*/{weights.FAMILY_FILE}"))]


def entries(spec: Weights) -> Iterator[Entry]:
    """Every file of every role, at every address."""
    if isinstance(spec, str):
        yield from _of_address(weights.DEFAULT_ROLE, spec)
        return
    for role, addresses in spec.items():
        several = [addresses] if isinstance(addresses, str) else addresses
        pins = [pin for pin in (fetch.split_pin(address)[1] for address in several) if pin]
        for address in several:
            yield from _of_address(role, address, pins[0] if pins else None)


def _of_address(role: str, address: str, pin: str | None = None) -> Iterator[Entry]:
    plain, own = fetch.split_pin(address)
    pin = pin or own
    try:
        if plain.startswith(fetch.THROUGH):
            yield Entry(role, plain, "by name")
        elif plain.startswith("hf://"):
            yield _of_hub(role, plain, pin)
        elif plain.startswith("embedded:"):
            yield from _of_folder(role, plain, weights.EMBEDDED / plain.removeprefix("embedded:"))
        elif (path := storage.local_path(plain)) is not None:
            yield from _of_folder(role, plain, path) if path.is_dir() else [_local(role, plain, path, pin)]
        else:
            yield from _remote(role, plain, pin)
    except (StorageError, WeightsError, OSError) as error:
        yield Entry(role, plain, f"cannot be had: {error}", pin=pin)


def _local(role: str, address: str, path: Path, pin: str | None = None, state: str = "local") -> Entry:
    if not path.is_file():
        return Entry(role, address, "not there", path, pin=pin)
    return Entry(role, address, state, path, path.stat().st_size, file_sha256(path), pin)


def _of_folder(role: str, address: str, folder: Path) -> Iterator[Entry]:
    if (folder / weights.FAMILY_FILE).is_file() or not (folder / fetch.INDEX_FILE).is_file():
        for name, file in weights.family_files(folder).items():
            yield _local(name, address, folder / file)
        return
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    for name in fetch.components(names):
        yield _local(f"{weights.INDEX_ROLE}/{name}", address, folder / name)


def _of_hub(role: str, address: str, pin: str | None) -> Entry:
    path = fetch.in_hub_cache(address)
    if path is None:
        return Entry(role, address, "remote", sha256=pin, pin=pin)
    return _local(role, address, path, pin, "cached")


def _remote(role: str, address: str, pin: str | None) -> Iterator[Entry]:
    if not fetch.is_signed(address) and storage.is_folder(address):
        files = storage.list_files(address)
        if storage.join(address, weights.FAMILY_FILE) not in files:
            names = (file[len(address) :].lstrip("/") for file in files)
            files = [storage.join(address, name) for name in fetch.components(names)]
        found, main = fetch.folder_places(address, files), None
    else:
        found, main = fetch.places(address, pin), address
    for file, place in found.items():
        name = role if file == main else f"{role}.json" if main else f"{role}/{file[len(address) :].lstrip('/')}"
        own = pin if file == main else None
        if place.is_file():
            yield _local(name, file, place, own, "cached")
        else:
            yield Entry(name, file, "remote", place, downloads.size_of(file), own, own)


def cached() -> Iterator[Path]:
    """Every file of weights in this machine's cache."""
    for folder, _, names in sorted(os.walk(cache_folder() / "weights")):
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def fault(path: Path, pin: str | None = None) -> str | None:
    """What is wrong with a file on this machine, read anew from the disk; None where it is as it should be.

    Without a pin it is held against the hash that was taken when it was fetched, or first seen as it stands.
    """
    expected = pin or recorded(path) or file_sha256(path)
    found = storage.sha256_of(path)
    if found == expected:
        return None
    whose = "the job pins" if pin else "it had"
    return f"has sha256 {found}, {whose} {expected}; remove it, and it is fetched again"
