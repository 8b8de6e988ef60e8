"""Single requests to remote fsspec filesystems, without retries."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, BinaryIO, Final, cast

import fsspec
from fsspec.asyn import sync

from retouch.errors import StorageError
from retouch.storage.retries import one_line, refused

CONNECTIONS: Final = 64  # per endpoint; a process requests at most half as many objects at once
MULTIPART_FROM: Final = 100 << 20  # bytes; s3fs's own limit
_WRITER: Final = "writer"
_MD5: Final = re.compile("[0-9a-f]{32}")


class Corrupted(ConnectionError):
    """Bytes were changed in transit; a retry may help."""


def connect(uri: str) -> tuple[Any, str]:
    """Return the filesystem of a URL, its own retries switched off, and the path on it.

    Raises:
        StorageError: no installed filesystem takes such a URL.
    """
    try:
        fs, inside = fsspec.core.url_to_fs(uri, **_options(uri.partition("://")[0]))
    except (ImportError, ValueError) as error:
        raise StorageError(f"{uri}: {one_line(error)}") from None
    if hasattr(fs, "retries"):
        fs.retries = 1
    return fs, str(inside)


def read(fs: Any, inside: str) -> bytes:
    """Return the whole object. On S3, in one request, and checked against the MD5 in the ETag.

    Raises:
        Corrupted: the bytes differ from the store's MD5; a retry may help.
    """
    if "s3" not in fs.protocol:
        return bytes(fs.cat_file(inside))
    data, md5 = sync(fs.loop, _get, fs, inside)
    if md5 and md5 != _md5(data).hex():
        again, _ = sync(fs.loop, _get, fs, inside)
        if again != data:  # the same bytes twice: this store's ETag is no MD5
            raise Corrupted(f"{inside}: the received bytes do not match the store's ETag {md5}")
    return cast(bytes, data)


async def _get(fs: Any, inside: str) -> tuple[bytes, str]:
    """Return an object's bytes, and their MD5 in hex if the response has it."""
    bucket, key, version = fs.split_path(inside)
    response = await fs._call_s3("get_object", Bucket=bucket, Key=key, **({"VersionId": version} if version else {}))
    async with response["Body"] as body:
        data = await body.read()
    etag = str(response.get("ETag", "")).strip('"')
    # For multipart uploads, or bytes encrypted with a customer's key, the ETag is no MD5 of the content.
    plain = response.get("ServerSideEncryption") in (None, "AES256") and "SSECustomerAlgorithm" not in response
    return data, etag if plain and _MD5.fullmatch(etag) else ""


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def create(fs: Any, inside: str, data: bytes, writer: str) -> bool:
    """Try a conditional put once; True if the object is now this writer's.

    On S3 the object's metadata name its writer. A refusal alone does not prove another writer: when a reply is lost,
    aiohttp sends the put again on its own, and that one is refused because the first succeeded.

    Args:
        writer: the same for all tries of one caller, unique per caller.
    """
    if "s3" not in fs.protocol:
        try:
            pipe(fs, inside, data, mode="create")
        except FileExistsError:
            return False
        return True
    if info(fs, inside) is None:
        try:
            pipe(fs, inside, data, mode="create", Metadata={_WRITER: writer})
        except Exception as error:
            if not refused(error):
                raise
    return bool(fs.metadata(inside).get(_WRITER) == writer)


def keeps_out(fs: Any, inside: str, data: bytes) -> bool:
    """Return whether a conditional put onto an existing object is refused."""
    try:
        pipe(fs, inside, data, mode="create")
    except Exception as error:
        if refused(error):
            return True
        raise
    return False


def _options(protocol: str) -> dict[str, Any]:
    """Return options for a filesystem; all but S3 take their defaults."""
    if protocol not in {"s3", "s3a"}:
        return {}
    config: dict[str, Any] = {"retries": {"total_max_attempts": 1}, "max_pool_connections": CONNECTIONS}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        # Gateways other than AWS often reject (411) the checksum trailers that clients send since 2025.
        config["request_checksum_calculation"] = "when_required"
    # Listings are not cached: another machine's files must be seen. The endpoint is named, since fsspec caches one
    # filesystem per set of options and would keep the old one when the environment changes.
    return {"config_kwargs": config, "use_listings_cache": False, "endpoint_url": endpoint}


def pipe(fs: Any, inside: str, data: bytes, **options: Any) -> None:
    """Put an object, creating missing folders on filesystems that have folders (sftp, hdfs)."""
    if "s3" in fs.protocol and len(data) < MULTIPART_FROM:
        options["ContentMD5"] = base64.b64encode(
            _md5(data)
        ).decode()  # the store refuses bytes that were changed in transit
    try:
        fs.pipe_file(inside, data, **options)
    except FileNotFoundError:
        if "s3" in fs.protocol:
            raise
        fs.makedirs(inside.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(inside, data, **options)


def info(fs: Any, inside: str) -> Mapping[str, Any] | None:
    """Return the store's entry of an object or folder; None if there is neither."""
    fs.invalidate_cache()
    try:
        return cast(Mapping[str, Any], fs.info(inside))
    except FileNotFoundError:
        return None


def find(fs: Any, inside: str) -> list[str]:
    """Return the paths of all objects below a folder."""
    fs.invalidate_cache()
    try:
        return list(fs.find(inside))
    except FileNotFoundError:
        return []


def identity_of(info: Mapping[str, Any]) -> str:
    """Return ``etag:...`` if the store keeps one, else size and modification time."""
    for name in ("ETag", "etag", "md5Hash", "checksum"):
        if info.get(name):
            return f"etag:{str(info[name]).strip(chr(34))}"
    names = ("LastModified", "last_modified", "mtime", "updated", "created")
    moment = next((info[name] for name in names if name in info), "")
    # Some filesystems give a listing's times as dates and a single file's as seconds.
    return f"stat:{info.get('size')}:{moment.timestamp() if isinstance(moment, datetime) else moment}"


def as_file(read_range: Callable[[int, int], bytes], size: int) -> BinaryIO:
    """Return a remote object of ``size`` bytes as a seekable file; ``read_range(start, end)`` fetches a part."""
    return cast(BinaryIO, _Ranges(read_range, size))


class _Ranges(io.RawIOBase):
    """A seekable file over byte ranges, without a buffer."""

    def __init__(self, read_range: Callable[[int, int], bytes], size: int) -> None:
        self.read_range, self.size = read_range, size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence])
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        end = self.size if size is None or size < 0 else min(self.position + size, self.size)
        start = self.position
        if end <= start:
            return b""
        data = self.read_range(start, end)
        self.position = start + len(data)
        return data

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
