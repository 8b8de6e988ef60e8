"""Names of output files: of images by key and fingerprint, of shards and parts by their rows. Knows no format."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Sequence
from typing import Final

from retouch import storage
from retouch.errors import ObjectMissing, StorageError

IMAGES: Final = "images"
MEMBER: Final = "#"  # between a shard's path and the name of an image inside
_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_LONGEST: Final = 120  # bytes of an escaped key; filesystems stop at 255 for the whole name


def whole(address: str) -> str:
    """An address as it reads from everywhere: a local one is absolute, and none ends with a slash."""
    path = storage.local_path(address)
    return (address if path is None else str(path)).rstrip("/")


def locate(output: str, address: str) -> str:
    """The whole address of an image: most are relative to their output, those taken over from another run are whole."""
    if "://" in address or address.startswith("/"):
        return address
    return storage.join(whole(output), address)


def fetch(output: str, address: str) -> bytes:
    """The bytes that a sink's ``put`` was given, from the address that it returned.

    Raises:
        ObjectMissing: there is no such file, or the shard holds no such image.
        StorageError: it cannot be read.
    """
    data = fetch_file(output, [address])[address]
    if data is None:
        raise ObjectMissing(f"no image at {locate(output, address)}")
    return data


def fetch_file(output: str, addresses: Sequence[str]) -> dict[str, bytes | None]:
    """Images that rest in one file, read once; None for one that is not there.

    Args:
        output: the output folder.
        addresses: of one ``file_of``.

    Raises:
        StorageError: the file cannot be read.
    """
    file = locate(output, file_of(addresses[0]))
    try:
        data = storage.read_bytes(file)
    except ObjectMissing:
        return dict.fromkeys(addresses)
    if addresses == [file_of(addresses[0])]:
        return {addresses[0]: data}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            held = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            wanted = {address: held.get(address.partition(MEMBER)[2]) for address in addresses}
            return {address: None if image is None else image.read() for address, image in wanted.items()}
    except tarfile.TarError as error:
        raise StorageError(f"{file} is no tar file: {error}") from None


def file_of(address: str) -> str:
    """The file in which an image rests: itself, or its shard; relative to the output folder where the address is."""
    return address.partition(MEMBER)[0]


def image_path(key: str, fingerprint: str, extension: str) -> str:
    """``images/ab/KEY-FINGERPRINT.ext``: spread over 256 folders by a hash of the key, 16 digits of the fingerprint.

    Args:
        key: any text.
        fingerprint: hex digest; whatever follows a dash (digits of the image's own hash) is kept whole.
        extension: without a dot.
    """
    digest, dash, content = fingerprint.partition("-")
    folder = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:2]
    return f"{IMAGES}/{folder}/{safe_name(key)}-{digest[:16]}{dash}{content}.{extension}"


def safe_name(key: str) -> str:
    """A file name of any key: letters, digits, ``._-`` as they are, all else percent-escaped; never two keys alike.

    A key that is empty or longer than a file name may be is cut and closed with ``~`` and its hash; no other name
    holds a ``~``.
    """
    raw = key.encode("utf-8", "surrogatepass")
    escaped = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw)
    if escaped.startswith("."):  # neither hidden, nor a way up
        escaped = f"%2E{escaped[1:]}"
    if 0 < len(escaped) <= _LONGEST:
        return escaped
    return f"{escaped[:60].rstrip('%')}~{hashlib.sha256(raw).hexdigest()[:32]}"


def rows_digest(rows: Iterable[tuple[str, str]]) -> str:
    """20 hex digits that name a set of (key, fingerprint) pairs, whatever their order."""
    lines = sorted(f"{len(key)}:{key}\0{fingerprint}" for key, fingerprint in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:20]
