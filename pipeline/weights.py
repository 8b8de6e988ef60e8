"""A checkpoint's address to a verified local file, once a node. Knows neither networks nor what a file holds.

An address is one of::

    embedded:shapes            a family that ships with the package
    path/to/folder             a folder with family.json: {"unet": "unet.safetensors", ...}; entries that are no file
                               names describe the family
    path/to/folder             one of diffusers, with model_index.json: that file under the role model_index, and with
                               it every component that it names
    s3://bucket/folder         either of them anywhere; the whole folder is brought here
    path/to/file, s3://...     one file; its role is unet unless a mapping {role: address} names another
    hf://owner/repo/file       from the Hugging Face Hub, hf://owner/repo@revision/file to pin it; without a file, the
                               repository as a diffusers folder
    open_clip:...              a name that open_clip itself resolves; passed through

In a mapping {role: address} the role ``family`` brings a whole family's roles, which the others replace or add to::

    {family: embedded:shapes, blue: runs/domains/networks/blue.safetensors}

``#sha256=HEX`` behind the address of a file pins its content. A ``.json`` of the same name beside a file comes with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline import local_files, storage
from pipeline.errors import StorageError, WeightsError

FAMILY_FILE: Final = "family.json"
INDEX_FILE: Final = "model_index.json"
INDEX_ROLE: Final = "model_index"
DEFAULT_ROLE: Final = "unet"
FAMILY_ROLE: Final = "family"
_EMBEDDED: Final = Path(__file__).parent / "embedded"
_THROUGH: Final = ("open_clip:",)
_PIN: Final = re.compile(r"^(?P<address>.*)#sha256=(?P<sha256>[0-9a-fA-F]{64})$")
_HUB: Final = re.compile(r"^hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.*))?$")


@dataclass(frozen=True)
class Resolved:
    """A job's weights on this machine."""

    files: Mapping[str, str]  # role to local path, or to a name that is passed through
    # Role to hex sha256 (of the name where that is passed through); ``ROLE.json`` and ``model_index/FILE`` likewise.
    sha256: Mapping[str, str]
    digest: str  # of all roles; equal for equal weights, wherever they lie


def resolve(spec: str | Mapping[str, str]) -> Resolved:
    """Bring weights to this machine and hash them. Files that are here already are neither copied nor hashed twice.

    Args:
        spec: an address, or addresses by role.

    Raises:
        WeightsError: no such file or family, one that cannot be fetched, or one that differs from its pin.
    """
    try:
        files = dict(_roles(spec))
        sha256 = dict(_hashes(files))
    except (StorageError, OSError) as error:
        raise WeightsError(f"weights {_said(spec)}: {error}") from None
    digest = hashlib.sha256(json.dumps(sha256, sort_keys=True).encode()).hexdigest()
    return Resolved(files, sha256, digest)


def cache_folder() -> Path:
    """Where fetched files and known hashes are kept: ``RETOUCH_CACHE``, else ``~/.cache/retouch``."""
    return Path(os.environ.get("RETOUCH_CACHE") or Path.home() / ".cache" / "retouch")


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a local file, remembered by its path, size and time of change."""
    stat = os.stat(path)
    known = f"{Path(path).absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}"
    note = cache_folder() / "sha256" / hashlib.sha256(known.encode()).hexdigest()
    try:
        return note.read_text()
    except OSError:
        digest = storage.sha256_of(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written to costs time, not the run
        local_files.replace(note, digest.encode())
    return digest


def _roles(spec: str | Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Role and local path of each file."""
    if not isinstance(spec, str):
        if FAMILY_ROLE in spec:
            yield from _roles(spec[FAMILY_ROLE])
        for role, address in spec.items():
            if role == FAMILY_ROLE:
                continue
            folder = _family_folder(address) if role == INDEX_ROLE else None
            yield role, _one_file(address) if folder is None else str(_index(folder))
        return
    folder = _family_folder(spec)
    if folder is None:
        yield DEFAULT_ROLE, _one_file(spec)
        return
    if not (folder / FAMILY_FILE).is_file() and (folder / INDEX_FILE).is_file():
        yield INDEX_ROLE, str(_index(folder))
        return
    for role, name in _family(folder).items():
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"weights {spec}: {FAMILY_FILE} names {name} for {role}, which is not there")
        yield role, str(path)


def _family_folder(spec: str) -> Path | None:
    """A local folder, a family's or diffusers', fetched where it is not local; None where the address is a file's."""
    if spec.startswith("embedded:"):
        folder = _EMBEDDED / spec.removeprefix("embedded:")
        if not (folder / FAMILY_FILE).is_file():
            there = ", ".join(sorted(path.parent.name for path in _EMBEDDED.glob(f"*/{FAMILY_FILE}"))) or "none"
            raise WeightsError(f"no embedded weights {spec!r}; the package has: {there}")
        return folder
    if spec.startswith("hf://"):
        return _hub_folder(spec)
    if spec.startswith(_THROUGH):
        return None
    path = storage.local_path(spec)
    if path is not None:
        return path if path.is_dir() else None
    if _is_signed(spec):
        return None
    if storage.exists(storage.join(spec, FAMILY_FILE)):
        return _fetched_folder(spec, storage.list_files(spec))
    if storage.exists(storage.join(spec, INDEX_FILE)):
        names = (file[len(spec) :].lstrip("/") for file in storage.list_files(spec))
        return _fetched_folder(spec, [storage.join(spec, name) for name in _components(names)])
    return None


def _index(folder: Path) -> Path:
    if (folder / INDEX_FILE).is_file():
        return folder / INDEX_FILE
    raise WeightsError(f"weights folder {folder} has no {INDEX_FILE}; give a diffusers folder")


def _components(names: Iterable[str]) -> list[str]:
    """Of the files of a diffusers folder, by name, those that are loaded: each component's plain weights and cards.

    Not its variants (``model.fp16.safetensors``), nor its pickles where it has safetensors, nor what lies beside the
    components: the published folder has the original checkpoint there.
    """
    inside = sorted(name for name in names if name == INDEX_FILE or name.count("/") == 1)
    plain = [name for name in inside if name.rpartition("/")[2].count(".") == 1]
    safe = {name.partition("/")[0] for name in plain if name.endswith(".safetensors")}
    kinds = (".json", ".safetensors", ".txt", ".bin")
    wanted = (name for name in plain if name.endswith(kinds))
    return [name for name in wanted if not (name.endswith(".bin") and name.partition("/")[0] in safe)]


def _family(folder: Path) -> Mapping[str, str]:
    try:
        roles: Any = json.loads((folder / FAMILY_FILE).read_text())
    except FileNotFoundError:
        raise WeightsError(
            f"weights folder {folder} has no {FAMILY_FILE} and no {INDEX_FILE}; name a file, or roles"
        ) from None
    except ValueError as error:
        raise WeightsError(f"{folder / FAMILY_FILE} is not JSON: {error}") from None
    files = {role: name for role, name in roles.items() if _is_name(name)} if isinstance(roles, dict) else {}
    if not files:
        raise WeightsError(f"{folder / FAMILY_FILE} names no file for any role")
    return files


def _is_name(value: Any) -> bool:
    """Whether an entry of a family names a file; others describe it (its name, the image size, ...)."""
    return isinstance(value, str) and bool(os.path.splitext(value)[1])


def _one_file(address: str) -> str:
    """A single file's local path, checked against its pin; names that are passed through as they are."""
    pinned = _PIN.match(address)
    plain = pinned["address"] if pinned else address
    if plain.startswith(_THROUGH):
        return address
    local = storage.local_path(plain)
    if plain.startswith("hf://"):
        path = _from_hub(plain)
    elif local is None:
        path = _fetched(plain)
    elif local.is_file():
        path = local
    else:
        raise WeightsError(f"no weights at {plain}; give a file, a folder with {FAMILY_FILE}, s3://..., hf://repo/file")
    if pinned and file_sha256(path) != pinned["sha256"].lower():
        raise WeightsError(
            f"weights {plain} have sha256 {file_sha256(path)}, the job pins {pinned['sha256'].lower()}; "
            "fetch them again or correct the pin"
        )
    return str(path)


def _fetched(address: str) -> Path:
    """A remote file's copy in the cache, with the .json beside it."""
    beside = [] if _is_signed(address) else [_sidecar(address)]
    known = storage.identities([address, *beside])
    if known[address] is None:
        raise WeightsError(f"no weights at {address}")
    place = _place(address, json.dumps(known, sort_keys=True))
    for file in (file for file, identity in known.items() if identity is not None):
        _copied(file, place.with_name(_file_name(file)))
    return place


def _fetched_folder(address: str, files: list[str]) -> Path:
    """A remote folder's copy in the cache, of these files of it."""
    known = storage.identities(files)
    folder = _place(address, json.dumps(known, sort_keys=True)).parent
    for file in files:
        _copied(file, folder / file[len(address) :].lstrip("/"))
    return folder


def _place(address: str, identity: str) -> Path:
    """Where a remote file is kept: an address with another content gets another folder."""
    name = hashlib.sha256(f"{address}\0{identity}".encode()).hexdigest()[:20]
    return cache_folder() / "weights" / name / _file_name(address)


def _file_name(address: str) -> str:
    """Its last part; of a web address without the query, which is no part of any name."""
    return (address.partition("?")[0] if _is_signed(address) else address).rstrip("/").rpartition("/")[2]


def _is_signed(address: str) -> bool:
    """Whether it opens this one file and none beside it: a web address with a query."""
    return address.startswith(("http://", "https://")) and "?" in address


def _copied(address: str, path: Path) -> Path:
    """Fetch a file unless it is here; of several processes on a node one does, the others wait for it."""
    if path.is_file():
        return path
    with local_files.locked(path.with_name(f".{path.name}.lock")):
        if not path.is_file():
            storage.download(address, path)
    return path


def _from_hub(address: str) -> Path:
    parts = _HUB.match(address)
    if parts is None or not parts["file"]:
        raise WeightsError(f"{address} is not hf://owner/repo/file or hf://owner/repo@revision/file")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def download(name: str) -> Path:
        return Path(hf_hub_download(parts["repo"], name, revision=parts["revision"]))

    try:
        path = download(parts["file"])
    except Exception as error:
        raise _not_from_hub(address, error) from None
    with contextlib.suppress(EntryNotFoundError):
        download(_sidecar(parts["file"]))
    return path


def _hub_folder(address: str) -> Path | None:
    """A Hub repository's components in the Hub client's own cache; None where the address names a file."""
    parts = _HUB.match(address)
    if parts is None or parts["file"]:
        return None
    from huggingface_hub import HfApi, hf_hub_download

    try:
        info = HfApi().model_info(parts["repo"], revision=parts["revision"])
        names = _components(sibling.rfilename for sibling in info.siblings or ())
        paths = [Path(hf_hub_download(parts["repo"], name, revision=info.sha)) for name in (INDEX_FILE, *names)]
    except Exception as error:
        raise _not_from_hub(address, error) from None
    return paths[0].parent


def _not_from_hub(address: str, error: Exception) -> WeightsError:
    text = " ".join(str(error).split()) or type(error).__name__
    return WeightsError(f"weights {address} cannot be had from the Hub: {text}")


def _hashes(files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for role, path in files.items():
        if path.startswith(_THROUGH):
            yield role, hashlib.sha256(path.encode()).hexdigest()
            continue
        yield role, file_sha256(path)
        if role == INDEX_ROLE:
            folder = Path(path).parent
            names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
            for name in _components(names):
                yield f"{INDEX_ROLE}/{name}", file_sha256(folder / name)
        if _sidecar(path) != path and os.path.isfile(_sidecar(path)):
            yield f"{role}.json", file_sha256(_sidecar(path))


def _sidecar(address: str) -> str:
    """``a/unet.json`` of ``a/unet.safetensors``."""
    folder, slash, name = address.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}.json"


def _said(spec: str | Mapping[str, str]) -> str:
    return spec if isinstance(spec, str) else ", ".join(f"{role}: {address}" for role, address in spec.items())
