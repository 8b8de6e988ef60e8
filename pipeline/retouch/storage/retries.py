"""Bounded, jittered retries of what passes: throttling, a server's fault, a broken connection. Knows no filesystem."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

import stamina

from retouch import telemetry
from retouch.errors import ObjectMissing, StorageError, Unavailable
from retouch.redaction import redacted

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
# Of stores that answer 400 to what was changed or cut short on the way.
_CODES_PASSING: Final = frozenset(
    {"BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown", "Throttling", "XAmzContentSHA256Mismatch"}
)
# No row's fault, and no retry helps: whoever holds the credentials has to act.
_CODES_REFUSED: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_NAMES_REFUSED: Final = frozenset(
    {
        "CredentialRetrievalError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
    }
)
_ERRNO_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
# By name, so that the floor imports neither botocore nor aiohttp before somebody asks for S3.
_NAMES_PASSING: Final = frozenset(
    {
        "HTTPClientError",
        "ConnectionError",
        "IncompleteReadError",
        "ClientPayloadError",
        "ClientConnectionError",
        "ResponseParserError",
    }
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
            if attempt.num > 1:
                telemetry.count("retries.storage")
            with attempt:
                return action()
    except FileNotFoundError as error:
        if not writing:
            raise ObjectMissing(f"no object at {uri}") from None
        raise StorageError(f"{uri}: {one_line(error)}") from error
    except (StorageError, MemoryError):
        raise
    except Exception as error:
        if type(error).__name__ == "ParamValidationError" and not writing:  # botocore's, of a bucket that cannot be
            raise ObjectMissing(redacted(f"no object at {uri}: {one_line(error)}")) from None
        kind = Unavailable if _is_unavailable(error) else StorageError
        raise kind(redacted(f"{uri}: {one_line(error)}")) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _passes(error: BaseException) -> bool:
    """Whether trying again may help: throttling, a server's own fault, a connection that broke or timed out."""
    for cause in _causes(error):
        # A body that breaks off is a 400 to aiohttp, though the server said no such thing.
        if _code(cause) in _CODES_PASSING or type(cause).__name__ == "ClientPayloadError":
            return True
        status = _status(cause)
        if status is not None:
            return status in _STATUS_PASSING
    return any(
        isinstance(cause, ConnectionError | TimeoutError)
        or getattr(cause, "errno", None) in _ERRNO_PASSING
        or not _NAMES_PASSING.isdisjoint(kind.__name__ for kind in type(cause).__mro__)
        for cause in _causes(error)
    )


def _is_unavailable(error: BaseException) -> bool:
    """Whether the whole storage is out of reach for us: credentials that are refused, a disk that is full."""
    return any(
        _code(cause) in _CODES_REFUSED
        or getattr(cause, "errno", None) in _ERRNO_FULL
        or not _NAMES_REFUSED.isdisjoint(kind.__name__ for kind in type(cause).__mro__)
        for cause in _causes(error)
    )


def _code(error: BaseException) -> str | None:
    """The error code of a botocore ClientError."""
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, Mapping) else None


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
    """The error's type and text, without line breaks and credentials; of a store's refusal its code, too."""
    code = next((found for cause in _causes(error) if (found := _code(cause))), None)
    told = "" if str(error) == "None" else str(error)  # s3fs, of a store that says no more than the code
    text = redacted(" ".join(told.split()))
    kind = f"{type(error).__name__} ({code})" if code and code not in text else type(error).__name__
    return f"{kind}: {text}" if text else kind
