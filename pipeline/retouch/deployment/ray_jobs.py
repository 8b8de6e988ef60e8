"""Submit, follow, list and stop jobs on a Ray cluster, through Ray's Jobs API.

A submission's id is the job's name, the date and, from the second attempt on, a number. So a job is not submitted twice
a day by accident, and all its attempts have similar ids.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import stamina

from retouch import plugin_path
from retouch.deployment.job_package import EXCLUDED, INNER_FOLDER, JobPackage
from retouch.errors import ConfigError, Interrupted, RetouchError, StopRun

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

API: Final = "RAY_API_SERVER_ADDRESS"
ACTIVE_OR_DONE: Final = frozenset({"PENDING", "RUNNING", "SUCCEEDED"})  # after such an attempt no other is needed
FINAL: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
NOT_STARTED: Final = frozenset({126, 127})  # a shell's exit codes for a command that it cannot run
OUR_EXIT_CODES: Final = frozenset({0, 1, 2, 3})
TIMEOUT: Final = 60.0  # seconds for a lost connection to come back, and for a stopped job to end
POLL_SECONDS: Final = 1.0


@dataclass(frozen=True)
class JobState:
    """A submission as the cluster reports it."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    message: str
    code: int | None  # of the command, if it ended by itself
    start: dt.datetime | None
    end: dt.datetime | None

    @property
    def exit_code(self) -> int:
        """The command's exit code; 2 if the command could not be started, 3 if it was interrupted."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED" or self.code is None:
            return Interrupted.exit_code
        if self.code in NOT_STARTED:
            return StopRun.exit_code
        return self.code if self.code in OUR_EXIT_CODES else Interrupted.exit_code


def connect(address: str | None) -> JobSubmissionClient:
    """Return a client of a cluster.

    Args:
        address: of its dashboard (``http://host:8265``), or of the cluster as Ray accepts it; None uses
            ``RAY_API_SERVER_ADDRESS``, then ``RAY_ADDRESS``, then a cluster on this machine.

    Raises:
        StopRun: no cluster is there, or it refuses the connection.
    """
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)  # it logs every file of a package and every request
    logging.getLogger("stamina").setLevel(logging.ERROR)  # it logs every retry
    before = os.environ.get(API)
    if address:
        os.environ[API] = address  # which Ray prefers to the address that is passed to it
    try:
        with _translated_errors(address or before or os.environ.get("RAY_ADDRESS") or "this machine"):
            return JobSubmissionClient()
    finally:
        if before is None:
            os.environ.pop(API, None)
        else:
            os.environ[API] = before


def submit(
    client: JobSubmissionClient, package: JobPackage, date: dt.date, *, environment: Mapping[str, str], again: bool
) -> str:
    """Start a job and return the id of its submission.

    Args:
        client: of the cluster.
        package: the job.
        date: part of the id.
        environment: variables of the job and its workers. Ray stores their values with the job.
        again: submit even if an attempt of this date runs or succeeded.

    Raises:
        ConfigError: there is such an attempt.
    """
    first_id = f"{package.name}-{date.isoformat()}"
    submission_id = next_id(first_id, {job.id: job.status for job in list_jobs(client)}, again=again)
    with _translated_errors(client.get_address()):
        client.submit_job(
            entrypoint=package.command,
            submission_id=submission_id,
            runtime_env={
                "working_dir": package.folder,
                "excludes": list(EXCLUDED),
                # Workers start in the package's folder, and find plug-ins in the folder below it.
                "env_vars": {plugin_path.VARIABLE: INNER_FOLDER, **environment},
            },
            metadata={"retouch": package.name},
        )
    return submission_id


def next_id(first_id: str, statuses: Mapping[str, str], *, again: bool) -> str:
    """Return the id of the next attempt.

    Args:
        first_id: job name and date, which is the id of the first attempt.
        statuses: of all submissions, by id.
        again: also if the last attempt runs or succeeded.

    Raises:
        ConfigError: the last attempt runs or succeeded.
    """
    pattern = re.compile(rf"{re.escape(first_id)}(?:-(\d+))?")
    attempts = {int(found[1] or 1): name for name in statuses if (found := pattern.fullmatch(name))}
    if not attempts:
        return first_id
    last = attempts[max(attempts)]
    if statuses[last] in ACTIVE_OR_DONE and not again:
        raise ConfigError(f"{last} exists already: {statuses[last]}; --again submits another attempt")
    return f"{first_id}-{max(attempts) + 1}"


def list_jobs(client: JobSubmissionClient) -> list[JobState]:
    """Return all submissions of the cluster, the oldest first."""
    with _translated_errors(client.get_address()):
        found = [_state(job) for job in client.list_jobs() if job.submission_id]
    return sorted(found, key=lambda job: (job.start is None, job.start, job.id))


def get_job(client: JobSubmissionClient, submission_id: str) -> JobState:
    """Return a submission.

    Raises:
        ConfigError: the cluster has no such job.
    """
    with _translated_errors(client.get_address(), submission_id):
        return _state(client.get_job_info(submission_id))


def read_log(client: JobSubmissionClient, submission_id: str) -> str:
    """Return what the job has printed so far."""
    with _translated_errors(client.get_address(), submission_id):
        return str(client.get_job_logs(submission_id))


def follow(client: JobSubmissionClient, submission_id: str, write: Callable[[str], None]) -> JobState:
    """Pass on a job's log until the job ends; connect again if the connection breaks.

    Raises:
        ConfigError: the cluster has no such job.
        Interrupted: the cluster cannot be reached any more.
    """
    from aiohttp import ClientError

    connection_errors = (RuntimeError, OSError, ClientError, StopRun)
    written = 0

    async def pass_on() -> None:
        nonlocal written
        known = written  # every connection begins with the first line
        async for text in client.tail_job_logs(submission_id):
            new, known = text[known:], max(0, known - len(text))
            if new:
                write(new)
                written += len(new)

    def pass_on_until_disconnected() -> JobState:
        before = written
        try:
            asyncio.run(pass_on())
        except connection_errors:
            if written == before:
                raise
        return get_job(client, submission_id)

    get_job(client, submission_id)  # raises if there is none
    while True:
        try:
            for attempt in stamina.retry_context(
                connection_errors,
                attempts=None,
                timeout=TIMEOUT,
                wait_initial=POLL_SECONDS,
                wait_max=POLL_SECONDS,
                wait_jitter=0.0,
            ):
                with attempt:
                    job = pass_on_until_disconnected()
        except connection_errors as error:
            raise Interrupted(f"lost the connection to {submission_id}, which may still run: {error}") from error
        if job.status in FINAL:
            return job
        time.sleep(POLL_SECONDS)


def stop(client: JobSubmissionClient, submission_id: str) -> JobState:
    """Stop a job and return it when it has ended. A job that has ended already is left as it is."""
    with _translated_errors(client.get_address(), submission_id):
        client.stop_job(submission_id)
    deadline = time.monotonic() + TIMEOUT
    while (job := get_job(client, submission_id)).status not in FINAL:
        if time.monotonic() > deadline:
            raise Interrupted(f"{submission_id} is still {job.status} {TIMEOUT:g} s after the request to stop")
        time.sleep(POLL_SECONDS)
    return job


def _state(job: Any) -> JobState:
    def time_of(milliseconds: int | None) -> dt.datetime | None:
        return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC) if milliseconds else None

    return JobState(
        id=job.submission_id,
        status=str(getattr(job.status, "value", job.status)),
        message=job.message or "",
        code=job.driver_exit_code,
        start=time_of(job.start_time),
        end=time_of(job.end_time),
    )


@contextmanager
def _translated_errors(address: str, submission_id: str | None = None) -> Iterator[None]:
    """Raise errors of Ray's client as errors of ours, with messages of one line."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except RetouchError:
        raise
    except AuthenticationError as error:
        raise StopRun(
            f"{address} refuses the connection: set RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN "
            f"(or RAY_AUTH_TOKEN_PATH) ({_first_line(error)})"
        ) from error
    except OSError as error:
        raise StopRun(
            f"no Ray dashboard at {address} ({_first_line(error)}); give --address http://HOST:8265"
        ) from error
    except (RuntimeError, ValueError) as error:
        message = str(error)
        if submission_id and "404" in message:
            raise ConfigError(f"{address} has no job {submission_id}; retouch jobs list shows its jobs") from error
        if "already exists" in message:
            raise ConfigError(f"another submission came first: {_first_line(error)}") from error
        raise StopRun(f"{address}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
