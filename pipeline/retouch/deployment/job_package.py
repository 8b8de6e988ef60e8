"""What of a job goes to a cluster, and how the cluster is told to run it. Knows no Ray.

Relative addresses mean nothing on another machine. With a folder that is sent along, those that are read start at that
folder; what is written must be absolute, for the copy of the folder is deleted after the job. Without a folder the job
file alone is sent, and every address must be absolute.
"""

from __future__ import annotations

import glob
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from retouch import storage
from retouch.errors import ConfigError
from retouch.jobs.config import EditJob, EvaluateJob, Job, load_job

READ: Final = frozenset({"manifest", "weights", "results", "reference"})
WRITTEN: Final = frozenset({"output", "latents"})
FREE: Final = frozenset({"params", "options"})  # a plug-in's own fields
LEFT_OUT: Final = (".git", ".venv", "runs", "__pycache__")  # of a folder that is sent, as .gitignore's and .rayignore's
JOB_FILE: Final = "job.yaml"
# The job's folder is a folder of the package, since Ray puts the package itself first in every process's sys.path: a
# file `yaml.py` in it would replace the library.
INNER_FOLDER: Final = "working-dir"
ON_THE_CLUSTER: Final = "auto"  # the address of the cluster, as its own nodes say it


@dataclass(frozen=True)
class JobPackage:
    """A job as it is sent."""

    name: str  # of the job
    folder: str  # what is uploaded; INNER_FOLDER in it is the job's current folder on the cluster
    command: str  # a line for the cluster's shell


def pack(
    job_file: str,
    sets: Sequence[str] = (),
    *,
    scratch: str,
    working_dir: str | None = None,
    python: str = "python",
    options: Sequence[str] = (),
) -> JobPackage:
    """Settle what a job names, and refuse what the cluster would not find.

    ``{date}`` in the output becomes today (UTC), so that a job that starts after midnight keeps its night.

    Args:
        job_file: of YAML; inside ``working_dir`` where there is one.
        sets: ``a.b=value`` over the job's fields.
        scratch: an empty folder of this machine, which becomes the package.
        working_dir: a folder to send along.
        python: the cluster's interpreter, or a command that runs one.
        options: more of the command's.

    Raises:
        ConfigError: the job is wrong, or names what is not sent.
    """
    job, inner = load_job(job_file, sets), Path(scratch, INNER_FOLDER)
    if working_dir is None:
        _refuse(job, None)
        sent = job.model_dump(mode="json", exclude_defaults=True)
        sent["kind"] = job.kind
        inner.mkdir()
        (inner / JOB_FILE).write_text(yaml.safe_dump(sent, sort_keys=False))
        return JobPackage(job.name, scratch, _command(job, python, JOB_FILE, (), options))
    folder = Path(working_dir).absolute()
    if not folder.is_dir():
        raise ConfigError(f"--working-dir {working_dir} is no folder")
    file = _inside(job_file, folder)
    _refuse(job, folder)
    settled = [*sets, f"output={json.dumps(job.output)}"]
    if isinstance(job, EditJob):  # where other nights lie can be told from the date's place alone
        settled.append(f"carry={json.dumps(job.carry)}")
    inner.symlink_to(folder, target_is_directory=True)  # Ray follows it when it makes the package
    return JobPackage(job.name, scratch, _command(job, python, file, settled, options))


def _command(job: Job, python: str, file: str, sets: Sequence[str], options: Sequence[str]) -> str:
    verb = "evaluate" if isinstance(job, EvaluateJob) else "run"
    changes = [part for change in sets for part in ("--set", change)]
    words = [*shlex.split(python), "-P", "-m", "retouch", verb, file, *changes, "--address", ON_THE_CLUSTER, *options]
    # `exec` leaves no shell in between, so that the command's signals and exit code are the job's.
    return f"cd {INNER_FOLDER} && exec {shlex.join(words)}"


def _inside(job_file: str, folder: Path) -> str:
    path = storage.local_path(job_file)
    if path is None or not path.is_relative_to(folder):
        raise ConfigError(f"{job_file} is not in {folder}, which is what --working-dir sends; give a job file in it")
    return str(path.relative_to(folder))


def _refuse(job: Job, folder: Path | None) -> None:
    """Raise ConfigError for the first address that has no meaning on the cluster."""
    for field, address, is_written in _addresses(job.model_dump(mode="json")):
        if not _is_relative(address):
            continue
        start = f"--set {field}=… with an address that every node reads the same, such as s3://bucket/…"
        if is_written:
            raise ConfigError(
                f"{field} is {address}, which on the cluster would be a folder that goes with the job; give {start}"
            )
        if folder is None:
            raise ConfigError(
                f"{field} is {address}, which is not sent; send the folder that has it (--working-dir), or give {start}"
            )
        if not _is_sent(address, folder):
            raise ConfigError(f"{field} is {address}, and there is none in what is sent of {folder}; give {start}")


def _addresses(data: Mapping[str, Any], before: str = "", of: str = "") -> Iterator[tuple[str, str, bool]]:
    """Field, address and whether it is written, of all in a job's plain data."""
    for name, value in data.items():
        field, kind = f"{before}{name}", of or name
        if name in FREE and not of:
            continue
        if isinstance(value, Mapping):
            yield from _addresses(value, f"{field}.", of or (name if name in READ else ""))
        elif isinstance(value, list):
            numbered = {str(number): entry for number, entry in enumerate(value)}
            yield from _addresses(numbered, f"{field}.", of or (name if name in READ else ""))
        elif isinstance(value, str) and kind in READ | WRITTEN:
            yield field, value, kind in WRITTEN


def _is_relative(address: str) -> bool:
    path = address.partition("#")[0]
    if "://" in path or os.path.isabs(path):
        return False
    return ":" not in path or os.path.exists(path)  # embedded:shapes is a name


def _is_sent(address: str, folder: Path) -> bool:
    path = os.path.normpath(address.partition("#")[0])
    if not set(Path(path).parts).isdisjoint({*LEFT_OUT, ".."}):
        return False
    return bool(glob.glob(str(folder / path), recursive=True))
