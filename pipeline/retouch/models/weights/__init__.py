"""Weights' addresses to verified local files, fetched once per node.

An address is one of::

    embedded:shapes            a family that ships with the package
    embedded:inpaint           a diffusers folder that ships with the package
    path/to/folder             a folder with family.json: {"unet": "unet.safetensors", ...}; entries that are no file
                               names describe the family
    path/to/folder             a diffusers folder, with model_index.json: that file under the role model_index, with
                               every component that it names; sharded or not
    s3://bucket/folder         either of them anywhere; the files that are loaded are fetched
    path/to/file, s3://...     one file; its role is unet unless a mapping {role: address} names another
    {controlnet: path/to/folder}  the folder of one component, with config.json, where a role is one: controlnet, ...
    {config: path/to/folder}   a diffusers folder without its weights, which role checkpoint brings
    hf://owner/repo/file       from the Hugging Face Hub, hf://owner/repo@revision/file to pin it; without a file, the
                               repository as a diffusers folder
    open_clip:...              a name that open_clip itself resolves; passed through

``#variant=fp16`` after the address of a diffusers folder takes ``diffusion_pytorch_model.fp16.safetensors`` and the
like; a component without that variant gives its plain weights.

A role may have several addresses, tried in order: ``unet: [s3://a/x.pt, https://b/x.pt]``. A pin on one holds for all.

In a mapping {role: address} the role ``family`` brings a whole family's roles, which the others replace or add to::

    {family: embedded:shapes, blue: runs/domains/networks/blue.safetensors}
    {family: embedded:shapes, model_index: embedded:inpaint}

``#sha256=HEX`` after the address of a file pins its content. A ``.json`` sidecar of the same name comes with a file.
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
from retouch.models.weights.diffusers_folder import COMPONENT, CONFIGURATIONS, INDEX_FILE, PIPELINE, Kind
from retouch.models.weights.fetch import (
    PASSED_THROUGH,
    diffusers_folder,
    fetched_folder,
    is_signed,
    one_file,
    sidecar,
    split_pin,
    split_variant,
)
from retouch.storage.file_hashes import file_sha256

FAMILY_FILE: Final = "family.json"
INDEX_ROLE: Final = "model_index"
DEFAULT_ROLE: Final = "unet"
FAMILY_ROLE: Final = "family"
NETWORK: Final = "network."  # ``network.NAME`` replaces a component of a diffusers folder
_FOLDER_ROLES: Final[Mapping[str, Kind]] = {
    INDEX_ROLE: PIPELINE,
    "redux": PIPELINE,
    "config": CONFIGURATIONS,
    "controlnet": COMPONENT,
    "image_encoder": COMPONENT,
}
EMBEDDED: Final = Path(__file__).parents[1] / "embedded"
EMBEDDED_PREFIX: Final = "embedded:"


@dataclass(frozen=True)
class Resolved:
    """A job's weights on this machine."""

    files: Mapping[str, str]  # role to local path, or to a name that is passed through
    # Role to hex sha256 (of the name if that is passed through); ``ROLE.json`` and ``model_index/FILE`` likewise.
    sha256: Mapping[str, str]
    digest: str  # of all roles; equal for equal weights at any address


def resolve(spec: Weights) -> Resolved:
    """Bring weights to this machine and hash them. Files that exist already are neither copied nor hashed twice.

    Args:
        spec: an address; or by role an address, or several.

    Raises:
        WeightsError: no such file or family, one that cannot be fetched, or one that differs from its pin.
    """
    try:
        roles = {role.name: role for role in _roles(spec)}
        sha256 = dict(entry for role in roles.values() for entry in _hashes(role))
    except (StorageError, OSError) as error:
        raise WeightsError(f"weights {_text(spec)}: {error}") from None
    digest = hashlib.sha256(json.dumps(sha256, sort_keys=True).encode()).hexdigest()
    return Resolved({name: role.path for name, role in roles.items()}, sha256, digest)


def pinned(spec: Weights, resolved: Resolved) -> Weights:
    """Return the spec with roles of several addresses pinned to the resolved hash, so that mirrors cannot differ."""
    if isinstance(spec, str):
        return spec
    return {role: _pinned(addresses, resolved.sha256.get(role)) for role, addresses in spec.items()}


def _pinned(addresses: str | Sequence[str], sha256: str | None) -> str | Sequence[str]:
    if isinstance(addresses, str) or sha256 is None or any(split_pin(address)[1] for address in addresses):
        return addresses
    return [f"{addresses[0]}#sha256={sha256}", *addresses[1:]]


@dataclass(frozen=True)
class _Role:
    """One role's file on this machine."""

    name: str
    path: str
    components: tuple[str, ...] = ()  # of a diffusers folder, relative to the path's folder


def _roles(spec: Weights) -> Iterator[_Role]:
    if isinstance(spec, str):
        yield from _of_address(spec)
        return
    if FAMILY_ROLE in spec:
        yield from _of_address(_single(spec, FAMILY_ROLE))
    for role, addresses in spec.items():
        kind = folder_kind(role)
        if kind is not None and kind.has_components:
            yield _of_index(role, _single(spec, role))
        elif role != FAMILY_ROLE:
            yield _of_component(role, addresses) or _Role(role, one_file(addresses))


def folder_kind(role: str) -> Kind | None:
    """Return what is loaded of a role that is a folder, or may be; None for a role that is a file."""
    return COMPONENT if role.startswith(NETWORK) else _FOLDER_ROLES.get(role)


def embedded_names() -> list[str]:
    """Return the names of the folders of weights that ship with the package, families and diffusers folders alike."""
    indices = (path for index in (FAMILY_FILE, INDEX_FILE) for path in EMBEDDED.glob(f"*/{index}"))
    return sorted(path.parent.name for path in indices)


def _located(address: str) -> str:
    """Return the local path of a folder that ships with the package; any other address as it is.

    Raises:
        WeightsError: no folder of this name ships with the package.
    """
    plain, variant = split_variant(address)
    if not plain.startswith(EMBEDDED_PREFIX):
        return address
    name = plain.removeprefix(EMBEDDED_PREFIX)
    if name not in embedded_names():
        known = ", ".join(embedded_names()) or "none"
        raise WeightsError(f"no embedded weights {address!r}; the package has: {known}")
    return f"{EMBEDDED / name}" if variant is None else f"{EMBEDDED / name}#variant={variant}"


def _of_address(address: str) -> Iterator[_Role]:
    """Yield the roles of a family, of a diffusers folder, or of one file."""
    address = _located(address)
    family = _family_folder(address)
    path = storage.local_path(split_variant(address)[0])
    if family is None and (folder := _diffusers_folder(address)) is not None:
        yield folder
    elif family is None and (path is None or not path.is_dir()):
        yield _Role(DEFAULT_ROLE, one_file(address))
    else:
        found = family or path
        assert found is not None
        for role, name in family_files(found).items():
            if not (found / name).is_file():
                raise WeightsError(f"weights {address}: {FAMILY_FILE} names {name} for {role}, which is missing")
            yield _Role(role, str(found / name))


def _of_index(role: str, address: str) -> _Role:
    """Return a role that is a diffusers folder, or the index in it."""
    address = _located(address.removesuffix(f"/{INDEX_FILE}"))
    folder = diffusers_folder(address, folder_kind(role) or PIPELINE) if _may_be_folder(address) else None
    if folder is not None:
        return _Role(role, str(folder.path / INDEX_FILE), folder.files)
    raise WeightsError(f"weights folder {address} has no {INDEX_FILE}; give a diffusers folder")


def _of_component(role: str, addresses: str | Sequence[str]) -> _Role | None:
    """Return a role that is the folder of one component, such as a ControlNet; None if it is a file."""
    if folder_kind(role) != COMPONENT or not isinstance(addresses, str):
        return None
    folder = diffusers_folder(addresses, COMPONENT) if _may_be_folder(addresses) else None
    return None if folder is None else _Role(role, str(folder.path / COMPONENT.mark), folder.files)


def _family_folder(address: str) -> Path | None:
    """Return a family's local folder, fetched if it is remote; None if the address is of something else."""
    if not _may_be_folder(address):
        return None
    path = storage.local_path(address)
    if path is not None:
        return path if (path / FAMILY_FILE).is_file() else None
    if address.startswith("hf://") or not storage.exists(storage.join(address, FAMILY_FILE)):
        return None
    names = [file[len(address) :].lstrip("/") for file in storage.list_files(address)]
    return fetched_folder(address, dict(zip(names, names, strict=True)))


def _diffusers_folder(address: str) -> _Role | None:
    folder = diffusers_folder(address) if _may_be_folder(address) else None
    return None if folder is None else _Role(INDEX_ROLE, str(folder.path / INDEX_FILE), folder.files)


def _may_be_folder(address: str) -> bool:
    return not (address.startswith(PASSED_THROUGH) or split_pin(address)[1] or is_signed(address))


def _single(spec: Mapping[str, str | Sequence[str]], role: str) -> str:
    address = spec[role]
    if isinstance(address, str):
        return address
    raise WeightsError(f"role {role} is a folder and has {len(address)} addresses; only a file may have more than one")


def family_files(folder: Path) -> Mapping[str, str]:
    """Return role to file name of a family's folder. Raises WeightsError if it is no such folder."""
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
    """Return whether an entry of a family names a file; others describe it (its name, the image size, ...)."""
    return isinstance(value, str) and bool(os.path.splitext(value)[1])


def _hashes(role: _Role) -> Iterator[tuple[str, str]]:
    path = role.path
    if path.startswith(PASSED_THROUGH):
        yield role.name, hashlib.sha256(path.encode()).hexdigest()
        return
    yield role.name, file_sha256(path)
    for name in role.components:
        yield f"{role.name}/{name}", file_sha256(Path(path).parent / name)
    if sidecar(path) != path and os.path.isfile(sidecar(path)):
        yield f"{role.name}.json", file_sha256(sidecar(path))


def _text(spec: Weights) -> str:
    if isinstance(spec, str):
        return spec
    listed = {role: at if isinstance(at, str) else f"[{', '.join(at)}]" for role, at in spec.items()}
    return ", ".join(f"{role}: {at}" for role, at in listed.items())
