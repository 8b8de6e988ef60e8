"""Weights' addresses to verified local files and folders: pins, mirrors, the cache, the Hugging Face Hub.

A fetched file is kept as ``CACHE/weights/NAME/FILE``, with its hash in a sidecar file. ``NAME`` is a digest of the
address and the object's identity, so a file that changes at its address gets another place. For a pinned file it is a
digest of the pin, so all mirrors share one place, and one mirror resumes where another broke off.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from retouch import storage
from retouch.errors import StorageError, WeightsError
from retouch.models.weights.diffusers_folder import INDEX_FILE, PIPELINE, Kind, check_shards, local_names, select
from retouch.storage import downloads, local
from retouch.storage.file_hashes import cache_folder, file_sha256, record

PASSED_THROUGH: Final = ("open_clip:",)  # names that a library resolves itself
_PIN: Final = re.compile(r"^(?P<address>.*)#sha256=(?P<sha256>[0-9a-fA-F]{64})$")
_VARIANT: Final = re.compile(r"^(?P<address>.*)#variant=(?P<variant>\w+)$")
_HUB: Final = re.compile(r"^hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.*))?$")


@dataclass(frozen=True)
class Folder:
    """A diffusers folder, or one component's, on this machine."""

    path: Path
    mark: str  # its first file: model_index.json or config.json
    files: tuple[str, ...]  # what a loader reads, relative to the path


def split_pin(address: str) -> tuple[str, str | None]:
    """Split an address into itself and the sha256 that pins its content."""
    pinned = _PIN.match(address)
    return (pinned["address"], pinned["sha256"].lower()) if pinned else (address, None)


def split_variant(address: str) -> tuple[str, str | None]:
    """Split a diffusers folder's address into itself and the variant that is asked for."""
    found = _VARIANT.match(address)
    return (found["address"], found["variant"]) if found else (address, None)


def one_file(addresses: str | Sequence[str]) -> str:
    """Return a single file's local path, checked against its pin; names that are passed through as they are.

    Args:
        addresses: one, or several that are tried in order. A pin on one of them holds for all.

    Raises:
        WeightsError: no address is reachable, or the content does not match its sha256 pin.
        StorageError: the only address is not reachable.
    """
    if isinstance(addresses, str):
        return _one_file(*split_pin(addresses), addresses)
    pins = {pin for _, pin in map(split_pin, addresses) if pin}
    if not addresses or len(pins) > 1:
        raise WeightsError(
            f"{len(addresses)} addresses with {len(pins)} different pins; give one or more, of one content"
        )
    failed: list[str] = []
    for address in addresses:
        try:
            return _one_file(split_pin(address)[0], next(iter(pins), None), address)
        except (StorageError, WeightsError, OSError) as error:
            failed.append(str(error))
            if address != addresses[-1]:
                downloads.log(f"weights {address} cannot be fetched, trying the next address: {error}")
    raise WeightsError(f"none of {len(addresses)} addresses can be fetched: {'; '.join(failed)}")


def _one_file(plain: str, pin: str | None, address: str) -> str:
    if plain.startswith(PASSED_THROUGH):
        return address
    if split_variant(plain)[1] is not None:
        raise WeightsError(f"weights {plain}: a variant is of a diffusers folder; name the file itself")
    on_disk = storage.local_path(plain)
    if plain.startswith("hf://"):
        path = _from_hub(plain)
    elif on_disk is None:
        path = _fetched(plain, pin)
    elif on_disk.is_file():
        path = on_disk
    else:
        raise WeightsError(f"no weights at {plain}; give a file, a folder with family.json, s3://..., hf://repo/file")
    if pin and file_sha256(path) != pin:
        raise _mismatch(plain, file_sha256(path), pin)
    return str(path)


def _mismatch(address: str, sha256: str, pin: str) -> WeightsError:
    return WeightsError(
        f"weights {address} have sha256 {sha256}, the job pins {pin}; fetch them again or correct the pin"
    )


def places(address: str, pin: str | None) -> dict[str, Path]:
    """Return the cache paths of a remote file and of its .json sidecar, if it has one; they need not exist yet.

    Raises:
        WeightsError: there is no such file.
        StorageError: the store did not answer after bounded retries.
    """
    sidecars = [] if is_signed(address) else [sidecar(address)]
    known = storage.identities([address, *sidecars])
    if known[address] is None:
        raise WeightsError(f"no weights at {address}")
    existing = [file for file in known if known[file] is not None]
    if pin is None:
        place = _place(address, json.dumps(known, sort_keys=True), file_name(address))
    else:
        cards = [hashlib.sha256(storage.read_bytes(card)).hexdigest() for card in existing[1:]]
        place = _place("", json.dumps([pin, *cards]), file_name(address))
    return {file: place.with_name(file_name(file)) for file in existing}


def _fetched(address: str, pin: str | None) -> Path:
    """Copy a remote file and its .json sidecar to the cache. Return the file's path."""
    found = places(address, pin)
    for file, place in found.items():
        try:
            _copied(file, place, pin if file == address else None)
        except downloads.ContentMismatch as error:
            raise _mismatch(address, error.sha256, str(pin)) from None
    return found[address]


def folder_places(address: str, files: Mapping[str, str]) -> dict[str, Path]:
    """Return the cache path of each file of a remote folder, by its address; they need not exist yet.

    Args:
        address: of the folder.
        files: name in the remote folder to name in the cache.
    """
    by_address = {storage.join(address, name): kept for name, kept in files.items()}
    known = storage.identities(by_address)
    folder = _place(address, json.dumps(known, sort_keys=True), file_name(address)).parent
    return {file: folder / kept for file, kept in by_address.items()}


def fetched_folder(address: str, files: Mapping[str, str]) -> Path:
    """Copy these files of a remote folder to the cache. Return the copy's path."""
    found = folder_places(address, files)
    for file, place in found.items():
        _copied(file, place)
    kept = next(iter(files.values()))
    return found[storage.join(address, next(iter(files)))].parents[kept.count("/")]


def diffusers_folder(address: str, kind: Kind = PIPELINE) -> Folder | None:
    """Bring the loaded files of a diffusers folder to this machine; None if the address is no such folder.

    Args:
        address: of a local or remote folder or a Hub repository, with ``#variant=NAME`` if one is asked for.
        kind: of the folder; that of one component may be a subfolder of a Hub repository.

    Raises:
        WeightsError: it cannot be fetched, or a file that it needs is missing.
        StorageError: the store did not answer after bounded retries.
    """
    plain, variant = split_variant(address)
    if plain.startswith("hf://"):
        found = _hub_folder(plain, variant, kind)
    elif (folder := storage.local_path(plain)) is not None:
        found = _local_folder(folder, variant, kind)
    else:
        found = _remote_folder(plain, variant, kind)
    if found is not None:
        check_shards(found.path, found.files)
    return found


def remote_selection(address: str, variant: str | None, kind: Kind = PIPELINE) -> dict[str, str]:
    """Return what ``select`` chooses of a remote diffusers folder.

    Raises:
        WeightsError: a file that it needs is missing.
        StorageError: the store did not answer after bounded retries.
    """
    names = (file[len(address) :].lstrip("/") for file in storage.list_files(address))
    index = storage.read_bytes(storage.join(address, INDEX_FILE)) if kind.has_components else None
    return select(names, index, address, variant, kind)


def _remote_folder(address: str, variant: str | None, kind: Kind) -> Folder | None:
    if not storage.exists(storage.join(address, kind.mark)):
        return None
    files = remote_selection(address, variant, kind)
    return Folder(fetched_folder(address, files), kind.mark, tuple(sorted(files.values())))


def _local_folder(folder: Path, variant: str | None, kind: Kind) -> Folder | None:
    if not (folder / kind.mark).is_file():
        return None
    return _without_variants(folder, local_selection(folder, variant, kind), kind)


def local_selection(folder: Path, variant: str | None, kind: Kind = PIPELINE) -> dict[str, str]:
    """Return what ``select`` chooses of a local diffusers folder. Raises WeightsError if a needed file is missing."""
    index = (folder / INDEX_FILE).read_bytes() if kind.has_components else None
    return select(local_names(folder), index, str(folder), variant, kind)


def _without_variants(folder: Path, files: Mapping[str, str], kind: Kind = PIPELINE) -> Folder:
    """Return the folder itself, or a folder of links under plain names if a chosen file is a variant.

    So a loader needs to know no variant, and cannot read another file than the chosen one.
    """
    kept = tuple(sorted(files.values()))
    if all(name == plain for name, plain in files.items()):
        return Folder(folder, kind.mark, kept)
    links = _place(str(folder), json.dumps(files, sort_keys=True), folder.name)
    for name, plain in files.items():
        if (links / plain).is_symlink():
            continue  # the folder's digest names its target
        with local.temporary_name(links / plain) as rough:
            rough.symlink_to(folder.absolute() / name)
            os.replace(rough, links / plain)
    return Folder(links, kind.mark, kept)


def sidecar(address: str) -> str:
    """Return ``a/unet.json`` of ``a/unet.safetensors``."""
    folder, slash, name = address.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}.json"


def file_name(address: str) -> str:
    """Return an address's last part, without the query of a web address."""
    return (address.partition("?")[0] if is_signed(address) else address).rstrip("/").rpartition("/")[2]


def is_signed(address: str) -> bool:
    """Return whether an address opens this one file and no sidecar: a web address with a query."""
    return address.startswith(("http://", "https://")) and "?" in address


def _place(address: str, identity: str, name: str) -> Path:
    digest = hashlib.sha256(f"{address}\0{identity}".encode()).hexdigest()[:20]
    return cache_folder() / "weights" / digest / name


def _copied(address: str, place: Path, pin: str | None = None) -> None:
    if not place.is_file():
        downloads.fetch(address, place, pin)
        record(place)


def _from_hub(address: str) -> Path:
    parts = _HUB.match(address)
    if parts is None or not parts["file"]:
        raise WeightsError(f"{address} is not hf://owner/repo/file or hf://owner/repo@revision/file")
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = _hub_file(parts["repo"], parts["file"], parts["revision"])
    except Exception as error:
        raise _not_from_hub(address, error) from None
    with contextlib.suppress(EntryNotFoundError):
        _hub_file(parts["repo"], sidecar(parts["file"]), parts["revision"])
    return path


def _hub_folder(address: str, variant: str | None, kind: Kind) -> Folder | None:
    """Download a Hub repository's loaded files to the Hub client's own cache."""
    parts = _HUB.match(address)
    if parts is None or (parts["file"] and (kind.has_components or Path(parts["file"]).suffix)):
        return None
    from huggingface_hub import get_cached_repo_tree

    inside = f"{parts['file'].rstrip('/')}/" if parts["file"] else ""
    try:
        # The index first: it decides which files are needed. It also resolves the revision to a commit.
        snapshot = _snapshot(parts["repo"], parts["revision"], [inside + kind.mark])
        if not (snapshot / inside / kind.mark).is_file():
            mark = f"{inside}{kind.mark}"
            raise WeightsError(f"weights {address}: the repository has no {mark}; name a file: {address}/FILE")
        names = [file.path for file in get_cached_repo_tree(parts["repo"], revision=snapshot.name)]
        names = [name.removeprefix(inside) for name in names if name.startswith(inside)]
        index = (snapshot / INDEX_FILE).read_bytes() if kind.has_components else None
        files = select(names, index, address, variant, kind)
        _snapshot(parts["repo"], snapshot.name, [inside + name for name in files])
    except WeightsError:
        raise
    except Exception as error:
        raise _not_from_hub(address, error) from None
    return _without_variants(snapshot / inside, files, kind)


def _snapshot(repo: str, revision: str | None, names: Sequence[str]) -> Path:
    """Download these files of a repository at one commit. Without a connection, cached files serve if they are all."""
    from huggingface_hub import snapshot_download

    patterns = [glob.escape(name) for name in names]
    return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, tqdm_class=_counting_bar()))


def in_hub_cache(address: str) -> Path | None:
    """Return the path of a Hub file's copy in the client's cache; None if it has no copy."""
    parts = _HUB.match(address)
    if parts is None or not parts["file"]:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(parts["repo"], parts["file"], revision=parts["revision"])
    return Path(found) if isinstance(found, str) else None


def hub_folder_in_cache(address: str, variant: str | None, kind: Kind = PIPELINE) -> tuple[Path, dict[str, str]] | None:
    """Return the snapshot of a Hub repository in the client's cache and its selected files; None if it has none.

    Raises:
        WeightsError: a file that it needs is missing in the repository.
    """
    parts = _HUB.match(address)
    if parts is None or parts["file"]:
        return None
    from huggingface_hub import get_cached_repo_tree, try_to_load_from_cache
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    index = try_to_load_from_cache(parts["repo"], INDEX_FILE, revision=parts["revision"])
    if not isinstance(index, str):
        return None
    try:
        names = [file.path for file in get_cached_repo_tree(parts["repo"], revision=parts["revision"])]
    except CachedRepoTreeNotFoundError:  # an older client's cache
        return None
    return Path(index).parent, select(names, Path(index).read_bytes(), address, variant, kind)


def _hub_file(repo: str, name: str, revision: str | None) -> Path:
    """Download one file; the client resumes, locks and verifies by itself."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, name, revision=revision, tqdm_class=_counting_bar()))


def _counting_bar() -> type:
    """Return the Hub client's progress bar, which also reports the received bytes to the watchers of downloads."""
    from huggingface_hub.utils import tqdm

    class CountingBar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # A snapshot has three bars: files, bytes on the network, bytes on the disk. Only the last one counts.
            self._counts = kwargs.get("unit") == "B" and not str(kwargs.get("name", "")).endswith(".transfer")
            super().__init__(*args, **kwargs)

        def update(self, n: Any = 1) -> Any:
            if self._counts:
                downloads.received(int(n or 0))
            return super().update(n)

    return CountingBar


def _not_from_hub(address: str, error: Exception) -> WeightsError:
    text = " ".join(str(error).split()) or type(error).__name__
    return WeightsError(f"weights {address} cannot be fetched from the Hub: {text}")
