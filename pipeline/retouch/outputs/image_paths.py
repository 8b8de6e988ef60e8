"""Paths of the files of an output: images by key and fingerprint, shards and result files by their rows."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Sequence
from typing import Final

from retouch import storage
from retouch.errors import ObjectMissing, StorageError

IMAGES: Final = "images"
MEMBER: Final = "#"  # separates a shard's path from the name of an image in it
_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_MAX_LENGTH: Final = 120  # bytes of an escaped key; file systems allow 255 for the whole name
_GENERATED: Final = re.compile(r"(-[0-9a-f]{16}(-\w+)?\.(png|webp|jpg)|/shard-[0-9a-f]{20}\.tar)$")


def absolute(uri: str) -> str:
    """Return a URI that is valid in any working directory, without a slash at its end."""
    path = storage.local_path(uri)
    return (uri if path is None else str(path)).rstrip("/")


def locate(output: str, path: str) -> str:
    """Return an image's absolute path. Rows carried over from another output have one already."""
    if "://" in path or path.startswith("/"):
        return path
    return storage.join(absolute(output), path)


def read_image(output: str, path: str) -> bytes:
    """Return the bytes of an image.

    Args:
        output: the output folder.
        path: what the sink's ``put`` returned.

    Raises:
        ObjectMissing: the file is missing, or its shard has no such member.
        StorageError: it cannot be read.
    """
    data = read_images(output, [path])[path]
    if data is None:
        raise ObjectMissing(f"no image at {locate(output, path)}")
    return data


def read_images(output: str, paths: Sequence[str]) -> dict[str, bytes | None]:
    """Read images of one file at once; None for one that is missing.

    Args:
        output: the output folder.
        paths: of images with the same ``file_of``.

    Raises:
        StorageError: the file cannot be read.
    """
    file = locate(output, file_of(paths[0]))
    try:
        data = storage.read_bytes(file)
    except ObjectMissing:
        return dict.fromkeys(paths)
    if paths == [file_of(paths[0])]:
        return {paths[0]: data}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            wanted = {path: members.get(path.partition(MEMBER)[2]) for path in paths}
            return {path: None if image is None else image.read() for path, image in wanted.items()}
    except tarfile.TarError as error:
        raise StorageError(f"{file} is not a tar file: {error}") from None


def file_of(path: str) -> str:
    """Return the path of the file that holds an image: its own, or its shard's."""
    return path.partition(MEMBER)[0]


def is_generated(path: str) -> bool:
    """Return whether a file has a name that a sink of this package gives."""
    return _GENERATED.search(f"/{path}") is not None


def image_path(key: str, fingerprint: str, extension: str) -> str:
    """Return ``images/ab/KEY-FINGERPRINT.ext``: 256 folders by a hash of the key, 16 digits of the fingerprint.

    Args:
        key: any text.
        fingerprint: hex digest; what follows a dash (digits of the image's own hash) is kept in full.
        extension: without a dot.
    """
    digest, dash, content = fingerprint.partition("-")
    folder = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:2]
    return f"{IMAGES}/{folder}/{safe_name(key)}-{digest[:16]}{dash}{content}.{extension}"


def safe_name(key: str) -> str:
    """Return a file name for any key, different for every key: all but letters, digits and ``._-`` is percent-escaped.

    A key that is empty or too long is cut and ends with ``~`` and its hash; no other name contains a ``~``.
    """
    raw = key.encode("utf-8", "surrogatepass")
    escaped = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw)
    if escaped.startswith("."):  # neither a hidden file nor ".."
        escaped = f"%2E{escaped[1:]}"
    if 0 < len(escaped) <= _MAX_LENGTH:
        return escaped
    return f"{escaped[:60].rstrip('%')}~{hashlib.sha256(raw).hexdigest()[:32]}"


def rows_digest(rows: Iterable[tuple[str, str]]) -> str:
    """Return 20 hex digits that identify a set of (key, fingerprint), in any order."""
    lines = sorted(f"{len(key)}:{key}\0{fingerprint}" for key, fingerprint in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:20]
