"""Names of output files: of images by key and fingerprint, of shards and parts by their rows. Knows no format."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable
from typing import Final

from pipeline import storage
from pipeline.errors import ObjectMissing, StorageError

IMAGES: Final = "images"
MEMBER: Final = "#"  # between a shard's path and the name of an image inside
_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_LONGEST: Final = 120  # bytes of an escaped key; filesystems stop at 255 for the whole name


def fetch(output: str, path: str) -> bytes:
    """The bytes that a sink's ``put`` was given, from the address that it returned.

    Raises:
        ObjectMissing: there is no such file, or the shard holds no such image.
        StorageError: it cannot be read.
    """
    shard, _, name = path.partition(MEMBER)
    if not name:
        return storage.read_bytes(storage.join(output, path))
    try:
        with storage.open_input(storage.join(output, shard)) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            member = tar.extractfile(name)
            return b"" if member is None else member.read()
    except KeyError:
        raise ObjectMissing(f"no image {name} in {storage.join(output, shard)}") from None
    except tarfile.TarError as error:
        raise StorageError(f"{storage.join(output, shard)} is no tar file: {error}") from None


def image_path(key: str, fingerprint: str, extension: str) -> str:
    """``images/ab/KEY-FINGERPRINT.ext``: spread over 256 folders by a hash of the key, 16 digits of the fingerprint.

    Args:
        key: any text.
        fingerprint: hex digest; whatever follows a dash (a runner-up's rank) is kept whole.
        extension: without a dot.
    """
    digest, dash, rank = fingerprint.partition("-")
    folder = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:2]
    return f"{IMAGES}/{folder}/{safe_name(key)}-{digest[:16]}{dash}{rank}.{extension}"


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
