"""Bounded, jittered retries of transient errors: throttling, server errors, broken connections."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

import stamina

from retouch import telemetry
from retouch.errors import ObjectMissing, StorageError, Unavailable
from retouch.redaction import redacted

T = TypeVar("T")

# This is the only retry loop: those of botocore (5 tries) and s3fs (5 tries) are switched off, since three nested ones
# multiply to minutes of silence and hide from ``create_if_absent`` that an earlier try may have succeeded.
ATTEMPTS: Final = 8
RETRY_SECONDS: Final = 120.0  # in total; a restarting gateway is back in 10
FIRST_WAIT: Final = 0.2  # seconds, doubled at each retry
LONGEST_WAIT: Final = 10.0
JITTER: Final = 1.0  # seconds at most, so that a thousand workers do not come back in step

_TRANSIENT_STATUS: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # 409: two conditional puts collided
_TRANSIENT_ERRNO: Final = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.ETIMEDOUT, errno.ESTALE, errno.ENETUNREACH, errno.EHOSTUNREACH}
)
# Codes of stores that reject (400) what was changed or truncated in transit.
_TRANSIENT_CODES: Final = frozenset(
    {"BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown", "Throttling", "XAmzContentSHA256Mismatch"}
)
# No row's fault, and no retry helps: the credentials' owner has to act.
_CREDENTIAL_CODES: Final = frozenset(
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
_CREDENTIAL_NAMES: Final = frozenset(
    {
        "CredentialRetrievalError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
    }
)
_FULL_ERRNO: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
# By name, so that neither botocore nor aiohttp is imported unless S3 is used.
_TRANSIENT_NAMES: Final = frozenset(
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
    """Repeat ``action`` until it succeeds or the limits are reached; then raise its error as a ``StorageError``."""
    try:
        for attempt in stamina.retry_context(
            _is_transient,
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
        if type(error).__name__ == "ParamValidationError" and not writing:  # botocore's, for an impossible bucket name
            raise ObjectMissing(redacted(f"no object at {uri}: {one_line(error)}")) from None
        kind = Unavailable if _is_unavailable(error) else StorageError
        raise kind(redacted(f"{uri}: {one_line(error)}")) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _is_transient(error: BaseException) -> bool:
    """Return whether a retry may help: throttling, a server error, a connection that broke or timed out."""
    for cause in _causes(error):
        # aiohttp reports a truncated body as status 400, which the server did not send.
        if _code(cause) in _TRANSIENT_CODES or type(cause).__name__ == "ClientPayloadError":
            return True
        status = _status(cause)
        if status is not None:
            return status in _TRANSIENT_STATUS
    return any(
        isinstance(cause, ConnectionError | TimeoutError)
        or getattr(cause, "errno", None) in _TRANSIENT_ERRNO
        or not _TRANSIENT_NAMES.isdisjoint(kind.__name__ for kind in type(cause).__mro__)
        for cause in _causes(error)
    )


def _is_unavailable(error: BaseException) -> bool:
    """Return whether the whole storage is unusable: refused credentials, a full disk."""
    return any(
        _code(cause) in _CREDENTIAL_CODES
        or getattr(cause, "errno", None) in _FULL_ERRNO
        or not _CREDENTIAL_NAMES.isdisjoint(kind.__name__ for kind in type(cause).__mro__)
        for cause in _causes(error)
    )


def _code(error: BaseException) -> str | None:
    """Return the error code of a botocore ClientError."""
    response = getattr(error, "response", None)
    return response.get("Error", {}).get("Code") if isinstance(response, Mapping) else None


def refused(error: BaseException) -> bool:
    """Return whether a conditional put found an object; s3fs raises FileExistsError for AWS only, else OSError."""
    return isinstance(error, FileExistsError) or any(_status(cause) == 412 for cause in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of a botocore ClientError or of aiohttp's and gcsfs's errors."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", getattr(error, "code", None))
    return status if isinstance(status, int) else None


def one_line(error: BaseException) -> str:
    """Return an error's type and text without line breaks and credentials, and the store's error code if any."""
    code = next((found for cause in _causes(error) if (found := _code(cause))), None)
    message = "" if str(error) == "None" else str(error)  # s3fs, if a store sends nothing but the code
    text = redacted(" ".join(message.split()))
    kind = f"{type(error).__name__} ({code})" if code and code not in text else type(error).__name__
    return f"{kind}: {text}" if text else kind
