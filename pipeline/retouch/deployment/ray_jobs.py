"""Jobs on a Ray cluster through its Jobs API: submitted, followed, listed, stopped. Knows Ray, and no row.

A submission's id is the job's name, the date and, from the second on, a number: a night is not submitted twice by
accident, and all attempts at it are known by their names.
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

from retouch import plugin_path
from retouch.deployment.job_package import EXCLUDED, INNER_FOLDER, JobPackage
from retouch.errors import ConfigError, Interrupted, RetouchError, StopRun

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

API: Final = "RAY_API_SERVER_ADDRESS"
STANDING: Final = frozenset({"PENDING", "RUNNING", "SUCCEEDED"})  # a night with such an attempt needs no other one
OVER: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
NO_SUCH_COMMAND: Final = frozenset({126, 127})  # a shell's exit codes
OURS: Final = frozenset({0, 1, 2, 3})
STOPPED: Final = 3
PATIENCE: Final = 60.0  # seconds in which a lost connection must come back, and a stopped job end
PAUSE: Final = 1.0  # seconds between two questions


@dataclass(frozen=True)
class JobState:
    """What a cluster knows of a submission."""

    id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    message: str
    code: int | None  # of the command, where it came to an end by itself
    start: dt.datetime | None
    end: dt.datetime | None

    @property
    def exit_code(self) -> int:
        """Ours for this end: what the command gave, 2 where there was no command, 3 where it was cut short."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED" or self.code is None:
            return STOPPED
        if self.code in NO_SUCH_COMMAND:
            return StopRun.exit_code
        return self.code if self.code in OURS else STOPPED


def connect(address: str | None) -> JobSubmissionClient:
    """A client of a cluster.

    Args:
        address: of its dashboard (``http://host:8265``), or of the cluster as Ray takes it; None takes
            ``RAY_API_SERVER_ADDRESS``, then ``RAY_ADDRESS``, then a cluster on this machine.

    Raises:
        StopRun: there is none, or it does not let us in.
    """
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)  # of every file that it packs or does not, and of every request
    before = os.environ.get(API)
    if address:
        os.environ[API] = address  # which Ray puts over an address that it is given
    try:
        with _in_our_words(address or before or os.environ.get("RAY_ADDRESS") or "this machine"):
            return JobSubmissionClient()
    finally:
        if before is None:
            os.environ.pop(API, None)
        else:
            os.environ[API] = before


def submit(
    client: JobSubmissionClient, package: JobPackage, date: dt.date, *, environment: Mapping[str, str], again: bool
) -> str:
    """Start a job; its submission's id.

    Args:
        client: of the cluster.
        package: the job.
        date: its night.
        environment: variables of the job, the workers' too. Ray keeps their values with the job.
        again: also where there is an attempt that runs or succeeded.

    Raises:
        ConfigError: there is such an attempt.
    """
    night = f"{package.name}-{date.isoformat()}"
    submission_id = next_id(night, {state.id: state.status for state in listed(client)}, again=again)
    with _in_our_words(client.get_address()):
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


def next_id(night: str, there: Mapping[str, str], *, again: bool) -> str:
    """The id of the next attempt at a night.

    Args:
        night: job name and date.
        there: submission id to its status.
        again: also where the last attempt runs or succeeded.

    Raises:
        ConfigError: the last attempt runs or succeeded.
    """
    pattern = re.compile(rf"{re.escape(night)}(?:-(\d+))?")
    numbers = {int(found[1] or 1): name for name in there if (found := pattern.fullmatch(name))}
    if not numbers:
        return night
    last = numbers[max(numbers)]
    if there[last] in STANDING and not again:
        raise ConfigError(f"{last} is there already: {there[last]}; --again submits another attempt")
    return f"{night}-{max(numbers) + 1}"


def listed(client: JobSubmissionClient) -> list[JobState]:
    """All submissions that the cluster knows, the oldest first."""
    with _in_our_words(client.get_address()):
        found = [_state(job) for job in client.list_jobs() if job.submission_id]
    return sorted(found, key=lambda state: (state.start is None, state.start, state.id))


def state(client: JobSubmissionClient, submission_id: str) -> JobState:
    """What the cluster knows of a submission.

    Raises:
        ConfigError: nothing.
    """
    with _in_our_words(client.get_address(), submission_id):
        return _state(client.get_job_info(submission_id))


def log(client: JobSubmissionClient, submission_id: str) -> str:
    """What the job has said so far."""
    with _in_our_words(client.get_address(), submission_id):
        return str(client.get_job_logs(submission_id))


def follow(client: JobSubmissionClient, submission_id: str, write: Callable[[str], None]) -> JobState:
    """Pass on what the job says until it is over; a connection that breaks is made anew.

    Raises:
        ConfigError: the cluster knows no such job.
        Interrupted: the cluster cannot be reached any more.
    """
    from aiohttp import ClientError

    written, lost_at = 0, 0.0

    async def pass_on() -> None:
        nonlocal written, lost_at
        known = written  # a new connection begins with the first line
        async for text in client.tail_job_logs(submission_id):
            new, known = text[known:], max(0, known - len(text))
            if new:
                write(new)
                written, lost_at = written + len(new), 0.0

    state(client, submission_id)  # there must be one
    while True:
        try:
            asyncio.run(pass_on())
            found = state(client, submission_id)
            if found.status in OVER:
                return found
            lost_at = 0.0
        except (RuntimeError, OSError, ClientError, StopRun) as error:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > PATIENCE:
                raise Interrupted(f"lost {submission_id} from sight, which may run on: {error}") from error
        time.sleep(PAUSE)


def stop(client: JobSubmissionClient, submission_id: str) -> JobState:
    """End a job that runs, and return when it has ended; nothing is done to one that is over."""
    with _in_our_words(client.get_address(), submission_id):
        client.stop_job(submission_id)
    until = time.monotonic() + PATIENCE
    while (found := state(client, submission_id)).status not in OVER:
        if time.monotonic() > until:
            raise Interrupted(f"{submission_id} is still {found.status} {PATIENCE:g} s after it was told to stop")
        time.sleep(PAUSE)
    return found


def _state(job: Any) -> JobState:
    def moment(milliseconds: int | None) -> dt.datetime | None:
        return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC) if milliseconds else None

    return JobState(
        id=job.submission_id,
        status=str(getattr(job.status, "value", job.status)),
        message=job.message or "",
        code=job.driver_exit_code,
        start=moment(job.start_time),
        end=moment(job.end_time),
    )


@contextmanager
def _in_our_words(address: str, submission_id: str | None = None) -> Iterator[None]:
    """Errors of Ray's client as ours, in one line."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except RetouchError:
        raise
    except AuthenticationError as error:
        raise StopRun(
            f"{address} does not let us in: set RAY_AUTH_MODE=token and the cluster's RAY_AUTH_TOKEN "
            f"(or RAY_AUTH_TOKEN_PATH) ({_first_line(error)})"
        ) from error
    except OSError as error:
        raise StopRun(
            f"no Ray dashboard at {address} ({_first_line(error)}); give --address http://HOST:8265"
        ) from error
    except (RuntimeError, ValueError) as error:
        said = str(error)
        if submission_id and "404" in said:
            raise ConfigError(
                f"{address} knows no job {submission_id}; retouch jobs list names those that it knows"
            ) from error
        if "already exists" in said:
            raise ConfigError(f"another submission was quicker: {_first_line(error)}") from error
        raise StopRun(f"{address}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
