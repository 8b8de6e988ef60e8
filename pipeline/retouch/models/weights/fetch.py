"""The addresses of one role's file to a verified local file: pins, mirrors, the cache, the Hub. Knows no family.

What is fetched lies in ``CACHE/weights/NAME/FILE``, its hash beside it. ``NAME`` is a digest of the address and the
object's identity, so a file that changes at its address gets another place; of a pinned file it is one of the pin, so
all mirrors have the same place, and one goes on where another broke off.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from retouch import storage
from retouch.errors import StorageError, WeightsError
from retouch.storage import downloads
from retouch.storage.file_hashes import cache_folder, file_sha256, record

INDEX_FILE: Final = "model_index.json"
THROUGH: Final = ("open_clip:",)
_PIN: Final = re.compile(r"^(?P<address>.*)#sha256=(?P<sha256>[0-9a-fA-F]{64})$")
_HUB: Final = re.compile(r"^hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.*))?$")


def split_pin(address: str) -> tuple[str, str | None]:
    """An address, and the sha256 that its content is pinned to."""
    pinned = _PIN.match(address)
    return (pinned["address"], pinned["sha256"].lower()) if pinned else (address, None)


def one_file(addresses: str | Sequence[str]) -> str:
    """A single file's local path, checked against its pin; names that are passed through as they are.

    Args:
        addresses: one, or several that are tried in order. A pin on one of them holds for all.

    Raises:
        WeightsError: none of them can be had, or what can be had differs from its pin.
        StorageError: the only one cannot be had.
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
                downloads.say(f"weights {address} cannot be had, trying the next address: {error}")
    raise WeightsError(f"none of {len(addresses)} addresses can be had: {'; '.join(failed)}")


def _one_file(plain: str, pin: str | None, address: str) -> str:
    if plain.startswith(THROUGH):
        return address
    local = storage.local_path(plain)
    if plain.startswith("hf://"):
        path = _from_hub(plain)
    elif local is None:
        path = _fetched(plain, pin)
    elif local.is_file():
        path = local
    else:
        raise WeightsError(f"no weights at {plain}; give a file, a folder with family.json, s3://..., hf://repo/file")
    if pin and file_sha256(path) != pin:
        raise _differs(plain, file_sha256(path), pin)
    return str(path)


def _differs(address: str, sha256: str, pin: str) -> WeightsError:
    return WeightsError(
        f"weights {address} have sha256 {sha256}, the job pins {pin}; fetch them again or correct the pin"
    )


def places(address: str, pin: str | None) -> dict[str, Path]:
    """Where a remote file is kept, and the .json beside it where there is one; whether or not it is there yet.

    Raises:
        WeightsError: there is no such file.
        StorageError: it could not be told.
    """
    beside = [] if is_signed(address) else [sidecar(address)]
    known = storage.identities([address, *beside])
    if known[address] is None:
        raise WeightsError(f"no weights at {address}")
    there = [file for file in known if known[file] is not None]
    if pin is None:
        place = _place(address, json.dumps(known, sort_keys=True), file_name(address))
    else:
        cards = [hashlib.sha256(storage.read_bytes(card)).hexdigest() for card in there[1:]]
        place = _place("", json.dumps([pin, *cards]), file_name(address))
    return {file: place.with_name(file_name(file)) for file in there}


def _fetched(address: str, pin: str | None) -> Path:
    """A remote file's copy in the cache, with the .json beside it."""
    found = places(address, pin)
    for file, place in found.items():
        try:
            _copied(file, place, pin if file == address else None)
        except downloads.Differs as error:
            raise _differs(address, error.sha256, str(pin)) from None
    return found[address]


def folder_places(address: str, files: Sequence[str]) -> dict[str, Path]:
    """Where these files of a remote folder are kept, whether or not they are there yet."""
    known = storage.identities(files)
    folder = _place(address, json.dumps(known, sort_keys=True), file_name(address)).parent
    return {file: folder / file[len(address) :].lstrip("/") for file in files}


def fetched_folder(address: str, files: Sequence[str]) -> Path:
    """A remote folder's copy in the cache, of these files of it."""
    found = folder_places(address, files)
    for file, place in found.items():
        _copied(file, place)
    first = next(iter(found))
    return found[first].parents[first[len(address) :].lstrip("/").count("/")]


def components(names: Iterable[str]) -> list[str]:
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


def sidecar(address: str) -> str:
    """``a/unet.json`` of ``a/unet.safetensors``."""
    folder, slash, name = address.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}.json"


def file_name(address: str) -> str:
    """Its last part; of a web address without the query, which is no part of any name."""
    return (address.partition("?")[0] if is_signed(address) else address).rstrip("/").rpartition("/")[2]


def is_signed(address: str) -> bool:
    """Whether it opens this one file and none beside it: a web address with a query."""
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


def hub_folder(address: str) -> Path | None:
    """A Hub repository's components in the Hub client's own cache; None where the address names a file."""
    parts = _HUB.match(address)
    if parts is None or parts["file"]:
        return None
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(parts["repo"], revision=parts["revision"])
        names = components(sibling.rfilename for sibling in info.siblings or ())
        paths = [_hub_file(parts["repo"], name, info.sha) for name in (INDEX_FILE, *names)]
    except Exception as error:
        raise _not_from_hub(address, error) from None
    return paths[0].parent


def in_hub_cache(address: str) -> Path | None:
    """A Hub file's copy in the client's cache; None where it has none."""
    parts = _HUB.match(address)
    if parts is None or not parts["file"]:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(parts["repo"], parts["file"], revision=parts["revision"])
    return Path(found) if isinstance(found, str) else None


def _hub_file(repo: str, name: str, revision: str | None) -> Path:
    """The client resumes, locks and verifies by itself; what it brings is told to whoever watches."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    class Counting(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
        def update(self, n: Any = 1) -> Any:
            downloads.came(int(n or 0))
            return super().update(n)

    return Path(hf_hub_download(repo, name, revision=revision, tqdm_class=Counting))


def _not_from_hub(address: str, error: Exception) -> WeightsError:
    text = " ".join(str(error).split()) or type(error).__name__
    return WeightsError(f"weights {address} cannot be had from the Hub: {text}")
