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

A role may have several addresses, tried in order: ``unet: [s3://a/x.pt, https://b/x.pt]``. A pin on one holds for all.

In a mapping {role: address} the role ``family`` brings a whole family's roles, which the others replace or add to::

    {family: embedded:shapes, blue: runs/domains/networks/blue.safetensors}

``#sha256=HEX`` behind the address of a file pins its content. A ``.json`` of the same name beside a file comes with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from retouch import storage
from retouch.errors import StorageError, WeightsError
from retouch.jobs.config import Weights
from retouch.models.weights.fetch import (
    INDEX_FILE,
    THROUGH,
    components,
    fetched_folder,
    hub_folder,
    is_signed,
    one_file,
    sidecar,
    split_pin,
)
from retouch.storage.file_hashes import file_sha256

FAMILY_FILE: Final = "family.json"
INDEX_ROLE: Final = "model_index"
DEFAULT_ROLE: Final = "unet"
FAMILY_ROLE: Final = "family"
EMBEDDED: Final = Path(__file__).parents[1] / "embedded"


@dataclass(frozen=True)
class Resolved:
    """A job's weights on this machine."""

    files: Mapping[str, str]  # role to local path, or to a name that is passed through
    # Role to hex sha256 (of the name where that is passed through); ``ROLE.json`` and ``model_index/FILE`` likewise.
    sha256: Mapping[str, str]
    digest: str  # of all roles; equal for equal weights, wherever they lie


def resolve(spec: Weights) -> Resolved:
    """Bring weights to this machine and hash them. Files that are here already are neither copied nor hashed twice.

    Args:
        spec: an address; or by role an address, or several.

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


def pinned(spec: Weights, resolved: Resolved) -> Weights:
    """The spec with roles of several addresses pinned to what was resolved: no mirror may serve anything else."""
    if isinstance(spec, str):
        return spec
    return {role: _pinned(addresses, resolved.sha256.get(role)) for role, addresses in spec.items()}


def _pinned(addresses: str | Sequence[str], sha256: str | None) -> str | Sequence[str]:
    if isinstance(addresses, str) or sha256 is None or any(split_pin(address)[1] for address in addresses):
        return addresses
    return [f"{addresses[0]}#sha256={sha256}", *addresses[1:]]


def _roles(spec: Weights) -> Iterator[tuple[str, str]]:
    """Role and local path of each file."""
    if not isinstance(spec, str):
        if FAMILY_ROLE in spec:
            yield from _roles(_single(spec, FAMILY_ROLE))
        for role, addresses in spec.items():
            if role == FAMILY_ROLE:
                continue
            folder = _family_folder(_single(spec, role)) if role == INDEX_ROLE else None
            yield role, one_file(addresses) if folder is None else str(_index(folder))
        return
    folder = _family_folder(spec)
    if folder is None:
        yield DEFAULT_ROLE, one_file(spec)
        return
    if not (folder / FAMILY_FILE).is_file() and (folder / INDEX_FILE).is_file():
        yield INDEX_ROLE, str(_index(folder))
        return
    for role, name in family_files(folder).items():
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"weights {spec}: {FAMILY_FILE} names {name} for {role}, which is not there")
        yield role, str(path)


def _family_folder(spec: str) -> Path | None:
    """A local folder, a family's or diffusers', fetched where it is not local; None where the address is a file's."""
    if spec.startswith("embedded:"):
        folder = EMBEDDED / spec.removeprefix("embedded:")
        if not (folder / FAMILY_FILE).is_file():
            there = ", ".join(sorted(path.parent.name for path in EMBEDDED.glob(f"*/{FAMILY_FILE}"))) or "none"
            raise WeightsError(f"no embedded weights {spec!r}; the package has: {there}")
        return folder
    if spec.startswith("hf://"):
        return hub_folder(spec)
    if spec.startswith(THROUGH) or split_pin(spec)[1]:  # a pin is a file's
        return None
    path = storage.local_path(spec)
    if path is not None:
        return path if path.is_dir() else None
    if is_signed(spec):
        return None
    if storage.exists(storage.join(spec, FAMILY_FILE)):
        return fetched_folder(spec, storage.list_files(spec))
    if storage.exists(storage.join(spec, INDEX_FILE)):
        names = (file[len(spec) :].lstrip("/") for file in storage.list_files(spec))
        return fetched_folder(spec, [storage.join(spec, name) for name in components(names)])
    return None


def _index(folder: Path) -> Path:
    if (folder / INDEX_FILE).is_file():
        return folder / INDEX_FILE
    raise WeightsError(f"weights folder {folder} has no {INDEX_FILE}; give a diffusers folder")


def _single(spec: Mapping[str, str | Sequence[str]], role: str) -> str:
    address = spec[role]
    if isinstance(address, str):
        return address
    raise WeightsError(f"role {role} is a folder and has {len(address)} addresses; only a file may have more than one")


def family_files(folder: Path) -> Mapping[str, str]:
    """Role to file name of a family's folder. Raises WeightsError where it is none."""
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


def _hashes(files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for role, path in files.items():
        if path.startswith(THROUGH):
            yield role, hashlib.sha256(path.encode()).hexdigest()
            continue
        yield role, file_sha256(path)
        if role == INDEX_ROLE:
            folder = Path(path).parent
            names = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
            for name in components(names):
                yield f"{INDEX_ROLE}/{name}", file_sha256(folder / name)
        if sidecar(path) != path and os.path.isfile(sidecar(path)):
            yield f"{role}.json", file_sha256(sidecar(path))


def _said(spec: Weights) -> str:
    if isinstance(spec, str):
        return spec
    listed = {role: at if isinstance(at, str) else f"[{', '.join(at)}]" for role, at in spec.items()}
    return ", ".join(f"{role}: {at}" for role, at in listed.items())
