"""Transient errors of any library are distinguished from permanent ones."""

from __future__ import annotations

import errno

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from retouch.errors import ObjectMissing, StorageError
from retouch.storage import retries


def client_error(status: int, code: str) -> OSError:
    """An S3 reply as s3fs hands it on: its own error, with botocore's as the cause."""
    error = OSError(errno.EIO, code)
    error.__cause__ = ClientError(
        {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )
    return error


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (client_error(503, "SlowDown"), True),
        (client_error(500, "InternalError"), True),
        (client_error(409, "ConditionalRequestConflict"), True),
        (client_error(403, "AccessDenied"), False),
        (client_error(412, "PreconditionFailed"), False),
        (EndpointConnectionError(endpoint_url="http://x"), True),
        (ReadTimeoutError(endpoint_url="http://x"), True),
        (NoCredentialsError(), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.ESTALE, "stale handle"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (PermissionError(), False),
        (ValueError(), False),
    ],
)
def test_faults_that_pass_are_told_from_those_that_stay(error: Exception, passes: bool) -> None:
    assert retries._is_transient(error) is passes


def test_a_refused_conditional_put_is_known_by_aws_and_by_ceph() -> None:
    assert retries.refused(FileExistsError())
    assert retries.refused(client_error(412, "PreconditionFailed"))
    assert not retries.refused(client_error(503, "SlowDown"))


@pytest.mark.parametrize(
    ("raised", "writing", "expected"),
    [
        (FileNotFoundError("gone"), False, ObjectMissing),
        (FileNotFoundError("no bucket"), True, StorageError),
        (PermissionError("a\nb"), False, StorageError),
        (MemoryError(), False, MemoryError),
    ],
)
def test_what_remains_is_one_line_that_names_the_address(raised: Exception, writing: bool, expected: type) -> None:
    def act() -> None:
        raise raised

    with pytest.raises(expected) as caught:
        retries.retried("s3://b/x", act, writing=writing)
    assert type(caught.value) is expected
    if expected is not MemoryError:
        assert "s3://b/x" in str(caught.value)
        assert "\n" not in str(caught.value)
