"""Bounded, jittered retries of what passes: throttling, a server's fault, a broken connection. Knows no filesystem."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

import stamina

from pipeline.errors import ObjectMissing, StorageError

T = TypeVar("T")

# One retry loop, ours: those inside botocore (5 tries) and s3fs (5 tries) are switched off below, since three nested
# ones multiply to minutes of silence and hide from ``create_if_absent`` that an earlier try may have come through.
ATTEMPTS: Final = 8
RETRY_SECONDS: Final = 120.0  # in all; a gateway that restarts is back in 10
FIRST_WAIT: Final = 0.2  # seconds, doubled every time
LONGEST_WAIT: Final = 10.0
JITTER: Final = 1.0  # seconds at most, so that a thousand workers do not come back in step

_STATUS_PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # 409: two conditional puts met
_ERRNO_PASSING: Final = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE, errno.ENETUNREACH, errno.EHOSTUNREACH}
)
# By name, so that the floor imports neither botocore nor aiohttp before somebody asks for S3.
_NAMES_PASSING: Final = frozenset(
    {"HTTPClientError", "ConnectionError", "IncompleteReadError", "ClientPayloadError", "ClientConnectionError"}
)


def retried(uri: str, action: Callable[[], T], *, writing: bool = False) -> T:
    """``action`` until it comes through or the limits are reached; what remains becomes an error of ours."""
    try:
        for attempt in stamina.retry_context(
            _passes,
            attempts=ATTEMPTS,
            timeout=RETRY_SECONDS,
            wait_initial=FIRST_WAIT,
            wait_max=LONGEST_WAIT,
            wait_jitter=JITTER,
        ):
            with attempt:
                return action()
    except FileNotFoundError as error:
        if not writing:
            raise ObjectMissing(f"no object at {uri}") from None
        raise StorageError(f"{uri}: {one_line(error)}") from error
    except (StorageError, MemoryError):
        raise
    except Exception as error:
        raise StorageError(f"{uri}: {one_line(error)}") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _passes(error: BaseException) -> bool:
    """Whether trying again may help: throttling, a server's own fault, a connection that broke or timed out."""
    for cause in _causes(error):
        status = _status(cause)
        if status is not None:
            return status in _STATUS_PASSING
    return any(
        isinstance(cause, ConnectionError | TimeoutError)
        or getattr(cause, "errno", None) in _ERRNO_PASSING
        or not _NAMES_PASSING.isdisjoint(kind.__name__ for kind in type(cause).__mro__)
        for cause in _causes(error)
    )


def refused(error: BaseException) -> bool:
    """Whether a conditional put found an object. s3fs says FileExistsError only for AWS's own reply, else OSError."""
    return isinstance(error, FileExistsError) or any(_status(cause) == 412 for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _status(error: BaseException) -> int | None:
    """HTTP status of a botocore ClientError, of aiohttp's and gcsfs's errors."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", getattr(error, "code", None))
    return status if isinstance(status, int) else None


def one_line(error: BaseException) -> str:
    """The error's type and text, without line breaks."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
