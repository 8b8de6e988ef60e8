"""List a job's weights and their locations without fetching them, and check those on this machine."""

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
from retouch.models.weights.diffusers_folder import PIPELINE, Kind
from retouch.storage import downloads
from retouch.storage.file_hashes import cache_folder, file_sha256, recorded


@dataclass(frozen=True)
class Entry:
    """One file of a role, at one of its addresses."""

    role: str
    address: str
    state: str  # local, cached, remote, or by name (of what a library resolves itself); else what is wrong with it
    path: Path | None = None  # on this machine, once it is fetched
    size: int | None = None  # bytes
    sha256: str | None = None  # if it is known without fetching
    pin: str | None = None

    @property
    def here(self) -> bool:
        """Return whether the file is on this machine."""
        return self.state in ("local", "cached")


def of_job(job: Job) -> list[Weights]:
    """Return all weights that a job names, each once."""
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
    """Return the addresses of the families and diffusers folders that ship with the package."""
    return [f"{weights.EMBEDDED_PREFIX}{name}" for name in weights.embedded_names()]


def entries(spec: Weights) -> Iterator[Entry]:
    """Yield every file of every role, at every address."""
    if isinstance(spec, str):
        yield from _of_address(None, spec)
        return
    for role, addresses in spec.items():
        several = [addresses] if isinstance(addresses, str) else addresses
        pins = [pin for pin in (fetch.split_pin(address)[1] for address in several) if pin]
        for address in several:
            yield from _of_address(role, address, pins[0] if pins else None)


def _of_address(named: str | None, address: str, pin: str | None = None) -> Iterator[Entry]:
    """Yield the files of one address. Without a role, a folder is a pipeline's and a file a UNet."""
    plain, own = fetch.split_pin(address)
    pin = pin or own
    plain, variant = fetch.split_variant(plain)
    role = named or weights.DEFAULT_ROLE
    try:
        if plain.startswith(fetch.PASSED_THROUGH):
            yield Entry(role, plain, "by name")
        elif plain.startswith("hf://"):
            yield from _of_hub(named, plain, pin, variant)
        elif plain.startswith(weights.EMBEDDED_PREFIX):
            folder = weights.EMBEDDED / plain.removeprefix(weights.EMBEDDED_PREFIX)
            yield from _of_folder(named, plain, folder, variant)
        elif (path := storage.local_path(plain)) is not None:
            if path.is_dir():
                yield from _of_folder(named, plain, path, variant)
            else:
                yield _local(role, plain, path, pin)
        else:
            yield from _remote(named, plain, pin, variant)
    except (StorageError, WeightsError, OSError) as error:
        yield Entry(role, plain, f"cannot be fetched: {error}", pin=pin)


def _local(role: str, address: str, path: Path, pin: str | None = None, state: str = "local") -> Entry:
    if not path.is_file():
        return Entry(role, address, "missing", path, pin=pin)
    return Entry(role, address, state, path, path.stat().st_size, file_sha256(path), pin)


def _of_folder(named: str | None, address: str, folder: Path, variant: str | None) -> Iterator[Entry]:
    role, kind = _folder_role(named)
    if (folder / weights.FAMILY_FILE).is_file() or not (folder / kind.mark).is_file():
        for name, file in weights.family_files(folder).items():
            yield _local(name, address, folder / file)
        return
    for name, plain in fetch.local_selection(folder, variant, kind).items():
        yield _local(f"{role}/{plain}", address, folder / name)


def _folder_role(named: str | None) -> tuple[str, Kind]:
    """Return the role of a folder, which is a pipeline's if its address has no role, and what is loaded of it."""
    role = named or weights.INDEX_ROLE
    return role, weights.folder_kind(role) or PIPELINE


def _of_hub(named: str | None, address: str, pin: str | None, variant: str | None) -> Iterator[Entry]:
    role, kind = _folder_role(named)
    if (found := fetch.hub_folder_in_cache(address, variant, kind)) is not None:
        folder, files = found
        for name, plain in files.items():
            path = folder / name
            own = f"{role}/{plain}"
            yield _local(own, address, path, None, "cached") if path.is_file() else Entry(own, address, "remote")
        return
    role = named or weights.DEFAULT_ROLE
    path_or_none = fetch.in_hub_cache(address)
    if path_or_none is None:
        yield Entry(role, address, "remote", sha256=pin, pin=pin)
    else:
        yield _local(role, address, path_or_none, pin, "cached")


def _remote(named: str | None, address: str, pin: str | None, variant: str | None) -> Iterator[Entry]:
    role = named or weights.DEFAULT_ROLE
    if not fetch.is_signed(address) and storage.is_folder(address):
        if storage.exists(storage.join(address, weights.FAMILY_FILE)):
            names = (file[len(address) :].lstrip("/") for file in storage.list_files(address))
            files = {name: name for name in names}
        else:
            files = fetch.remote_selection(address, variant, _folder_role(named)[1])
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
    """Yield every file of weights in this machine's cache."""
    for folder, _, names in sorted(os.walk(cache_folder() / "weights")):
        yield from (Path(folder) / name for name in sorted(names) if not name.startswith("."))


def fault(path: Path, pin: str | None = None) -> str | None:
    """Read a file on this machine again and return what is wrong with it; None if its hash is the expected one.

    Without a pin, that is the hash recorded when it was fetched, or when it was first hashed.
    """
    expected = pin or recorded(path) or file_sha256(path)
    found = storage.sha256_of(path)
    if found == expected:
        return None
    source = "the job pins" if pin else "it had"
    return f"has sha256 {found}, {source} {expected}; remove it, and it is fetched again"
